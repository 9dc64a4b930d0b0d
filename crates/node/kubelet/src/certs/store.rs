//! Certificates as files: `NAME-<time>.pem` with certificate and key, and the link `NAME-current.pem`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::volumes::files::write_atomically;

/// A name under the certificate directory.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
    name: &'static str,
}

/// From when to when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From.
    pub not_before: Timestamp,
    /// To.
    pub not_after: Timestamp,
}

impl Store {
    /// `kubelet-client` or `kubelet-server`.
    pub fn new(directory: &Path, name: &'static str) -> Self {
        Self { directory: directory.to_owned(), name }
    }

    /// The link that always names the newest.
    pub fn current(&self) -> PathBuf {
        self.directory.join(format!("{}-current.pem", self.name))
    }

    /// The validity of the present certificate; `None` when there is none that can be read.
    pub fn validity(&self) -> Option<Validity> {
        validity(&self.current()).ok()
    }

    /// Writes a new pair and turns the link to it.
    pub fn save(&self, certificate_pem: &str, key_pem: &str) -> Result<()> {
        crate::volumes::make_directory(&self.directory, 0o755).map_err(|e| anyhow::anyhow!(e))?;
        let stamp = Timestamp::now().strftime("%Y-%m-%d-%H-%M-%S");
        let file = format!("{}-{stamp}.pem", self.name);
        let path = self.directory.join(&file);
        let text = format!("{}\n{}", certificate_pem.trim_end(), key_pem);
        write_atomically(&path, text.as_bytes(), 0o600).with_context(|| format!("write {}", path.display()))?;
        let old = std::fs::read_link(self.current()).ok();
        let temporary = self.directory.join(format!("{}-current.tmp", self.name));
        let _ = std::fs::remove_file(&temporary);
        std::os::unix::fs::symlink(&path, &temporary).with_context(|| format!("link {}", temporary.display()))?;
        std::fs::rename(&temporary, self.current()).with_context(|| format!("link {}", self.current().display()))?;
        // The one before stays for whoever has just opened it; older ones are of no use.
        self.forget_older(&path, old.as_deref());
        Ok(())
    }

    fn forget_older(&self, newest: &Path, previous: Option<&Path>) {
        let prefix = format!("{}-2", self.name);
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let ours = entry.file_name().to_string_lossy().starts_with(&prefix);
            let keep = path == newest || previous.is_some_and(|p| p.file_name() == path.file_name());
            if ours && !keep {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// Reads the validity of the first certificate of a PEM file.
pub fn validity(path: &Path) -> Result<Validity> {
    let pem = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let der = CertificateDer::from_pem_slice(&pem).with_context(|| format!("parse {}", path.display()))?;
    let (_, cert) = x509_parser::parse_x509_certificate(&der).with_context(|| format!("parse {}", path.display()))?;
    let time = |t: x509_parser::time::ASN1Time| Timestamp::from_second(t.timestamp()).context("time out of range");
    Ok(Validity { not_before: time(cert.validity().not_before)?, not_after: time(cert.validity().not_after)? })
}
