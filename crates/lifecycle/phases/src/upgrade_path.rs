//! Several versions in one command: each hop is an upgrade of its own, and all of them are held against the
//! version-skew policy before the first begins.

use std::collections::BTreeMap;

use kinit_config::HostSpec;
use kinit_manifests::Bundle;
use kinit_planner::{Direction, Finding, Installed, skew, target};
use kinit_resource::Facts;

use crate::bundle::LocalBundle;
use crate::operation::Run;
use crate::packages;
use crate::upgrade::{UpgradeOptions, covers};

/// Everything that speaks against going on, after this run, to these bundles, one after the other.
pub fn later_hops(run: &Run, options: &UpgradeOptions, later: &[LocalBundle]) -> Vec<Finding> {
    let (mut installed, _) = kinit_planner::installed(run.facts());
    let mut facts = run.facts().clone();
    let is_covered = |host: &HostSpec, component: &str| covers(run, options, host, component);
    let mut findings = Vec::new();
    let mut current = run.bundle();
    for next in later.iter().map(|bundle| &bundle.bundle) {
        advance(&mut installed, run.cluster().spec.hosts.iter(), current, &is_covered);
        advance_packages(&mut facts, current);
        let mut against = skew(run.cluster(), &installed, next, Direction::Up, &is_covered);
        against.extend(packages::etcd_skips(&packages::rows(run.cluster(), &facts, next)));
        findings.extend(against.into_iter().map(|message| Finding {
            host: String::new(),
            check: "VersionSkew".to_owned(),
            message: format!("from {} to {}: {message}", current.version, next.version),
            remedy: "the version-skew policy of Kubernetes; add the bundles of the versions between, in order",
            warning: false,
        }));
        current = next;
    }
    findings
}

/// Whether the cluster is beyond the run's bundle: a command with several hops that was interrupted goes on with the
/// hop that it was in.
pub fn passed(run: &Run) -> bool {
    let (installed, _) = kinit_planner::installed(run.facts());
    beyond(&installed, run.bundle())
}

fn beyond(installed: &Installed, bundle: &Bundle) -> bool {
    let server = "kube-apiserver";
    let Some(to) = target(bundle, server) else { return false };
    let mut servers = installed.values().filter_map(|components| components.get(server));
    servers.any(|now| (now.minor(), &now.version) > (to.minor(), &to.version))
}

/// What is installed when a hop is done.
fn advance<'a>(
    installed: &mut Installed,
    hosts: impl Iterator<Item = &'a HostSpec>,
    bundle: &Bundle,
    covers: &dyn Fn(&HostSpec, &str) -> bool,
) {
    for host in hosts {
        for (component, version) in installed.get_mut(&host.name).into_iter().flatten() {
            if let Some(to) = target(bundle, component).filter(|_| covers(host, component)) {
                *version = to;
            }
        }
    }
}

/// The same of packages, which only ever become newer.
fn advance_packages(facts: &mut BTreeMap<String, Facts>, bundle: &Bundle) {
    for facts in facts.values_mut() {
        let Some(index) = bundle.packages.get(&facts.release()) else { continue };
        let index = kinit_resource::indexed_packages(index);
        for (name, package) in &mut facts.packages {
            let newer = kinit_resource::version_in(&index, name)
                .filter(|version| kinit_resource::compare_versions(&package.version, version).is_lt());
            if let Some(version) = newer {
                package.version = version.to_owned();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kinit_planner::HostVersion;
    use kinit_resource::InstalledPackage;

    use super::*;

    fn bundle(version: &str) -> Bundle {
        let mut bundle = Bundle { version: version.parse().unwrap(), ..Bundle::sample() };
        bundle.programs.values_mut().for_each(|program| program.version = version.parse().unwrap());
        bundle
    }

    #[test]
    fn a_hop_is_judged_by_what_the_one_before_leaves() {
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        let of = |version: &str| HostVersion { version: version.parse().unwrap(), emulated: None };
        let mut installed = Installed::new();
        for host in ["cp1", "cp2", "cp3"] {
            let components = ["kube-apiserver", "kubelet"].map(|name| (name.to_owned(), of("v1.36.0")));
            installed.insert(host.to_owned(), components.into());
        }
        let against = |installed: &Installed, to: &str| {
            skew(&cluster, installed, &bundle(to), Direction::Up, &|_, _| true).join("\n")
        };
        assert!(against(&installed, "v1.38.0").contains("no minor may be skipped"));
        assert!(!beyond(&installed, &bundle("v1.36.0")) && beyond(&installed, &bundle("v1.35.9")));
        advance(&mut installed, cluster.spec.hosts.iter(), &bundle("v1.37.1"), &|_, _| true);
        assert_eq!(installed["cp2"]["kubelet"], of("v1.37.1"));
        assert_eq!(against(&installed, "v1.38.0"), "");
        // Nodes that stay behind count as they are.
        advance(&mut installed, cluster.spec.hosts.iter(), &bundle("v1.38.0"), &|_, component| component != "kubelet");
        assert_eq!(
            (&installed["cp1"]["kubelet"], &installed["cp1"]["kube-apiserver"]),
            (&of("v1.37.1"), &of("v1.38.0"))
        );
    }

    #[test]
    fn packages_become_newer_and_never_older() {
        let package = |version: &str| InstalledPackage { version: version.to_owned(), held: true };
        let mut facts = Facts { os_id: "debian".into(), os_codename: "trixie".into(), ..Facts::default() };
        facts.packages = [("etcd-server".to_owned(), package("3.5.1-1")), ("runc".to_owned(), package("2.0-1"))].into();
        let mut all: BTreeMap<_, _> = [("cp1".to_owned(), facts)].into();
        let mut newer = bundle("v1.37.0");
        let index = "Package: etcd-server\nVersion: 3.6.0-1\nFilename: ./a\nSHA256: a\n\nPackage: runc\nVersion: 1.0-1\nFilename: ./b\nSHA256: b\n";
        newer.packages.insert("debian-trixie".into(), index.into());
        advance_packages(&mut all, &newer);
        let version = |name: &str| all["cp1"].packages[name].version.as_str();
        assert_eq!((version("etcd-server"), version("runc")), ("3.6.0-1", "2.0-1"));
    }
}
