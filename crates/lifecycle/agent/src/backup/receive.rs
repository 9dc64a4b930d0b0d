//! Taking a file from the desk in pieces.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::wire::Frame;

/// Writes byte frames up to an empty one to a file that only root may read; returns its length and SHA-256. What fails
/// is read to its end all the same: its rest would be taken for requests.
pub(super) async fn receive(path: &Path, frames: &mut mpsc::Receiver<Frame>) -> Result<(u64, String)> {
    let open = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut file = open.with_context(|| format!("write {}", path.display()));
    let (mut length, mut hash) = (0, Sha256::new());
    loop {
        let bytes = match frames.recv().await {
            Some(Frame::Bytes(bytes)) => bytes,
            Some(Frame::Json(_)) | None => bail!("the upload ended early"),
        };
        if bytes.is_empty() {
            break;
        }
        hash.update(&bytes);
        length += bytes.len() as u64;
        file = file.and_then(|mut file| {
            file.write_all(&bytes).with_context(|| format!("write {}", path.display()))?;
            Ok(file)
        });
    }
    file?.sync_all().with_context(|| format!("write {}", path.display()))?;
    Ok((length, hex::encode(hash.finalize())))
}
