//! subPath mounts: a part of a volume, opened without ever leaving it, then bound to a path of the kubelet's own
//! (`pkg/volume/util/subpath`). A container that swaps a link for another cannot lead the mount elsewhere.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{make_directory, mounts};
use crate::names;

/// Binds `volume/sub` to `target` and returns `target`; a missing directory is made.
pub fn bind(volume: &Path, sub: &str, target: &Path) -> Result<PathBuf, String> {
    let sub = Path::new(sub);
    if !names::is_within(sub) {
        return Err(format!("subPath {} leaves its volume", sub.display()));
    }
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| format!("open {}: {e}", volume.display()))?;
    let found = match open(&root, sub) {
        Ok(found) => found,
        Err(rustix::io::Errno::NOENT) => make(&root, sub)?,
        Err(error) => return Err(format!("open {} in {}: {error}", sub.display(), volume.display())),
    };
    let is_dir = rustix::fs::fstat(&found)
        .map(|s| rustix::fs::FileType::from_raw_mode(s.st_mode).is_dir())
        .map_err(|e| format!("stat: {e}"))?;
    if mounts::is_mount_point(target) {
        mounts::unmount_below(target)?;
    }
    if is_dir {
        make_directory(target, 0o750)?;
    } else {
        make_directory(target.parent().unwrap_or(target), 0o750)?;
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(target)
            .map_err(|e| format!("make {}: {e}", target.display()))?;
    }
    let source = format!("/proc/self/fd/{}", found.as_raw_fd());
    mount(Some(source.as_str()), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|e| format!("bind {} to {}: {e}", sub.display(), target.display()))?;
    Ok(target.to_owned())
}

fn open(root: &OwnedFd, sub: &Path) -> rustix::io::Result<OwnedFd> {
    // Links inside the volume are followed (atomic volumes consist of them), but never out of it.
    rustix::fs::openat2(
        root,
        sub,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Opens a file of a volume for reading, never leaving the volume.
pub fn open_file(volume: &Path, path: &Path) -> std::io::Result<std::fs::File> {
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = std::fs::File::from(rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve)?);
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

/// Makes what is missing with the volume's own mode, so that whoever may write the volume may write there.
fn make(root: &OwnedFd, sub: &Path) -> Result<OwnedFd, String> {
    let mode =
        rustix::fs::fstat(root).map(|s| Mode::from_raw_mode(s.st_mode & 0o2777)).map_err(|e| format!("stat: {e}"))?;
    let mut at = PathBuf::new();
    for part in sub.components() {
        let parent = if at.as_os_str().is_empty() { open(root, Path::new(".")) } else { open(root, &at) };
        let parent = parent.map_err(|e| format!("open {}: {e}", at.display()))?;
        match rustix::fs::mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o700)) {
            Ok(()) => {
                // Set afterwards: the umask would take bits away.
                let made = open_below(&parent, Path::new(part.as_os_str()))
                    .map_err(|e| format!("open {}: {e}", sub.display()))?;
                rustix::fs::fchmod(&made, mode).map_err(|e| format!("set the mode of {}: {e}", sub.display()))?;
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(format!("make {} of the volume: {error}", sub.display())),
        }
        at.push(part);
    }
    open(root, sub).map_err(|e| format!("open {}: {e}", sub.display()))
}

fn open_below(parent: &OwnedFd, name: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(parent, name, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)
}
