//! Uploaded files, kept by their content's hash until they are placed.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use kinit_resource::{Observed, sha256};
use tokio::sync::mpsc;

use crate::ledger::{HOME, Ledger};
use crate::wire::Frame;

/// Where uploads wait.
pub(crate) fn folder() -> PathBuf {
    PathBuf::from(HOME).join("blobs")
}

pub(crate) fn path_of(sha256: &str) -> PathBuf {
    folder().join(sha256)
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit())
}

/// Whether the blob is here. Its name was checked against its content when it came.
pub(crate) fn has(sha256: &str) -> bool {
    is_hash(sha256) && path_of(sha256).exists()
}

/// Takes a zstd stream in byte frames, ended by an empty one; keeps it only if its content has that hash. A failed
/// upload is read to its end all the same: its rest would be taken for requests.
pub(crate) async fn receive(hash: &str, frames: &mut mpsc::Receiver<Frame>) -> Result<()> {
    let mut stream = ByteStream { frames, ended: false };
    let received = async {
        ensure!(is_hash(hash), "{hash} is no SHA-256");
        Ledger::note_path(HOME)?;
        std::fs::create_dir_all(folder()).context("make the folder for uploads")?;
        receive_as(&path_of(hash), hash, &mut stream).await
    };
    let received = received.await;
    while received.is_err() && stream.next().await.is_ok_and(|bytes| bytes.is_some()) {}
    received
}

/// The byte frames of one upload.
struct ByteStream<'a> {
    frames: &'a mut mpsc::Receiver<Frame>,
    ended: bool,
}

impl ByteStream<'_> {
    /// The next bytes; `None` at the stream's end.
    async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        if self.ended {
            return Ok(None);
        }
        match self.frames.recv().await {
            Some(Frame::Bytes(bytes)) => {
                self.ended = bytes.is_empty();
                Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
            }
            Some(Frame::Json(_)) | None => {
                self.ended = true;
                bail!("the upload ended early")
            }
        }
    }
}

async fn receive_as(place: &Path, hash: &str, stream: &mut ByteStream<'_>) -> Result<()> {
    let temporary = place.with_extension("part");
    let received = match receive_part(&temporary, hash, stream).await {
        Ok(()) => std::fs::rename(&temporary, place).context("keep the upload"),
        Err(error) => Err(error),
    };
    if received.is_err() {
        // A part of a file would keep a full file system full.
        std::fs::remove_file(&temporary).ok();
    }
    received
}

async fn receive_part(temporary: &Path, hash: &str, stream: &mut ByteStream<'_>) -> Result<()> {
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(temporary);
    let mut decoder =
        zstd::stream::write::Decoder::new(file.context("create the upload's file")?).context("start decompressing")?;
    while let Some(bytes) = stream.next().await? {
        decoder.write_all(&bytes).context("write the upload")?;
    }
    decoder.flush().context("write the upload")?;
    decoder.into_inner().sync_all().context("write the upload")?;
    let actual = sha256(&std::fs::read(temporary).context("read the upload back")?);
    ensure!(actual == hash, "the upload's content is {actual}, not {hash}");
    Ok(())
}

pub(crate) fn observe(path: &str, hash: &str, mode: u32) -> Result<Observed> {
    let Ok(meta) = std::fs::metadata(path) else { return Ok(Observed::Missing) };
    if meta.mode() & 0o7777 != mode {
        return Ok(Observed::Differs("mode differs".to_owned()));
    }
    let actual = sha256(&std::fs::read(path).with_context(|| format!("read {path}"))?);
    Ok(if actual == hash { Observed::AsWanted } else { Observed::Differs("content differs".to_owned()) })
}

/// Copies a blob to its place, atomically. The upload stays until its batch is done ([`crate::prune`]).
pub(crate) fn place(path: &str, hash: &str, mode: u32) -> Result<()> {
    let bytes = std::fs::read(path_of(hash)).with_context(|| format!("read upload {hash}"))?;
    crate::files::write(path, &bytes, mode, "root:root")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn receive(dir: &Path, hash: &str, frames: Vec<Frame>) -> Result<()> {
        let (sender, mut receiver) = mpsc::channel(frames.len().max(1));
        for frame in frames {
            sender.send(frame).await.unwrap();
        }
        drop(sender);
        receive_as(&dir.join(hash), hash, &mut ByteStream { frames: &mut receiver, ended: false }).await
    }

    #[tokio::test]
    async fn an_upload_that_fails_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = || Frame::Bytes(zstd::encode_all(&b"content"[..], 1).unwrap());
        let (end, hash) = (|| Frame::Bytes(Vec::new()), sha256(b"content"));
        for (frames, words) in [
            (vec![bytes()], "ended early"),
            (vec![Frame::Bytes(b"no zstd stream".to_vec()), bytes(), end()], "write the upload"),
            (vec![Frame::Bytes(zstd::encode_all(&b"other"[..], 1).unwrap()), end()], "the upload's content is"),
        ] {
            let error = format!("{:#}", receive(dir.path(), &hash, frames).await.unwrap_err());
            assert!(error.contains(words), "{error}");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{words}");
        }
        receive(dir.path(), &hash, vec![bytes(), end()]).await.unwrap();
        assert_eq!(std::fs::read(dir.path().join(&hash)).unwrap(), b"content");
    }

    #[tokio::test]
    async fn a_failed_upload_is_read_to_its_end() {
        let (sender, mut receiver) = mpsc::channel(8);
        for bytes in [vec![1], vec![2], vec![]] {
            sender.send(Frame::Bytes(bytes)).await.unwrap();
        }
        sender.send(Frame::Json(b"the next request".to_vec())).await.unwrap();
        super::receive("no hash", &mut receiver).await.unwrap_err();
        assert!(matches!(receiver.recv().await, Some(Frame::Json(json)) if json == b"the next request"));
    }

    /// What is written to /dev/full finds the disk full.
    #[tokio::test]
    async fn a_full_disk_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let hash = sha256(b"content");
        std::os::unix::fs::symlink("/dev/full", dir.path().join(&hash).with_extension("part")).unwrap();
        let frames = vec![Frame::Bytes(zstd::encode_all(&b"content"[..], 1).unwrap()), Frame::Bytes(vec![])];
        let error = format!("{:#}", receive(dir.path(), &hash, frames).await.unwrap_err());
        assert!(error.contains("No space left"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
