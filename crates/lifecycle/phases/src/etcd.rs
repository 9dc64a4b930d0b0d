//! What operators do to etcd: look at it, give space back, clear alarms, take a snapshot.

use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use kinit_agent::EtcdRequest;
use kinit_config::{Cluster, Role};
use kinit_resource::EtcdStatus;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::hosts::Hosts;

/// What every control plane's member says, or why it says nothing.
#[derive(Debug, Default)]
pub struct EtcdOverview {
    /// By host.
    pub hosts: BTreeMap<String, Result<EtcdStatus, String>>,
}

impl EtcdOverview {
    /// Asks all members.
    pub async fn of(hosts: &Hosts, cluster: &Cluster) -> Self {
        let said = hosts.try_each(|agent| async move { agent.etcd_status().await }).await;
        let control_plane = |host: &str| cluster.hosts(Role::ControlPlane).any(|h| h.name == host);
        let told = |(host, status): (String, Result<EtcdStatus>)| (host, status.map_err(|error| format!("{error:#}")));
        let mut all: BTreeMap<_, _> = said.into_iter().filter(|(host, _)| control_plane(host)).map(told).collect();
        for (host, why) in hosts.unreachable().iter().filter(|(host, _)| control_plane(host)) {
            all.insert(host.clone(), Err(why.clone()));
        }
        Self { hosts: all }
    }

    /// Members that have a leader, by host.
    pub fn healthy(&self) -> impl Iterator<Item = (&str, &EtcdStatus)> {
        self.hosts
            .iter()
            .filter_map(|(host, status)| Some((host.as_str(), status.as_ref().ok()?)))
            .filter(|(_, s)| s.leader != 0)
    }

    /// Whether all members answer, agree on a leader, and raise no alarm.
    pub fn is_well(&self) -> bool {
        let all_answer = self.hosts.values().all(|status| status.as_ref().is_ok_and(|s| s.leader != 0));
        let quiet = self.hosts.values().flatten().all(|s| s.alarms.is_empty() && s.errors.is_empty());
        let leaders: std::collections::BTreeSet<u64> = self.healthy().map(|(_, status)| status.leader).collect();
        all_answer && quiet && leaders.len() == 1
    }
}

/// Gives free space of the members' files back to the file system, the leader's last, one member at a time: it does not
/// answer meanwhile. `done` hears of each, with the bytes before and after.
pub async fn defragment(hosts: &Hosts, cluster: &Cluster, done: &(dyn Fn(&str, u64, u64) + Sync)) -> Result<()> {
    let before = EtcdOverview::of(hosts, cluster).await;
    let missing: Vec<&str> = before.hosts.iter().filter(|(_, s)| s.is_err()).map(|(host, _)| host.as_str()).collect();
    ensure!(
        missing.is_empty(),
        "{} does not answer: a member that defragments does not answer either, and too few might be left",
        missing.join(", ")
    );
    let mut order: Vec<(&str, &EtcdStatus)> = before.healthy().collect();
    ensure!(!order.is_empty(), "etcd has no leader");
    order.sort_by_key(|(_, status)| status.id == status.leader);
    for (host, status) in order {
        let agent = hosts.agent(host)?;
        agent.etcd(EtcdRequest::Defragment).await.with_context(|| host.to_owned())?;
        let after = agent.etcd_status().await.with_context(|| host.to_owned())?;
        ensure!(after.leader != 0, "{host}: etcd has no leader after it was defragmented");
        done(host, status.db_size, after.db_size);
    }
    Ok(())
}

/// A host whose member has a leader.
async fn any(hosts: &Hosts, cluster: &Cluster) -> Result<String> {
    let overview = EtcdOverview::of(hosts, cluster).await;
    let found = overview.healthy().next().map(|(host, _)| host.to_owned());
    match found {
        Some(host) => Ok(host),
        None => {
            let why = overview.hosts.iter().map(|(host, status)| match status {
                Ok(_) => format!("{host}: no leader"),
                Err(why) => format!("{host}: {why}"),
            });
            bail!("no member of etcd has a leader:\n{}", why.collect::<Vec<_>>().join("\n"))
        }
    }
}

/// Clears all alarms.
pub async fn disarm(hosts: &Hosts, cluster: &Cluster) -> Result<()> {
    let host = any(hosts, cluster).await?;
    hosts.agent(&host)?.etcd(EtcdRequest::DisarmAlarms).await.with_context(|| host.clone())
}

/// Ends a NOSPACE alarm: history is dropped, files are defragmented, the alarm is cleared.
pub async fn repair_space(hosts: &Hosts, cluster: &Cluster, done: &(dyn Fn(&str, u64, u64) + Sync)) -> Result<()> {
    let host = any(hosts, cluster).await?;
    hosts.agent(&host)?.etcd(EtcdRequest::Compact).await.with_context(|| host.clone())?;
    defragment(hosts, cluster, done).await?;
    disarm(hosts, cluster).await
}

/// Writes a snapshot of a follower's (of the leader's, where there is no other) to a file that only its owner may read,
/// whole and checked or not at all. Returns the host and the length.
pub async fn snapshot(hosts: &Hosts, cluster: &Cluster, file: &Path) -> Result<(String, u64)> {
    ensure!(!file.exists(), "{} exists already", file.display());
    let overview = EtcdOverview::of(hosts, cluster).await;
    let mut healthy: Vec<(&str, &EtcdStatus)> = overview.healthy().collect();
    healthy.sort_by_key(|(_, status)| status.id == status.leader);
    let Some((host, _)) = healthy.first() else { return any(hosts, cluster).await.map(|host| (host, 0)) };
    let temporary = file.with_extension("part");
    let written = write(hosts, host, &temporary).await;
    if written.is_err() {
        tokio::fs::remove_file(&temporary).await.ok();
    }
    let length = written.with_context(|| format!("take a snapshot of etcd on {host}"))?;
    tokio::fs::rename(&temporary, file).await.with_context(|| format!("write {}", file.display()))?;
    Ok(((*host).to_owned(), length))
}

async fn write(hosts: &Hosts, host: &str, path: &Path) -> Result<u64> {
    let open = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut file = tokio::fs::File::from_std(open.with_context(|| format!("write {}", path.display()))?);
    let length = hosts.agent(host)?.etcd_snapshot(&mut file).await?;
    file.flush().await.context("write the snapshot")?;
    file.sync_all().await.context("write the snapshot to disk")?;
    check(path).await?;
    Ok(length)
}

/// etcd appends the SHA-256 of the database to it (`clientv3/snapshot`).
async fn check(path: &Path) -> Result<()> {
    const HASH: u64 = 32;
    let mut file = tokio::fs::File::open(path).await.context("read the snapshot")?;
    let length = file.metadata().await.context("read the snapshot")?.len();
    ensure!(length > HASH && length % 512 == HASH, "the snapshot is not whole: it has {length} bytes");
    let mut left = length - HASH;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..wanted).context("read the snapshot")?;
        file.read_exact(part).await.context("read the snapshot")?;
        hash.update(&*part);
        left -= wanted as u64;
    }
    let mut stored = Vec::new();
    file.read_to_end(&mut stored).await.context("read the snapshot")?;
    ensure!(hash.finalize().as_slice() == stored, "the snapshot is damaged: its hash is wrong");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_damaged_snapshot_is_found() {
        let dir = std::env::temp_dir().join(format!("kinit-snapshot-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("db");
        let mut bytes = vec![7; 1024];
        bytes.extend(Sha256::digest(&bytes));
        std::fs::write(&path, &bytes).unwrap();
        check(&path).await.unwrap();
        bytes[5] = 8;
        std::fs::write(&path, &bytes).unwrap();
        assert!(check(&path).await.unwrap_err().to_string().contains("damaged"));
        std::fs::write(&path, &bytes[..700]).unwrap();
        assert!(check(&path).await.unwrap_err().to_string().contains("not whole"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
