//! Looking at resources.

use std::os::unix::fs::MetadataExt;

use anyhow::Result;
use kinit_resource::{Content, FileSpec, Observed, Resource};

use crate::{
    blobs, diff, files, health, images, kernel, kubeconfig, kubelet_certificates, packages, release, secrets, shared,
    systemd,
};

/// What is there; a failure to look is an answer too.
pub(crate) async fn observe(resource: &Resource) -> Observed {
    look(resource).await.unwrap_or_else(|error| Observed::Failed(format!("{error:#}")))
}

async fn look(resource: &Resource) -> Result<Observed> {
    match resource {
        Resource::Packages { names, .. } => packages::observe(names),
        Resource::PackageVersions { names, index, .. } => packages::observe_versions(names, index),
        Resource::Directory { path, mode, owner, .. } => files::observe(path, *mode, owner, None),
        Resource::File(file) => self::file(file),
        Resource::Link { path, target, keep_existing } => Ok(self::link(path, target, *keep_existing)),
        Resource::Absent { path } => release::observe(path),
        Resource::Erased { path } => release::observe_erased(path),
        Resource::Sysctl { key, value } => kernel::observe_sysctl(key, value),
        Resource::KernelModule(name) => kernel::observe_module(name),
        Resource::SwapOff => kernel::observe_swap(),
        Resource::Blob { path, sha256, mode } => blobs::observe(path, sha256, *mode),
        Resource::Image { name, sha256, .. } => images::observe(name, sha256).await,
        Resource::Unit { name, state } => systemd::observe(name, state).await,
        Resource::Shared { shared, place } => shared::Store::host().observe(*shared, *place),
        Resource::Leaf(leaf) => secrets::observe(leaf),
        Resource::ClusterOf { path, server, authority_file, credentials, .. } => {
            kubeconfig::observe_cluster(path, server, authority_file, credentials.as_deref())
        }
        // It is about what happens after a start.
        Resource::Steady { .. } => Ok(Observed::AsWanted),
        Resource::Healthy { url, authority_file, .. } => {
            Ok(match health::check(url, authority_file.as_deref()).await {
                Ok(()) => Observed::AsWanted,
                Err(_) => Observed::Missing,
            })
        }
    }
}

fn file(file: &FileSpec) -> Result<Observed> {
    if file.unless_exists.as_deref().is_some_and(serves) {
        return Ok(Observed::AsWanted);
    }
    match &file.content {
        Content::Text(text) => {
            let seen = files::observe(&file.path, file.mode, &file.owner, Some(text.as_bytes()))?;
            Ok(if seen == files::content_differs() { diff::of(&file.path, text)?.unwrap_or(seen) } else { seen })
        }
        // Its text is not known yet: there is nothing to compare with, so it is made anew.
        Content::Secret(_) => Ok(match std::fs::metadata(&file.path) {
            Ok(meta) if meta.mode() & 0o7777 == file.mode => Observed::Differs("may be outdated".to_owned()),
            Ok(_) => Observed::Differs("mode differs".to_owned()),
            Err(_) => Observed::Missing,
        }),
    }
}

/// Whether what makes a file unnecessary is there; a certificate that has ended makes nothing unnecessary, nor does one
/// of an authority that is being replaced.
fn serves(path: &str) -> bool {
    let Ok(meta) = std::fs::metadata(path) else { return false };
    let ended = || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        kinit_pki::expires_at(&text).is_some_and(|end| end <= time::OffsetDateTime::now_utc())
    };
    let outlived = || kubelet_certificates::is_outlived(path).unwrap_or(false);
    !(meta.is_file() && path.ends_with(".pem") && (ended() || outlived()))
}

fn link(path: &str, target: &str, keep_existing: bool) -> Observed {
    match std::fs::read_link(path) {
        Ok(actual) if actual == std::path::Path::new(target) => Observed::AsWanted,
        _ if keep_existing && std::fs::symlink_metadata(path).is_ok() => Observed::AsWanted,
        Ok(actual) => Observed::Differs(format!("links to {}", actual.display())),
        Err(_) if std::fs::symlink_metadata(path).is_ok() => Observed::Differs("is no link".to_owned()),
        Err(_) => Observed::Missing,
    }
}
