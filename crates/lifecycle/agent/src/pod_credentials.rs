//! What pods of this host have mounted of the cluster's trust: `ca.crt` and `token` of their projected volumes, as the
//! kubelet keeps them (`/var/lib/kubelet/pods/UID/volumes/kubernetes.io~projected/NAME`).

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kinit_resource::{PodCredentials, sha256};

const PODS: &str = "/var/lib/kubelet/pods";
const PROJECTED: &str = "volumes/kubernetes.io~projected";

/// Of every pod whose folder is there.
pub(crate) fn all() -> Result<Vec<PodCredentials>> {
    below(Path::new(PODS))
}

fn below(pods: &Path) -> Result<Vec<PodCredentials>> {
    let mut found = Vec::new();
    for pod in entries(pods)? {
        let Some(uid) = pod.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
        for volume in entries(&pod.join(PROJECTED))? {
            found.extend(volume_of(&uid, &volume));
        }
    }
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    match std::fs::read_dir(folder) {
        Ok(list) => list.map(|entry| Ok(entry?.path())).collect(),
        // Pods come and go while this looks.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("list {}", folder.display())),
    }
}

fn volume_of(uid: &str, volume: &Path) -> Option<PodCredentials> {
    let authorities = std::fs::read(volume.join("ca.crt")).ok();
    let token = std::fs::read_to_string(volume.join("token")).ok();
    if authorities.is_none() && token.is_none() {
        return None;
    }
    let written = std::fs::metadata(volume.join("ca.crt")).map(|meta| meta.mtime()).unwrap_or_default();
    let authorities = authorities.map(|bytes| sha256(&bytes));
    Some(PodCredentials { uid: uid.to_owned(), authorities, written, token_key: token.as_deref().and_then(key_of) })
}

/// The key that a token's header names; nothing else of the token is looked at.
fn key_of(token: &str) -> Option<String> {
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next()?).ok()?;
    let header: serde_json::Value = serde_json::from_slice(&header).ok()?;
    Some(header.get("kid")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounted_trust_is_found_and_tokens_are_not_told() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("u1").join(PROJECTED).join("kube-api-access-x");
        std::fs::create_dir_all(&volume).unwrap();
        assert_eq!(below(dir.path()).unwrap(), []);
        std::fs::write(volume.join("ca.crt"), "CA").unwrap();
        let token = format!("{}.{}.sig", URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","kid":"k1"}"#), "secret");
        std::fs::write(volume.join("token"), token).unwrap();
        let found = below(dir.path()).unwrap();
        assert_eq!((found.len(), found[0].uid.as_str(), found[0].token_key.as_deref()), (1, "u1", Some("k1")));
        assert_eq!(found[0].authorities, Some(sha256(b"CA")));
        assert!(!serde_json::to_string(&found).unwrap().contains("secret") && found[0].written > 0);
        assert_eq!(below(&dir.path().join("none")).unwrap(), []);
        for rubbish in ["", "x", "e30.x", "!!.x"] {
            assert_eq!(key_of(rubbish), None);
        }
    }
}
