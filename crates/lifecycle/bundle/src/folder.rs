//! A bundle as a folder.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::manifest::{FileEntry, MANIFEST, Manifest};

/// A manifest is far below.
const LONGEST: u64 = 1 << 20;
/// An index of packages: a whole distribution's has some 50 MB, one of a bundle 40 KB.
const LONGEST_INDEX: u64 = 8 << 20;

/// The manifest of a bundle. Its files are not looked at ([`verify`]).
pub fn read_manifest(folder: &Path) -> Result<Manifest, Error> {
    let path = folder.join(MANIFEST);
    let text = read_text(&path)?.ok_or_else(|| Error::None(folder.to_owned()))?;
    Manifest::parse(&text).map_err(|why| Error::Manifest { path, why })
}

/// A short text file; `None` where there is none.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>, Error> {
    read_at_most(path, LONGEST)
}

/// A longer text file, which must be there.
pub(crate) fn read_long_text(path: &Path) -> Result<String, Error> {
    let missing = || Error::Manifest { path: path.to_owned(), why: "it is not there".to_owned() };
    read_at_most(path, LONGEST_INDEX)?.ok_or_else(missing)
}

fn read_at_most(path: &Path, longest: u64) -> Result<Option<String>, Error> {
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(Error::read(path))?,
    };
    let mut bytes = Vec::new();
    file.take(longest + 1).read_to_end(&mut bytes).map_err(Error::read(path))?;
    if bytes.len() as u64 > longest {
        return Err(Error::Manifest { path: path.to_owned(), why: format!("it is longer than {} MiB", longest >> 20) });
    }
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|_| Error::Manifest { path: path.to_owned(), why: "it is not UTF-8".to_owned() })
}

/// Writes the manifest, whole or not at all. A signature of another one is removed.
pub fn write_manifest(folder: &Path, manifest: &Manifest) -> Result<PathBuf, Error> {
    let path = folder.join(MANIFEST);
    let text = manifest.to_yaml().map_err(|error| Error::Manifest { path: path.clone(), why: error.to_string() })?;
    Manifest::parse(&text).map_err(|why| Error::Manifest { path: path.clone(), why })?;
    let temporary = folder.join(".bundle.yaml.new");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        match std::fs::remove_file(crate::sign::path(folder)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::rename(&temporary, &path)
    };
    write().map_err(Error::write(&path))?;
    Ok(path)
}

/// What a manifest says of a file of the folder.
pub fn digest(folder: &Path, path: &str) -> Result<FileEntry, Error> {
    let full = folder.join(path);
    let mut file = std::fs::File::open(&full).map_err(Error::read(&full))?;
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer).map_err(Error::read(&full))?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        hash.update(bytes);
        size += read as u64;
    }
    Ok(FileEntry { path: path.to_owned(), sha256: hex::encode(hash.finalize()), size })
}

/// Whether every file is what the manifest says; all that is wrong at once.
pub fn verify(folder: &Path, manifest: &Manifest) -> Result<(), Error> {
    let why: Vec<String> = manifest.files.iter().filter_map(|file| difference(folder, file)).collect();
    if why.is_empty() { Ok(()) } else { Err(Error::Damaged { folder: folder.to_owned(), why }) }
}

/// How a file differs from what a manifest says of it, if it does.
pub fn difference(folder: &Path, file: &FileEntry) -> Option<String> {
    let path = folder.join(&file.path);
    match std::fs::symlink_metadata(&path) {
        Err(error) => return Some(format!("{}: {error}", file.path)),
        Ok(meta) if !meta.is_file() => return Some(format!("{} is no regular file", file.path)),
        Ok(meta) if meta.len() != file.size => {
            return Some(format!("{} has {} bytes, not {}", file.path, meta.len(), file.size));
        }
        Ok(_) => {}
    }
    match digest(folder, &file.path) {
        Err(error) => Some(format!("{}: {error}", file.path)),
        Ok(found) if found.sha256 != file.sha256 => Some(format!("{} has other content", file.path)),
        Ok(_) => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::manifest::tests::sample;

    /// A bundle of one program.
    pub(crate) fn bundle(content: &[u8]) -> (tempfile::TempDir, Manifest) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("hyperkube"), content).unwrap();
        let manifest = sample(vec![digest(folder.path(), "hyperkube").unwrap()]);
        write_manifest(folder.path(), &manifest).unwrap();
        (folder, manifest)
    }

    #[test]
    fn a_changed_file_is_named() {
        let (folder, manifest) = bundle(b"program");
        assert_eq!(read_manifest(folder.path()).unwrap(), manifest);
        verify(folder.path(), &manifest).unwrap();
        let path = folder.path().join("hyperkube");
        for (content, expected) in [(&b"Program"[..], "other content"), (b"longer program", "14 bytes, not 7")] {
            std::fs::write(&path, content).unwrap();
            let error = verify(folder.path(), &manifest).unwrap_err().to_string();
            assert!(error.contains("hyperkube") && error.contains(expected), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/bin/true", &path).unwrap();
        assert!(verify(folder.path(), &manifest).unwrap_err().to_string().contains("no regular file"));
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(read_manifest(empty.path()), Err(Error::None(_))));
    }
}
