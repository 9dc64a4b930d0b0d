//! Undoing the switch to another version: what links and unit files were before is kept while a host's turn lasts, and
//! put back when something does not become healthy.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use kinit_resource::{Resource, UnitState};

use crate::{files, health, systemd};

/// What was at a path.
#[derive(Debug, PartialEq, Eq)]
enum Before {
    Nothing,
    Link(PathBuf),
    File { bytes: Vec<u8>, mode: u32 },
}

/// What was at some paths.
#[derive(Debug, Default)]
pub(crate) struct Kept(Vec<(String, Before)>);

impl Kept {
    /// Looks at links and files of root's.
    pub(crate) fn of(paths: &[String]) -> Result<Self> {
        let look = |path: &String| Ok((path.clone(), before(Path::new(path))?));
        paths.iter().map(look).collect::<Result<_>>().map(Self)
    }

    /// Makes the paths what they were; returns those that were not.
    fn put_back(&self) -> Result<Vec<&str>> {
        let mut changed = Vec::new();
        for (path, was) in &self.0 {
            if before(Path::new(path))? == *was {
                continue;
            }
            match was {
                Before::Nothing => std::fs::remove_file(path).with_context(|| format!("remove {path}"))?,
                Before::Link(target) => {
                    let target = target.to_str().with_context(|| format!("read the former link {path}"))?;
                    files::link(path, target)?;
                }
                Before::File { bytes, mode } => files::write(path, bytes, *mode, "root:root")?,
            }
            changed.push(path.as_str());
        }
        Ok(changed)
    }
}

fn before(path: &Path) -> Result<Before> {
    let meta = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Before::Nothing),
        other => other.with_context(|| format!("look at {}", path.display()))?,
    };
    if meta.is_symlink() {
        let target = std::fs::read_link(path).with_context(|| format!("read the link {}", path.display()))?;
        return Ok(Before::Link(target));
    }
    ensure!(meta.is_file(), "{} is neither a link nor a file", path.display());
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(Before::File { bytes, mode: meta.mode() & 0o7777 })
}

/// Puts back what was kept, starts these units again as they were, and waits until all of `healthy` answer. Everything
/// is tried, whatever fails.
pub(crate) async fn put_back(kept: &Kept, units: &[String], healthy: &[Resource]) -> Result<()> {
    if kept.put_back()?.is_empty() {
        return Ok(());
    }
    let mut failed = Vec::new();
    for unit in units {
        let state = UnitState::Running { reads: Vec::new(), reloads: false };
        if let Err(error) = systemd::apply(unit, &state).await {
            failed.push(format!("{error:#}"));
        }
    }
    for resource in healthy {
        if let Resource::Healthy { url, authority_file, seconds } = resource
            && let Err(error) = health::wait(url, authority_file.as_deref(), *seconds).await
        {
            failed.push(format!("{error:#}"));
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!(failed.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_is_there_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::os::unix::fs::symlink("/old", path("link")).unwrap();
        std::fs::write(path("file"), "old").unwrap();
        std::fs::write(path("same"), "same").unwrap();
        let paths = ["link", "file", "same", "new"].map(path);
        let kept = Kept::of(&paths).unwrap();
        std::fs::remove_file(path("link")).unwrap();
        std::os::unix::fs::symlink("/new", path("link")).unwrap();
        std::fs::write(path("file"), "new").unwrap();
        std::fs::write(path("new"), "new").unwrap();
        assert_eq!(kept.put_back().unwrap(), [path("link"), path("file"), path("new")]);
        assert_eq!(std::fs::read_link(path("link")).unwrap(), Path::new("/old"));
        assert_eq!(std::fs::read_to_string(path("file")).unwrap(), "old");
        assert!(!Path::new(&path("new")).exists());
        assert!(kept.put_back().unwrap().is_empty());
        assert!(Kept::of(&[dir.path().display().to_string()]).is_err(), "a folder");
    }
}
