//! hostPath types (`pkg/volume/hostpath`).

use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

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
