//! `kinit backup create`.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use kinit_agent::Create;
use kinit_backup::{Card, Protection, file_name};
use kinit_config::Cluster;
use tokio::io::AsyncWriteExt;

use crate::etcd::EtcdOverview;
use crate::hosts::Hosts;

/// What a backup is to be.
#[derive(Clone)]
pub struct CreateOptions {
    /// How it is encrypted, on the host.
    pub protection: Protection,
    /// It is restored into a scratch etcd on the host before it counts.
    pub prove: bool,
    /// Why it is made, for its card.
    pub reason: String,
}

/// A backup that was made.
#[derive(Debug)]
pub struct Created {
    /// Its file.
    pub path: PathBuf,
    /// Its card.
    pub card: Card,
}

/// Makes a backup on a host whose member is healthy, a follower rather than the leader, and writes it into `folder`:
/// whole and with its card, or not at all.
pub async fn create(hosts: &Hosts, cluster: &Cluster, folder: &Path, options: &CreateOptions) -> Result<Created> {
    let overview = EtcdOverview::of(hosts, cluster).await;
    let mut healthy: Vec<_> = overview.healthy().collect();
    healthy.sort_by_key(|(_, status)| status.id == status.leader);
    let Some((host, _)) = healthy.first() else {
        let why = overview.hosts.iter().map(|(host, said)| match said {
            Ok(_) => format!("{host}: no leader"),
            Err(why) => format!("{host}: {why}"),
        });
        bail!("no member of etcd has a leader:\n{}", why.collect::<Vec<_>>().join("\n"));
    };
    tokio::fs::create_dir_all(folder).await.with_context(|| format!("make {}", folder.display()))?;
    let temporary = folder.join(format!(".{}.part", std::process::id()));
    let made = write(hosts, cluster, host, &temporary, folder, options).await;
    if made.is_err() {
        tokio::fs::remove_file(&temporary).await.ok();
    }
    made.with_context(|| format!("make a backup on {host}"))
}

async fn write(
    hosts: &Hosts,
    cluster: &Cluster,
    host: &str,
    temporary: &Path,
    folder: &Path,
    options: &CreateOptions,
) -> Result<Created> {
    let open = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(temporary);
    let mut file = tokio::fs::File::from_std(open.with_context(|| format!("write {}", temporary.display()))?);
    let wanted = Create {
        cluster: cluster.metadata.name.clone(),
        host: host.to_owned(),
        kubernetes: cluster.kubernetes_version(),
        protection: options.protection.clone(),
        prove: options.prove,
    };
    let (bytes, manifest) = hosts.agent(host)?.backup(wanted, &mut file).await?;
    file.flush().await.context("write the backup")?;
    file.sync_all().await.context("write the backup to disk")?;
    let created = manifest.created.parse().context("read the backup's time")?;
    let name = file_name(&cluster.metadata.name, created);
    let path = folder.join(&name);
    ensure!(!path.exists(), "{} exists already", path.display());
    let written = temporary.to_owned();
    let measuring = tokio::task::spawn_blocking(move || kinit_backup::measure(&written));
    let (stored, sha256) = measuring.await.context("read the backup back")??;
    ensure!(stored == bytes, "{stored} bytes are on the disk of {bytes}");
    let card = Card::new(&name, bytes, sha256, &options.reason, &manifest);
    // The card first: a backup without one is only one that lists know less of.
    tokio::fs::write(folder.join(card.name()), card.text()).await.context("write the backup's card")?;
    tokio::fs::rename(temporary, &path).await.with_context(|| format!("write {}", path.display()))?;
    Ok(Created { path, card })
}
