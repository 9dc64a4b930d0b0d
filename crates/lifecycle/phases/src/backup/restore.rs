//! What the steps of a restore do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use kinit_agent::{Restore, RestoreFrom};
use kinit_backup::is_newer_minor;
use kinit_config::{Cluster, Role, Version};
use kinit_pki::Pair;
use kinit_planner::{Action, Restoring};
use kinit_resource::{Shared, sha256};

use super::open::{Opened, pour, pour_file};
use crate::hosts::Hosts;

/// What data a cluster is to get.
#[derive(Clone)]
pub enum Restoration {
    /// A backup's, and its secrets.
    Backup(Arc<Opened>),
    /// A snapshot's, as `etcdctl snapshot save` writes it; the secrets stay those of the hosts.
    Snapshot(Arc<Snapshot>),
    /// Those of one of its own control planes, by name: etcd has lost its quorum.
    Survivor(String),
}

/// A snapshot that was checked.
#[derive(Debug)]
pub struct Snapshot {
    path: PathBuf,
    size: u64,
    sha256: String,
}

impl Snapshot {
    /// Reads a snapshot and checks the hash at its end.
    pub async fn open(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        let checking = tokio::task::spawn_blocking(move || {
            let checked = kinit_backup::check_snapshot(&path);
            let (size, sha256) = checked.with_context(|| path.display().to_string())?;
            anyhow::Ok(Self { path, size, sha256 })
        });
        checking.await.context("read the snapshot")?
    }
}

/// Why a backup does not fit a cluster file.
#[derive(Debug, thiserror::Error)]
#[error("the backup cannot become the cluster of this file:\n{}", .0.iter().map(|why| format!("  {why}")).collect::<Vec<_>>().join("\n"))]
pub struct Unfit(pub Vec<String>);

/// Checks that a cluster can be what a backup has, before any host is asked.
pub fn fits(backup: &Opened, file: &Cluster, installs: &Version) -> Result<(), Unfit> {
    let mut why = Vec::new();
    let manifest = &backup.manifest;
    if is_newer_minor(&manifest.kubernetes, &installs.to_string()) {
        why.push(format!(
            "it is of Kubernetes {}, and the bundle is {installs}: an API server does not read what a later one stored. Use a bundle of that version",
            manifest.kubernetes
        ));
    }
    if manifest.cluster.name != file.metadata.name {
        why.push(format!("it is of cluster {:?}, and the file's is {:?}", manifest.cluster.name, file.metadata.name));
    }
    let text = backup.files.get("cluster.yaml").and_then(|bytes| std::str::from_utf8(bytes).ok());
    // One that this kinit cannot read is of another version, and no reason to stop.
    if let Some(before) = text.and_then(|text| kinit_config::load(text).ok()) {
        let fixed = kinit_config::fixed(&before, file);
        // Machines may be others; what objects were made for may not.
        why.extend(fixed.iter().filter(|error| error.path.starts_with("spec.networking")).map(ToString::to_string));
    }
    if why.is_empty() { Ok(()) } else { Err(Unfit(why)) }
}

impl Restoration {
    fn id(&self) -> String {
        match self {
            Self::Backup(backup) => backup.id(),
            Self::Snapshot(snapshot) => snapshot.sha256.get(..12).unwrap_or_default().to_owned(),
            Self::Survivor(host) => format!("recover-{host}"),
        }
    }

    /// Whether hosts will have the key of the cluster's authority; `None` when their secrets stay what they are.
    pub(crate) fn brings_signer(&self) -> Option<bool> {
        match self {
            Self::Backup(backup) => Some(pair(backup, Shared::CLUSTER).is_some()),
            Self::Snapshot(_) | Self::Survivor(_) => None,
        }
    }

    /// What the planner has to know; no secret is in it.
    pub(crate) async fn planned(&self, hosts: &Hosts, cluster: &Cluster) -> Result<Restoring> {
        let said = hosts.each(|agent| async move { agent.restore_marker().await }).await;
        let said = said.context("ask the hosts for a restore that is under way")?;
        let is_control_plane = |host: &str| cluster.hosts(Role::ControlPlane).any(|h| h.name == host);
        let markers = said.into_iter().filter(|(host, _)| is_control_plane(host));
        let markers = markers.filter_map(|(host, marker)| Some((host, marker?.backup))).collect();
        let (shared, from) = match self {
            Self::Backup(backup) => (fingerprints(backup), None),
            Self::Snapshot(_) => (BTreeMap::new(), None),
            Self::Survivor(host) => (BTreeMap::new(), Some(host.clone())),
        };
        Ok(Restoring { id: self.id(), shared, markers, from })
    }

    /// Carries out a step on a host.
    pub(crate) async fn step(&self, hosts: &Hosts, host: &str, action: &Action) -> Result<()> {
        let agent = hosts.agent(host)?;
        match (action, self) {
            (Action::PutDataAside { data_dir }, _) => agent.put_data_aside(data_dir).await,
            (Action::FinishRestore, _) => agent.finish_restore().await,
            (Action::RestoreShared(shared), Self::Backup(backup)) => {
                let pair = pair(backup, *shared).with_context(|| format!("the backup has no {}", shared.name()))?;
                agent.write_shared(*shared, pair, false).await
            }
            (Action::RestoreData { id, data_dir, name, peer_url, .. }, _) => {
                let wanted = |from| Restore {
                    backup: id.clone(),
                    data_dir: data_dir.clone(),
                    name: name.clone(),
                    peer_url: peer_url.clone(),
                    from,
                };
                let (size, sha256, (mut pieces, reading)) = match self {
                    Self::Survivor(_) => return agent.restore(wanted(RestoreFrom::OwnData), None).await,
                    Self::Snapshot(own) => (own.size, own.sha256.clone(), pour_file(own.path.clone())),
                    Self::Backup(backup) => {
                        let (size, sha256) = backup.snapshot()?;
                        (size, sha256, pour(backup))
                    }
                };
                let restored = agent.restore(wanted(RestoreFrom::Upload { size, sha256 }), Some(&mut pieces)).await;
                drop(pieces);
                let read = reading.await.map_err(|error| anyhow!("read the backup: {error}"))?;
                restored.and(read)
            }
            _ => bail!("a step that is none of a restore's"),
        }
    }
}

/// A secret of the backup, if it is whole.
fn pair(backup: &Opened, shared: Shared) -> Option<Pair> {
    let (public, private) = shared.files();
    let cert = match public {
        Some(file) => backup.pki(&file)?,
        None => String::new(),
    };
    Some(Pair { cert, key: backup.pki(&private)? })
}

/// As agents tell what is on hosts: the public half's hash, or that of the whole.
fn fingerprints(backup: &Opened) -> BTreeMap<Shared, String> {
    let of = |shared: Shared| {
        let pair = pair(backup, shared)?;
        let text = if shared.files().0.is_some() { &pair.cert } else { &pair.key };
        Some((shared, sha256(text.as_bytes())))
    };
    Shared::ALL.into_iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use kinit_backup::{Anchor, ClusterId, EtcdState, Keys, Manifest};

    use super::*;

    fn backup(kubernetes: &str, name: &str, file: &str) -> Opened {
        let manifest = Manifest {
            format: 1,
            cluster: ClusterId { name: name.into(), authority: "sha256:0".into() },
            created: "2026-11-29T00:00:00Z".into(),
            host: "cp1".into(),
            kinit: "0".into(),
            kubernetes: kubernetes.into(),
            etcd: EtcdState::default(),
            proof: None,
            signer: String::new(),
            signed_by: Anchor::Authority,
            files: vec![],
        };
        let files = [("cluster.yaml", file), ("pki/ca.crt", "crt"), ("pki/ca.key", "key"), ("pki/sa.pub", "pub")];
        let files = files.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec())).into();
        Opened { path: "x".into(), manifest, files, keys: Arc::new(Keys::default()) }
    }

    #[test]
    fn a_backup_of_later_versions_and_of_other_subnets_does_not_fit() {
        let example = kinit_config::example();
        let cluster = kinit_config::load(example).unwrap();
        let name = cluster.metadata.name.as_str();
        fits(&backup("v1.36.9", name, example), &cluster, &Version::sample()).unwrap();
        // Machines and addresses may be others.
        fits(&backup("v1.36.0", name, &example.replace("192.0.2.", "198.51.100.")), &cluster, &Version::sample())
            .unwrap();
        fits(&backup("v1.36.0", name, "of a later kinit"), &cluster, &Version::sample()).unwrap();
        let other = example.replace("10.96.0.0/12", "10.112.0.0/12");
        for (backup, words) in [
            (backup("v1.37.0", name, example), "it is of Kubernetes v1.37.0"),
            (backup("rubbish", name, example), "it is of Kubernetes rubbish"),
            (backup("v1.36.0", "other", example), "it is of cluster \"other\""),
            (backup("v1.36.0", name, &other), "spec.networking.serviceSubnet"),
        ] {
            let error = fits(&backup, &cluster, &Version::sample()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn secrets_that_are_not_whole_are_not_restored() {
        let backup = backup("v1.36.0", "c", "");
        let shared = fingerprints(&backup);
        assert_eq!(shared, BTreeMap::from([(Shared::CLUSTER, sha256(b"crt"))]));
        assert_eq!(pair(&backup, Shared::CLUSTER).unwrap().key, "key");
    }
}
