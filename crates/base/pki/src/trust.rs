//! Authorities that share a file: all of them are trusted, the first one signs. While one takes another's place there
//! are two (`Manual Rotation of CA Certificates` in upstream's documentation).

use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::issue::Error;
use crate::pair;

/// kubeadm's `caCertHashes` form of every certificate of a file, in order.
pub fn public_key_hashes(pem: &str) -> Vec<String> {
    let hash = |der: &Vec<u8>| {
        let (_, cert) = X509Certificate::from_der(der).ok()?;
        Some(format!("sha256:{}", hex::encode(Sha256::digest(cert.public_key().raw))))
    };
    pair::certificates(pem).iter().filter_map(hash).collect()
}

/// Which certificate of `authorities` signed the first one of `cert_pem`, by its place. Authorities that follow each
/// other have the same name, so that only the signature tells.
pub fn issuer(cert_pem: &str, authorities: &str) -> Option<usize> {
    let der = pair::certificates(cert_pem).into_iter().next()?;
    let (_, cert) = X509Certificate::from_der(&der).ok()?;
    issuer_of(&cert, authorities)
}

pub(crate) fn issuer_of(cert: &X509Certificate<'_>, authorities: &str) -> Option<usize> {
    pair::certificates(authorities).iter().position(|der| {
        let Ok((_, ca)) = X509Certificate::from_der(der) else { return false };
        cert.issuer() == ca.subject() && cert.verify_signature(Some(ca.public_key())).is_ok()
    })
}

/// Whether a private key is the other half of the first certificate or public key of `public_pem`: the one that signs.
///
/// # Errors
///
/// When the private key cannot be read.
pub fn signs_first(public_pem: &str, key_pem: &str) -> Result<bool, Error> {
    pair::is_pair(pair::first(public_pem), key_pem)
}

/// How many certificates or public keys a file holds.
pub fn halves(public_pem: &str) -> usize {
    pair::count(public_pem)
}

/// The id that tokens name their key by (`kid`): SHA-256 of each public key of a file, base64url (upstream's
/// `serviceaccount.keyIDFromPublicKey`).
pub fn key_ids(public_pem: &str) -> Vec<String> {
    use base64::Engine;
    let id = |der: Vec<u8>| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(Sha256::digest(der));
    pair::public_keys(public_pem).into_iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::issue::{KeyAlgorithm, Pair, Subject, Usage, issue, new_authority, new_key, request};

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
    }

    fn authority() -> Pair {
        new_authority("kubernetes", KeyAlgorithm::EcdsaP256, 3650, now()).unwrap()
    }

    fn leaf(ca: &Pair) -> String {
        let subject = Subject {
            common_name: "x".into(),
            organization: None,
            usages: vec![Usage::Client],
            dns: vec![],
            ips: vec![],
            days: 1,
        };
        let csr = request(&new_key(KeyAlgorithm::EcdsaP256).unwrap(), &subject).unwrap();
        issue(ca, &csr, &subject, now()).unwrap()
    }

    #[test]
    fn of_two_authorities_of_one_name_the_signature_tells_which() {
        let (old, new, other) = (authority(), authority(), authority());
        let bundle = new.cert.clone() + &old.cert;
        assert_eq!(issuer(&leaf(&new), &bundle), Some(0));
        assert_eq!(issuer(&leaf(&old), &bundle), Some(1));
        assert_eq!((issuer(&leaf(&other), &bundle), issuer("rubbish", &bundle)), (None, None));
        let hashes = [&new, &old].map(|ca| crate::public_key_hash(&ca.cert).unwrap());
        assert_eq!(public_key_hashes(&bundle), hashes);
        assert!(signs_first(&bundle, &new.key).unwrap() && !signs_first(&bundle, &old.key).unwrap());
        assert_eq!((halves(&bundle), halves(""), public_key_hashes("rubbish").len()), (2, 0, 0));
    }

    #[test]
    fn public_keys_are_counted_and_named() {
        let pairs = [(); 2].map(|()| crate::new_service_account_pair(KeyAlgorithm::EcdsaP256).unwrap());
        let both = format!("{}{}", pairs[0].cert, pairs[1].cert);
        assert_eq!((halves(&both), key_ids(&both).len()), (2, 2));
        assert_eq!(key_ids(&both)[0], key_ids(&pairs[0].cert)[0]);
        assert!(signs_first(&both, &pairs[0].key).unwrap() && !signs_first(&both, &pairs[1].key).unwrap());
    }
}
