//! Container image archives without a builder: a static binary becomes a docker-archive tar of one layer.
//!
//! Pure and reproducible: the same bytes in give the same bytes out (no clock, no owner names, sorted entries).

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

/// A file of the image's only layer.
#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    /// Path inside the image, with or without a leading slash.
    pub path: &'a str,
    /// Permission bits.
    pub mode: u32,
    /// Its content.
    pub bytes: &'a [u8],
}

/// What the image is called and how it runs.
#[derive(Debug, Clone, Default)]
pub struct Config<'a> {
    /// Full reference, `registry/name:tag`.
    pub reference: &'a str,
    /// Entry point.
    pub entrypoint: &'a [&'a str],
    /// Default arguments.
    pub cmd: &'a [&'a str],
    /// `uid:gid` to run as; empty is root.
    pub user: &'a str,
    /// Environment, `NAME=value`.
    pub env: &'a [&'a str],
    /// Links of the layer: (path, target).
    pub links: &'a [(&'a str, &'a str)],
}

/// Makes a docker-archive (`docker save` form) that `ctr images import` and any runtime reads.
pub fn archive(files: &[File<'_>], config: &Config<'_>) -> Result<Vec<u8>> {
    let layer = layer(files, config.links)?;
    let layer_digest = hex::encode(Sha256::digest(&layer));
    let image = json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Entrypoint": config.entrypoint,
            "Cmd": config.cmd,
            "User": config.user,
            "Env": if config.env.is_empty() { vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] } else { config.env.to_vec() },
            "WorkingDir": "/",
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask images" }],
    });
    let image = serde_json::to_vec(&image).context("encode the image configuration")?;
    let image_digest = hex::encode(Sha256::digest(&image));
    let layer_path = format!("{layer_digest}/layer.tar");
    let manifest = json!([{
        "Config": format!("{image_digest}.json"),
        "RepoTags": [config.reference],
        "Layers": [layer_path],
    }]);
    let manifest = serde_json::to_vec(&manifest).context("encode the archive's manifest")?;
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, "manifest.json", 0o644, &manifest)?;
    append(&mut tar, &format!("{image_digest}.json"), 0o644, &image)?;
    append(&mut tar, &layer_path, 0o644, &layer)?;
    tar.into_inner().context("finish the image archive")
}

fn layer(files: &[File<'_>], links: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut files: Vec<File<'_>> = files.to_vec();
    files.sort_by_key(|f| f.path.trim_start_matches('/').to_owned());
    let mut tar = tar::Builder::new(Vec::new());
    let mut directories = std::collections::BTreeSet::from(["tmp/".to_owned()]);
    for path in files.iter().map(|f| f.path).chain(links.iter().map(|l| l.0)) {
        let path = path.trim_start_matches('/');
        for (at, _) in path.match_indices('/') {
            directories.insert(path[..=at].to_owned());
        }
    }
    for directory in &directories {
        let mut header = header(if directory == "tmp/" { 0o1777 } else { 0o755 }, 0);
        header.set_entry_type(tar::EntryType::Directory);
        tar.append_data(&mut header, directory, std::io::empty()).with_context(|| format!("add {directory}"))?;
    }
    for file in files {
        append(&mut tar, file.path.trim_start_matches('/'), file.mode, file.bytes)?;
    }
    let mut links = links.to_vec();
    links.sort_unstable();
    for (path, target) in links {
        let mut header = header(0o777, 0);
        header.set_entry_type(tar::EntryType::Symlink);
        tar.append_link(&mut header, path.trim_start_matches('/'), target).with_context(|| format!("link {path}"))?;
    }
    tar.into_inner().context("finish the layer")
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let mut header = header(mode, bytes.len() as u64);
    tar.append_data(&mut header, path, bytes).with_context(|| format!("add {path} to the archive"))
}

fn header(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_reproducible_and_name_their_layer() {
        let files = [File { path: "/pause", mode: 0o755, bytes: b"elf" }];
        let config = Config { reference: "kinit.dev/pause:0.1.0", entrypoint: &["/pause"], ..Config::default() };
        let one = archive(&files, &config).unwrap();
        assert_eq!(one, archive(&files, &config).unwrap());
        let mut read = tar::Archive::new(one.as_slice());
        let names: Vec<String> =
            read.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(names[0], "manifest.json");
        assert!(names[2].ends_with("/layer.tar"), "{names:?}");
    }
}
