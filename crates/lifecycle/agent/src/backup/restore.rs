//! Putting a backup's data in place: one member's data folder, which the others join.
//!
//! Each step may be done again, and a crash between any two leaves either the old data or the new: the new is made
//! beside the old, the old is renamed, the new is renamed, and then the marker tells that it is there. Nothing is
//! deleted.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tokio::sync::mpsc;

use super::scratch::etcdutl;
use super::{Marker, Restore, RestoreFrom, receive};
use crate::ledger::{HOME, Ledger};
use crate::wire::Frame;
use crate::{etcd, files};

/// Tells that a restore is under way on this host.
pub const MARKER: &str = "/var/lib/kinit/restore.json";
/// So far ahead of the backup's are the revisions after a restore (etcd's operations guide, "Restoring with revision
/// bump"): clients that have seen later ones than the backup's do not go back in time.
const BUMP: u64 = 1_000_000_000;

/// Makes the data folder.
pub(super) async fn run(wanted: &Restore, frames: &mut mpsc::Receiver<Frame>) -> Result<()> {
    Ledger::note_path(HOME)?;
    let folder = Path::new(HOME).join("restore");
    std::fs::create_dir_all(&folder).context("make the folder for the snapshot")?;
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).context("close that folder to others")?;
    let snapshot = folder.join("snapshot.db");
    let size = match &wanted.from {
        RestoreFrom::Upload { size, sha256 } => {
            let room = super::ensure_room(&folder, size + (64 << 20));
            // Read in any case: what follows would be taken for requests.
            let received = receive::receive(&snapshot, frames).await;
            room?;
            ensure!(received? == (*size, sha256.clone()), "the snapshot did not arrive as it was sent");
            *size
        }
        RestoreFrom::OwnData => copy_own(&wanted.data_dir, &folder, &snapshot)?,
    };
    ensure!(etcd::status().await.is_err(), "etcd runs on this host: its data cannot be replaced");
    place(wanted, &snapshot, size).await?;
    // Only now: until here it may be needed again.
    files::remove(&folder.display().to_string())
}

/// Copies this member's own database. etcd has stopped, and with that has written down all that it had applied.
fn copy_own(data_dir: &str, folder: &Path, snapshot: &Path) -> Result<u64> {
    let database = Path::new(data_dir).join("member/snap/db");
    let size = std::fs::metadata(&database).with_context(|| format!("look at {}", database.display()))?.len();
    super::ensure_room(folder, size + (64 << 20))?;
    files::remove(&snapshot.display().to_string())?;
    files::copy(&database.display().to_string(), &snapshot.display().to_string())?;
    Ok(size)
}

/// Makes the data beside the old, and puts them in their place.
async fn place(wanted: &Restore, snapshot: &Path, size: u64) -> Result<()> {
    let data = wanted.data_dir.trim_end_matches('/');
    Ledger::note_populated(data)?;
    files::directory(data, 0o700, "etcd:etcd")?;
    super::ensure_room(Path::new(data), size + (128 << 20))?;
    let beside = format!("{data}/restoring");
    files::remove(&beside)?;
    let mut arguments = vec![
        format!("--name={}", wanted.name),
        format!("--initial-cluster={}={}", wanted.name, wanted.peer_url),
        format!("--initial-advertise-peer-urls={}", wanted.peer_url),
        // Another cluster than before: members of the old one are not taken for its own.
        format!(
            "--initial-cluster-token=restored-{}-{}",
            wanted.backup,
            time::OffsetDateTime::now_utc().unix_timestamp()
        ),
        format!("--bump-revision={BUMP}"),
        "--mark-compacted".to_owned(),
    ];
    if wanted.from == RestoreFrom::OwnData {
        // A member's own file does not end with a hash.
        arguments.push("--skip-hash-check".to_owned());
    }
    etcdutl(snapshot, Path::new(&beside), &arguments).await?;
    files::give_tree(&beside, "etcd:etcd")?;
    put_aside(data).await?;
    std::fs::rename(format!("{beside}/member"), format!("{data}/member")).context("put etcd's data in place")?;
    files::sync_folder(data)?;
    files::remove(&beside)?;
    let marker = Marker { backup: wanted.backup.clone() };
    files::write_private(MARKER, &serde_json::to_vec(&marker).context("encode the marker")?)
}

/// Renames a member's data to `before-restore-TIME` beside it. Without data there is nothing to do.
pub(super) async fn put_aside(data_dir: &str) -> Result<()> {
    let data = data_dir.trim_end_matches('/');
    let member = format!("{data}/member");
    if std::fs::symlink_metadata(&member).is_err() {
        return Ok(());
    }
    let time = time::OffsetDateTime::now_utc().unix_timestamp();
    let aside = format!("{data}/before-restore-{time}");
    std::fs::rename(&member, &aside).with_context(|| format!("rename {member} to {aside}"))?;
    files::sync_folder(data)?;
    crate::notes::note(format!("the data before the restore is kept in {aside}"));
    Ok(())
}

/// The marker's text; empty where there is none.
pub(super) fn marker() -> Result<String> {
    Ok(files::read_optional(MARKER)?.unwrap_or_default())
}

/// Removes the marker.
pub(super) fn finish() -> Result<()> {
    files::remove(MARKER)
}
