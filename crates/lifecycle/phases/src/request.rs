//! What an operation was asked for, and what that means for the cluster that is there.

use std::collections::BTreeSet;

use kinit_config::{Cluster, FieldError, HostSpec, Version};
use kinit_planner::{Hop, Operation, Scope};
use kinit_resource::LeafName;

use crate::record::Bundles;

/// An operation.
#[derive(Debug, Clone)]
pub enum Request {
    /// Make a new cluster, or finish one whose first run was interrupted.
    Init,
    /// Bring a cluster to what its file says.
    Apply {
        /// These hosts alone; all when empty.
        only: Vec<String>,
    },
    /// Add hosts.
    Join(Vec<HostSpec>),
    /// Remove hosts.
    Remove(Vec<String>),
    /// Issue these certificates anew, on all hosts.
    Renew(Vec<LeafName>),
    /// Deal with certificates that are signed elsewhere; the file's new hosts have some too, and nothing else happens
    /// to them.
    SignedElsewhere,
    /// Bring these hosts to the versions of the bundle; all when empty.
    Upgrade {
        /// Names.
        only: Vec<String>,
    },
    /// Give a shared secret a successor; the cluster stays as it is.
    Rotate,
    /// Give a cluster other data: a backup's, or those of a member that is left.
    Restore,
}

/// Why a request cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// `init` of a cluster that exists and differs.
    #[error("the cluster exists, and its file was another when it was last applied:\n{}\n`kinit apply` brings a cluster to what its file says", list(.0))]
    Exists(Vec<String>),
    /// Settings that a live cluster cannot change.
    #[error("a live cluster cannot change these:\n{}", list(.0))]
    Fixed(Vec<FieldError>),
    /// A host that is not there.
    #[error("there is no host {name:?}; there are {known}")]
    UnknownHost {
        /// What was asked for.
        name: String,
        /// The hosts that are known.
        known: String,
    },
    /// A host that is there already, otherwise.
    #[error(
        "host {0} is in the cluster already, with another address or other roles; change it in the cluster file and run `kinit apply`"
    )]
    Present(String),
    /// A host that leaves has the address of one that stays.
    #[error(
        "{old} leaves and {new} has its address {address}: a host cannot be renamed; remove {old} first, then join {new}"
    )]
    Renamed {
        /// Who leaves.
        old: String,
        /// Who has its address.
        new: String,
        /// The address.
        address: String,
    },
    /// The endpoint goes.
    #[error(
        "clients reach the cluster at {endpoint}, which is {host}: give it another spec.controlPlaneEndpoint and run `kinit apply` first"
    )]
    Endpoint {
        /// The endpoint.
        endpoint: String,
        /// The host whose address it is.
        host: String,
    },
    /// What comes out is no valid cluster.
    #[error("{}", list(.0))]
    Invalid(Vec<FieldError>),
    /// The file asks for another version than the bundle is of.
    #[error(
        "the cluster file says spec.kubernetesVersion {wanted}, and the bundle is {bundle}: take the bundle of that version (--bundle)"
    )]
    Bundle {
        /// What the file says.
        wanted: Version,
        /// What the bundle is.
        bundle: Version,
    },
    /// The file asks for another version than the cluster has.
    #[error("the cluster is of {recorded}, and its file says {wanted}: `kinit upgrade apply` goes to another version")]
    Version {
        /// What the cluster has.
        recorded: Version,
        /// What the file says.
        wanted: Version,
    },
    /// The bundle would change versions.
    #[error("the bundle is {bundle}, and the cluster has other versions:\n{}\n`kinit upgrade plan` shows how it gets there; this operation needs the bundle that the cluster was made of", list_hops(.hops))]
    Hops {
        /// What the bundle is.
        bundle: Version,
        /// What would change.
        hops: Vec<Hop>,
    },
    /// A rollback without anything to go back to.
    #[error("nothing is known of an earlier version of this cluster; name the bundle to go back to (--bundle)")]
    NoPrevious,
    /// A rollback whose programs are not on a host any more.
    #[error("{host} does not have {path} any more; name the bundle to go back to (--bundle)")]
    NotOnHost {
        /// Where.
        host: String,
        /// What.
        path: String,
    },
    /// Something that needs the authorities' keys on hosts.
    #[error(
        "{0} needs the authorities' keys on control planes, and spec.certificates.caKeys says that they are kept on the desk: set it to hosts, run `kinit apply`, and set it back afterwards"
    )]
    KeysOnDesk(String),
    /// The API does not answer.
    #[error(
        "the API does not answer, and without it nobody knows which hosts belong to the cluster. `kinit init` with the file as it was last applied repairs a cluster; `kinit status` shows what is wrong"
    )]
    NoApi,
}

fn list_hops(hops: &[Hop]) -> String {
    let line = |hop: &Hop| format!("{}: {} is {}", hop.host, hop.component, hop.from);
    list(&hops.iter().map(line).collect::<Vec<_>>())
}

fn list<T: std::fmt::Display>(lines: &[T]) -> String {
    lines.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// What a request comes to.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The cluster as it will be.
    pub cluster: Cluster,
    /// The cluster file that will be kept with it.
    pub record: Cluster,
    /// Whether it is kept: not when only some hosts are brought to it.
    pub keeps_record: bool,
    /// Hosts that leave.
    pub leaving: Vec<HostSpec>,
    /// Hosts that are changed.
    pub scope: Scope,
    /// Certificates that are issued anew though nothing is wrong with them.
    pub renew: Vec<LeafName>,
    /// What its programs are, now and before.
    pub bundles: Bundles,
}

impl Wanted {
    /// Makes it a cluster of that version.
    pub(crate) fn of_version(&mut self, version: Version) {
        self.record.spec.kubernetes_version = Some(version.clone());
        self.cluster.spec.kubernetes_version = Some(version);
    }
}

impl Request {
    /// Hosts that the file does not have.
    pub(crate) fn named(&self) -> &[HostSpec] {
        if let Self::Join(hosts) = self { hosts } else { &[] }
    }

    /// Whose phases its plan has. Upgrades and restores order theirs themselves.
    pub(crate) fn operation(&self) -> Operation {
        match self {
            Self::Init => Operation::Init,
            Self::Apply { .. } => Operation::Apply,
            Self::Join(_) => Operation::Join,
            Self::Remove(_) => Operation::Remove,
            Self::Renew(_) | Self::SignedElsewhere => Operation::Renew,
            Self::Upgrade { .. } => Operation::Upgrade,
            Self::Rotate => Operation::Rotate,
            Self::Restore => Operation::Restore,
        }
    }

    pub(crate) fn is_restore(&self) -> bool {
        matches!(self, Self::Restore)
    }

    pub(crate) fn is_upgrade(&self) -> bool {
        matches!(self, Self::Upgrade { .. })
    }

    /// Whether nothing of the bundle is installed.
    pub(crate) fn only_removes(&self) -> bool {
        matches!(self, Self::Remove(_))
    }

    /// Whether components must be of the bundle's versions already. Clusters that get other data may be of any.
    pub(crate) fn keeps_versions(&self) -> bool {
        !matches!(self, Self::Upgrade { .. } | Self::Restore)
    }

    pub(crate) fn is_init(&self) -> bool {
        matches!(self, Self::Init)
    }

    /// What it comes to, from the file on the desk and the one that was last applied; that one is missing while the API
    /// does not answer, and before the first run has ended.
    pub(crate) fn resolve(&self, file: Cluster, previous: Option<Cluster>) -> Result<Wanted, Impossible> {
        match self {
            Self::Init => init(file, previous.as_ref()),
            Self::Apply { only } => apply(file, previous.as_ref(), only),
            Self::Join(hosts) => join(&file, previous.ok_or(Impossible::NoApi)?, hosts),
            Self::Renew(leaves) => Ok(renew(file, previous, leaves)),
            Self::SignedElsewhere => Ok(signed_elsewhere(file, previous)),
            Self::Upgrade { only } => upgrade(&file, previous.ok_or(Impossible::NoApi)?, only),
            Self::Rotate => Ok(all_of(as_it_is(&file, previous.ok_or(Impossible::NoApi)?), Vec::new())),
            Self::Restore => Ok(all_of(file, Vec::new())),
            Self::Remove(names) => remove(&file, previous.ok_or(Impossible::NoApi)?, names),
        }
    }
}

fn init(file: Cluster, previous: Option<&Cluster>) -> Result<Wanted, Impossible> {
    let differences = previous.map(|previous| kinit_config::differences(previous, &file)).unwrap_or_default();
    if !differences.is_empty() {
        return Err(Impossible::Exists(differences));
    }
    Ok(all_of(file, Vec::new()))
}

fn all_of(file: Cluster, leaving: Vec<HostSpec>) -> Wanted {
    Wanted {
        record: file.clone(),
        cluster: file,
        keeps_record: true,
        leaving,
        scope: Scope::All,
        renew: Vec::new(),
        bundles: Bundles::default(),
    }
}

fn apply(file: Cluster, previous: Option<&Cluster>, only: &[String]) -> Result<Wanted, Impossible> {
    if let Some(previous) = previous {
        let fixed = kinit_config::fixed(previous, &file);
        if !fixed.is_empty() {
            return Err(Impossible::Fixed(fixed));
        }
    }
    let has = |name: &str| file.spec.hosts.iter().any(|host| host.name == name);
    let former = previous.iter().flat_map(|previous| &previous.spec.hosts).filter(|host| !has(&host.name));
    let leaving: Vec<HostSpec> = former.cloned().collect();
    for old in &leaving {
        if let Some(new) = file.spec.hosts.iter().find(|host| host.address == old.address) {
            let (old, new, address) = (old.name.clone(), new.name.clone(), old.address.clone());
            return Err(Impossible::Renamed { old, new, address });
        }
    }
    if only.is_empty() {
        return Ok(all_of(file, leaving));
    }
    for name in only {
        if !has(name) && !leaving.iter().any(|host| host.name == *name) {
            return Err(unknown(name, file.spec.hosts.iter().chain(&leaving)));
        }
    }
    let leaving: Vec<HostSpec> = leaving.into_iter().filter(|host| only.contains(&host.name)).collect();
    let scope = Scope::Hosts(only.iter().cloned().collect());
    Ok(Wanted {
        record: file.clone(),
        cluster: file,
        keeps_record: false,
        leaving,
        scope,
        renew: Vec::new(),
        bundles: Bundles::default(),
    })
}

/// The cluster stays as it was last applied; when nobody knows that, because everything has expired, as the file has
/// it.
fn renew(file: Cluster, previous: Option<Cluster>, leaves: &[LeafName]) -> Wanted {
    let cluster = match previous {
        Some(previous) => as_it_is(&file, previous),
        None => file,
    };
    Wanted { renew: leaves.to_vec(), ..all_of(cluster, Vec::new()) }
}

/// The cluster as it was last applied, and the hosts of the file that it does not have yet.
fn signed_elsewhere(file: Cluster, previous: Option<Cluster>) -> Wanted {
    let Some(previous) = previous else { return all_of(file, Vec::new()) };
    let mut cluster = as_it_is(&file, previous);
    let scope = Scope::Hosts(cluster.spec.hosts.iter().map(|host| host.name.clone()).collect());
    for host in file.spec.hosts {
        if !cluster.spec.hosts.iter().any(|known| known.name == host.name) {
            cluster.spec.hosts.push(host);
        }
    }
    Wanted { scope, keeps_record: false, ..all_of(cluster, Vec::new()) }
}

/// The cluster stays as it was last applied, but for its version.
fn upgrade(file: &Cluster, previous: Cluster, only: &[String]) -> Result<Wanted, Impossible> {
    let cluster = as_it_is(file, previous);
    if let Some(name) = only.iter().find(|name| !cluster.spec.hosts.iter().any(|host| host.name == **name)) {
        return Err(unknown(name, cluster.spec.hosts.iter()));
    }
    let mut wanted = all_of(cluster, Vec::new());
    if !only.is_empty() {
        wanted.scope = Scope::Hosts(only.iter().cloned().collect());
        wanted.keeps_record = false;
    }
    Ok(wanted)
}

fn unknown<'a>(name: &str, hosts: impl Iterator<Item = &'a HostSpec>) -> Impossible {
    let known = hosts.map(|host| host.name.as_str()).collect::<Vec<_>>().join(", ");
    Impossible::UnknownHost { name: name.to_owned(), known }
}

/// What was last applied, reached as the file on the desk says.
fn as_it_is(file: &Cluster, mut previous: Cluster) -> Cluster {
    previous.spec.ssh = file.spec.ssh.clone();
    for host in &mut previous.spec.hosts {
        if let Some(own) = file.spec.hosts.iter().find(|own| own.name == host.name) {
            host.ssh.clone_from(&own.ssh);
        }
    }
    previous
}

fn join(file: &Cluster, previous: Cluster, hosts: &[HostSpec]) -> Result<Wanted, Impossible> {
    let mut cluster = as_it_is(file, previous);
    for host in hosts {
        match cluster.spec.hosts.iter().find(|known| known.name == host.name) {
            // An earlier run of the same command.
            Some(known) if known.address == host.address && known.roles == host.roles => {}
            Some(_) => return Err(Impossible::Present(host.name.clone())),
            None => cluster.spec.hosts.push(host.clone()),
        }
    }
    let invalid = kinit_config::validate(&cluster);
    if !invalid.is_empty() {
        return Err(Impossible::Invalid(invalid));
    }
    let scope = Scope::Hosts(hosts.iter().map(|host| host.name.clone()).collect());
    Ok(Wanted {
        record: cluster.clone(),
        cluster,
        keeps_record: true,
        leaving: Vec::new(),
        scope,
        renew: Vec::new(),
        bundles: Bundles::default(),
    })
}

fn remove(file: &Cluster, previous: Cluster, names: &[String]) -> Result<Wanted, Impossible> {
    let mut cluster = as_it_is(file, previous);
    let mut leaving = Vec::new();
    for name in names {
        let known = || cluster.spec.hosts.iter().chain(file.spec.hosts.iter());
        let Some(host) = known().find(|host| host.name == *name).cloned() else {
            return Err(unknown(name, cluster.spec.hosts.iter()));
        };
        if cluster.endpoint().0 == host.address {
            let endpoint = cluster.spec.control_plane_endpoint.clone();
            return Err(Impossible::Endpoint { endpoint, host: host.name });
        }
        cluster.spec.hosts.retain(|known| known.name != *name);
        leaving.push(host);
    }
    let invalid = kinit_config::validate(&cluster);
    if !invalid.is_empty() {
        return Err(Impossible::Invalid(invalid));
    }
    let scope = Scope::Hosts(BTreeSet::new());
    Ok(Wanted {
        record: cluster.clone(),
        cluster,
        keeps_record: true,
        leaving,
        scope,
        renew: Vec::new(),
        bundles: Bundles::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Cluster {
        kinit_config::load(kinit_config::example()).unwrap()
    }

    fn without(name: &str) -> Cluster {
        let mut cluster = example();
        cluster.spec.hosts.retain(|host| host.name != name);
        cluster
    }

    #[test]
    fn who_is_not_in_the_file_any_more_leaves() {
        let wanted = Request::Apply { only: vec![] }.resolve(without("w2"), Some(example())).unwrap();
        assert_eq!(wanted.leaving.iter().map(|h| h.name.as_str()).collect::<Vec<_>>(), ["w2"]);
        assert_eq!(wanted.scope, Scope::All);
        let wanted = Request::Apply { only: vec!["w1".into()] }.resolve(without("w2"), Some(example())).unwrap();
        assert!(wanted.leaving.is_empty() && !wanted.keeps_record);
        let error = Request::Apply { only: vec!["w9".into()] }.resolve(without("w2"), Some(example())).unwrap_err();
        assert!(error.to_string().contains("no host \"w9\"; there are lb1, cp1"), "{error}");
    }

    #[test]
    fn a_host_is_not_renamed() {
        let mut file = example();
        file.spec.hosts[5].name = "w02".into();
        let error = Request::Apply { only: vec![] }.resolve(file, Some(example())).unwrap_err().to_string();
        assert!(error.starts_with("w2 leaves and w02 has its address"), "{error}");
    }

    #[test]
    fn init_is_for_new_clusters() {
        assert!(Request::Init.resolve(example(), None).is_ok());
        assert!(Request::Init.resolve(example(), Some(example())).is_ok());
        let error = Request::Init.resolve(without("w2"), Some(example())).unwrap_err().to_string();
        assert!(error.contains("spec.hosts: w2") && error.contains("kinit apply"), "{error}");
        let mut elsewhere = example();
        elsewhere.spec.ssh.port = Some(2222);
        assert!(
            Request::Init.resolve(elsewhere, Some(example())).is_ok(),
            "how hosts are reached is the desk's affair"
        );
    }

    #[test]
    fn certificates_of_new_hosts_are_signed_before_they_join() {
        let mut file = example();
        file.spec.api_server.extra_args.push(kinit_config::Arg { name: "v".into(), value: "4".into() });
        let wanted = Request::SignedElsewhere.resolve(file, Some(without("w2"))).unwrap();
        assert!(wanted.cluster.spec.hosts.iter().any(|host| host.name == "w2") && !wanted.keeps_record);
        assert!(wanted.cluster.spec.api_server.extra_args.is_empty(), "as it was applied");
        assert!(matches!(wanted.scope, Scope::Hosts(names) if !names.contains("w2") && names.contains("w1")));
        assert_eq!(Request::SignedElsewhere.resolve(example(), None).unwrap().scope, Scope::All);
    }

    #[test]
    fn what_joins_or_leaves_changes_nothing_else() {
        let mut file = example();
        file.spec.api_server.extra_args.push(kinit_config::Arg { name: "v".into(), value: "4".into() });
        let mut host = example().spec.hosts.pop().unwrap();
        (host.name, host.address) = ("w3".into(), "192.0.2.23".into());
        let wanted = Request::Join(vec![host.clone()]).resolve(file.clone(), Some(example())).unwrap();
        assert!(wanted.cluster.spec.api_server.extra_args.is_empty() && wanted.record.spec.hosts.len() == 7);
        host.address = "192.0.2.21".into();
        let error = Request::Join(vec![host.clone()]).resolve(file.clone(), Some(example())).unwrap_err();
        assert!(error.to_string().contains("is the address of"), "{error}");
        host.name = "w1".into();
        host.roles = vec![kinit_config::Role::ControlPlane];
        assert_eq!(
            Request::Join(vec![host]).resolve(file.clone(), Some(example())).unwrap_err(),
            Impossible::Present("w1".into())
        );
        let wanted = Request::Remove(vec!["w2".into()]).resolve(file, Some(example())).unwrap();
        assert_eq!((wanted.leaving.len(), wanted.cluster.spec.hosts.len()), (1, 5));
        let error = Request::Remove(vec!["x".into()]).resolve(example(), Some(example())).unwrap_err();
        assert!(matches!(error, Impossible::UnknownHost { .. }));
    }

    #[test]
    fn settings_that_are_fixed_are_named() {
        let mut file = example();
        file.spec.networking.pod_subnet = "10.245.0.0/16".into();
        file.spec.hosts[4].address = "192.0.2.99".into();
        let error = Request::Apply { only: vec![] }.resolve(file, Some(example())).unwrap_err().to_string();
        assert!(error.contains("spec.networking.podSubnet") && error.contains("w1"), "{error}");
    }
}
