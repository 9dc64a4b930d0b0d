//! Removes trees, but nothing that is mounted in them: what is behind a mount is somebody's data. That all was
//! unmounted before is not relied upon.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

/// Removes a directory with everything in it; one that is not there is no error. Stops at the first mount point, and
/// follows no link.
pub fn tree(path: &Path) -> Result<(), String> {
    let failed = |e: Errno| format!("remove {}: {e}", path.display());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(format!("remove {}: it has no parent", path.display()));
    };
    let parent = match rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        result => result.map_err(failed)?,
    };
    match entry(parent.as_fd(), Path::new(name)) {
        Ok(()) => Ok(()),
        Err(Errno::XDEV) => Err(format!("remove {}: something is mounted there, which is left alone", path.display())),
        Err(error) => Err(failed(error)),
    }
}

/// Removes one entry of a directory. `XDEV` stands for a mount point.
fn entry(parent: BorrowedFd<'_>, name: &Path) -> Result<(), Errno> {
    let stat = match rustix::fs::statx(parent, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) {
        Err(Errno::NOENT) => return Ok(()),
        result => result?,
    };
    if !stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
        // Linux before 5.8 cannot tell.
        return Err(Errno::OPNOTSUPP);
    }
    if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(Errno::XDEV);
    }
    let kind = rustix::fs::FileType::from_raw_mode(u32::from(stat.stx_mode));
    if !kind.is_dir() {
        return gone(rustix::fs::unlinkat(parent, name, AtFlags::empty()));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    for found in Dir::read_from(&directory)? {
        let found = found?;
        let bytes = found.file_name().to_bytes();
        if !matches!(bytes, b"." | b"..") {
            entry(directory.as_fd(), Path::new(name_of(bytes)))?;
        }
    }
    gone(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR))
}

fn name_of(bytes: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

fn gone(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    #[test]
    fn trees_go_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (tree_, outside) = (dir.path().join("t"), dir.path().join("o"));
        std::fs::create_dir_all(tree_.join("a/b")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("keep"), "x").unwrap();
        std::fs::write(tree_.join("a/f"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, tree_.join("a/link")).unwrap();
        tree(&tree_).unwrap();
        assert!(!tree_.exists() && outside.join("keep").exists());
        tree(&tree_).unwrap();
        tree(&tree_.join("never/was")).unwrap();
    }

    /// A bind mount of the same file system: only its being a mount point tells it from a folder.
    #[test]
    fn what_is_mounted_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (data, target) = (dir.path().join("data"), dir.path().join("t/volumes/v"));
        std::fs::create_dir_all(&target).unwrap();
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("precious"), "x").unwrap();
        let none = None::<&str>;
        if mount(Some(&data), &target, none, MsFlags::MS_BIND, none).is_err() {
            return eprintln!("skipped: nothing can be mounted here");
        }
        let refused = tree(&dir.path().join("t"));
        assert!(data.join("precious").exists() && target.join("precious").exists());
        umount2(&target, MntFlags::UMOUNT_NOFOLLOW).unwrap();
        assert!(refused.unwrap_err().contains("something is mounted there"));
        tree(&dir.path().join("t")).unwrap();
        assert!(data.join("precious").exists());
    }
}
