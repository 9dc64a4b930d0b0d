//! Files that change all at once (`pkg/volume/util/atomic_writer.go`): users see links through `..data`, which is
//! replaced by rename.
//!
//! ```text
//! dir/key       → ..data/key
//! dir/..data    → ..2026_11_20_10_00_00.123456789
//! dir/..2026…/  the files
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path};

use k8s_openapi::jiff::Timestamp;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Content.
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner, when it is not root.
    pub owner: Option<u32>,
}

/// Files by relative path.
pub type Files = BTreeMap<String, File>;

const DATA: &str = "..data";

/// Makes `directory` show exactly `files`. Does nothing when it does already.
pub fn write(directory: &Path, files: &Files, group: Option<i64>) -> io::Result<()> {
    for path in files.keys() {
        check(path)?;
    }
    let data = directory.join(DATA);
    let old = std::fs::read_link(&data).ok();
    if old.is_some() && matches(&data, files)? {
        return Ok(());
    }
    let fresh = Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S.%9f").to_string();
    let target = directory.join(&fresh);
    std::fs::DirBuilder::new().mode(0o755).create(&target)?;
    for (path, file) in files {
        put(&target.join(path), file)?;
    }
    if let Some(group) = group {
        give_to_group(&target, group, Access::Read)?;
    }
    let temporary = directory.join("..data_tmp");
    remove_if_there(&temporary)?;
    symlink(&fresh, &temporary)?;
    std::fs::rename(&temporary, &data)?;
    link_names(directory, files)?;
    if let Some(old) = old.filter(|o| *o != Path::new(&fresh)) {
        std::fs::remove_dir_all(directory.join(old))?;
    }
    Ok(())
}

fn check(path: &str) -> io::Result<()> {
    let bad = path.is_empty()
        || path.starts_with("..")
        || !Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if bad { Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {path:?}"))) } else { Ok(()) }
}

fn put(path: &Path, file: &File) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(file.mode).open(path)?;
    io::Write::write_all(&mut out, &file.bytes)?;
    // The umask must not take bits away from what was asked for.
    out.set_permissions(std::fs::Permissions::from_mode(file.mode))?;
    if let Some(owner) = file.owner {
        std::os::unix::fs::fchown(&out, Some(owner), None)?;
    }
    Ok(())
}

fn matches(data: &Path, files: &Files) -> io::Result<bool> {
    for (path, file) in files {
        match std::fs::read(data.join(path)) {
            Ok(bytes) if bytes == file.bytes => {}
            Ok(_) => return Ok(false),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
                ) =>
            {
                return Ok(false);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(count(data)? == files.len())
}

fn count(directory: &Path) -> io::Result<usize> {
    let mut total = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        total += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(total)
}

/// Links for first path elements; removes those of files that are gone.
fn link_names(directory: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<&str> = files.keys().filter_map(|p| p.split('/').next()).collect();
    for name in &wanted {
        let link = directory.join(name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// What a volume's group may do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read what the kubelet writes.
    Read,
    /// Read and write.
    Write,
}

/// Gives a tree to a group (`pkg/volume.SetVolumeOwnership`).
pub fn give_to_group(path: &Path, group: i64, access: Access) -> io::Result<()> {
    let gid = u32::try_from(group).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "fsGroup out of range"))?;
    let meta = path.symlink_metadata()?;
    if meta.is_symlink() {
        return std::os::unix::fs::lchown(path, None, Some(gid));
    }
    std::os::unix::fs::chown(path, None, Some(gid))?;
    let allowed = match access {
        Access::Read => 0o440,
        Access::Write => 0o660,
    };
    let mut mode = meta.mode() & 0o7777 | allowed;
    if meta.is_dir() {
        mode |= 0o2110;
        for entry in std::fs::read_dir(path)? {
            give_to_group(&entry?.path(), group, access)?;
        }
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter()
            .map(|(p, b)| ((*p).to_owned(), File { bytes: b.as_bytes().to_vec(), mode: 0o644, owner: None }))
            .collect()
    }

    #[test]
    fn a_group_reads_what_is_written_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let own = i64::from(std::fs::metadata(dir.path()).unwrap().gid());
        for (access, file, directory) in [(Access::Read, 0o440, 0o2750), (Access::Write, 0o660, 0o2770)] {
            let tree = dir.path().join(format!("{access:?}"));
            std::fs::DirBuilder::new().mode(0o700).create(&tree).unwrap();
            std::fs::write(tree.join("a"), "").unwrap();
            std::fs::set_permissions(tree.join("a"), std::fs::Permissions::from_mode(0o400)).unwrap();
            give_to_group(&tree, own, access).unwrap();
            let mode = |path: &Path| path.metadata().unwrap().mode() & 0o7777;
            assert_eq!((mode(&tree.join("a")), mode(&tree)), (file, directory), "{access:?}");
        }
    }

    #[test]
    fn replaces_all_files_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).ok();
        write(dir.path(), &files(&[("a", "1"), ("d/b", "2")]), None).unwrap();
        assert_eq!((read("a").as_deref(), read("d/b").as_deref()), (Some("1"), Some("2")));
        let before = std::fs::read_link(dir.path().join("..data")).unwrap();
        write(dir.path(), &files(&[("a", "1"), ("d/b", "2")]), None).unwrap();
        assert_eq!(std::fs::read_link(dir.path().join("..data")).unwrap(), before, "nothing changed");
        write(dir.path(), &files(&[("a", "3")]), None).unwrap();
        assert_eq!((read("a").as_deref(), read("d/b")), (Some("3"), None));
        assert!(!dir.path().join(before).exists());
        for bad in ["../x", "..y", "/z", ""] {
            assert!(write(dir.path(), &files(&[(bad, "")]), None).is_err(), "{bad}");
        }
    }
}
