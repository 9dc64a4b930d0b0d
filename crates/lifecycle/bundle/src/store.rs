//! Bundles of several versions, side by side on the desk.

use std::path::{Path, PathBuf};

use kinit_config::Version;

use crate::archive::unpack;
use crate::error::Error;
use crate::folder::{read_manifest, verify};
use crate::manifest::Manifest;
use crate::sign::Trust;

/// A folder with a bundle for each version.
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// The user's own: `$XDG_DATA_HOME/kinit/bundles`, by default below `~/.local/share`.
    pub fn of_user(data_home: Option<PathBuf>, home: &Path) -> Self {
        let data = data_home.filter(|path| path.is_absolute()).unwrap_or_else(|| home.join(".local/share"));
        Self::at(&data.join("kinit/bundles"))
    }

    /// In that folder.
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// What is there, oldest version first. What cannot be read is left out.
    pub fn list(&self) -> Result<Vec<(PathBuf, Manifest)>, Error> {
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::read(&self.folder))?,
        };
        let folders = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let mut found: Vec<_> = folders.filter_map(|path| Some((path.clone(), read_manifest(&path).ok()?))).collect();
        found.sort_by(|(_, a), (_, b)| (a.minor(), &a.version).cmp(&(b.minor(), &b.version)));
        Ok(found)
    }

    /// Adds the bundle of a file or folder, checked as a whole. One of the same version and content may be there.
    pub fn import(&self, from: &Path, trust: &Trust) -> Result<(PathBuf, Manifest), Error> {
        std::fs::create_dir_all(&self.folder).map_err(Error::write(&self.folder))?;
        let temporary = self.folder.join(format!(".{}.part", std::process::id()));
        std::fs::remove_dir_all(&temporary).ok();
        let placed = self.bring(from, &temporary, trust);
        std::fs::remove_dir_all(&temporary).ok();
        placed
    }

    fn bring(&self, from: &Path, temporary: &Path, trust: &Trust) -> Result<(PathBuf, Manifest), Error> {
        let manifest = if from.is_dir() { copy(from, temporary, trust)? } else { unpack(from, temporary, trust)? };
        let target = self.folder.join(directory(&manifest));
        if target.exists() {
            let there = read_manifest(&target)?;
            if there == manifest && verify(&target, &there).is_ok() {
                return Ok((target, manifest));
            }
            let why =
                format!("bundle {} with other content is there already: remove {}", manifest.version, target.display());
            return Err(Error::Manifest { path: from.to_owned(), why });
        }
        std::fs::rename(temporary, &target).map_err(Error::write(&target))?;
        Ok((target, manifest))
    }

    /// The bundle of a version: exactly, or the one build of a release.
    pub fn find(&self, version: &Version) -> Result<PathBuf, Error> {
        let all = self.list()?;
        let exact = all.iter().filter(|(_, m)| m.version == *version && m.emulated_version.is_none());
        let release = all.iter().filter(|(_, m)| m.version.release() == *version && m.emulated_version.is_none());
        let found = exact.chain(release).next_back().map(|(path, _)| path.clone());
        found.ok_or_else(|| {
            let known: Vec<String> = all.iter().map(|(_, manifest)| directory(manifest)).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Error::Unknown { version: version.to_string(), known }
        })
    }
}

/// The folder's name: the version, and the minor that it emulates.
fn directory(manifest: &Manifest) -> String {
    match manifest.emulated_version {
        None => manifest.version.to_string(),
        Some(minor) => format!("{}-emulating-{minor}", manifest.version),
    }
}

fn copy(from: &Path, to: &Path, trust: &Trust) -> Result<Manifest, Error> {
    trust.check(from)?;
    let manifest = read_manifest(from)?;
    verify(from, &manifest)?;
    let files = manifest.files.iter().map(|file| file.path.as_str());
    for path in files.chain([crate::manifest::MANIFEST, "bundle.yaml.sig"]) {
        let (source, target) = (from.join(path), to.join(path));
        if !source.exists() {
            continue;
        }
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(Error::write(parent))?;
        }
        std::fs::copy(&source, &target).map_err(Error::write(&target))?;
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::tests::bundle;
    use crate::folder::write_manifest;

    #[test]
    fn versions_stand_side_by_side() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::of_user(None, home.path());
        assert!(store.list().unwrap().is_empty());
        let (folder, mut manifest) = bundle(b"program");
        let (path, _) = store.import(folder.path(), &Trust::default()).unwrap();
        assert!(path.ends_with(".local/share/kinit/bundles/v1.36.0+kinit.0.1.0"), "{}", path.display());
        store.import(folder.path(), &Trust::default()).unwrap();
        manifest.version = "v1.36.1+kinit.0.1.0".parse().unwrap();
        write_manifest(folder.path(), &manifest).unwrap();
        store.import(folder.path(), &Trust::default()).unwrap();
        let versions: Vec<_> = store.list().unwrap().into_iter().map(|(_, m)| m.version.to_string()).collect();
        assert_eq!(versions, ["v1.36.0+kinit.0.1.0", "v1.36.1+kinit.0.1.0"]);
        assert!(store.find(&"v1.36.1".parse().unwrap()).unwrap().ends_with("v1.36.1+kinit.0.1.0"));
        let error = store.find(&"v1.37.0".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("v1.36.0+kinit.0.1.0, v1.36.1+kinit.0.1.0"), "{error}");
        std::fs::write(folder.path().join("hyperkube"), "another program").unwrap();
        assert!(store.import(folder.path(), &Trust::default()).is_err(), "damaged");
    }
}
