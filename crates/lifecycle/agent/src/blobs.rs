//! Uploaded files, kept by their content's hash until they are placed.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use kinit_resource::{Observed, sha256};
use tokio::sync::mpsc;

use crate::ledger::{HOME, Ledger};
use crate::wire::Frame;

fn path_of(sha256: &str) -> PathBuf {
    PathBuf::from(HOME).join("blobs").join(sha256)
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit())
}

/// Whether the blob is here. Its name was checked against its content when it came.
pub(crate) fn has(sha256: &str) -> bool {
    is_hash(sha256) && path_of(sha256).exists()
}

/// Takes a zstd stream in byte frames, ended by an empty one; keeps it only if its content has that hash.
pub(crate) async fn receive(hash: &str, frames: &mut mpsc::Receiver<Frame>) -> Result<()> {
    ensure!(is_hash(hash), "{hash} is no SHA-256");
    Ledger::note_path(HOME)?;
    std::fs::create_dir_all(format!("{HOME}/blobs")).context("make the folder for uploads")?;
    let temporary = path_of(&format!("{hash}.part"));
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary);
    let mut decoder =
        zstd::stream::write::Decoder::new(file.context("create the upload's file")?).context("start decompressing")?;
    loop {
        match frames.recv().await {
            Some(Frame::Bytes(bytes)) if bytes.is_empty() => break,
            Some(Frame::Bytes(bytes)) => decoder.write_all(&bytes).context("decompress the upload")?,
            Some(Frame::Json(_)) | None => bail!("the upload ended early"),
        }
    }
    decoder.flush().context("write the upload")?;
    decoder.into_inner().sync_all().context("write the upload")?;
    let actual = sha256(&std::fs::read(&temporary).context("read the upload back")?);
    ensure!(actual == hash, "the upload's content is {actual}, not {hash}");
    std::fs::rename(&temporary, path_of(hash)).context("keep the upload")
}

pub(crate) fn observe(path: &str, hash: &str, mode: u32) -> Result<Observed> {
    let Ok(meta) = std::fs::metadata(path) else { return Ok(Observed::Missing) };
    if meta.mode() & 0o7777 != mode {
        return Ok(Observed::Differs("mode differs".to_owned()));
    }
    let actual = sha256(&std::fs::read(path).with_context(|| format!("read {path}"))?);
    Ok(if actual == hash { Observed::AsWanted } else { Observed::Differs("content differs".to_owned()) })
}

/// Copies a blob to its place, atomically.
pub(crate) fn place(path: &str, hash: &str, mode: u32) -> Result<()> {
    let bytes = std::fs::read(path_of(hash)).with_context(|| format!("read upload {hash}"))?;
    crate::files::write(path, &bytes, mode, "root:root")
}
