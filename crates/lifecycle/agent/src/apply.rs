//! Bringing resources about. Each is idempotent, and noted in the ledger before it changes anything.

use anyhow::{Context, Result, bail};
use kinit_resource::{Content, FileSpec, Resource};

use crate::ledger::Ledger;
use crate::{blobs, files, health, images, kernel, kubeconfig, kubelet_certificates, packages, release, systemd};

/// Brings one resource about; `secret` is the text behind `Content::Secret`.
pub(crate) async fn apply(resource: &Resource, secret: Option<&str>) -> Result<()> {
    match resource {
        Resource::Packages { names, mask, index } => packages::install(names, mask, index.as_deref()).await,
        Resource::PackageVersions { names, index, .. } => packages::upgrade(names, index).await,
        Resource::Directory { path, mode, owner, populated } => {
            note_parents(path)?;
            if *populated {
                Ledger::note_populated(path)?;
            }
            files::directory(path, *mode, owner)
        }
        Resource::File(file) => self::file(file, secret),
        Resource::Link { path, target, keep_existing } => {
            if *keep_existing && std::fs::symlink_metadata(path).is_ok() {
                return Ok(());
            }
            note_parents(path)?;
            make_parent(path)?;
            files::link(path, target)
        }
        Resource::Absent { path } => release::apply(path).await,
        Resource::Erased { path } => release::erase(path),
        Resource::Sysctl { key, value } => kernel::set_sysctl(key, value),
        Resource::KernelModule(name) => kernel::load_module(name).await,
        Resource::SwapOff => kernel::swap_off(),
        Resource::Blob { path, sha256, mode } => {
            note_parents(path)?;
            make_parent(path)?;
            blobs::place(path, sha256, *mode)
        }
        Resource::Image { name, archive, sha256 } => images::import(name, archive, sha256).await,
        Resource::Unit { name, state } => systemd::apply(name, state).await,
        Resource::ClusterOf { path, server, authority_file, stamp, credentials } => {
            // The kubeconfig itself is the component's: it goes with whatever the component made.
            note_parents(stamp)?;
            if credentials.is_some() {
                note_parents(path)?;
            }
            kubeconfig::follow_cluster(path, server, authority_file, stamp, credentials.as_deref())
        }
        Resource::Steady { unit, seconds } => systemd::steady(unit, *seconds).await,
        Resource::Healthy { url, authority_file, seconds } => {
            health::wait(url, authority_file.as_deref(), *seconds).await
        }
        Resource::Shared { .. } | Resource::Leaf(_) => {
            bail!("certificates are made in a conversation, not as part of a batch")
        }
    }
}

fn file(file: &FileSpec, secret: Option<&str>) -> Result<()> {
    let text = match &file.content {
        Content::Text(text) => text.as_str(),
        Content::Secret(name) => secret.with_context(|| format!("the text of {name} was not sent"))?,
    };
    if let Some(certificate) = file.unless_exists.as_deref().filter(|path| path.ends_with(".pem"))
        && kubelet_certificates::is_outlived(certificate)?
    {
        // A kubelet that finds a certificate that has not ended asks for no other.
        kubelet_certificates::forget(certificate)?;
    }
    note_parents(&file.path)?;
    make_parent(&file.path)?;
    files::write(&file.path, text.as_bytes(), file.mode, &file.owner)
}

fn make_parent(path: &str) -> Result<()> {
    let parent = std::path::Path::new(path).parent().unwrap_or(std::path::Path::new("/"));
    std::fs::create_dir_all(parent).with_context(|| format!("make the directory {}", parent.display()))
}

/// Notes the path, and the topmost of its folders that does not exist: that one goes at reset.
pub(crate) fn note_parents(path: &str) -> Result<()> {
    let missing = std::path::Path::new(path).ancestors().take_while(|p| std::fs::symlink_metadata(p).is_err()).last();
    match missing.and_then(|p| p.to_str()) {
        Some(topmost) => Ledger::note_path(topmost),
        None => Ledger::note_path(path),
    }
}
