//! hostPath types (`pkg/volume/hostpath`).

use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::Mounted;
use super::plugin::{Failure, Request, VolumePlugin};

/// hostPath: the host's own path, checked or made.
pub struct HostPath;

#[async_trait]
impl VolumePlugin for HostPath {
    fn serves(&self, volume: &Volume) -> bool {
        volume.host_path.is_some()
    }

    async fn set_up(&self, request: Request<'_>) -> Result<Mounted, Failure> {
        let source = request.volume.host_path.clone().unwrap_or_default();
        let path = PathBuf::from(source.path);
        prepare(&path, source.type_.as_deref().unwrap_or(""))?;
        Ok(Mounted { path, read_only: false })
    }
}

/// Checks that the path is what its type says, or makes it.
pub fn prepare(path: &Path, kind: &str) -> Result<(), String> {
    let shown = path.display();
    let meta = std::fs::metadata(path).ok();
    let is = |ok: bool, what: &str| {
        if ok { Ok(()) } else { Err(format!("hostPath type check failed: {shown} is not a {what}")) }
    };
    match kind {
        // The runtime makes a directory where there is nothing, as upstream's do.
        "" => Ok(()),
        "DirectoryOrCreate" => match meta {
            Some(m) => is(m.is_dir(), "directory"),
            None => std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(path)
                .map_err(|e| format!("make {shown}: {e}")),
        },
        "FileOrCreate" => match meta {
            Some(m) => is(m.is_file(), "file"),
            None => std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(path)
                .map(drop)
                .map_err(|e| format!("make {shown}: {e}")),
        },
        "Directory" => is(meta.is_some_and(|m| m.is_dir()), "directory"),
        "File" => is(meta.is_some_and(|m| m.is_file()), "file"),
        "Socket" => is(meta.is_some_and(|m| m.file_type().is_socket()), "socket file"),
        "CharDevice" => is(meta.is_some_and(|m| m.file_type().is_char_device()), "character device"),
        "BlockDevice" => is(meta.is_some_and(|m| m.file_type().is_block_device()), "block device"),
        other => Err(format!("hostPath type {other:?} is not known")),
    }
}
