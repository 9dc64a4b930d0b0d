//! The version-skew policy (kubernetes.io/releases/version-skew-policy), as rules of an upgrade.
//!
//! The API that the control plane serves may be of an earlier minor than its program (upstream's
//! `--emulated-version`, KEP-4330): a cluster goes from minor to minor of the API, and never more than one at a time.
//! Node components are compared by their programs.

use std::collections::BTreeMap;

use kinit_config::{Cluster, HostSpec, Minor, Role, Version};
use kinit_manifests::Bundle;
use kinit_resource::Facts;

/// How far behind the API server a kubelet and a service proxy may be.
const NODE_SKEW: i64 = 3;
const API_SERVER: &str = "kube-apiserver";

/// Which version of a component a host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostVersion {
    /// What its program says of itself.
    pub version: Version,
    /// The minor that it serves, where it emulates an earlier one.
    pub emulated: Option<Minor>,
}

impl HostVersion {
    /// The minor that it behaves as.
    pub fn minor(&self) -> Minor {
        self.emulated.unwrap_or_else(|| self.version.minor())
    }
}

impl std::fmt::Display for HostVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.version)?;
        match self.emulated {
            Some(minor) => write!(f, " (emulating {minor})"),
            None => Ok(()),
        }
    }
}

/// What is on the hosts: by host, by component.
pub type Installed = BTreeMap<String, BTreeMap<String, HostVersion>>;

/// The versions of the hosts' components, and what could not be read.
pub fn installed(facts: &BTreeMap<String, Facts>) -> (Installed, Vec<String>) {
    let (mut all, mut unknown) = (Installed::new(), Vec::new());
    for (host, facts) in facts {
        for (component, found) in &facts.components {
            let version = found.version.as_deref().and_then(|text| text.parse().ok());
            let emulated = found.emulated.as_deref().map(str::parse).transpose();
            match (version, emulated) {
                (Some(version), Ok(emulated)) => {
                    let one = HostVersion { version, emulated };
                    all.entry(host.clone()).or_default().insert(component.clone(), one);
                }
                _ => unknown.push(format!("{host}: {component} does not say which version it is")),
            }
        }
    }
    (all, unknown)
}

/// What a bundle makes of a component.
pub fn target(bundle: &Bundle, component: &str) -> Option<HostVersion> {
    let program = bundle.programs.get(component)?;
    let serves = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"].contains(&component);
    Some(HostVersion { version: program.version.clone(), emulated: bundle.emulated.filter(|_| serves) })
}

/// A component that is of another version than the bundle's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Where.
    pub host: String,
    /// Which.
    pub component: String,
    /// What is there.
    pub from: HostVersion,
    /// What comes.
    pub to: HostVersion,
}

/// Every component of the cluster that is of another version than the bundle's, in the file's order.
pub fn hops(cluster: &Cluster, installed: &Installed, bundle: &Bundle) -> Vec<Hop> {
    let mut hops = Vec::new();
    for host in &cluster.spec.hosts {
        for (component, from) in installed.get(&host.name).into_iter().flatten() {
            let Some(to) = target(bundle, component).filter(|to| to != from) else { continue };
            hops.push(Hop { host: host.name.clone(), component: component.clone(), from: from.clone(), to });
        }
    }
    hops
}

/// Which way versions go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To later ones.
    Up,
    /// Back to earlier ones.
    Down,
}

/// Everything that speaks against bringing the hosts in `covers` to the bundle's versions: a line each.
pub fn skew(
    cluster: &Cluster,
    installed: &Installed,
    bundle: &Bundle,
    direction: Direction,
    covers: &dyn Fn(&HostSpec, &str) -> bool,
) -> Vec<String> {
    let mut against = mixed(cluster, installed);
    let Some(to) = target(bundle, API_SERVER) else { return against };
    for (host, from) in of(cluster, installed, API_SERVER) {
        against.extend(server_hop(&host.name, from, &to, direction));
    }
    // The API servers that there will be, and the nodes beside them.
    let after = |host: &HostSpec, component: &str, now: &HostVersion| match target(bundle, component) {
        Some(to) if covers(host, component) => to,
        _ => now.clone(),
    };
    let servers: Vec<HostVersion> =
        of(cluster, installed, API_SERVER).map(|(host, now)| after(host, API_SERVER, now)).collect();
    let Some(oldest) = servers.iter().map(|server| server.version.minor()).min() else { return against };
    let newest = servers.iter().map(|server| server.version.minor()).max().unwrap_or(oldest);
    for component in ["kubelet", "kube-proxy"] {
        for (host, now) in of(cluster, installed, component) {
            let minor = after(host, component, now).version.minor();
            let name = &host.name;
            if minor > oldest {
                against.push(format!(
                    "{name}: {component} would be {minor}, newer than an API server ({oldest}): control planes come first"
                ));
            }
            if newest.ahead_of(minor) > NODE_SKEW {
                against.push(format!(
                    "{name}: {component} is {now}, and no API server of {newest} may have one more than {NODE_SKEW} minors behind: upgrade that node first"
                ));
            }
        }
    }
    against
}

/// The hosts that have a component.
fn of<'a>(
    cluster: &'a Cluster,
    installed: &'a Installed,
    component: &'a str,
) -> impl Iterator<Item = (&'a HostSpec, &'a HostVersion)> {
    let has = move |host: &'a HostSpec| Some((host, installed.get(&host.name)?.get(component)?));
    cluster.spec.hosts.iter().filter(move |host| component != API_SERVER || host.is(Role::ControlPlane)).filter_map(has)
}

/// Versions that no upgrade of kinit's leaves behind, even in its middle.
fn mixed(cluster: &Cluster, installed: &Installed) -> Vec<String> {
    let mut against = Vec::new();
    let servers: Vec<Minor> = of(cluster, installed, API_SERVER).map(|(_, now)| now.version.minor()).collect();
    let (Some(oldest), Some(newest)) = (servers.iter().min(), servers.iter().max()) else { return against };
    if newest.ahead_of(*oldest) > 1 {
        against.push(format!("API servers of {oldest} and {newest} work side by side: they may be one minor apart"));
    }
    for component in ["kube-controller-manager", "kube-scheduler", "cloud-controller-manager", "metrics-server"] {
        for (host, now) in of(cluster, installed, component) {
            let server = installed.get(&host.name).and_then(|own| own.get(API_SERVER));
            if let Some(server) = server.filter(|server| now.version.minor() > server.version.minor()) {
                let name = &host.name;
                against.push(format!("{name}: {component} is {now}, newer than its API server ({server})"));
            }
        }
    }
    for component in ["kubelet", "kube-proxy"] {
        for (host, now) in of(cluster, installed, component).filter(|(_, now)| now.version.minor() > *oldest) {
            let name = &host.name;
            against.push(format!("{name}: {component} is {now}, newer than an API server ({oldest})"));
        }
    }
    against
}

/// Whether an API server may go from one version to another.
fn server_hop(host: &str, from: &HostVersion, to: &HostVersion, direction: Direction) -> Option<String> {
    let forward = match direction {
        Direction::Up => (from.minor(), &from.version) <= (to.minor(), &to.version),
        Direction::Down => (from.minor(), &from.version) >= (to.minor(), &to.version),
    };
    if !forward {
        return Some(match direction {
            Direction::Up => {
                format!("{host}: {API_SERVER} is {from}, later than {to}: `kinit upgrade rollback` goes back")
            }
            Direction::Down => {
                format!("{host}: {API_SERVER} is {from}, earlier than {to}: `kinit upgrade apply` goes on")
            }
        });
    }
    let steps = [to.minor().ahead_of(from.minor()), to.version.minor().ahead_of(from.version.minor())];
    steps.iter().any(|step| step.abs() > 1).then(|| {
        format!("{host}: {API_SERVER} is {from}, and {to} is more than one minor away: no minor may be skipped")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Cluster {
        kinit_config::load(kinit_config::example()).unwrap()
    }

    fn version(text: &str) -> HostVersion {
        let (version, emulated) = text.split_once('~').map_or((text, None), |(a, b)| (a, Some(b)));
        HostVersion { version: version.parse().unwrap(), emulated: emulated.map(|e| e.parse().unwrap()) }
    }

    const ALL: [&str; 5] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"];

    /// Control planes cp1 to cp3 with all components of a version; workers w1 and w2 with another.
    fn of_versions(servers: [&str; 3], workers: &str) -> Installed {
        let mut all = Installed::new();
        for host in &cluster().spec.hosts {
            let (components, text) = match host.name.as_str() {
                "lb1" => continue,
                "w1" | "w2" => (&["kubelet", "kube-proxy"][..], workers),
                name => {
                    let index = ["cp1", "cp2", "cp3"].iter().position(|cp| *cp == name).unwrap();
                    (&ALL[..], servers[index])
                }
            };
            let own = components.iter().map(|c| ((*c).to_owned(), version(text))).collect();
            all.insert(host.name.clone(), own);
        }
        all
    }

    fn bundle(text: &str) -> Bundle {
        let HostVersion { version, emulated } = version(text);
        let mut bundle = Bundle { version: version.clone(), emulated, ..Bundle::sample() };
        bundle.programs.values_mut().for_each(|program| program.version = version.clone());
        bundle
    }

    fn against(installed: &Installed, to: &str, direction: Direction, only: &[&str]) -> String {
        let covers = |host: &HostSpec, _: &str| only.is_empty() || only.contains(&host.name.as_str());
        skew(&cluster(), installed, &bundle(to), direction, &covers).join("\n")
    }

    #[test]
    fn a_cluster_goes_from_minor_to_minor() {
        use Direction::{Down, Up};
        let even = |text: &str| of_versions([text; 3], text);
        let table = [
            (even("v1.36.0"), "v1.36.1", Up, ""),
            (even("v1.36.0"), "v1.37.0", Up, ""),
            (even("v1.36.0"), "v1.38.0", Up, "no minor may be skipped"),
            (even("v1.36.1"), "v1.36.0", Up, "rollback"),
            (even("v1.36.1"), "v1.36.0", Down, ""),
            (even("v1.36.0"), "v1.36.1", Down, "upgrade apply"),
            // A minor hop of the API alone, by an emulated version.
            (even("v1.36.0~1.35"), "v1.36.0", Up, ""),
            (even("v1.36.0~1.34"), "v1.36.0", Up, "no minor may be skipped"),
            (even("v1.36.0"), "v1.36.0~1.35", Up, "rollback"),
            (even("v1.35.4"), "v1.36.0~1.35", Up, ""),
            // Interrupted in the middle.
            (
                of_versions(["v1.37.0", "v1.36.0", "v1.36.0"], "v1.36.0"),
                "v1.37.0",
                Up,
                "cp1: kubelet is v1.37.0, newer",
            ),
        ];
        for (installed, to, direction, expected) in table {
            let found = against(&installed, to, direction, &[]);
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{to}: {found:?}");
        }
    }

    #[test]
    fn nodes_are_neither_newer_nor_too_old() {
        let old = of_versions(["v1.36.0"; 3], "v1.33.0");
        assert_eq!(against(&old, "v1.36.1", Direction::Up, &["cp1", "cp2", "cp3"]), "");
        let found = against(&old, "v1.37.0", Direction::Up, &["cp1", "cp2", "cp3"]);
        assert!(found.contains("w1: kubelet is v1.33.0") && found.contains("upgrade that node first"), "{found}");
        assert_eq!(against(&old, "v1.37.0", Direction::Up, &[]), "", "the nodes come along");
        let even = of_versions(["v1.36.0"; 3], "v1.36.0");
        let found = against(&even, "v1.37.0", Direction::Up, &["w1"]);
        assert!(found.contains("w1: kubelet would be 1.37, newer than an API server (1.36)"), "{found}");
        assert!(!found.contains("w2"), "{found}");
    }

    #[test]
    fn a_cluster_that_somebody_else_left_half_upgraded_is_refused() {
        let apart = of_versions(["v1.34.0", "v1.36.0", "v1.36.0"], "v1.34.0");
        assert!(against(&apart, "v1.36.1", Direction::Up, &[]).contains("one minor apart"));
        let mut ahead = of_versions(["v1.36.0"; 3], "v1.36.0");
        ahead.get_mut("cp2").unwrap().insert("kube-scheduler".into(), version("v1.37.0"));
        assert!(against(&ahead, "v1.37.0", Direction::Up, &[]).contains("cp2: kube-scheduler is v1.37.0, newer"));
    }

    #[test]
    fn what_says_no_version_is_named() {
        let found = |version: Option<&str>, emulated: Option<&str>| {
            let installed = kinit_resource::Installed {
                version: version.map(str::to_owned),
                emulated: emulated.map(str::to_owned),
            };
            let facts = Facts { components: [("kubelet".to_owned(), installed)].into(), ..Facts::default() };
            super::installed(&[("w1".to_owned(), facts)].into())
        };
        assert_eq!(found(Some("v1.36.0"), Some("1.35")).0["w1"]["kubelet"], version("v1.36.0~1.35"));
        for (version, emulated) in [(None, None), (Some("latest"), None), (Some("v1.36.0"), Some("x"))] {
            assert_eq!(found(version, emulated).1, ["w1: kubelet does not say which version it is"]);
        }
    }
}
