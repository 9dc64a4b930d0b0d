//! A host's control groups, on machines with cgroup v1 (one hierarchy per controller) and on pure v2.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const TOP: &str = "/sys/fs/cgroup";
/// Hierarchies of a v1 machine; the named one is systemd's own.
pub const V1: &[&str] =
    &["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd", "unified"];
const MEMORY_LIMIT: &str = "4294967296";

/// One host's groups, by its playground's and its own name.
#[derive(Debug, Clone)]
pub struct Groups {
    below: PathBuf,
}

/// Whether the machine has one unified hierarchy.
pub fn is_v2() -> bool {
    Path::new(TOP).join("cgroup.controllers").exists()
}

fn hierarchies() -> Vec<PathBuf> {
    if is_v2() {
        return vec![TOP.into()];
    }
    V1.iter().map(|name| Path::new(TOP).join(name)).filter(|path| path.is_dir()).collect()
}

impl Groups {
    /// `kinit-playground/PLAYGROUND/HOST` below every hierarchy.
    pub fn new(playground: &str, host: &str) -> Self {
        Self { below: Path::new("kinit-playground").join(playground).join(host) }
    }

    /// Makes the groups and moves the calling process into them.
    pub fn enter(&self) -> Result<()> {
        for hierarchy in hierarchies() {
            let mut path = hierarchy.clone();
            let depth = self.below.iter().count();
            for (level, part) in self.below.iter().enumerate() {
                path.push(part);
                std::fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
                prepare(&hierarchy, &path, level + 1 == depth)?;
            }
            let limit = path.join(if is_v2() { "memory.max" } else { "memory.limit_in_bytes" });
            if limit.exists() {
                write(&limit, MEMORY_LIMIT)?;
            }
            write(&path.join("cgroup.procs"), "0")?;
        }
        Ok(())
    }

    /// Moves the calling process back to the top, so that the groups can be removed.
    pub fn leave() -> Result<()> {
        for hierarchy in hierarchies() {
            write(&hierarchy.join("cgroup.procs"), "0").or_else(|error| if is_v2() { Ok(()) } else { Err(error) })?;
        }
        Ok(())
    }

    /// Removes the groups once the last process has left them; a group whose processes are still dying is tried again
    /// for 5 s.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        for hierarchy in hierarchies() {
            let path = hierarchy.join(&self.below);
            loop {
                match remove_groups(&path) {
                    Ok(()) => break,
                    // The kernel tells of a v1 group's last exit nowhere that can be waited on.
                    Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                    Err(error) => bail!("remove {}: {error}", path.display()),
                }
            }
            if let Some(parent) = path.parent() {
                std::fs::remove_dir(parent).ok();
            }
        }
        Ok(())
    }
}

/// A new v1 cpuset group is empty until told otherwise; a v2 group's children have no controllers until told otherwise.
fn prepare(hierarchy: &Path, path: &Path, last: bool) -> Result<()> {
    if is_v2() {
        // The last group holds processes: what it delegates is for systemd inside to say.
        if last {
            return Ok(());
        }
        let available = std::fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
        let enable: Vec<String> = available.split_whitespace().map(|c| format!("+{c}")).collect();
        // A controller that a process at the top keeps from being delegated is not missed by the hosts.
        std::fs::write(path.join("cgroup.subtree_control"), enable.join(" ")).ok();
        return Ok(());
    }
    if hierarchy.ends_with("cpuset") {
        let parent = path.parent().unwrap_or(hierarchy);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            write(&path.join(file), std::fs::read_to_string(parent.join(file)).unwrap_or_default().trim())?;
        }
        write(&path.join("cgroup.clone_children"), "1")?;
    }
    Ok(())
}

fn remove_groups(path: &Path) -> std::io::Result<()> {
    let Ok(entries) = std::fs::read_dir(path) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    std::fs::remove_dir(path)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {text} to {}", path.display()))
}
