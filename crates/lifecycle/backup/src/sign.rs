//! Who signed: whoever has the key of the cluster's authority.
//!
//! The signing key (Ed25519) is derived by HKDF-SHA256 from the private key of the cluster's authority, which all
//! control planes have and which is in the backup itself. So whoever can open a backup can tell whether its signer had
//! the key of that authority, whose hash the desk knows (admin.conf): no further key has to be kept and trusted. Where
//! the authority is external, the key that signs service-account tokens takes its place.

use aws_lc_rs::hkdf;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Length of a signature.
pub(crate) const LENGTH: usize = 64;
const SALT: &[u8] = b"kinit.dev/backup/v1 signature";

/// What a signing key is derived from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Anchor {
    /// `pki/ca.key`.
    #[serde(rename = "ca.key")]
    Authority,
    /// `pki/sa.key`, where the authority's key is kept elsewhere.
    #[serde(rename = "sa.key")]
    ServiceAccounts,
}

impl Anchor {
    /// The private key's file below `pki/`.
    pub fn file(self) -> &'static str {
        match self {
            Self::Authority => "ca.key",
            Self::ServiceAccounts => "sa.key",
        }
    }
}

/// Signs backups.
pub struct Signer {
    anchor: Anchor,
    pair: Ed25519KeyPair,
}

impl Signer {
    /// The signer that belongs to a private key (PEM).
    pub fn derive(anchor: Anchor, key_pem: &str) -> Result<Self, Error> {
        let cannot = |what: &str| Error::Key(format!("{} cannot be used to sign: {what}", anchor.file()));
        let body: String = key_pem.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
        let der = STANDARD.decode(body).map_err(|_| cannot("it is not PEM"))?;
        if der.is_empty() {
            return Err(cannot("it is empty"));
        }
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(&der);
        let expanded = extracted.expand(&[b"ed25519"], hkdf::HKDF_SHA256).map_err(|_| cannot("no key comes of it"))?;
        let mut seed = [0; 32];
        expanded.fill(&mut seed).map_err(|_| cannot("no key comes of it"))?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| cannot("no key comes of it"))?;
        Ok(Self { anchor, pair })
    }

    /// What it is derived from.
    pub fn anchor(&self) -> Anchor {
        self.anchor
    }

    /// The public key, in hexadecimal.
    pub fn public(&self) -> String {
        hex::encode(self.pair.public_key().as_ref())
    }

    pub(crate) fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.pair.sign(bytes).as_ref().to_vec()
    }
}

/// Checks a signature by a public key in hexadecimal.
pub(crate) fn verify(public: &str, bytes: &[u8], signature: &[u8]) -> Result<(), Error> {
    let wrong = |why: &str| Error::Signature(why.to_owned());
    let key = hex::decode(public).map_err(|_| wrong("the signer's key cannot be read"))?;
    let key = UnparsedPublicKey::new(&ED25519, key);
    key.verify(bytes, signature).map_err(|_| wrong("the manifest is not what was signed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_key_makes_the_same_signer() {
        let key = kinit_pki::new_key(kinit_pki::KeyAlgorithm::EcdsaP256).unwrap();
        let other = kinit_pki::new_key(kinit_pki::KeyAlgorithm::EcdsaP256).unwrap();
        let signer = |key: &str| Signer::derive(Anchor::Authority, key).unwrap();
        assert_eq!(signer(&key).public(), signer(&key.replace('\n', "\r\n")).public());
        assert_ne!(signer(&key).public(), signer(&other).public());
        let signature = signer(&key).sign(b"x");
        assert_eq!(signature.len(), LENGTH);
        verify(&signer(&key).public(), b"x", &signature).unwrap();
        for (public, bytes) in [(signer(&other).public(), b"x"), (signer(&key).public(), b"y"), ("zz".into(), b"x")] {
            assert!(matches!(verify(&public, bytes, &signature), Err(Error::Signature(_))));
        }
        for bad in ["", "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", "rubbish!"] {
            assert!(Signer::derive(Anchor::Authority, bad).is_err(), "{bad:?}");
        }
    }
}
