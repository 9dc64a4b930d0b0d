//! Opening backups at the desk: everything is checked before any of it goes to a host.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use kinit_agent::{Look, Looked, Pieces};
use kinit_backup::{Card, Error, Keys, Manifest, SNAPSHOT, pki_path, read, read_small};
use tokio::io::AsyncWriteExt;

use crate::hosts::Hosts;

const PIECE: usize = 256 << 10;

/// A backup that was checked from its first byte to its last. Its small files are in memory: keys among them; there is
/// no `Debug`.
pub struct Opened {
    /// Its file.
    pub path: PathBuf,
    /// What it says of itself.
    pub manifest: Manifest,
    /// All files but the snapshot, by their path in the backup.
    pub files: BTreeMap<String, Vec<u8>>,
    pub(super) keys: Arc<Keys>,
}

/// Reads a backup to its end and checks everything.
pub async fn open(path: &Path, keys: Keys) -> Result<Opened> {
    let (path, keys) = (path.to_owned(), Arc::new(keys));
    let reading = tokio::task::spawn_blocking(move || {
        let file = File::open(&path).with_context(|| format!("read {}", path.display()))?;
        let read = read_small(file, &keys).map_err(|error| by_card(&path, error));
        let (manifest, files) = read.with_context(|| path.display().to_string())?;
        anyhow::Ok(Opened { path, manifest, files, keys })
    });
    reading.await.context("read the backup")?
}

/// Whether a last part that does not decrypt was cut off or changed tells the length on the backup's card, if it has
/// one.
fn by_card(path: &Path, error: Error) -> Error {
    let named =
        |suffix: &str| path.with_file_name(format!("{}{suffix}", path.file_name().unwrap_or_default().display()));
    let card = std::fs::read(named(".json")).ok().and_then(|text| Card::parse(&text));
    match (&error, card, std::fs::metadata(path)) {
        (Error::Damaged, Some(card), Ok(now)) if now.len() < card.bytes => Error::Truncated,
        (Error::Damaged, Some(card), Ok(now)) if now.len() == card.bytes => {
            Error::Tampered("its last part does not decrypt".to_owned())
        }
        _ => error,
    }
}

impl Opened {
    /// The text of a file below `pki/`.
    pub fn pki(&self, file: &str) -> Option<String> {
        String::from_utf8(self.files.get(&pki_path(file))?.clone()).ok()
    }

    /// Tells this backup from all others: a part of its manifest's hash.
    pub fn id(&self) -> String {
        let json = serde_json::to_vec(&self.manifest).unwrap_or_default();
        kinit_resource::sha256(&json).get(..12).unwrap_or_default().to_owned()
    }

    /// Length and hash of the snapshot.
    pub fn snapshot(&self) -> Result<(u64, String)> {
        let entry = self.manifest.files.iter().find(|file| file.path == SNAPSHOT);
        let entry = entry.with_context(|| format!("the backup has no {SNAPSHOT}"))?;
        Ok((entry.size, entry.sha256.clone()))
    }

    /// What a look into the snapshot needs to open Secrets.
    pub fn look(&self, get: Vec<String>) -> Look {
        Look { encryption: self.pki("encryption.yaml"), get }
    }
}

/// The snapshot of a backup, read once more, in pieces; and how reading it ended.
pub fn pour(backup: &Opened) -> (Pieces, tokio::task::JoinHandle<Result<()>>) {
    let (sender, pieces) = tokio::sync::mpsc::channel(4);
    let (path, keys) = (backup.path.clone(), backup.keys.clone());
    let reading = tokio::task::spawn_blocking(move || {
        let file = File::open(&path).with_context(|| format!("read {}", path.display()))?;
        let told = |source| kinit_backup::Error::Io { doing: "send the snapshot".to_owned(), source };
        read(file, &keys, &mut |_, entry, bytes| {
            if entry.path != SNAPSHOT {
                return Ok(());
            }
            loop {
                let mut piece = Vec::with_capacity(PIECE);
                bytes.take(PIECE as u64).read_to_end(&mut piece).map_err(told)?;
                if piece.is_empty() {
                    return Ok(());
                }
                let gone = |_| told(std::io::Error::other("nobody takes it"));
                sender.blocking_send(piece).map_err(gone)?;
            }
        })
        .map(drop)
        .with_context(|| path.display().to_string())
    });
    (pieces, reading)
}

/// A file in pieces, and how reading it ended.
pub fn pour_file(path: PathBuf) -> (Pieces, tokio::task::JoinHandle<Result<()>>) {
    let (sender, pieces) = tokio::sync::mpsc::channel(4);
    let reading = tokio::task::spawn_blocking(move || {
        let mut file = File::open(&path).with_context(|| format!("read {}", path.display()))?;
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            let read = file.by_ref().take(PIECE as u64).read_to_end(&mut piece);
            if read.with_context(|| format!("read {}", path.display()))? == 0 {
                return Ok(());
            }
            sender.blocking_send(piece).map_err(|_| anyhow!("send {}: nobody takes it", path.display()))?;
        }
    });
    (pieces, reading)
}

/// Looks into a backup's snapshot by a scratch etcd on a host.
pub async fn look_on_host(hosts: &Hosts, host: &str, backup: &Opened, get: Vec<String>) -> Result<Looked> {
    let (mut pieces, reading) = pour(backup);
    let looked = hosts.agent(host)?.look_into(backup.look(get), &mut pieces).await;
    drop(pieces);
    let read = reading.await.map_err(|error| anyhow!("read the backup: {error}"))?;
    // What the host said is the cause of what the reader met after it.
    let looked = looked.with_context(|| host.to_owned())?;
    read.map(|()| looked)
}

/// Looks into a backup's snapshot by a scratch etcd on this machine. The snapshot goes to a file system in memory: what
/// is secret in it touches no disk here.
pub async fn look_here(backup: &Opened, get: Vec<String>) -> Result<Looked> {
    let in_path = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    };
    for program in ["etcd", "etcdutl"] {
        ensure!(
            in_path(program),
            "there is no {program} on this machine: give a cluster file, and the backup is restored on a control plane \
             (-f FILE); or install {program} (Debian: etcd-server)"
        );
    }
    let memory = Path::new("/dev/shm");
    let about = is_in_memory(memory)?;
    ensure!(
        about,
        "{} is not in memory, and nothing of the backup is written to a disk here; give a cluster file (-f FILE)",
        memory.display()
    );
    let folder = tempfile::Builder::new().prefix("kinit-").tempdir_in(memory).context("make a folder in memory")?;
    let snapshot = folder.path().join("snapshot.db");
    let (mut pieces, reading) = pour(backup);
    let open = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&snapshot);
    let mut file = tokio::fs::File::from_std(open.context("write the snapshot to memory")?);
    while let Some(piece) = pieces.recv().await {
        file.write_all(&piece).await.context("write the snapshot to memory")?;
    }
    file.flush().await.context("write the snapshot to memory")?;
    reading.await.map_err(|error| anyhow!("read the backup: {error}"))??;
    kinit_agent::look_into(&snapshot, folder.path(), &backup.look(get)).await
}

/// Whether a folder is on a file system in memory.
fn is_in_memory(folder: &Path) -> Result<bool> {
    const TMPFS: i64 = 0x0102_1994;
    let about = rustix::fs::statfs(folder).with_context(|| format!("look at {}", folder.display()))?;
    Ok(about.f_type == TMPFS)
}
