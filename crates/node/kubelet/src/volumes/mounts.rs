//! tmpfs and unmounting.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounts a tmpfs unless one is mounted there already.
pub fn tmpfs(path: &Path, size: Option<i64>, mode: u32) -> Result<(), String> {
    if is_mount_point(path) {
        return Ok(());
    }
    let mut options = format!("mode={mode:o}");
    if let Some(size) = size {
        options.push_str(&format!(",size={size}"));
    }
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
        .map_err(|e| format!("mount tmpfs on {}: {e}", path.display()))
}

/// Whether something is mounted at `path`.
pub fn is_mount_point(path: &Path) -> bool {
    mount_points().iter().any(|m| m == path)
}

/// Mount points of this namespace, in the order they were mounted.
pub fn mount_points() -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').nth(4)).map(|p| PathBuf::from(unescape(p))).collect()
}

/// mountinfo writes blanks and the like as `\040`.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let digits: Vec<u8> = std::iter::from_fn(|| bytes.next_if(u8::is_ascii_digit)).take(3).collect();
        let value = std::str::from_utf8(&digits).ok().and_then(|d| u8::from_str_radix(d, 8).ok());
        out.push(value.unwrap_or(b'\\'));
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Unmounts everything below (and at) `path`, last mounted first.
pub fn unmount_below(path: &Path) -> Result<(), String> {
    for point in mount_points().into_iter().rev().filter(|m| m.starts_with(path)) {
        if let Err(error) =
            umount2(&point, MntFlags::UMOUNT_NOFOLLOW).or_else(|_| umount2(&point, MntFlags::MNT_DETACH))
        {
            return Err(format!("unmount {}: {error}", point.display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_unescaped() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
    }
}
