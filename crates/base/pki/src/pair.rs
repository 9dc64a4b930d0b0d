//! Certificates and the keys they belong to.

use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::issue::{Error, KeyAlgorithm, read_key};

/// The DER of every certificate of a PEM file, in order. Other blocks, and what cannot be read, are left out.
pub(crate) fn certificates(pem: &str) -> Vec<Vec<u8>> {
    blocks(pem).filter(|block| block.label == "CERTIFICATE").map(|block| block.contents).collect()
}

fn blocks(pem: &str) -> impl Iterator<Item = Pem> + '_ {
    Pem::iter_from_buffer(pem.as_bytes()).map_while(Result::ok)
}

fn is_half(block: &Pem) -> bool {
    matches!(block.label.as_str(), "CERTIFICATE" | "PUBLIC KEY")
}

/// How many certificates and public keys a file holds.
pub(crate) fn count(pem: &str) -> usize {
    blocks(pem).filter(is_half).count()
}

/// A file up to the end of its first certificate or public key.
pub(crate) fn first(pem: &str) -> &str {
    const END: &str = "-----END ";
    let Some(end) = pem.find(END) else { return pem };
    let rest = pem.get(end..).and_then(|tail| tail.find('\n')).map_or(pem.len(), |newline| end + newline + 1);
    pem.get(..rest).unwrap_or(pem)
}

/// The DER (SubjectPublicKeyInfo) of every public key of a file.
pub(crate) fn public_keys(pem: &str) -> Vec<Vec<u8>> {
    blocks(pem).filter(|block| block.label == "PUBLIC KEY").map(|block| block.contents).collect()
}

/// The bits of a public key, without its algorithm's parameters, which may be written in more than one way.
fn key_bits(block: &Pem) -> Option<Vec<u8>> {
    match block.label.as_str() {
        "CERTIFICATE" => {
            let (_, cert) = X509Certificate::from_der(&block.contents).ok()?;
            Some(cert.public_key().subject_public_key.data.to_vec())
        }
        "PUBLIC KEY" => {
            let (_, info) = SubjectPublicKeyInfo::from_der(&block.contents).ok()?;
            Some(info.subject_public_key.data.to_vec())
        }
        _ => None,
    }
}

/// Whether a private key is the other half of one of the certificates or public keys in `public_pem`. An authority's
/// file may hold several during a rotation.
///
/// # Errors
///
/// When the private key cannot be read.
pub fn is_pair(public_pem: &str, key_pem: &str) -> Result<bool, Error> {
    let key = read_key(key_pem)?;
    Ok(blocks(public_pem).filter_map(|block| key_bits(&block)).any(|bits| bits == key.public_key_raw()))
}

/// Of the certificates in an authority's file the one that this key signs with, as DER.
pub(crate) fn issuing(authorities: &str, key_pem: &str) -> Result<Vec<u8>, Error> {
    let key = read_key(key_pem)?;
    let mut all = blocks(authorities).filter(|block| block.label == "CERTIFICATE");
    let own = all.find(|block| key_bits(block).is_some_and(|bits| bits == key.public_key_raw()));
    own.map(|block| block.contents).ok_or(Error::NoPair)
}

/// The kind of a certificate's key; `None` for a kind that is not offered.
pub(crate) fn algorithm(cert: &X509Certificate<'_>) -> Option<KeyAlgorithm> {
    /// prime256v1 and secp384r1 (RFC 5480).
    const CURVES: [(&str, KeyAlgorithm); 2] =
        [("1.2.840.10045.3.1.7", KeyAlgorithm::EcdsaP256), ("1.3.132.0.34", KeyAlgorithm::EcdsaP384)];
    let info = cert.public_key();
    match info.parsed().ok()? {
        PublicKey::RSA(rsa) => match rsa.key_size() {
            2048 => Some(KeyAlgorithm::Rsa2048),
            3072 => Some(KeyAlgorithm::Rsa3072),
            4096 => Some(KeyAlgorithm::Rsa4096),
            _ => None,
        },
        PublicKey::EC(_) => {
            let curve = info.algorithm.parameters.as_ref()?.as_oid().ok()?.to_id_string();
            CURVES.into_iter().find(|(id, _)| *id == curve).map(|(_, algorithm)| algorithm)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::issue::{new_authority, new_service_account_pair};

    #[test]
    fn a_key_fits_its_own_public_half_only() {
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        for kind in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::Rsa2048] {
            let one = new_authority("ca", kind, 10, now).unwrap();
            let two = new_authority("ca", kind, 10, now).unwrap();
            assert!(is_pair(&one.cert, &one.key).unwrap() && !is_pair(&one.cert, &two.key).unwrap());
            assert!(is_pair(&(two.cert.clone() + &one.cert), &one.key).unwrap(), "a bundle");
            let sa = new_service_account_pair(kind).unwrap();
            assert!(is_pair(&sa.cert, &sa.key).unwrap() && !is_pair(&sa.cert, &one.key).unwrap());
            let der = certificates(&one.cert).remove(0);
            assert_eq!(algorithm(&X509Certificate::from_der(&der).unwrap().1), Some(kind));
        }
        assert!(is_pair("rubbish", "rubbish").is_err());
    }
}
