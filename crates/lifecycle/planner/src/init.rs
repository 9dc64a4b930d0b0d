//! The plan of `kinit init`.

use std::collections::{BTreeMap, BTreeSet};

use kinit_config::{Cluster, Role};
use kinit_manifests::{BOOTSTRAP_KUBECONFIG, Phase};
use kinit_resource::{Change, Content, Observed, Place, Resource, Shared, UnitState, compare};

use crate::external;
use crate::plan::{Action, Plan, PlanStage, Step};

/// What was seen on a host: its resources in the order they are brought about.
pub type HostObservation = Vec<(Phase, Resource, Observed)>;

/// What was seen of an API object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectState {
    /// It is as wanted.
    AsWanted,
    /// It is there but differs.
    Differs,
    /// There is none, or the API does not answer yet.
    Missing,
}

/// Why there can be no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Two hosts hold different secrets of the same name.
    #[error("{} differs between {one} and {other}: they belong to different clusters. Reset one of them (`kinit reset --host`), or copy the right /etc/kubernetes/pki to it", .shared.name())]
    Conflict {
        /// Which.
        shared: Shared,
        /// A host that has it.
        one: String,
        /// A host that has another.
        other: String,
    },
    /// A secret of a cluster that exists is nowhere whole: one made anew would not be it.
    #[error("{} is lost: {host} {sign}, and no control plane has it whole. Put {} back into /etc/kubernetes/pki of a control plane, or give the cluster up (`kinit reset`)", .shared.name(), files(*.shared))]
    Lost {
        /// Which.
        shared: Shared,
        /// A host that shows that there is a cluster.
        host: String,
        /// What it shows.
        sign: String,
    },
    /// An authority is kept elsewhere, and something needs its signature.
    #[error("{} is on no control plane ({host} has its certificate: an external authority), and these need its signature:\n{}\nSign them with that authority and put them in place, or put {} into /etc/kubernetes/pki of a control plane", .shared.files().1, .unsigned.join("\n"), .shared.files().1)]
    External {
        /// Which.
        shared: Shared,
        /// A host with its certificate.
        host: String,
        /// Everything that needs a signature: host, what, and why.
        unsigned: Vec<String>,
    },
}

/// The files of a secret, for people.
fn files(shared: Shared) -> String {
    let (public, private) = shared.files();
    public.into_iter().chain([private]).collect::<Vec<_>>().join(" and ")
}

/// Makes the plan. `hosts` holds every host of the file; `with_data` those where etcd has data; `objects` the API
/// objects by `Kind namespace/name`, in order; `marked` the control planes whose Nodes are labelled.
pub fn init(
    cluster: &Cluster,
    hosts: &BTreeMap<String, HostObservation>,
    with_data: &BTreeSet<String>,
    objects: &[(Phase, String, ObjectState)],
    marked: &BTreeSet<String>,
) -> Result<Plan, PlanError> {
    let mut plan = Plan::default();
    for phase in Phase::ALL {
        match phase {
            Phase::Certs => certs(cluster, hosts, with_data, &mut plan)?,
            Phase::WaitControlPlane => cluster_step(
                &mut plan,
                phase,
                Action::WaitForApi,
                "wait for",
                "the API at the control-plane endpoint",
                false,
            ),
            Phase::UploadConfig | Phase::Addon => object_steps(phase, objects, &mut plan),
            Phase::BootstrapToken if needs_token(hosts) => {
                cluster_step(
                    &mut plan,
                    phase,
                    Action::BootstrapToken,
                    "create",
                    "a bootstrap token for nodes without a certificate",
                    true,
                );
            }
            Phase::MarkControlPlane => mark(cluster, marked, &mut plan),
            Phase::Verify => {
                cluster_step(&mut plan, phase, Action::WaitForNodes, "wait for", "all nodes to be Ready", false);
                cluster_step(&mut plan, phase, Action::WaitForDns, "wait for", "cluster DNS", false);
            }
            _ => host_steps(cluster, phase, hosts, &mut plan),
        }
    }
    Ok(plan)
}

fn push(plan: &mut Plan, phase: Phase, serial: bool, steps: Vec<Step>) {
    if !steps.is_empty() {
        plan.stages.push(PlanStage { phase, serial, steps });
    }
}

fn cluster_step(plan: &mut Plan, phase: Phase, action: Action, verb: &'static str, what: &str, changes: bool) {
    let change = Change { verb, what: what.to_owned(), why: None, changes };
    push(plan, phase, false, vec![Step { host: None, action, change }]);
}

/// Resources of a phase that differ, for all hosts. What serves must go on serving: then hosts take turns, those that
/// do not serve first. What serves nowhere yet is started everywhere at once: a member of etcd is not well before its
/// peers are up.
fn host_steps(cluster: &Cluster, phase: Phase, hosts: &BTreeMap<String, HostObservation>, plan: &mut Plan) {
    let mut order: Vec<&str> = cluster.spec.hosts.iter().map(|h| h.name.as_str()).collect();
    let takes_turns = matches!(phase, Phase::Etcd | Phase::ControlPlane | Phase::LoadBalancer);
    let serving = |host: &&str| hosts.get(*host).is_some_and(|seen| serves(phase, seen));
    let serial = takes_turns && order.iter().any(serving);
    if serial {
        order.sort_by_key(serving);
    }
    let mut steps = Vec::new();
    for host in order {
        let seen = hosts.get(host).into_iter().flatten().filter(|(p, _, _)| *p == phase);
        steps.extend(lane(cluster, host, seen, written_before(plan, host)));
    }
    push(plan, phase, serial, steps);
}

/// What a host's earlier steps write.
fn written_before(plan: &Plan, host: &str) -> BTreeSet<String> {
    let steps = plan.stages.iter().flat_map(|s| &s.steps).filter(|s| s.host.as_deref() == Some(host));
    steps.filter_map(|s| written(&s.action)).collect()
}

/// One host's steps of a phase. A unit that runs well now must still be restarted when this run changes a file that it
/// reads, and then be waited for.
fn lane<'a>(
    cluster: &Cluster,
    host: &str,
    seen: impl Iterator<Item = &'a (Phase, Resource, Observed)>,
    mut changed: BTreeSet<String>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut restarted = false;
    for (_, resource, observed) in seen {
        let touched = match (resource, observed) {
            (Resource::Unit { state: UnitState::Running { reads }, .. }, Observed::AsWanted) => {
                reads.iter().find(|r| changed.contains(*r))
            }
            _ => None,
        };
        let change = match (compare(resource, observed), touched) {
            (Some(change), _) => Some(change),
            (None, Some(file)) => compare(resource, &Observed::Differs(format!("{file} changes"))),
            (None, None) if restarted && matches!(resource, Resource::Healthy { .. }) => {
                compare(resource, &Observed::Missing)
            }
            (None, None) => None,
        };
        let Some(change) = change else { continue };
        restarted |= is_unit(resource);
        let action = match resource {
            Resource::Leaf(leaf) => Action::Issue { leaf: leaf.clone(), by: first(cluster) },
            other => Action::Apply(other.clone()),
        };
        changed.extend(written(&action));
        steps.push(Step { host: Some(host.to_owned()), action, change });
    }
    steps
}

/// Whether users of the phase's units would miss this host: its health checks pass or, where there are none, a unit
/// runs.
fn serves(phase: Phase, seen: &HostObservation) -> bool {
    let of = |wanted: fn(&Resource) -> bool| seen.iter().filter(move |(p, r, _)| *p == phase && wanted(r));
    let mut checks = of(|r| matches!(r, Resource::Healthy { .. })).peekable();
    if checks.peek().is_some() {
        return checks.all(|(_, _, o)| *o == Observed::AsWanted);
    }
    of(is_unit).any(|(_, _, o)| matches!(o, Observed::AsWanted | Observed::Differs(_)))
}

fn is_unit(resource: &Resource) -> bool {
    matches!(resource, Resource::Unit { state: UnitState::Running { .. }, .. })
}

fn written(action: &Action) -> Option<String> {
    match action {
        Action::Apply(Resource::File(file)) => Some(file.path.clone()),
        Action::Apply(Resource::Link { path, .. } | Resource::Blob { path, .. }) => Some(path.clone()),
        Action::Apply(Resource::ClusterOf { stamp, .. }) => Some(stamp.clone()),
        Action::Issue { leaf, .. } => Some(leaf.path()),
        _ => None,
    }
}

fn first(cluster: &Cluster) -> String {
    cluster.first_control_plane().map(|h| h.name.clone()).unwrap_or_default()
}

/// Shared secrets are made once and copied; then leaf certificates.
fn certs(
    cluster: &Cluster,
    hosts: &BTreeMap<String, HostObservation>,
    with_data: &BTreeSet<String>,
    plan: &mut Plan,
) -> Result<(), PlanError> {
    let (mut made, mut copied) = (Vec::new(), Vec::new());
    for shared in Shared::ALL {
        let whole = origin(cluster, hosts, shared)?;
        let external = if whole.is_none() { external::source(cluster, hosts, shared)? } else { None };
        let is_external = external.is_some();
        let (source, fingerprint) = match whole.or(external) {
            Some(origin) => origin,
            None => {
                if let Some((host, sign)) = sign_of_life(hosts, with_data, shared) {
                    return Err(PlanError::Lost { shared, host, sign });
                }
                let host = first(cluster);
                let change = Change { verb: "create", what: shared.name().to_owned(), why: None, changes: true };
                made.push(Step { host: Some(host.clone()), action: Action::Generate(shared), change });
                (host, String::new())
            }
        };
        for host in cluster.spec.hosts.iter().filter(|h| h.name != source) {
            let Some((place, observed)) = seen_shared(hosts, &host.name, shared) else { continue };
            let verb = match observed {
                Observed::Fingerprint(f) if *f == fingerprint => continue,
                Observed::Public(f) if is_external && *f == fingerprint => continue,
                Observed::Missing => "copy",
                _ => "replace",
            };
            let place = if is_external { Place::Public } else { place };
            let what = if place == Place::Whole { shared.name().to_owned() } else { format!("{}.crt", shared.name()) };
            let change = Change { verb, what: format!("{what} from {source}"), why: None, changes: true };
            copied.push(Step {
                host: Some(host.name.clone()),
                action: Action::Copy { shared, from: source.clone(), place },
                change,
            });
        }
    }
    push(plan, Phase::Certs, false, made);
    push(plan, Phase::Certs, false, copied);
    host_steps(cluster, Phase::Certs, hosts, plan);
    Ok(())
}

/// What tells that a secret was made before: a half of it, or the data of the cluster it belongs to.
fn sign_of_life(
    hosts: &BTreeMap<String, HostObservation>,
    with_data: &BTreeSet<String>,
    shared: Shared,
) -> Option<(String, String)> {
    let half = hosts.keys().find_map(|host| match seen_shared(hosts, host, shared)?.1 {
        Observed::Differs(why) => Some((host.clone(), format!("has a part of it ({why})"))),
        Observed::Fingerprint(_) | Observed::Public(_) => Some((host.clone(), "has its public part".to_owned())),
        _ => None,
    });
    half.or_else(|| with_data.first().map(|host| (host.clone(), "has the cluster's data".to_owned())))
}

/// The control plane that has a shared secret whole, with its fingerprint. Two that differ are two clusters.
fn origin(
    cluster: &Cluster,
    hosts: &BTreeMap<String, HostObservation>,
    shared: Shared,
) -> Result<Option<(String, String)>, PlanError> {
    let mut found: Option<(String, String)> = None;
    for host in cluster.hosts(Role::ControlPlane) {
        let Some((Place::Whole, Observed::Fingerprint(fingerprint))) = seen_shared(hosts, &host.name, shared) else {
            continue;
        };
        match &found {
            Some((one, other)) if other != fingerprint => {
                return Err(PlanError::Conflict { shared, one: one.clone(), other: host.name.clone() });
            }
            Some(_) => {}
            None => found = Some((host.name.clone(), fingerprint.clone())),
        }
    }
    Ok(found)
}

pub(crate) fn seen_shared<'a>(
    hosts: &'a BTreeMap<String, HostObservation>,
    host: &str,
    shared: Shared,
) -> Option<(Place, &'a Observed)> {
    hosts.get(host)?.iter().find_map(|(_, resource, observed)| match resource {
        Resource::Shared { shared: s, place } if *s == shared => Some((*place, observed)),
        _ => None,
    })
}

fn object_steps(phase: Phase, objects: &[(Phase, String, ObjectState)], plan: &mut Plan) {
    let steps = objects.iter().filter(|(p, _, state)| *p == phase && *state != ObjectState::AsWanted).map(
        |(_, name, state)| {
            let verb = if *state == ObjectState::Missing { "create" } else { "change" };
            Step {
                host: None,
                action: Action::Object(name.clone()),
                change: Change { verb, what: name.clone(), why: None, changes: true },
            }
        },
    );
    push(plan, phase, false, steps.collect());
}

fn needs_token(hosts: &BTreeMap<String, HostObservation>) -> bool {
    hosts.values().flatten().any(|(_, resource, observed)| {
        matches!(resource, Resource::File(f) if f.content == Content::Secret(BOOTSTRAP_KUBECONFIG.to_owned()))
            && *observed != Observed::AsWanted
    })
}

fn mark(cluster: &Cluster, marked: &BTreeSet<String>, plan: &mut Plan) {
    let steps = cluster.hosts(Role::ControlPlane).filter(|h| !marked.contains(&h.name)).map(|host| {
        let change =
            Change { verb: "label", what: format!("node {} as control plane", host.name), why: None, changes: true };
        Step { host: None, action: Action::MarkNode(host.name.clone()), change }
    });
    push(plan, Phase::MarkControlPlane, false, steps.collect());
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinit_manifests::{Bundle, HostFacts, desired};

    fn cluster() -> Cluster {
        kinit_config::load(kinit_config::example()).unwrap()
    }

    fn seen(cluster: &Cluster, see: impl Fn(&str, &Resource) -> Observed) -> BTreeMap<String, HostObservation> {
        let bundle = Bundle { hyperkube: "ab".repeat(32), images: vec![] };
        let facts = HostFacts { can_lower_oom_score: true, has_resolved: false, cgroup_v2: true };
        let observe = |host: &kinit_config::HostSpec| {
            desired(cluster, host, facts, &bundle)
                .unwrap()
                .into_iter()
                .map(|(p, r)| {
                    let o = see(&host.name, &r);
                    (p, r, o)
                })
                .collect()
        };
        cluster.spec.hosts.iter().map(|h| (h.name.clone(), observe(h))).collect()
    }

    fn well(_: &str, resource: &Resource) -> Observed {
        match resource {
            Resource::Shared { .. } => Observed::Fingerprint("f".into()),
            _ => Observed::AsWanted,
        }
    }

    fn all_marked() -> BTreeSet<String> {
        ["cp1", "cp2", "cp3"].map(str::to_owned).into()
    }

    #[test]
    fn fresh_hosts_get_everything() {
        let cluster = cluster();
        let hosts = seen(&cluster, |_, _| Observed::Missing);
        let objects = [(Phase::UploadConfig, "ConfigMap kube-system/kinit-config".to_owned(), ObjectState::Missing)];
        insta::assert_snapshot!(init(&cluster, &hosts, &none(), &objects, &BTreeSet::new()).unwrap().to_string());
    }

    #[test]
    fn a_cluster_that_is_as_wanted_gets_no_change() {
        let cluster = cluster();
        let plan = init(&cluster, &seen(&cluster, well), &none(), &[], &all_marked()).unwrap();
        assert_eq!(plan.changes(), 0, "{plan}");
    }

    #[test]
    fn authorities_that_differ_are_refused() {
        let cluster = cluster();
        let hosts = seen(&cluster, |host, resource| match resource {
            Resource::Shared { .. } => Observed::Fingerprint(if host == "cp3" { "other" } else { "f" }.into()),
            _ => Observed::AsWanted,
        });
        let error = init(&cluster, &hosts, &none(), &[], &all_marked()).unwrap_err().to_string();
        assert!(error.contains("ca differs between cp1 and cp3"), "{error}");
    }

    fn none() -> BTreeSet<String> {
        BTreeSet::new()
    }

    #[test]
    fn a_lost_key_is_never_made_anew() {
        let cluster = cluster();
        let lost = |wanted: Shared, observed: fn(&str) -> Observed| {
            seen(&cluster, |host, resource| match resource {
                Resource::Shared { shared, .. } if *shared == wanted => observed(host),
                other => well(host, other),
            })
        };
        let ca = Shared::Authority(kinit_pki::Authority::Kubernetes);
        let keyless = lost(ca, |_| Observed::Differs("/etc/kubernetes/pki/ca.key is missing".into()));
        let workers =
            lost(ca, |host| if host.starts_with('w') { Observed::Fingerprint("f".into()) } else { Observed::Missing });
        let gone = lost(Shared::EncryptionConfig, |_| Observed::Missing);
        let data = BTreeSet::from(["cp2".to_owned()]);
        for (hosts, data, words) in [
            (&keyless, &none(), "ca is lost: cp1 has a part of it"),
            (&workers, &none(), "ca is lost: w1 has its public part"),
            (&gone, &data, "encryption-config is lost: cp2 has the cluster's data"),
        ] {
            let error = init(&cluster, hosts, data, &[], &all_marked()).unwrap_err().to_string();
            assert!(error.starts_with(words), "{error}");
        }
        // Without data nothing is lost: an interrupted first run goes on.
        let plan = init(&cluster, &gone, &none(), &[], &all_marked()).unwrap().to_string();
        assert!(plan.contains("create encryption-config"), "{plan}");
        // One control plane that has it is enough.
        let one = lost(ca, |host| match host {
            "cp2" => Observed::Fingerprint("f".into()),
            _ => Observed::Differs("/etc/kubernetes/pki/ca.key is missing".into()),
        });
        let plan = init(&cluster, &one, &data, &[], &all_marked()).unwrap().to_string();
        assert!(plan.contains("replace ca from cp2"), "{plan}");
    }

    #[test]
    fn an_authority_that_one_host_has_is_copied_never_made_again() {
        let cluster = cluster();
        let hosts = seen(&cluster, |host, resource| match resource {
            Resource::Shared { .. } if host != "cp2" => Observed::Missing,
            other => well(host, other),
        });
        let plan = init(&cluster, &hosts, &none(), &[], &all_marked()).unwrap();
        let text = plan.to_string();
        assert!(!text.contains("create ca") && text.contains("cp1        copy ca from cp2"), "{text}");
    }

    #[test]
    fn a_new_binary_restarts_what_runs_it_in_the_phases_after() {
        let cluster = cluster();
        let hosts = seen(&cluster, |host, resource| match resource {
            Resource::Link { path, .. } if path.ends_with("/kubelet") => {
                Observed::Differs("links to another build".into())
            }
            other => well(host, other),
        });
        let text = init(&cluster, &hosts, &none(), &[], &all_marked()).unwrap().to_string();
        for host in ["cp1", "w2"] {
            let line = format!("{host:<10} restart kubelet.service (/usr/local/bin/kubelet changes)");
            assert!(text.contains(&line), "{line} is missing in:\n{text}");
        }
        assert!(!text.contains("restart kube-proxy.service"), "{text}");
    }

    #[test]
    fn a_kubelet_restarts_when_it_is_led_elsewhere() {
        let cluster = cluster();
        let hosts = seen(&cluster, |host, resource| match resource {
            Resource::ClusterOf { .. } if host == "w1" => Observed::Differs("its server is not https://x".into()),
            other => well(host, other),
        });
        let text = init(&cluster, &hosts, &none(), &[], &all_marked()).unwrap().to_string();
        assert!(
            text.contains("w1         change /etc/kubernetes/kubelet.conf (its server is not https://x)"),
            "{text}"
        );
        assert!(text.contains("w1         restart kubelet.service") && text.ends_with("2 changes\n"), "{text}");
    }

    #[test]
    fn etcd_without_quorum_is_started_everywhere_at_once() {
        let cluster = cluster();
        // The first member runs and waits for its peers.
        let hosts = seen(&cluster, |host, resource| match resource {
            Resource::Healthy { .. } => Observed::Missing,
            Resource::Unit { name, .. } if name == "etcd.service" && host != "cp1" => {
                Observed::Differs("the distribution's runs".into())
            }
            other => well(host, other),
        });
        let plan = init(&cluster, &hosts, &none(), &[], &all_marked()).unwrap();
        assert!(!plan.stages.iter().find(|s| s.phase == Phase::Etcd).unwrap().serial, "{plan}");
    }

    #[test]
    fn a_member_that_is_down_comes_before_those_that_serve() {
        let cluster = cluster();
        let hosts = seen(&cluster, |host, resource| match resource {
            Resource::Healthy { .. } if host == "cp3" => Observed::Missing,
            Resource::Unit { name, .. } if name == "etcd.service" => Observed::Differs("flags differ".into()),
            other => well(host, other),
        });
        let plan = init(&cluster, &hosts, &none(), &[], &all_marked()).unwrap();
        let stage = plan.stages.iter().find(|s| s.phase == Phase::Etcd).unwrap();
        let mut order: Vec<_> = stage.steps.iter().filter_map(|s| s.host.as_deref()).collect();
        order.dedup();
        assert!(stage.serial);
        assert_eq!(order, ["cp3", "cp1", "cp2"]);
    }

    #[test]
    fn a_changed_file_restarts_its_readers_one_host_after_the_other() {
        let cluster = cluster();
        let hosts = seen(&cluster, |host, resource| match resource {
            Resource::File(f) if f.path.ends_with("kube-apiserver.service") => {
                Observed::Differs("content differs".into())
            }
            other => well(host, other),
        });
        let plan = init(&cluster, &hosts, &none(), &[], &all_marked()).unwrap();
        let stage = plan.stages.iter().find(|s| s.phase == Phase::ControlPlane).unwrap();
        assert!(stage.serial);
        let cp1: Vec<String> =
            stage.steps.iter().filter(|s| s.host.as_deref() == Some("cp1")).map(|s| s.change.to_string()).collect();
        assert_eq!(cp1.len(), 3, "{cp1:?}");
        assert!(
            cp1[1].starts_with("restart kube-apiserver.service")
                && cp1[2].starts_with("wait for https://192.0.2.11:6443/readyz"),
            "{cp1:?}"
        );
    }
}
