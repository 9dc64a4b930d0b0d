//! The tests' image: Debian's static busybox, as a docker-archive of one layer.

use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};

/// What containers and sandboxes run.
pub const IMAGE: &str = "kinit.test/busybox:1";
/// The program (package busybox-static, which `cargo xtask setup` installs).
const BUSYBOX: &str = "/bin/busybox";
/// Names that scripts may call it by.
const APPLETS: &[&str] =
    &["sh", "cat", "echo", "sleep", "tail", "test", "touch", "trap", "true", "false", "id", "ls", "rm"];

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, path, bytes).unwrap();
}

/// Writes the archive.
pub fn write(path: &Path) {
    let busybox = std::fs::read(BUSYBOX)
        .unwrap_or_else(|e| panic!("{BUSYBOX}: {e}; `cargo xtask setup` installs busybox-static"));
    let mut layer = tar::Builder::new(Vec::new());
    for (directory, mode) in [("bin/", 0o755), ("tmp/", 0o1777)] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        layer.append_data(&mut header, directory, std::io::empty()).unwrap();
    }
    append(&mut layer, "bin/busybox", 0o755, &busybox);
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    let layer = layer.into_inner().unwrap();
    let digest = hex::encode(Sha256::digest(&layer));
    // A sandbox runs the image's own command; a container has its own.
    let config = json!({"architecture": "amd64", "os": "linux",
        "config": {"Cmd": ["/bin/sleep", "1000000"], "Env": ["PATH=/bin"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]}})
    .to_string();
    let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]).to_string();
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, "manifest.json", 0o644, manifest.as_bytes());
    append(&mut archive, "config.json", 0o644, config.as_bytes());
    append(&mut archive, "layer.tar", 0o644, &layer);
    std::fs::write(path, archive.into_inner().unwrap()).unwrap();
}
