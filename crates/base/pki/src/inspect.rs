//! What is in a certificate, for people and for monitoring.

use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::check::address;
use crate::pair;

/// A certificate, without its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateInfo {
    /// Its subject.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// DNS names and addresses.
    pub names: Vec<String>,
    /// Whether it may sign others.
    pub authority: bool,
    /// From when it is valid, in seconds since 1970.
    pub not_before: i64,
    /// Until when it is valid, in seconds since 1970.
    pub not_after: i64,
}

/// Every certificate of a PEM text, in its order; none for a text without any that can be read.
pub fn inspect(pem: &str) -> Vec<CertificateInfo> {
    pair::certificates(pem)
        .iter()
        .filter_map(|der| X509Certificate::from_der(der).ok().map(|(_, c)| info(&c)))
        .collect()
}

fn info(cert: &X509Certificate<'_>) -> CertificateInfo {
    let mut names = Vec::new();
    if let Ok(Some(extension)) = cert.subject_alternative_name() {
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => names.extend(address(bytes).map(|ip| ip.to_string())),
                _ => {}
            }
        }
    }
    CertificateInfo {
        subject: cert.subject().to_string(),
        issuer: cert.issuer().to_string(),
        names,
        authority: cert.is_ca(),
        not_before: cert.validity().not_before.timestamp(),
        not_after: cert.validity().not_after.timestamp(),
    }
}

#[cfg(test)]
mod tests {
    use super::inspect;

    #[test]
    fn certificates_of_a_text_are_told_in_order() {
        let now = time::OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let made = |name: &str| crate::new_authority(name, crate::KeyAlgorithm::EcdsaP256, 10, now).unwrap().cert;
        let all = inspect(&format!("{}{}", made("a"), made("b")));
        assert_eq!(all.iter().map(|c| c.subject.as_str()).collect::<Vec<_>>(), ["CN=a", "CN=b"]);
        assert!(all[0].authority && all[0].names == ["a"] && all[0].not_after == 1_800_000_000 + 10 * 86_400);
        assert_eq!(inspect("rubbish"), []);
    }
}
