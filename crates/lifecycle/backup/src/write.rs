//! Writing a backup.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::manifest::{FileEntry, Manifest};
use crate::seal::Protection;
use crate::sign::Signer;

/// Where a member's bytes are.
pub enum Source {
    /// In memory.
    Bytes(Vec<u8>),
    /// In a file.
    File(PathBuf),
}

/// A file of the backup.
pub struct Member {
    /// Where it is in the backup.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Its content.
    pub source: Source,
}

impl Member {
    /// One that is in memory.
    pub fn bytes(path: impl Into<String>, mode: u32, bytes: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), mode, source: Source::Bytes(bytes.into()) }
    }

    fn open(&self) -> Result<Box<dyn Read + '_>, Error> {
        match &self.source {
            Source::Bytes(bytes) => Ok(Box::new(bytes.as_slice())),
            Source::File(path) => {
                let file = File::open(path).map_err(Error::io(format!("read {}", path.display())))?;
                Ok(Box::new(file))
            }
        }
    }

    fn entry(&self) -> Result<FileEntry, Error> {
        let mut hashing = Hashing::new(self.open()?);
        std::io::copy(&mut hashing, &mut std::io::sink()).map_err(Error::io(format!("read {}", self.path)))?;
        let (size, sha256) = hashing.end();
        Ok(FileEntry { path: self.path.clone(), size, mode: self.mode, sha256 })
    }
}

/// Length of a file and its SHA-256 in hexadecimal.
pub fn measure(path: &Path) -> Result<(u64, String), Error> {
    let reading = || Error::io(format!("read {}", path.display()));
    let mut hashing = Hashing::new(File::open(path).map_err(reading())?);
    std::io::copy(&mut hashing, &mut std::io::sink()).map_err(reading())?;
    Ok(hashing.end())
}

/// A reader that hashes what it passes on.
pub(crate) struct Hashing<R> {
    inner: R,
    hash: Sha256,
    size: u64,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }

    /// Bytes read, and their SHA-256 in hexadecimal.
    pub(crate) fn end(self) -> (u64, String) {
        (self.size, hex::encode(self.hash.finalize()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..count).unwrap_or_default());
        self.size += count as u64;
        Ok(count)
    }
}

/// Writes a backup of these members, in their order; `manifest` says everything but its files and its signer, which are
/// filled in. Files of any size pass by in pieces.
pub fn write<W: Write>(
    out: W,
    mut manifest: Manifest,
    members: &[Member],
    signer: &Signer,
    protection: &Protection,
) -> Result<(Manifest, W), Error> {
    manifest.files = members.iter().map(Member::entry).collect::<Result<_, _>>()?;
    (manifest.signer, manifest.signed_by) = (signer.public(), signer.anchor());
    let json = serde_json::to_vec_pretty(&manifest)
        .map_err(|error| Error::Io { doing: "write the manifest".to_owned(), source: error.into() })?;
    let writing = |what: &str| Error::io(format!("write {what} to the backup"));
    let mut zstd = zstd::stream::write::Encoder::new(protection.wrap(out)?, 3).map_err(writing("anything"))?;
    zstd.include_checksum(true).map_err(writing("anything"))?;
    let mut tar = tar::Builder::new(zstd);
    for (path, bytes) in [("manifest.json", &json), ("manifest.sig", &signer.sign(&json))] {
        let header = header(bytes.len() as u64, 0o600);
        append(&mut tar, header, path, bytes.as_slice()).map_err(writing(path))?;
    }
    for (member, entry) in members.iter().zip(&manifest.files) {
        let mut hashing = Hashing::new(member.open()?.take(entry.size));
        append(&mut tar, header(entry.size, entry.mode), &entry.path, &mut hashing).map_err(writing(&entry.path))?;
        if hashing.end() != (entry.size, entry.sha256.clone()) {
            return Err(Error::Moved(entry.path.clone()));
        }
    }
    let sealed = tar.into_inner().and_then(zstd::stream::write::Encoder::finish);
    let mut out = sealed.and_then(|sealed| sealed.finish()).map_err(writing("its end"))?;
    out.flush().map_err(writing("its end"))?;
    Ok((manifest, out))
}

fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    mut header: tar::Header,
    path: &str,
    bytes: impl Read,
) -> std::io::Result<()> {
    tar.append_data(&mut header, path, bytes)
}
