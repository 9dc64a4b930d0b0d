//! Files, written whole or not at all, with their mode from the first byte.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};
use kinit_resource::Observed;
use nix::unistd::{Gid, Uid};

/// Who may do what with a file.
pub(crate) struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    /// Left to the clock when there is none.
    modified: Option<SystemTime>,
}

/// Writes a file atomically: temporary file in the same folder, data and mode on disk, then rename.
pub(crate) fn write(path: &str, bytes: &[u8], mode: u32, owner: &str) -> Result<()> {
    let (uid, gid) = ids(owner).with_context(|| format!("write {path}"))?;
    write_as(path, bytes, &Attributes { mode, uid: uid.as_raw(), gid: gid.as_raw(), modified: None })
}

/// Copies a file with its mode, owner, group and time of modification; the two may be on different file systems.
pub(crate) fn copy(from: &str, to: &str) -> Result<()> {
    let meta = std::fs::metadata(from).with_context(|| format!("look at {from}"))?;
    let bytes = std::fs::read(from).with_context(|| format!("read {from}"))?;
    let (mode, modified) = (meta.mode() & 0o7777, meta.modified().ok());
    write_as(to, &bytes, &Attributes { mode, uid: meta.uid(), gid: meta.gid(), modified })
}

fn write_as(path: &str, bytes: &[u8], attributes: &Attributes) -> Result<()> {
    let Attributes { mode, uid, gid, modified } = *attributes;
    let temporary = format!("{path}.kinit-new");
    let work = || -> Result<()> {
        // A leftover of a killed run may have another mode.
        std::fs::remove_file(&temporary).or_else(ignore_missing)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode & 0o777).open(&temporary)?;
        std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
        // After the owner: changing that takes set-user-ID bits away.
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        if let Some(modified) = modified {
            file.set_modified(modified)?;
        }
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        sync_parent(path)
    };
    work()
        .inspect_err(|_| {
            // A part of a file would keep a full file system full.
            std::fs::remove_file(&temporary).ok();
        })
        .with_context(|| format!("write {path}"))
}

/// Writes a file that only root may read.
pub(crate) fn write_private(path: &str, bytes: &[u8]) -> Result<()> {
    write(path, bytes, 0o600, "root:root")
}

/// Writes a file that only this user may read, whoever that is.
pub(crate) fn write_own(path: &str, bytes: &[u8]) -> Result<()> {
    let (uid, gid) = (Uid::effective().as_raw(), Gid::effective().as_raw());
    write_as(path, bytes, &Attributes { mode: 0o600, uid, gid, modified: None })
}

/// Gives a folder and everything in it to an owner.
pub(crate) fn give_tree(path: &str, owner: &str) -> Result<()> {
    let (uid, gid) = ids(owner).with_context(|| format!("give {path} away"))?;
    let mut left = vec![std::path::PathBuf::from(path)];
    while let Some(path) = left.pop() {
        let work = || -> std::io::Result<Vec<std::path::PathBuf>> {
            std::os::unix::fs::lchown(&path, Some(uid.as_raw()), Some(gid.as_raw()))?;
            if !std::fs::symlink_metadata(&path)?.is_dir() {
                return Ok(Vec::new());
            }
            std::fs::read_dir(&path)?.map(|entry| Ok(entry?.path())).collect()
        };
        left.extend(work().with_context(|| format!("give {} to {owner}", path.display()))?);
    }
    Ok(())
}

/// Makes renames in a folder durable.
pub(crate) fn sync_folder(path: &str) -> Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).with_context(|| format!("sync {path}"))
}

/// A file's text, if there is one.
pub(crate) fn read_optional(path: &str) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {path}")),
    }
}

/// Makes a directory (and its parents, 0755 root) with its mode and owner.
pub(crate) fn directory(path: &str, mode: u32, owner: &str) -> Result<()> {
    let work = || -> Result<()> {
        std::fs::create_dir_all(path)?;
        let (uid, gid) = ids(owner)?;
        std::os::unix::fs::chown(path, Some(uid.as_raw()), Some(gid.as_raw()))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        Ok(())
    };
    work().with_context(|| format!("make the directory {path}"))
}

/// Makes a symbolic link atomically, in place of whatever file or link stands there.
pub(crate) fn link(path: &str, target: &str) -> Result<()> {
    let temporary = format!("{path}.kinit-new");
    let work = || -> Result<()> {
        std::fs::remove_file(&temporary).or_else(ignore_missing)?;
        std::os::unix::fs::symlink(target, &temporary)?;
        std::fs::rename(&temporary, path)?;
        sync_parent(path)
    };
    work().with_context(|| format!("link {path} to {target}"))
}

/// Removes a file, link or directory; its absence is success.
pub(crate) fn remove(path: &str) -> Result<()> {
    let done = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    done.or_else(ignore_missing).with_context(|| format!("remove {path}"))
}

/// What [`observe`] says of a file with another content.
pub(crate) fn content_differs() -> Observed {
    Observed::Differs("content differs".to_owned())
}

/// Compares a path's kind, mode and owner; `content` where it is a file.
pub(crate) fn observe(path: &str, mode: u32, owner: &str, content: Option<&[u8]>) -> Result<Observed> {
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Observed::Missing),
        Err(error) => return Err(error).with_context(|| format!("look at {path}")),
    };
    if content.is_none() != meta.is_dir() || meta.file_type().is_symlink() {
        return Ok(Observed::Differs("is of another kind".to_owned()));
    }
    if let Some(content) = content
        && std::fs::read(path).with_context(|| format!("read {path}"))? != content
    {
        return Ok(content_differs());
    }
    let actual = meta.mode() & 0o7777;
    if actual != mode {
        return Ok(Observed::Differs(format!("mode is {actual:o}, not {mode:o}")));
    }
    match ids(owner) {
        Ok((uid, gid)) if (uid.as_raw(), gid.as_raw()) == (meta.uid(), meta.gid()) => Ok(Observed::AsWanted),
        Ok(_) => Ok(Observed::Differs(format!("owner is not {owner}"))),
        // The package that brings the user may not be installed yet.
        Err(_) => Ok(Observed::Differs(format!("there is no {owner} yet"))),
    }
}

/// `user:group` to numbers, from the host's own files: a static program cannot ask the host's name services.
fn ids(owner: &str) -> Result<(Uid, Gid)> {
    if owner == "root:root" {
        return Ok((Uid::from_raw(0), Gid::from_raw(0)));
    }
    let (user, group) = owner.split_once(':').with_context(|| format!("{owner} is not user:group"))?;
    Ok((Uid::from_raw(id_in("/etc/passwd", user)?), Gid::from_raw(id_in("/etc/group", group)?)))
}

fn id_in(file: &str, name: &str) -> Result<u32> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let id = line.and_then(|rest| rest.split(':').nth(1)).and_then(|id| id.parse().ok());
    id.with_context(|| format!("{name} is not in {file}"))
}

fn ignore_missing(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn sync_parent(path: &str) -> Result<()> {
    let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
    File::open(parent)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_keep_owner_mode_and_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        // Only root gives files away.
        let owner = if Uid::effective().is_root() { 4711 } else { Uid::effective().as_raw() };
        let modified = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        let attributes =
            Attributes { mode: 0o640, uid: owner, gid: Gid::effective().as_raw(), modified: Some(modified) };
        write_as(&path("a"), b"x", &attributes).unwrap();
        copy(&path("a"), &path("b")).unwrap();
        copy(&path("b"), &path("c")).unwrap();
        let meta = std::fs::metadata(path("c")).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o7777, meta.modified().unwrap()), (owner, 0o640, modified));
    }

    #[test]
    fn a_write_that_fails_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x").display().to_string();
        std::fs::create_dir_all(format!("{path}/y")).unwrap();
        write(&path, b"a", 0o600, "root:root").unwrap_err();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn files_have_their_mode_and_are_compared_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x").display().to_string();
        assert_eq!(observe(&path, 0o600, "root:root", Some(b"a")).unwrap(), Observed::Missing);
        write(&path, b"a", 0o600, "root:root").unwrap();
        assert_eq!(observe(&path, 0o600, "root:root", Some(b"a")).unwrap(), Observed::AsWanted);
        assert!(
            matches!(observe(&path, 0o644, "root:root", Some(b"a")).unwrap(), Observed::Differs(w) if w.contains("600"))
        );
        assert!(matches!(observe(&path, 0o600, "root:root", Some(b"b")).unwrap(), Observed::Differs(_)));
        assert!(matches!(observe(&path, 0o600, "nobody-here:root", Some(b"a")).unwrap(), Observed::Differs(_)));
        link(&path, "/dev/null").unwrap();
        assert!(matches!(observe(&path, 0o600, "root:root", Some(b"a")).unwrap(), Observed::Differs(_)));
        remove(&path).unwrap();
        remove(&path).unwrap();
    }
}
