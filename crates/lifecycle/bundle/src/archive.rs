//! A bundle as one file: the folder as a tar archive, compressed with zstd.

use std::io::Read;
use std::path::Path;

use crate::error::Error;
use crate::folder::{read_manifest, verify};
use crate::manifest::{MANIFEST, Manifest, is_plain};
use crate::sign::Trust;

/// Ending of a bundle's file.
pub const EXTENSION: &str = "tar.zst";
const LEVEL: i32 = 10;
/// What a bundle may unpack to: some fifty times of what one has.
const LARGEST: u64 = 8 << 30;
const SIGNATURE: &str = "bundle.yaml.sig";

/// Writes the bundle of a folder, whose files were verified, into one file. The same bundle gives the same bytes.
pub fn pack(folder: &Path, manifest: &Manifest, file: &Path) -> Result<(), Error> {
    let temporary = file.with_extension("part");
    let packed = write(folder, manifest, &temporary).and_then(|()| std::fs::rename(&temporary, file));
    if packed.is_err() {
        std::fs::remove_file(&temporary).ok();
    }
    packed.map_err(Error::write(file))
}

fn write(folder: &Path, manifest: &Manifest, file: &Path) -> std::io::Result<()> {
    let encoder = zstd::Encoder::new(std::fs::File::create(file)?, LEVEL)?;
    let mut archive = tar::Builder::new(encoder);
    let mut paths = vec![MANIFEST.to_owned()];
    if folder.join(SIGNATURE).exists() {
        paths.push(SIGNATURE.to_owned());
    }
    paths.extend(manifest.files.iter().map(|file| file.path.clone()));
    for path in paths {
        let source = std::fs::File::open(folder.join(&path))?;
        let mut header = tar::Header::new_gnu();
        header.set_size(source.metadata()?.len());
        header.set_mode(if manifest.components.iter().any(|c| c.file == path) || path == "kinit" {
            0o755
        } else {
            0o644
        });
        header.set_mtime(0);
        archive.append_data(&mut header, &path, source)?;
    }
    archive.into_inner()?.finish()?.sync_all()
}

/// Unpacks a bundle's file into a new folder and checks it: every hash, and the signature.
pub fn unpack(file: &Path, folder: &Path, trust: &Trust) -> Result<Manifest, Error> {
    std::fs::create_dir_all(folder).map_err(Error::write(folder))?;
    let opened = std::fs::File::open(file).map_err(Error::read(file))?;
    let decoder = zstd::Decoder::new(opened).map_err(Error::read(file))?;
    extract(file, tar::Archive::new(decoder.take(LARGEST)), folder)?;
    trust.check(folder)?;
    let manifest = read_manifest(folder)?;
    verify(folder, &manifest)?;
    Ok(manifest)
}

/// Regular files with plain names, each once; nothing else is in a bundle.
fn extract(file: &Path, mut archive: tar::Archive<impl Read>, folder: &Path) -> Result<(), Error> {
    let wrong = |why: String| Error::Manifest { path: file.to_owned(), why };
    for entry in archive.entries().map_err(Error::read(file))? {
        let mut entry = entry.map_err(Error::read(file))?;
        let path = entry.path().map_err(Error::read(file))?.to_string_lossy().into_owned();
        if !entry.header().entry_type().is_file() || !is_plain(&path) {
            return Err(wrong(format!("{path:?} has no place in a bundle")));
        }
        let target = folder.join(&path);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(Error::write(parent))?;
        }
        if target.exists() {
            return Err(wrong(format!("{path:?} is there twice")));
        }
        let executable = entry.header().mode().unwrap_or(0o644) & 0o111 != 0;
        let mut out = std::fs::File::create_new(&target).map_err(Error::write(&target))?;
        std::io::copy(&mut entry, &mut out).map_err(Error::write(&target))?;
        if executable {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&target, mode).map_err(Error::write(&target))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::tests::bundle;

    #[test]
    fn a_bundle_survives_being_packed() {
        let (folder, manifest) = bundle(b"program");
        let out = tempfile::tempdir().unwrap();
        let file = out.path().join("b.tar.zst");
        pack(folder.path(), &manifest, &file).unwrap();
        let again = out.path().join("c.tar.zst");
        pack(folder.path(), &manifest, &again).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(&again).unwrap(), "reproducible");
        let unpacked = unpack(&file, &out.path().join("u"), &Trust::default()).unwrap();
        assert_eq!(unpacked, manifest);
        let mut bytes = std::fs::read(&file).unwrap();
        let cut = bytes.len() / 2;
        bytes.truncate(cut);
        std::fs::write(&file, &bytes).unwrap();
        assert!(unpack(&file, &out.path().join("t"), &Trust::default()).is_err(), "truncated");
    }

    #[test]
    fn an_archive_that_reaches_outside_is_refused() {
        let out = tempfile::tempdir().unwrap();
        for (name, kind) in [("../evil", tar::EntryType::Regular), ("link", tar::EntryType::Symlink)] {
            let mut archive = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            archive.append(&header, &b""[..]).unwrap();
            let file = out.path().join("evil.tar.zst");
            std::fs::write(&file, zstd::encode_all(&archive.into_inner().unwrap()[..], 1).unwrap()).unwrap();
            let error = unpack(&file, &out.path().join("x"), &Trust::default()).unwrap_err();
            assert!(error.to_string().contains("no place in a bundle"), "{error}");
        }
        assert!(!out.path().join("evil").exists());
    }
}
