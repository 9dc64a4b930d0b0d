//! The post-check of reset: looks at the host itself for what should be gone.

use std::path::Path;

use anyhow::{Context, Result};

use crate::ledger::Ledger;
use crate::{netfilter, packages, systemd};

/// Below these only kinit's components, and the runtime for them, mount anything: containers of others live beside
/// them.
const MOUNTED_BELOW: &[&str] = &[
    "/var/lib/kubelet/",
    "/run/netns/cni-",
    "/run/containerd/io.containerd.runtime.v2.task/k8s.io/",
    "/run/containerd/io.containerd.grpc.v1.cri/",
    "/var/lib/containerd/io.containerd.grpc.v1.cri/",
];

/// A line for each thing that is left.
pub(crate) async fn find(ledger: &Ledger) -> Result<Vec<String>> {
    let mut left: Vec<String> = mounts()?.into_iter().map(|p| format!("{p} is mounted")).collect();
    let mut paths = ledger.made_while_running();
    paths.extend(ledger.created.iter().filter(|p| Path::new(p).symlink_metadata().is_ok()).cloned());
    left.extend(paths.into_iter().map(|p| format!("{p} is left")));
    left.extend(netfilter::left()?);
    let installed = packages::installed()?;
    left.extend(ledger.packages.iter().filter(|p| installed.contains(*p)).map(|p| format!("package {p} is left")));
    let ours = ledger.units.iter().filter(|(_, before)| !**before).map(|(name, _)| name.as_str());
    left.extend(systemd::active(ours).await?.into_iter().map(|name| format!("{name} runs")));
    Ok(left)
}

/// Where something is mounted for pods.
pub(crate) fn mounts() -> Result<Vec<String>> {
    let table = std::fs::read_to_string("/proc/self/mounts").context("list the mounts")?;
    Ok(points(&table))
}

/// The mount points of a table (proc_pid_mounts(5)) that are ours.
fn points(table: &str) -> Vec<String> {
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|point| MOUNTED_BELOW.iter().any(|folder| point.starts_with(folder)))
        .map(unescape)
        .collect()
}

/// The kernel writes blanks, tabs, line ends and backslashes in octal.
fn unescape(point: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(point.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_of_pods_are_ours() {
        let table = "proc /proc proc rw 0 0\n\
                     tmpfs /var/lib/kubelet/pods/1/volumes/a\\040b tmpfs rw 0 0\n\
                     nsfs /run/netns/cni-1 nsfs rw 0 0\n\
                     /dev/sda /var/lib/kubelet ext4 rw 0 0\n\
                     tmpfs /run/netns tmpfs rw 0 0\n";
        assert_eq!(points(table), ["/var/lib/kubelet/pods/1/volumes/a b", "/run/netns/cni-1"]);
    }
}
