//! Size limits of emptyDir volumes on disk (`pkg/kubelet/eviction: emptyDirLimitEviction`).

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use super::Volumes;
use crate::quantity;

/// A volume with a limit: its name, where it is, the limit as written, in bytes.
pub type Limited = (String, PathBuf, String, u64);

/// The pod's volumes on disk that have a limit.
pub fn limited(pod: &Pod, volumes: &Volumes) -> Vec<Limited> {
    let all = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    all.filter_map(|volume| {
        let source = volume.empty_dir.as_ref().filter(|e| e.medium.as_deref() != Some("Memory"))?;
        let limit = source.size_limit.as_ref()?;
        let bytes = quantity::units(&limit.0).and_then(|b| u64::try_from(b).ok()).filter(|b| *b > 0)?;
        Some((volume.name.clone(), volumes.get(&volume.name)?.path.clone(), limit.0.clone(), bytes))
    })
    .collect()
}

/// The first volume that holds more than it may: the message of its pod's eviction.
pub fn exceeded(limited: &[Limited]) -> Option<String> {
    let over = limited.iter().find(|(_, path, _, limit)| usage(path) > *limit)?;
    Some(format!("Usage of EmptyDir volume \"{}\" exceeds the limit \"{}\". ", over.0, over.2))
}

/// Bytes that a directory's files take on disk. Other file systems mounted in it do not count.
pub fn usage(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(top) = path.symlink_metadata() else { return 0 };
    let mut total = 0;
    let mut waiting = vec![path.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(meta) = entry.path().symlink_metadata() else { continue };
            if meta.dev() != top.dev() {
                continue;
            }
            total += meta.blocks() * 512;
            if meta.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_over_its_limit_is_found() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/f"), vec![1; 100_000]).unwrap();
        let limited = |limit| vec![("v".to_owned(), dir.path().to_owned(), "x".to_owned(), limit)];
        assert!(exceeded(&limited(50_000)).is_some());
        assert!(exceeded(&limited(1_000_000)).is_none());
    }
}
