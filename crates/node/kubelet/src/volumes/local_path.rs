//! Folders of the provisioner `kinit.dev/local-path` on this node: made when a pod first mounts the volume, removed
//! when the volume is deleted. Only folders directly below the root are touched, by the name of their volume.
//!
//! A mark under the kubelet's own directory remembers that a folder was made. A folder that is missing later on is then
//! no new volume but one whose disk is not there, and no pod starts on an empty one in its place.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kinit_component_helpers::storage::LocalPath;

use super::{local, make_directory, mounts, remove};
use crate::names::Paths;

/// The folder of a volume.
pub fn folder(paths: &Paths, volume: &LocalPath) -> PathBuf {
    paths.local_path.join(&volume.name)
}

fn mark(paths: &Paths, volume: &LocalPath) -> PathBuf {
    paths.root.join("local-path").join(&volume.name)
}

/// Makes the folder, unless it is there.
pub fn ensure(paths: &Paths, volume: &LocalPath) -> Result<PathBuf, String> {
    let (folder, mark) = (folder(paths, volume), mark(paths, volume));
    let shown = folder.display();
    match folder.symlink_metadata() {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => return Err(format!("{shown} is not a folder")),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(format!("look at {shown}: {error}")),
        Err(_) if mark.exists() => {
            return Err(format!(
                "folder {shown} was made before and is missing: is the disk that holds it mounted? Where its data are \
                 lost, remove {} to start with an empty one",
                mark.display()
            ));
        }
        Err(_) => make(paths, &folder)?,
    }
    if !mark.exists() {
        let failed = |e: std::io::Error| format!("make {}: {e}", mark.display());
        make_directory(mark.parent().unwrap_or(&paths.root), 0o700)?;
        std::fs::File::create(&mark).and_then(|f| f.sync_all()).map_err(failed)?;
    }
    Ok(folder)
}

/// Every user of the volume may write there, as other provisioners of this kind have it; the root keeps all others out.
fn make(paths: &Paths, folder: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("make folder {}: {e}", folder.display());
    make_directory(&paths.local_path, 0o700)?;
    std::fs::DirBuilder::new().mode(0o777).create(folder).map_err(failed)?;
    // The umask must not take bits away.
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).map_err(failed)?;
    std::fs::File::open(&paths.local_path).and_then(|root| root.sync_all()).map_err(failed)
}

/// Removes the folder with all data, unless somebody uses it.
pub fn remove(paths: &Paths, volume: &LocalPath) -> Result<(), String> {
    let folder = folder(paths, volume);
    let users = local::users(paths, &volume.name);
    if !users.is_empty() {
        return Err(format!("pods {} have it mounted still", users.join(", ")));
    }
    // The root may be a link to another disk, and mount points are told by where they really are.
    let real = match folder.canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), "the folder of a deleted volume is not there");
            return forget(paths, volume);
        }
        Err(error) => return Err(format!("look at {}: {error}", folder.display())),
    };
    let below = mounts::mount_points().into_iter().find(|m| m.starts_with(&real));
    if let Some(point) = below {
        return Err(format!("something is mounted at {}: unmount it", point.display()));
    }
    remove::tree(&folder)?;
    forget(paths, volume)
}

/// Lets go of a volume: what is there by its name is not this provisioner's any more.
pub fn forget(paths: &Paths, volume: &LocalPath) -> Result<(), String> {
    let mark = mark(paths, volume);
    match std::fs::remove_file(&mark) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("remove {}: {error}", mark.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    use std::os::unix::fs::MetadataExt;

    fn paths(root: &Path) -> Paths {
        Paths {
            root: root.join("kubelet"),
            pod_logs: root.join("l"),
            container_logs: root.join("c"),
            local_path: root.join("lp"),
        }
    }

    fn volume(name: &str) -> LocalPath {
        LocalPath { name: name.into(), node: "n1".into() }
    }

    #[test]
    fn made_once_kept_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        let folder = ensure(&paths, &volume("v")).unwrap();
        assert_eq!(folder.metadata().unwrap().mode() & 0o777, 0o777);
        assert_eq!(paths.local_path.metadata().unwrap().mode() & 0o777, 0o700);
        std::fs::write(folder.join("f"), "x").unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o750)).unwrap();
        ensure(&paths, &volume("v")).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("f")).unwrap(), "x");
        assert_eq!(folder.metadata().unwrap().mode() & 0o777, 0o750, "what users made of it stays");
        ensure(&paths, &volume("w")).unwrap();
        remove(&paths, &volume("v")).unwrap();
        assert!(!folder.exists() && paths.local_path.join("w").exists());
        remove(&paths, &volume("v")).unwrap();
        ensure(&paths, &volume("v")).unwrap();
    }

    #[test]
    fn a_folder_that_vanished_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        let folder = ensure(&paths, &volume("v")).unwrap();
        std::fs::remove_dir(&folder).unwrap();
        let error = ensure(&paths, &volume("v")).unwrap_err();
        assert!(error.contains("is the disk that holds it mounted?"), "{error}");
        std::fs::write(&folder, "").unwrap();
        assert!(ensure(&paths, &volume("v")).unwrap_err().contains("is not a folder"));
    }

    #[test]
    fn links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (paths, outside) = (paths(dir.path()), dir.path().join("outside"));
        std::fs::create_dir_all(&paths.local_path).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("keep"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, paths.local_path.join("v")).unwrap();
        assert!(ensure(&paths, &volume("v")).unwrap_err().contains("is not a folder"));
        remove(&paths, &volume("v")).unwrap();
        assert!(outside.join("keep").exists() && paths.local_path.join("v").symlink_metadata().is_err());
    }

    #[test]
    fn what_is_mounted_in_it_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let (paths, other) = (paths(dir.path()), dir.path().join("other"));
        let folder = ensure(&paths, &volume("v")).unwrap();
        let inner = folder.join("m");
        std::fs::create_dir(&inner).unwrap();
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join("keep"), "x").unwrap();
        let none = None::<&str>;
        if mount(Some(&other), &inner, none, MsFlags::MS_BIND, none).is_err() {
            return eprintln!("skipped: nothing can be mounted here");
        }
        let refused = remove(&paths, &volume("v"));
        umount2(&inner, MntFlags::UMOUNT_NOFOLLOW).unwrap();
        assert!(refused.unwrap_err().contains("something is mounted"));
        assert!(other.join("keep").exists());
        remove(&paths, &volume("v")).unwrap();
    }
}
