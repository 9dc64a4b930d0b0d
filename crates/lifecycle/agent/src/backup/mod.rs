//! Backups on the host: made here, restored here into a scratch etcd before they count, and put in place here.
//!
//! ```text
//! create   etcd ─ snapshot ─► scratch etcd ─ proof ─┐
//!          pki, encryption.yaml, units, cluster file ┴─► tar ─ zstd ─ age ─► desk, folder, S3: encrypted from here on
//! look     desk ─ snapshot ─► scratch etcd ─► revision, hash, number of keys, objects
//! restore  desk ─ snapshot ─► etcdutl ─► data folder of the one member that the others join
//! ```

mod create;
mod look;
mod receive;
mod restore;
mod scheduled;
mod scratch;
mod store;

use anyhow::{Context, Result, bail};
use kinit_backup::{EtcdState, Protection, SecretsTried};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

use crate::serve::Desk;
use crate::wire::{Frame, Reply};

pub use look::look_into;
pub use restore::MARKER;
pub use scheduled::{LastBackup, Scheduled, run_scheduled};
pub use store::Target;

/// What is asked for. Passphrases and keys travel in here; there is no `Debug`.
#[derive(Serialize, Deserialize)]
pub enum BackupRequest {
    /// Make one; it comes in byte frames, and its manifest as the reply.
    Create(Create),
    /// Look into a snapshot that follows in byte frames, ended by an empty one.
    Look(Look),
    /// Make etcd's data folder.
    Restore(Restore),
    /// Put the data of a member that is none any more aside.
    PutAside {
        /// etcd's data folder.
        data_dir: String,
    },
    /// Which restore is under way on this host, as JSON of [`Marker`]; empty without one.
    Marker,
    /// That restore has been carried out.
    Finish,
    /// The last scheduled backup, as JSON of [`LastBackup`]; empty without one.
    Last,
}

impl BackupRequest {
    /// Whether it leaves the host as it is.
    pub(crate) fn only_looks(&self) -> bool {
        matches!(self, Self::Create(_) | Self::Look(_) | Self::Marker | Self::Last)
    }

    /// How the journal names it, if it is a step.
    pub(crate) fn step(&self) -> Option<String> {
        match self {
            Self::Restore(restore) => Some(format!("restore etcd's data from backup {}", restore.backup)),
            Self::PutAside { data_dir } => Some(format!("put {data_dir}/member aside")),
            Self::Finish => Some("finish the restore".to_owned()),
            Self::Create(_) | Self::Look(_) | Self::Marker | Self::Last => None,
        }
    }
}

/// A backup to make.
#[derive(Clone, Serialize, Deserialize)]
pub struct Create {
    /// Name of the cluster.
    pub cluster: String,
    /// This host's name in the cluster.
    pub host: String,
    /// Version of Kubernetes.
    pub kubernetes: String,
    /// How it is encrypted.
    pub protection: Protection,
    /// Restore it into a scratch etcd before it counts.
    pub prove: bool,
}

/// What to find out about a snapshot.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Look {
    /// The EncryptionConfiguration that opens its Secrets.
    pub encryption: Option<String>,
    /// Keys to read; those that end with a slash stand for all below them.
    pub get: Vec<String>,
}

/// What was found in a snapshot. Values may be secret; there is no `Debug`.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Looked {
    /// What its etcd says.
    pub etcd: EtcdState,
    /// Whether its Secrets could be decrypted.
    pub secrets: SecretsTried,
    /// Keys and values that were asked for, decrypted.
    pub values: Vec<(String, String)>,
    /// How long it took.
    pub milliseconds: u64,
}

/// A restore of etcd's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// Identifies the backup: a part of its manifest's hash.
    pub backup: String,
    /// etcd's data folder.
    pub data_dir: String,
    /// The member's name.
    pub name: String,
    /// Its peer URL.
    pub peer_url: String,
    /// Where its data come from.
    pub from: RestoreFrom,
}

/// Where data come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestoreFrom {
    /// A snapshot follows in byte frames, ended by an empty one.
    Upload {
        /// Its length.
        size: u64,
        /// Its SHA-256 in hexadecimal.
        sha256: String,
    },
    /// The member's own database, as it was when it stopped.
    OwnData,
}

/// A restore that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The backup.
    pub backup: String,
}

/// Does what is asked for.
pub(crate) async fn answer<W: AsyncWrite + Unpin>(
    request: BackupRequest,
    frames: &mut mpsc::Receiver<Frame>,
    desk: &mut Desk<W>,
) -> Result<Reply> {
    match request {
        BackupRequest::Create(create) => {
            let manifest = create::run(&create, desk).await?;
            Ok(Reply::Text(serde_json::to_string(&manifest).context("encode the manifest")?))
        }
        BackupRequest::Look(look) => {
            let folder = scratch::Folder::on_host()?;
            let snapshot = folder.path().join("snapshot.db");
            receive::receive(&snapshot, frames).await?;
            let looked = look_into(&snapshot, folder.path(), &look).await?;
            Ok(Reply::Text(serde_json::to_string(&looked).context("encode what was found")?))
        }
        BackupRequest::Restore(restore) => restore::run(&restore, frames).await.map(|()| Reply::Done),
        BackupRequest::PutAside { data_dir } => {
            restore::put_aside(&data_dir).await?;
            Ok(Reply::Done)
        }
        BackupRequest::Last => {
            let last = scheduled::last_backup().await?;
            let text = last.map(|last| serde_json::to_string(&last)).transpose().context("encode the last backup")?;
            Ok(Reply::Text(text.unwrap_or_default()))
        }
        BackupRequest::Marker => Ok(Reply::Text(restore::marker()?)),
        BackupRequest::Finish => {
            restore::finish()?;
            Ok(Reply::Done)
        }
    }
}

/// A file system must have that many bytes left.
fn ensure_room(folder: &std::path::Path, bytes: u64) -> Result<()> {
    let disk = rustix::fs::statvfs(folder).with_context(|| format!("look at the disk of {}", folder.display()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < bytes {
        bail!("{} MiB are free on the disk of {}, and {} are needed", free >> 20, folder.display(), bytes >> 20);
    }
    Ok(())
}
