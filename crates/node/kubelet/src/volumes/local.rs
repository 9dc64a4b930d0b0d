//! `local` PersistentVolumes: a path of this node, bound to a directory of the pod (`pkg/volume/local`).

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::atomic::{Access, give_to_group};
use super::{make_directory, mounts};
use crate::names::Paths;

/// Upstream's name of the plugin, in the paths of mounts.
const PLUGIN: &str = "kubernetes.io/local-volume";

/// What is to be mounted for which pod.
#[derive(Debug)]
pub struct Local<'a> {
    /// The PersistentVolume's name.
    pub name: &'a str,
    /// The path on the host.
    pub source: &'a Path,
    /// Nobody may write.
    pub read_only: bool,
    /// The group that it is to belong to.
    pub group: Option<i64>,
    /// The group's rights are only seen to when the top folder lacks them (`fsGroupChangePolicy: OnRootMismatch`).
    pub only_on_mismatch: bool,
}

/// Where a pod has a volume mounted.
pub fn target(paths: &Paths, uid: &str, name: &str) -> PathBuf {
    paths.volume(uid, PLUGIN, name)
}

/// The pods that have a volume mounted, by uid.
pub fn users(paths: &Paths, name: &str) -> Vec<String> {
    let mounted = mounts::mount_points();
    let pods = std::fs::read_dir(paths.pods()).into_iter().flatten().flatten();
    let uids = pods.map(|entry| entry.file_name().to_string_lossy().into_owned());
    uids.filter(|uid| mounted.contains(&target(paths, uid, name))).collect()
}

/// Mounts it; returns where. A volume that is mounted already stays as it is.
pub fn set_up(paths: &Paths, uid: &str, local: &Local<'_>) -> Result<PathBuf, String> {
    let target = target(paths, uid, local.name);
    if mounts::is_mount_point(&target) {
        return Ok(target);
    }
    check(local.source)?;
    let shared = users(paths, local.name);
    make_directory(&target, 0o750)?;
    if let Err(error) = bind(local, &target) {
        // Empty, as nothing is mounted: a directory that is not stays.
        let _ = std::fs::remove_dir(&target);
        return Err(error);
    }
    if let Some(group) = local.group.filter(|_| !local.read_only) {
        own(local, group, &shared)?;
    }
    Ok(target)
}

fn check(source: &Path) -> Result<(), String> {
    let shown = source.display();
    if !source.is_absolute() || source.components().any(|c| c == std::path::Component::ParentDir) {
        return Err(format!("invalid path: {shown} must be absolute and not contain '..'"));
    }
    match std::fs::metadata(source) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(format!(
            "path \"{shown}\" is not a directory; other files and devices are not supported by this kubelet"
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(format!("path \"{shown}\" does not exist")),
        Err(error) => Err(format!("look at {shown}: {error}")),
    }
}

fn bind(local: &Local<'_>, target: &Path) -> Result<(), String> {
    let none = None::<&str>;
    let failed = |e: nix::Error| format!("bind {} to {}: {e}", local.source.display(), target.display());
    mount(Some(local.source), target, none, MsFlags::MS_BIND, none).map_err(failed)?;
    if local.read_only {
        // The kernel takes this for a bind mount in a second step only.
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        if let Err(error) = mount(none, target, none, flags, none) {
            mounts::unmount_below(target)?;
            return Err(failed(error));
        }
    }
    Ok(())
}

/// Gives the volume to the pod's group, unless it is another pod's at the moment (`local.SetUpAt`: who came first keeps
/// it as it is).
fn own(local: &Local<'_>, group: i64, shared: &[String]) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("set the group of {}: {e}", local.source.display());
    let meta = std::fs::metadata(local.source).map_err(failed)?;
    let fits = i64::from(meta.gid()) == group && meta.mode() & 0o2070 == 0o2070;
    if fits && (local.only_on_mismatch || !shared.is_empty()) {
        return Ok(());
    }
    if !shared.is_empty() {
        tracing::warn!(
            volume = local.name,
            group,
            has = meta.gid(),
            "the group of a volume that another pod uses is left as it is; it may not be shareable"
        );
        return Ok(());
    }
    give_to_group(local.source, group, Access::Write).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn paths(root: &Path) -> Paths {
        Paths {
            root: root.to_owned(),
            pod_logs: root.join("l"),
            container_logs: root.join("c"),
            local_path: root.join("lp"),
        }
    }

    fn local<'a>(source: &'a Path) -> Local<'a> {
        Local { name: "v", source, read_only: false, group: None, only_on_mismatch: false }
    }

    #[test]
    fn bad_paths() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "").unwrap();
        let missing = dir.path().join("none");
        for (path, words) in [
            (Path::new("relative"), "invalid path"),
            (&dir.path().join("a/../../etc"), "invalid path"),
            (&missing, "does not exist"),
            (&file, "is not a directory"),
        ] {
            let error = set_up(&paths(dir.path()), "u", &local(path)).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        assert!(!target(&paths(dir.path()), "u", "v").exists());
    }

    #[test]
    fn mounted_once_read_only_and_taken_down_with_its_data_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (paths, data) = (paths(dir.path()), dir.path().join("data"));
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("f"), "x").unwrap();
        let wanted = Local { read_only: true, ..local(&data) };
        let Ok(at) = set_up(&paths, "u", &wanted) else { return eprintln!("skipped: nothing can be mounted here") };
        assert_eq!(set_up(&paths, "u", &wanted).unwrap(), at, "once");
        let points = mounts::mount_points();
        assert_eq!(points.iter().filter(|p| **p == at).count(), 1);
        assert_eq!(std::fs::read_to_string(at.join("f")).unwrap(), "x");
        assert!(std::fs::write(at.join("g"), "y").is_err(), "read-only");
        assert_eq!(users(&paths, "v"), ["u"]);
        crate::volumes::take_down(&paths.pod("u")).unwrap();
        assert!(!at.exists() && users(&paths, "v").is_empty());
        assert_eq!(std::fs::read_to_string(data.join("f")).unwrap(), "x", "unmounting loses nothing");
    }

    #[test]
    fn the_group_of_who_came_first() {
        let dir = tempfile::tempdir().unwrap();
        let (paths, data) = (paths(dir.path()), dir.path().join("data"));
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("f"), "x").unwrap();
        let gid = |p: &Path| i64::from(p.metadata().unwrap().gid());
        let with = |group, only_on_mismatch| Local { group: Some(group), only_on_mismatch, ..local(&data) };
        if set_up(&paths, "a", &with(4242, false)).is_err() {
            return eprintln!("skipped: nothing can be mounted here");
        }
        assert_eq!((gid(&data), gid(&data.join("f"))), (4242, 4242));
        set_up(&paths, "b", &with(4343, false)).unwrap();
        assert_eq!(gid(&data), 4242, "it is in use");
        for uid in ["a", "b"] {
            crate::volumes::take_down(&paths.pod(uid)).unwrap();
        }
        std::fs::set_permissions(data.join("f"), std::fs::Permissions::from_mode(0o600)).unwrap();
        set_up(&paths, "c", &with(4242, true)).unwrap();
        assert_eq!(
            data.join("f").metadata().unwrap().mode() & 0o777,
            0o600,
            "the top folder fits: the rest is not looked at"
        );
        crate::volumes::take_down(&paths.pod("c")).unwrap();
    }
}
