//! The certificates that are on this host, in files and in kubeconfigs.

use anyhow::{Result, ensure};
use kinit_pki::CertificateInfo;
use serde::{Deserialize, Serialize};

use crate::files::read_optional;
use crate::kubeconfig::Kubeconfig;

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCertificate {
    /// Its file.
    pub path: String,
    /// What is in it; `None` when nothing that is there can be read.
    pub certificate: Option<CertificateInfo>,
}

/// Those of these files that are there. Keys beside them are not looked at.
pub(crate) fn read(paths: &[String]) -> Result<Vec<HostCertificate>> {
    let mut found = Vec::new();
    for path in paths {
        let ours = ["/etc/kubernetes/", "/var/lib/kubelet/pki/"].iter().any(|folder| path.starts_with(folder));
        ensure!(ours && !path.contains(".."), "{path} is not a file of kinit's");
        let Some(text) = read_optional(path)? else { continue };
        let pem = if path.ends_with(".conf") { embedded(&text) } else { Some(text) };
        let certificates = pem.map(|pem| kinit_pki::inspect(&pem)).unwrap_or_default();
        if certificates.is_empty() {
            found.push(HostCertificate { path: path.clone(), certificate: None });
        }
        let one = |certificate| HostCertificate { path: path.clone(), certificate: Some(certificate) };
        found.extend(certificates.into_iter().map(one));
    }
    Ok(found)
}

fn embedded(text: &str) -> Option<String> {
    Kubeconfig::parse(text).ok()?.credentials().map(|(certificate, _)| certificate)
}
