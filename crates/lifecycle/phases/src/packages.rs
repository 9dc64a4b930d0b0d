//! The distribution's packages on hosts: from the bundle where it has those of a host's release, and only what a host
//! misses.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use kinit_agent::{Agent, Upload};
use kinit_config::{Cluster, HostSpec};
use kinit_manifests::{Bundle, host_packages};
use kinit_planner::Finding;
use kinit_resource::{Facts, IndexedPackage, compare_versions, indexed_packages, upstream_minor, version_in};
use serde::Serialize;

use crate::bundle::LocalBundle;

/// The files that a host misses.
pub(crate) async fn uploads(
    agent: &Agent,
    bundle: &LocalBundle,
    names: &[String],
    index: &str,
    upgrade: bool,
) -> Result<Vec<Upload>> {
    let plan = agent.package_plan(names, index, upgrade).await.context("find out which packages the host misses")?;
    ensure!(plan.obstacles.is_empty(), "the bundle's packages cannot be installed: {}", plan.obstacles.join("; "));
    plan.needed
        .iter()
        .map(|(name, sha256)| {
            bundle.package(sha256).with_context(|| format!("take the package {name} from the bundle"))
        })
        .collect()
}

fn finding(host: &HostSpec, check: &str, message: String, remedy: &'static str) -> Finding {
    Finding { host: host.name.clone(), check: check.to_owned(), message, remedy, warning: false }
}

/// Whether a bundle's packages do for a host, before anything changes there. A bundle without packages says nothing.
pub(crate) async fn check(
    agent: &Agent,
    cluster: &Cluster,
    host: &HostSpec,
    facts: &Facts,
    bundle: &Bundle,
) -> Result<Vec<Finding>> {
    let names = host_packages(cluster, host).names;
    if let Some(finding) = foreign(host, &names, facts, &bundle.packages) {
        return Ok(vec![finding]);
    }
    let Some(index) = bundle.packages.get(&facts.release()) else { return Ok(Vec::new()) };
    let plan =
        agent.package_plan(&names, index, false).await.context("ask which of the bundle's packages are missing")?;
    let message = |why: String| {
        format!("packages that it needs cannot be installed from the bundle's for {}: {why}", facts.release())
    };
    let remedy =
        "make the bundle with all packages (`kinit bundle create --with-packages`), or install them on the host first";
    Ok(plan.obstacles.into_iter().map(|why| finding(host, "Packages", message(why), remedy)).collect())
}

/// The packages of a bundle are for other releases than the host's, and it misses some.
fn foreign(host: &HostSpec, names: &[String], facts: &Facts, packages: &BTreeMap<String, String>) -> Option<Finding> {
    if packages.is_empty() || packages.contains_key(&facts.release()) {
        return None;
    }
    let missing: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| !facts.packages.contains_key(*name)).collect();
    let releases: Vec<&str> = packages.keys().map(String::as_str).collect();
    let message = format!(
        "{} is missing, and the bundle has packages for {} only, not for {}",
        missing.join(", "),
        releases.join(", "),
        facts.release()
    );
    let remedy = "add them to the bundle (`kinit bundle create --with-packages --suite`); with --ignore-preflight-errors=PackagesRelease the host takes them from its own sources";
    (!missing.is_empty()).then(|| finding(host, "PackagesRelease", message, remedy))
}

/// A package of a host beside that of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PackageRow {
    /// Where.
    pub host: String,
    /// Which.
    pub package: String,
    /// The version that is installed.
    pub installed: Option<String>,
    /// Whether upgrades of the whole system leave it alone.
    pub held: bool,
    /// The bundle's version, where it has packages for the host's release.
    pub bundle: Option<String>,
}

impl PackageRow {
    /// Whether the bundle's is newer.
    pub fn is_older(&self) -> bool {
        let both = self.installed.as_deref().zip(self.bundle.as_deref());
        both.is_some_and(|(installed, bundle)| compare_versions(installed, bundle).is_lt())
    }
}

/// The packages of all hosts beside those of a bundle.
pub(crate) fn rows(cluster: &Cluster, facts: &BTreeMap<String, Facts>, bundle: &Bundle) -> Vec<PackageRow> {
    let indexes: BTreeMap<&str, Vec<IndexedPackage>> =
        bundle.packages.iter().map(|(release, index)| (release.as_str(), indexed_packages(index))).collect();
    let mut rows = Vec::new();
    for host in &cluster.spec.hosts {
        let Some(facts) = facts.get(&host.name) else { continue };
        let index = indexes.get(facts.release().as_str());
        for package in host_packages(cluster, host).names {
            let installed = facts.packages.get(&package);
            rows.push(PackageRow {
                host: host.name.clone(),
                installed: installed.map(|installed| installed.version.clone()),
                held: installed.is_some_and(|installed| installed.held),
                bundle: index.and_then(|index| version_in(index, &package)).map(str::to_owned),
                package,
            });
        }
    }
    rows
}

/// etcd goes from minor to minor, as its documentation says ("Upgrading etcd clusters"): what the rows would skip.
pub(crate) fn etcd_skips(rows: &[PackageRow]) -> Vec<String> {
    let skip = |row: &&PackageRow| {
        let minor = |version: &Option<String>| upstream_minor(version.as_deref()?);
        let one = minor(&row.installed).zip(minor(&row.bundle));
        let skips = one.is_some_and(|((a, from), (b, to))| a != b || to > from + 1);
        row.package == "etcd-server" && row.is_older() && skips
    };
    let tell = |row: &PackageRow| {
        let shown = |version: &Option<String>| version.clone().unwrap_or_default();
        format!(
            "{}: etcd is {}, and the bundle's {} is more than one minor away: no minor may be skipped",
            row.host,
            shown(&row.installed),
            shown(&row.bundle)
        )
    };
    rows.iter().filter(skip).map(tell).collect()
}

/// Packages that an upgrade of the whole system would change on all hosts at the same time.
pub(crate) fn not_held(cluster: &Cluster, facts: &BTreeMap<String, Facts>) -> Vec<Finding> {
    let of = |host: &HostSpec| {
        let facts = facts.get(&host.name)?;
        let names = host_packages(cluster, host).names;
        let loose: Vec<String> =
            names.into_iter().filter(|name| facts.packages.get(name).is_some_and(|package| !package.held)).collect();
        let message =
            format!("not held: {} (unattended upgrades may restart them on all hosts at once)", loose.join(", "));
        let warning =
            Finding { warning: true, ..finding(host, "Packages", message, "`kinit apply` holds them (apt-mark hold)") };
        (!loose.is_empty()).then_some(warning)
    };
    cluster.spec.hosts.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use kinit_resource::InstalledPackage;

    use super::*;

    #[test]
    fn versions_on_hosts_stand_beside_the_bundles() {
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        let mut bundle = Bundle::sample();
        let index = "Package: etcd-server\nVersion: 3.6.2-1\nFilename: ./a\nSHA256: ab\n\n\
                     Package: runc\nVersion: 1.1-1\nFilename: ./b\nSHA256: cd\n";
        bundle.packages.insert("debian-trixie".into(), index.into());
        let of = |etcd: &str, held| {
            let package = InstalledPackage { version: etcd.into(), held };
            let packages = [("etcd-server".to_owned(), package)].into();
            Facts { os_id: "debian".into(), os_codename: "trixie".into(), packages, ..Facts::default() }
        };
        let facts: BTreeMap<_, _> =
            [("cp1", of("3.5.16-4", true)), ("cp2", of("3.4.30-1", false)), ("cp3", of("3.6.2-1", true))]
                .map(|(host, facts)| (host.to_owned(), facts))
                .into();
        let rows = rows(&cluster, &facts, &bundle);
        let etcd: Vec<_> = rows.iter().filter(|row| row.package == "etcd-server").collect();
        assert_eq!(etcd.iter().map(|row| row.is_older()).collect::<Vec<_>>(), [true, true, false]);
        let runc = rows.iter().find(|row| row.package == "runc").unwrap();
        assert_eq!((runc.installed.as_deref(), runc.bundle.as_deref(), runc.is_older()), (None, Some("1.1-1"), false));
        let skips = etcd_skips(&rows);
        assert_eq!(skips.len(), 1, "{skips:?}");
        assert!(skips[0].starts_with("cp2: etcd is 3.4.30-1, and the bundle's 3.6.2-1"), "{skips:?}");
        let loose = not_held(&cluster, &facts);
        assert_eq!(loose.iter().map(|f| (f.host.as_str(), f.warning)).collect::<Vec<_>>(), [("cp2", true)]);
    }

    #[test]
    fn packages_of_another_release_are_told_when_some_are_missing() {
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        let host = cluster.spec.hosts.iter().find(|host| host.name == "w1").unwrap();
        let names = host_packages(&cluster, host).names;
        let mut facts = Facts { os_id: "debian".into(), os_codename: "bookworm".into(), ..Facts::default() };
        let packages = |releases: &[&str]| releases.iter().map(|r| ((*r).to_owned(), String::new())).collect();
        let found = foreign(host, &names, &facts, &packages(&["debian-trixie"])).unwrap();
        assert_eq!(found.check, "PackagesRelease");
        assert!(
            found.message.starts_with("containerd, runc, containernetworking-plugins is missing"),
            "{}",
            found.message
        );
        assert!(found.message.ends_with("debian-trixie only, not for debian-bookworm"), "{}", found.message);
        assert_eq!(foreign(host, &names, &facts, &packages(&["debian-trixie", "debian-bookworm"])), None);
        assert_eq!(foreign(host, &names, &facts, &packages(&[])), None, "a bundle without packages");
        facts.packages = names.iter().map(|name| (name.clone(), Default::default())).collect();
        assert_eq!(foreign(host, &names, &facts, &packages(&["debian-trixie"])), None, "nothing is missing");
    }
}
