//! `kinit doctor`: everything that can be looked at from the desk, each finding with what to do about it.
//!
//! What `status` shows, what preflight checks, certificates, etcd's space, the backup, ports between hosts, versions.
//! It changes nothing and goes on without what does not answer.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use kinit_config::Cluster;
use kinit_planner::{Finding, installed, preflight};

use crate::certs::{Renewal, certificates};
use crate::etcd::EtcdOverview;
use crate::hosts::Hosts;
use crate::status::status;
use crate::{packages, pod_dns, reach};

/// Days before its end at which a certificate is worth a word.
const SOON: i64 = 30;
/// etcd's default quota, and the share of it above which writes are near their end.
const QUOTA: u64 = 2 << 30;
const FULL: f64 = 0.8;
/// Free bytes of a member's file that a defragmentation is worth.
const LOOSE: u64 = 256 << 20;
/// A backup that is older than this is no protection for what was done since.
const BACKUP_AGE: i64 = 2 * 86_400;

/// What was looked at, and what was found.
pub struct Diagnosis {
    /// Names of the checks that were made.
    pub checks: Vec<&'static str>,
    /// What is wrong, errors first.
    pub findings: Vec<Finding>,
}

impl Diagnosis {
    /// Whether there is an error among the findings.
    pub fn is_well(&self) -> bool {
        self.findings.iter().all(|finding| finding.warning)
    }

    fn add(&mut self, check: &'static str, found: impl IntoIterator<Item = Finding>) {
        self.checks.push(check);
        self.findings.extend(found);
    }
}

fn finding(host: &str, check: &str, message: String, remedy: &'static str, warning: bool) -> Finding {
    Finding { host: host.to_owned(), check: check.to_owned(), message, remedy, warning }
}

/// Looks at everything. `now` is in seconds since 1970, `known` the cluster's authority as the desk knows it.
pub async fn diagnose(hosts: &Hosts, cluster: &Cluster, known: Option<&str>, now: i64) -> Result<Diagnosis> {
    let mut diagnosis = Diagnosis { checks: Vec::new(), findings: Vec::new() };
    let unreachable = hosts.unreachable().iter().map(|(host, why)| {
        finding(host, "Ssh", format!("cannot be reached: {why}"), "check its power, network, address and sshd", false)
    });
    diagnosis.add("Ssh", unreachable.collect::<Vec<_>>());
    let facts = hosts.facts(cluster).await?;
    diagnosis.add("Preflight", preflight(cluster, &facts, now, known));
    diagnosis.add("HostToHost", reach::findings(hosts, cluster).await?);
    let seen = status(hosts, cluster).await?;
    let problem = |text: &String| {
        let remedy = "`kinit status` shows the whole; `kinit logs HOST COMPONENT` shows why; `kinit apply` repairs what kinit made";
        finding("", "Status", text.clone(), remedy, false)
    };
    // Who cannot be reached was said above.
    let problems = seen
        .problems
        .iter()
        .filter(|text| !hosts.unreachable().keys().any(|host| text.starts_with(&format!("{host}:"))));
    diagnosis.add("Status", problems.map(problem).collect::<Vec<_>>());
    diagnosis.add("Etcd", etcd(&EtcdOverview::of(hosts, cluster).await));
    diagnosis.add("Certificates", ending(hosts, cluster, now).await?);
    diagnosis.add("Backup", backup(cluster, seen.backup.as_ref().map(|last| last.triggered), now));
    let (versions, unknown) = installed(&facts);
    let unknown = unknown.into_iter().map(|message| {
        finding(
            "",
            "Versions",
            message,
            "`kinit apply` with the bundle that the cluster was made of places it again",
            false,
        )
    });
    diagnosis.add("Versions", unknown.chain(mixed(&versions)).collect::<Vec<_>>());
    diagnosis.add("Packages", packages::not_held(cluster, &facts));
    diagnosis.add("Dns", pod_dns::findings(hosts, cluster).await);
    diagnosis.findings.sort_by_key(|finding| finding.warning);
    Ok(diagnosis)
}

/// Components of several versions: in the middle of an upgrade.
fn mixed(versions: &kinit_planner::Installed) -> Option<Finding> {
    let mut by_component: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (component, version) in versions.values().flatten() {
        by_component.entry(component).or_default().insert(version.to_string());
    }
    let several = by_component.iter().filter(|(_, versions)| versions.len() > 1);
    let list: Vec<String> = several
        .map(|(component, versions)| {
            format!("{component} {}", versions.iter().cloned().collect::<Vec<_>>().join(" and "))
        })
        .collect();
    (!list.is_empty()).then(|| {
        let message = format!("there are several versions of a component: {}", list.join("; "));
        finding(
            "",
            "Versions",
            message,
            "finish the upgrade (`kinit upgrade apply`) or take it back (`kinit upgrade rollback`)",
            true,
        )
    })
}

fn etcd(overview: &EtcdOverview) -> Vec<Finding> {
    let mut found = Vec::new();
    for (host, status) in overview.healthy() {
        let (size, used) = (status.db_size, status.db_size_in_use);
        if size as f64 > QUOTA as f64 * FULL {
            let message =
                format!("etcd's file has {} MiB, and at {} MiB it takes no more writes", size >> 20, QUOTA >> 20);
            found.push(finding(host, "Etcd", message, "delete what is not needed, then `kinit etcd defrag`", false));
        } else if size.saturating_sub(used) > LOOSE {
            let message = format!("etcd's file has {} MiB, of which {} MiB are free", size >> 20, (size - used) >> 20);
            found.push(finding(host, "Etcd", message, "`kinit etcd defrag` gives them back", true));
        }
        found.extend(status.errors.iter().map(|error| {
            finding(
                host,
                "Etcd",
                format!("etcd reports: {error}"),
                "`kinit etcd status` and `kinit logs` show more",
                false,
            )
        }));
    }
    let versions: BTreeSet<&str> = overview.healthy().map(|(_, status)| status.version.as_str()).collect();
    if versions.len() > 1 {
        let list = versions.into_iter().collect::<Vec<_>>().join(" and ");
        let remedy = "bring the package etcd-server to one version on all control planes, one host after the other";
        found.push(finding("", "Etcd", format!("etcd's members are of versions {list}"), remedy, true));
    }
    found
}

async fn ending(hosts: &Hosts, cluster: &Cluster, now: i64) -> Result<Vec<Finding>> {
    let all = certificates(hosts, cluster, now).await?;
    let one = |certificate: &crate::certs::CertificateStatus| {
        let remedy = match certificate.renewed_by {
            Renewal::Kinit => "`kinit certs renew`",
            Renewal::Kubelet => "the kubelet renews it by itself: `kinit logs HOST kubelet` shows why it did not",
            Renewal::Desk => "`kinit certs renew`, which asks for the authorities' keys on the desk",
            Renewal::Elsewhere => "`kinit certs csr` writes requests; `kinit certs import` takes what was signed",
            Renewal::Nobody => "`kinit certs check` shows what depends on it",
        };
        let (host, name) = (&certificate.host, &certificate.name);
        let message = match certificate.days {
            None => format!("certificate {name} ({}) cannot be read", certificate.path),
            Some(days) if days < 0 => format!("certificate {name} ended {} days ago", -days),
            Some(days) if days < SOON => {
                return Some(finding(
                    host,
                    "Certificates",
                    format!("certificate {name} ends in {days} days"),
                    remedy,
                    true,
                ));
            }
            Some(_) => return None,
        };
        Some(finding(host, "Certificates", message, remedy, false))
    };
    Ok(all.iter().filter_map(one).collect())
}

fn backup(cluster: &Cluster, last: Option<i64>, now: i64) -> Option<Finding> {
    let scheduled = cluster.spec.backup.as_ref().is_some_and(|backup| backup.schedule.is_some());
    let (message, remedy) = match last {
        _ if !scheduled => ("no backup is made on schedule".to_owned(), "set spec.backup (docs/backup.md)"),
        None => (
            "no scheduled backup has been made yet".to_owned(),
            "`kinit logs HOST kinit-backup` on the control planes shows whether one was tried",
        ),
        Some(time) if now - time > BACKUP_AGE => (
            format!("the last proven backup is {} days old", (now - time) / 86_400),
            "`kinit logs HOST kinit-backup` on the control planes shows why",
        ),
        Some(_) => return None,
    };
    Some(finding("", "Backup", message, remedy, true))
}

#[cfg(test)]
mod tests {
    use kinit_planner::HostVersion;
    use kinit_resource::EtcdStatus;

    use super::*;

    #[test]
    fn etcds_space_is_told_before_it_ends() {
        let status = |size: u64, used: u64, version: &str| {
            let version = version.to_owned();
            Ok(EtcdStatus {
                leader: 1,
                db_size: size << 20,
                db_size_in_use: used << 20,
                version,
                ..EtcdStatus::default()
            })
        };
        let said = |hosts: Vec<Result<EtcdStatus, String>>| {
            let hosts = hosts.into_iter().enumerate().map(|(index, status)| (format!("cp{index}"), status)).collect();
            let found = etcd(&EtcdOverview { hosts });
            found.into_iter().map(|finding| (finding.warning, finding.message)).collect::<Vec<_>>()
        };
        assert_eq!(said(vec![status(100, 90, "3.5.16"), status(90, 80, "3.5.16"), Err("gone".into())]), []);
        assert_eq!(
            said(vec![status(1700, 1600, "3.5.16"), status(600, 100, "3.5.16")]),
            [
                (false, "etcd's file has 1700 MiB, and at 2048 MiB it takes no more writes".to_owned()),
                (true, "etcd's file has 600 MiB, of which 500 MiB are free".to_owned()),
            ]
        );
        assert_eq!(
            said(vec![status(1, 1, "3.5.16"), status(1, 1, "3.6.1")])[0].1,
            "etcd's members are of versions 3.5.16 and 3.6.1"
        );
    }

    #[test]
    fn a_backup_that_is_old_or_missing_is_told() {
        let mut cluster = kinit_config::load(kinit_config::example()).unwrap();
        let now = 10 * 86_400;
        assert!(backup(&cluster, Some(now), now).unwrap().message.contains("on schedule"));
        cluster.spec.backup =
            Some(kinit_config::Backup { schedule: Some("daily".into()), ..kinit_config::Backup::default() });
        assert!(backup(&cluster, None, now).unwrap().message.contains("yet"));
        assert!(backup(&cluster, Some(now - 3 * 86_400), now).unwrap().message.contains("3 days old"));
        assert_eq!(backup(&cluster, Some(now - 3600), now), None);
    }

    #[test]
    fn versions_side_by_side_are_told() {
        let of = |version: &str| HostVersion { version: version.parse().unwrap(), emulated: None };
        let host = |version: &str| [("kubelet".to_owned(), of(version))].into();
        let even = [("w1".to_owned(), host("v1.36.0")), ("w2".to_owned(), host("v1.36.0"))].into();
        assert_eq!(mixed(&even), None);
        let odd = [("w1".to_owned(), host("v1.36.0")), ("w2".to_owned(), host("v1.36.1"))].into();
        assert!(mixed(&odd).unwrap().message.ends_with("kubelet v1.36.0 and v1.36.1"));
    }
}
