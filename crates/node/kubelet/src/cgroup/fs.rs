//! cgroups as directories, on version 1 and 2.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::resources::PodLimits;

const ROOT: &str = "/sys/fs/cgroup";

/// Whether the unified hierarchy is the only one.
pub fn is_v2() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// Makes a cgroup in every hierarchy and sets its limits.
pub fn create(path: &Path, limits: &PodLimits, pids: Option<i64>) -> Result<()> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    if is_v2() {
        return create_v2(relative, limits, pids);
    }
    for hierarchy in hierarchies() {
        let directory = hierarchy.join(relative);
        std::fs::create_dir_all(&directory).with_context(|| format!("make cgroup {}", directory.display()))?;
        for (file, value) in v1_values(limits, pids) {
            let file = directory.join(file);
            if file.exists() {
                write(&file, &value)?;
            }
        }
    }
    Ok(())
}

fn v1_values(limits: &PodLimits, pids: Option<i64>) -> Vec<(&'static str, String)> {
    let mut values = vec![("cpu.shares", limits.shares.max(2).to_string())];
    values.push(("cpu.cfs_quota_us", limits.quota.map_or(-1, |q| q).to_string()));
    values.push(("memory.limit_in_bytes", limits.memory.unwrap_or(-1).to_string()));
    values.extend(pids.map(|p| ("pids.max", p.to_string())));
    values
}

fn create_v2(relative: &Path, limits: &PodLimits, pids: Option<i64>) -> Result<()> {
    let mut at = PathBuf::from(ROOT);
    for part in relative.components() {
        // Children get only the controllers their parent passes on.
        let passed = at.join("cgroup.subtree_control");
        for controller in ["cpu", "memory", "pids", "cpuset", "io", "hugetlb"] {
            // Not every kernel has every controller.
            let _ = std::fs::write(&passed, format!("+{controller}"));
        }
        at.push(part);
        if !at.exists() {
            std::fs::create_dir(&at).with_context(|| format!("make cgroup {}", at.display()))?;
        }
    }
    write(&at.join("cpu.weight"), &weight(limits.shares).to_string())?;
    let quota = limits.quota.map_or("max".to_owned(), |q| q.to_string());
    write(&at.join("cpu.max"), &format!("{quota} 100000"))?;
    write(&at.join("memory.max"), &limits.memory.map_or("max".to_owned(), |m| m.to_string()))?;
    if let Some(pids) = pids {
        write(&at.join("pids.max"), &pids.to_string())?;
    }
    Ok(())
}

/// Shares (2..262144) as a weight (1..10000), as `cm.CPUSharesToCPUWeight`.
pub fn weight(shares: i64) -> u64 {
    let shares = u64::try_from(shares).unwrap_or(2).clamp(2, 262_144);
    1 + ((shares - 2) * 9999) / 262_142
}

/// `pids.current` of a cgroup.
pub fn processes(path: &Path) -> Option<u64> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let top = Path::new(ROOT);
    let top = if is_v2() { top.to_owned() } else { top.join("pids") };
    std::fs::read_to_string(top.join(relative).join("pids.current")).ok()?.trim().parse().ok()
}

/// Removes a cgroup that nothing runs in, with the empty ones below it.
pub fn remove(path: &Path) -> Result<()> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let tops = if is_v2() { vec![PathBuf::from(ROOT)] } else { hierarchies() };
    for top in tops {
        remove_tree(&top.join(relative))?;
    }
    Ok(())
}

fn remove_tree(directory: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Ok(()) };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove_tree(&entry.path())?;
    }
    match std::fs::remove_dir(directory) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("remove cgroup {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Mounted version 1 hierarchies.
fn hierarchies() -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut out: Vec<PathBuf> = text
        .lines()
        .filter(|line| {
            line.split(" - ").nth(1).is_some_and(|rest| rest.starts_with("cgroup ") && !rest.contains("name="))
        })
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .collect();
    out.dedup();
    out
}

fn write(path: &Path, value: &str) -> Result<()> {
    std::fs::write(path, value).with_context(|| format!("write {value} to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
    }
}
