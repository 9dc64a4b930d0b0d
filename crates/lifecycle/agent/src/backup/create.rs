//! Making a backup: the snapshot is taken to this host's disk (which holds the data already), restored into a scratch
//! etcd, and leaves the host encrypted.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use kinit_backup::{
    Anchor, ClusterId, EtcdState, FORMAT, Manifest, Member, Proof, SNAPSHOT, Signer, Source, pki_path, write,
};
use kinit_resource::Shared;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

use super::scratch::Folder;
use super::{Create, Look, look_into};
use crate::serve::Desk;
use crate::{etcd, files};

const PKI: &str = "/etc/kubernetes/pki";
const PIECE: usize = 256 << 10;
/// etcd appends the SHA-256 of the database to it (`clientv3/snapshot`).
const HASH: usize = 32;
/// What tells how the control plane was run. For people; a restore makes them anew.
const HOST_FILES: &[&str] = &[
    "/etc/kubernetes/audit-policy.yaml",
    "/etc/kubernetes/authentication.yaml",
    "/etc/kubernetes/etcd.env",
    "/etc/kubernetes/kinit.json",
    "/etc/systemd/system/etcd.service",
    "/etc/systemd/system/kube-apiserver.service",
    "/etc/systemd/system/kube-controller-manager.service",
    "/etc/systemd/system/kube-scheduler.service",
    "/etc/kubernetes/cloud-config.yaml",
    "/etc/systemd/system/cloud-controller-manager.service",
    "/etc/systemd/system/metrics-server.service",
    "/etc/systemd/system/kubelet.service",
    "/etc/systemd/system/kube-proxy.service",
    "/etc/systemd/system/kube-netd.service",
    "/var/lib/kubelet/config.yaml",
];

/// Makes one and hands it to the desk in byte frames.
pub(super) async fn run<W: AsyncWrite + Unpin>(wanted: &Create, desk: &mut Desk<W>) -> Result<Manifest> {
    let (pieces, mut ready) = mpsc::channel(4);
    let making = make(wanted.clone(), Pieces { pieces, buffer: Vec::with_capacity(PIECE) });
    tokio::pin!(making);
    let mut made = None;
    loop {
        tokio::select! {
            piece = ready.recv() => match piece {
                Some(piece) => desk.hand(&piece).await?,
                None => break,
            },
            done = &mut making, if made.is_none() => made = Some(done),
        }
    }
    match made {
        Some(made) => made,
        None => making.await,
    }
}

/// Makes one, to anywhere.
pub(crate) async fn make<O: Write + Send + 'static>(wanted: Create, out: O) -> Result<Manifest> {
    let created = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap_or_else(|_| OffsetDateTime::now_utc());
    let folder = Folder::on_host()?;
    let snapshot = folder.path().join("snapshot.db");
    take(&snapshot).await.context("take a snapshot of etcd")?;
    let encryption = files::read_optional(&format!("{PKI}/encryption.yaml"))?;
    let mut manifest = draft(&wanted, created)?;
    if wanted.prove {
        let proof = prove(&snapshot, &folder, encryption).await.context("restore the snapshot into a scratch etcd")?;
        manifest.etcd = proof.etcd.clone();
        manifest.proof = Some(proof);
    } else {
        manifest.etcd = EtcdState { version: etcd::status().await?.version, ..EtcdState::default() };
    }
    let mut members = pki()?;
    if let Some(text) = etcd::cluster_file().await? {
        members.push(Member::bytes("cluster.yaml", 0o600, text));
    }
    for path in HOST_FILES {
        if let Some(text) = files::read_optional(path)? {
            members.push(Member::bytes(format!("host{path}"), 0o600, text));
        }
    }
    members.push(Member { path: SNAPSHOT.to_owned(), mode: 0o600, source: Source::File(snapshot) });
    let signer = signer()?;
    let writing = tokio::task::spawn_blocking(move || {
        let (manifest, mut out) = write(out, manifest, &members, &signer, &wanted.protection)?;
        out.flush().context("write the backup")?;
        anyhow::Ok(manifest)
    });
    let written = writing.await.context("write the backup")?;
    drop(folder);
    written
}

fn draft(wanted: &Create, created: OffsetDateTime) -> Result<Manifest> {
    let authority = crate::facts::authority()?.context("this host has no authority (/etc/kubernetes/pki/ca.crt)")?;
    Ok(Manifest {
        format: FORMAT,
        cluster: ClusterId { name: wanted.cluster.clone(), authority },
        created: created.format(&Rfc3339).context("write the time")?,
        host: wanted.host.clone(),
        kinit: env!("CARGO_PKG_VERSION").to_owned(),
        kubernetes: wanted.kubernetes.clone(),
        etcd: EtcdState::default(),
        proof: None,
        signer: String::new(),
        signed_by: Anchor::Authority,
        files: Vec::new(),
    })
}

/// All shared secrets, public halves first: whoever reads knows whose backup it is before the data come.
fn pki() -> Result<Vec<Member>> {
    let mut members = Vec::new();
    for shared in Shared::ALL {
        let (public, private) = shared.files();
        for (file, mode) in public.map(|file| (file, 0o644)).into_iter().chain([(private, 0o600)]) {
            if let Some(text) = files::read_optional(&format!("{PKI}/{file}"))? {
                members.push(Member::bytes(pki_path(&file), mode, text));
            }
        }
    }
    Ok(members)
}

fn signer() -> Result<Signer> {
    for anchor in [Anchor::Authority, Anchor::ServiceAccounts] {
        if let Some(key) = files::read_optional(&format!("{PKI}/{}", anchor.file()))? {
            return Ok(Signer::derive(anchor, &key)?);
        }
    }
    anyhow::bail!("this host has neither ca.key nor sa.key, so that it cannot sign a backup")
}

/// Writes a snapshot to a file and checks the hash that etcd appends.
async fn take(path: &Path) -> Result<u64> {
    let size = etcd::status().await?.db_size;
    // The snapshot itself, and the scratch etcd's copy.
    super::ensure_room(path.parent().unwrap_or(Path::new("/")), size * 2 + (256 << 20))?;
    let mut snapshot = etcd::Snapshot::begin().await?;
    let open = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = open.context("write the snapshot")?;
    // The last bytes are the hash of all others, and which are the last is known at the end.
    let (mut hash, mut tail, mut length) = (Sha256::new(), Vec::new(), 0);
    while let Some(piece) = snapshot.next().await? {
        file.write_all(&piece).context("write the snapshot")?;
        length += piece.len() as u64;
        tail.extend(piece);
        let sure = tail.len().saturating_sub(HASH);
        hash.update(tail.get(..sure).unwrap_or_default());
        tail.drain(..sure);
    }
    ensure!(length > HASH as u64 && length % 512 == HASH as u64, "it is not whole: it has {length} bytes");
    ensure!(hash.finalize().as_slice() == tail, "it is damaged: its hash is wrong");
    Ok(length)
}

/// Restores the snapshot, and compares with the running etcd.
async fn prove(snapshot: &Path, folder: &Folder, encryption: Option<String>) -> Result<Proof> {
    let looked = look_into(snapshot, folder.path(), &Look { encryption, get: Vec::new() }).await?;
    let compared = etcd::hash_at(looked.etcd.revision).await?;
    // Both hash what is left of the history: after a compaction in between they cannot be compared.
    let comparable = compared.filter(|(_, compacted)| *compacted == looked.etcd.compact_revision);
    if let Some((hash, _)) = comparable {
        ensure!(
            hash == looked.etcd.hash,
            "at revision {} the restored keys have the hash {:08x}, and the running etcd's {hash:08x}",
            looked.etcd.revision,
            looked.etcd.hash
        );
    }
    Ok(Proof {
        compared_with_source: comparable.is_some(),
        secrets: looked.secrets,
        milliseconds: looked.milliseconds,
        etcd: looked.etcd,
    })
}

/// Passes what is written on, in pieces of a good size.
struct Pieces {
    pieces: mpsc::Sender<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Pieces {
    fn send(&mut self) -> std::io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE));
        self.pieces.blocking_send(piece).map_err(|_| std::io::Error::other("the desk went away"))
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.send()
    }
}
