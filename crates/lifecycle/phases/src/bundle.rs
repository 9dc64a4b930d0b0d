//! The bundle on the desk: a folder with the multi-call binary and image archives.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use kinit_agent::Upload;
use kinit_manifests::{Bundle, ImageArchive};

/// What is in the folder, read and compressed once for all hosts.
pub struct LocalBundle {
    /// What the planner needs to know of it.
    pub bundle: Bundle,
    uploads: BTreeMap<String, Upload>,
}

impl LocalBundle {
    /// Reads `DIR/hyperkube` and `DIR/images/*.tar`.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("hyperkube");
        ensure!(
            path.exists(),
            "there is no bundle in {}: it needs a file hyperkube and a folder images (`cargo xtask bundle` makes one)",
            dir.display()
        );
        let hyperkube = Upload::read(&path)?;
        let mut uploads = BTreeMap::new();
        let mut images = Vec::new();
        let folder = dir.join("images");
        let mut archives: Vec<_> = std::fs::read_dir(&folder)
            .with_context(|| format!("list {}", folder.display()))?
            .filter_map(|e| e.ok().map(|e| e.path()))
            .filter(|p| p.extension().is_some_and(|x| x == "tar"))
            .collect();
        archives.sort();
        for archive in archives {
            let upload = Upload::read(&archive)?;
            images.push(ImageArchive { name: image_name(&archive)?, sha256: upload.sha256.clone() });
            uploads.insert(upload.sha256.clone(), upload);
        }
        let bundle = Bundle { hyperkube: hyperkube.sha256.clone(), images };
        uploads.insert(hyperkube.sha256.clone(), hyperkube);
        Ok(Self { bundle, uploads })
    }

    /// The file of that content.
    pub(crate) fn upload(&self, sha256: &str) -> Option<&Upload> {
        self.uploads.get(sha256)
    }
}

/// The first name in a docker-archive's manifest.
fn image_name(path: &Path) -> Result<String> {
    let read = || -> Result<String> {
        let mut archive = tar::Archive::new(std::fs::File::open(path)?);
        for entry in archive.entries()? {
            let mut entry = entry?;
            if entry.path()?.as_os_str() == "manifest.json" {
                let mut text = String::new();
                entry.read_to_string(&mut text)?;
                let manifest: serde_json::Value = serde_json::from_str(&text)?;
                return manifest
                    .pointer("/0/RepoTags/0")
                    .and_then(|n| n.as_str())
                    .map(str::to_owned)
                    .context("its manifest.json has no name");
            }
        }
        anyhow::bail!("there is no manifest.json in it")
    };
    read().with_context(|| format!("read the image archive {}", path.display()))
}
