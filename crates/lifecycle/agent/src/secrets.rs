//! Keys and certificates on this host.

use std::path::Path;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kinit_pki::{Authority, KeyAlgorithm, Pair, Subject};
use kinit_resource::{LeafForm, LeafSpec, Observed, Place, Shared, sha256};
use time::{Duration, OffsetDateTime};

use crate::apply::note_parents;
use crate::files;
use crate::serve::State;

const PKI: &str = "/etc/kubernetes/pki";
/// A certificate that ends sooner is made anew by the next run.
const MARGIN: Duration = Duration::days(30);

fn path(stem: &str) -> String {
    format!("{PKI}/{stem}")
}

fn read_optional(path: &str) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {path}")),
    }
}

/// Identifies a shared secret without telling it. Where only one half of it is, it is not whole, and not missing
/// either.
pub(crate) fn observe(shared: Shared, place: Place) -> Result<Observed> {
    let (public, private) = shared.files();
    let secret = read_optional(&path(&private))?;
    let shown = match &public {
        Some(public) => read_optional(&path(public))?,
        None => secret.clone(),
    };
    Ok(match (shown, secret) {
        (None, None) => Observed::Missing,
        (None, Some(_)) if place == Place::Whole => {
            Observed::Differs(format!("{} is missing", path(&public.unwrap_or_default())))
        }
        (None, Some(_)) => Observed::Missing,
        (Some(_), None) if place == Place::Whole => Observed::Differs(format!("{} is missing", path(&private))),
        (Some(text), _) => Observed::Fingerprint(sha256(text.as_bytes())),
    })
}

/// Makes a shared secret. What exists already is never overwritten.
pub(crate) fn generate(shared: Shared, algorithm: KeyAlgorithm, days: u32) -> Result<()> {
    let (public, private) = shared.files();
    for file in public.iter().chain([&private]) {
        if Path::new(&path(file)).exists() {
            bail!("{} exists already", path(file));
        }
    }
    let pair = match shared {
        Shared::Authority(authority) => {
            kinit_pki::new_authority(authority.common_name(), algorithm, days, OffsetDateTime::now_utc())
        }
        Shared::ServiceAccountKey => kinit_pki::new_service_account_pair(algorithm),
        Shared::EncryptionConfig => Ok(Pair { cert: String::new(), key: encryption_config()? }),
    };
    write(shared, &pair.with_context(|| format!("make {}", shared.name()))?, false)
}

/// An EncryptionConfiguration for Secrets (apiserver.config.k8s.io/v1): a fresh AES-GCM key to write with; what was
/// stored plain stays readable.
fn encryption_config() -> Result<String> {
    let mut key = [0u8; 32];
    rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty()).context("get random bytes for a key")?;
    Ok(format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  \
         - aesgcm:\n      keys:\n      - name: key1\n        secret: {}\n  - identity: {{}}\n",
        STANDARD.encode(key)
    ))
}

/// Reads a shared secret whole.
pub(crate) fn read(shared: Shared) -> Result<Pair> {
    let (public, private) = shared.files();
    let need = |file: &str| read_optional(file)?.with_context(|| format!("there is no {file}"));
    let cert = public.map(|file| need(&path(&file))).transpose()?.unwrap_or_default();
    Ok(Pair { cert, key: need(&path(&private))? })
}

/// Writes a shared secret, private half first: whoever sees the certificate finds the key.
pub(crate) fn write(shared: Shared, pair: &Pair, public_only: bool) -> Result<()> {
    let (public, private) = shared.files();
    let folder = path(&private);
    note_parents(&folder)?;
    std::fs::create_dir_all(Path::new(&folder).parent().unwrap_or(Path::new(PKI)))
        .context("make the folder for certificates")?;
    if !public_only {
        files::write_private(&path(&private), pair.key.as_bytes())?;
    }
    if let Some(public) = public {
        note_parents(&path(&public))?;
        files::write(&path(&public), pair.cert.as_bytes(), 0o644, "root:root")?;
    }
    Ok(())
}

/// Makes a key, keeps it in memory, and returns the request for its certificate.
pub(crate) fn request(leaf: &LeafSpec, state: &mut State) -> Result<String> {
    let key = kinit_pki::new_key(leaf.algorithm).with_context(|| format!("make the key of {}", leaf.path()))?;
    let request = kinit_pki::request(&key, &leaf.subject).with_context(|| format!("request {}", leaf.path()))?;
    state.pending_keys.insert(leaf.path(), key);
    Ok(request)
}

/// Signs with an authority of this host.
pub(crate) fn sign(authority: Authority, request: &str, subject: &Subject) -> Result<String> {
    let pair = read(Shared::Authority(authority))?;
    kinit_pki::issue(&pair, request, subject, OffsetDateTime::now_utc())
        .with_context(|| format!("sign {}", subject.common_name))
}

/// Writes a certificate beside the key that was made for it, or both into a kubeconfig.
pub(crate) fn install(leaf: &LeafSpec, certificate: &str, state: &mut State) -> Result<()> {
    let key =
        state.pending_keys.remove(&leaf.path()).with_context(|| format!("no key was made for {}", leaf.path()))?;
    let shown = leaf.path();
    note_parents(&shown)?;
    std::fs::create_dir_all(Path::new(&shown).parent().unwrap_or(Path::new("/")))
        .context("make the folder for certificates")?;
    match &leaf.form {
        LeafForm::Files { path, owner } => {
            let key_path = format!("{path}.key");
            note_parents(&key_path)?;
            files::write(&key_path, key.as_bytes(), 0o600, owner)?;
            files::write(&shown, certificate.as_bytes(), 0o644, owner)
        }
        LeafForm::Kubeconfig { server, cluster, .. } => {
            let authority = std::fs::read_to_string(&leaf.authority_file)
                .with_context(|| format!("read {}", leaf.authority_file))?;
            let text = kubeconfig(cluster, server, &authority, &leaf.subject.common_name, certificate, &key);
            files::write_private(&shown, text.as_bytes())
        }
    }
}

/// kubeadm's form: everything embedded, context `USER@CLUSTER`.
fn kubeconfig(cluster: &str, server: &str, authority: &str, user: &str, certificate: &str, key: &str) -> String {
    let data = |text: &str| STANDARD.encode(text);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: \"{cluster}\"\n  cluster:\n    certificate-authority-data: {}\n    server: {server}\n\
         contexts:\n- name: {user}@{cluster}\n  context:\n    cluster: \"{cluster}\"\n    user: {user}\ncurrent-context: {user}@{cluster}\n\
         users:\n- name: {user}\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
        data(authority),
        data(certificate),
        data(key)
    )
}

/// Compares a certificate on disk with what it should be.
pub(crate) fn observe_leaf(leaf: &LeafSpec) -> Result<Observed> {
    let Some(text) = read_optional(&leaf.path())? else { return Ok(Observed::Missing) };
    let certificate = match &leaf.form {
        LeafForm::Files { path, .. } => {
            if read_optional(&format!("{path}.key"))?.is_none() {
                return Ok(Observed::Differs("its key is missing".to_owned()));
            }
            text
        }
        LeafForm::Kubeconfig { server, .. } => {
            if !text.lines().any(|l| l.trim() == format!("server: {server}")) {
                return Ok(Observed::Differs(format!("its server is not {server}")));
            }
            embedded_certificate(&text).unwrap_or_default()
        }
    };
    let Some(authority) = read_optional(&leaf.authority_file)? else {
        return Ok(Observed::Differs(format!("{} is missing", leaf.authority_file)));
    };
    let findings = kinit_pki::check(&certificate, &authority, &leaf.subject, OffsetDateTime::now_utc(), MARGIN);
    if findings.is_empty() {
        return Ok(Observed::AsWanted);
    }
    let words: Vec<String> = findings.iter().map(ToString::to_string).collect();
    Ok(Observed::Differs(words.join(", ")))
}

fn embedded_certificate(kubeconfig: &str) -> Option<String> {
    let data = kubeconfig.lines().find_map(|l| l.trim().strip_prefix("client-certificate-data: "))?;
    String::from_utf8(STANDARD.decode(data.trim()).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubeconfigs_embed_what_they_are_given() {
        let text = kubeconfig("c", "https://10.0.0.1:6443", "CA", "u", "CERT", "KEY");
        assert_eq!(embedded_certificate(&text).as_deref(), Some("CERT"));
        assert!(text.contains("current-context: u@c") && text.contains("    server: https://10.0.0.1:6443\n"));
    }
}
