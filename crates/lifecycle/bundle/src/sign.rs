//! Who vouches for a bundle: an Ed25519 signature of `bundle.yaml`, which has the hash of every file.
//!
//! `bundle.yaml.sig` is JSON: `{"key": "ed25519:BASE64", "signature": "BASE64"}`. What is signed is
//! `kinit.dev/bundle/v1`, a zero byte, and the manifest's bytes. Keys are PEM as OpenSSL has them
//! (`openssl genpkey -algorithm ed25519`).

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::folder::read_text;
use crate::manifest::MANIFEST;

const DOMAIN: &[u8] = b"kinit.dev/bundle/v1\0";
const PREFIX: &str = "ed25519:";
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

/// A public key that is trusted to sign bundles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey {
    /// `ed25519:BASE64`.
    pub key: String,
    /// Seconds since 1970 after which it is trusted no more.
    pub not_after: Option<i64>,
}

/// Whose signature is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// One of these; when there is none, no signature is needed.
    pub keys: Vec<TrustedKey>,
    /// Now, in seconds since 1970.
    pub now: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    key: String,
    signature: String,
}

pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join("bundle.yaml.sig")
}

fn message(folder: &Path) -> Result<Vec<u8>, Error> {
    let manifest = folder.join(MANIFEST);
    let bytes = std::fs::read(&manifest).map_err(Error::read(&manifest))?;
    Ok([DOMAIN, &bytes].concat())
}

/// Makes a key in a file that only its owner may read; returns the public half.
pub fn new_key(file: &Path) -> Result<String, Error> {
    let failed = |_| Error::Key("no key could be made".to_owned());
    let pair = Ed25519KeyPair::generate().map_err(failed)?;
    // Version 1 of PKCS#8, as OpenSSL writes and reads it.
    let der = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair).map_err(failed)?;
    let body = STANDARD.encode(der.as_ref());
    let open = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let mut opened = open.map_err(Error::write(file))?;
    opened.write_all(format!("{BEGIN}\n{body}\n{END}\n").as_bytes()).map_err(Error::write(file))?;
    opened.sync_all().map_err(Error::write(file))?;
    Ok(public(&pair))
}

fn public(pair: &Ed25519KeyPair) -> String {
    format!("{PREFIX}{}", STANDARD.encode(pair.public_key().as_ref()))
}

/// Signs the bundle in a folder with the key in a file; returns the public half.
pub fn sign(folder: &Path, key: &Path) -> Result<String, Error> {
    let pem = read_text(key)?.ok_or_else(|| Error::Key(format!("there is no key {}", key.display())))?;
    let wrong = || Error::Key(format!("{} is no Ed25519 private key (PEM, PKCS#8)", key.display()));
    let body = pem.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).ok_or_else(wrong)?.0;
    let der = STANDARD.decode(body.split_whitespace().collect::<String>()).map_err(|_| wrong())?;
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| wrong())?;
    let signature = STANDARD.encode(pair.sign(&message(folder)?).as_ref());
    let signed = Signature { key: public(&pair), signature };
    let text = serde_json::to_string(&signed).map_err(|error| Error::Key(error.to_string()))?;
    let path = path(folder);
    std::fs::write(&path, text + "\n").map_err(Error::write(&path))?;
    Ok(signed.key)
}

impl Trust {
    /// Refuses a bundle that none of the keys vouches for. A signature that does not fit is refused whether one is
    /// asked for or not. Returns the signer.
    pub fn check(&self, folder: &Path) -> Result<Option<String>, Error> {
        let untrusted = |why: String| Error::Untrusted { folder: folder.to_owned(), why };
        let Some(text) = read_text(&path(folder))? else {
            return match self.keys.is_empty() {
                true => Ok(None),
                false => Err(untrusted("it is not signed".to_owned())),
            };
        };
        let signed: Signature =
            serde_json::from_str(&text).map_err(|error| untrusted(format!("its signature cannot be read: {error}")))?;
        let bytes = decode_key(&signed.key).ok_or_else(|| untrusted("its signer's key cannot be read".to_owned()))?;
        let signature =
            STANDARD.decode(&signed.signature).map_err(|_| untrusted("its signature cannot be read".to_owned()))?;
        let verified = UnparsedPublicKey::new(&ED25519, bytes).verify(&message(folder)?, &signature);
        verified.map_err(|_| untrusted("bundle.yaml is not what was signed".to_owned()))?;
        if self.keys.is_empty() {
            return Ok(Some(signed.key));
        }
        let Some(key) = self.keys.iter().find(|key| key.key == signed.key) else {
            return Err(untrusted(format!("it is signed by {}, which is none of the trusted keys", signed.key)));
        };
        match key.not_after {
            Some(end) if self.now > end => {
                Err(untrusted(format!("the key {} is trusted no more: it has expired", key.key)))
            }
            _ => Ok(Some(signed.key)),
        }
    }
}

fn decode_key(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text.strip_prefix(PREFIX)?).ok().filter(|key| key.len() == 32)
}

impl TrustedKey {
    /// Whether a text is a public key.
    pub fn is_key(text: &str) -> bool {
        decode_key(text).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::tests::bundle;

    fn trust(keys: &[(&str, Option<i64>)]) -> Trust {
        let keys = keys.iter().map(|(key, not_after)| TrustedKey { key: (*key).to_owned(), not_after: *not_after });
        Trust { keys: keys.collect(), now: 1000 }
    }

    #[test]
    fn a_bundle_is_trusted_when_a_trusted_key_signed_what_is_there() {
        let (folder, _) = bundle(b"program");
        let keys = tempfile::tempdir().unwrap();
        let own = new_key(&keys.path().join("own.pem")).unwrap();
        let other = new_key(&keys.path().join("other.pem")).unwrap();
        assert!(TrustedKey::is_key(&own) && !TrustedKey::is_key("ed25519:AAAA") && own != other);
        assert_eq!(trust(&[]).check(folder.path()).unwrap(), None);
        let why = |trust: Trust| trust.check(folder.path()).unwrap_err().to_string();
        assert!(why(trust(&[(&own, None)])).contains("not signed"));
        assert_eq!(sign(folder.path(), &keys.path().join("own.pem")).unwrap(), own);
        assert_eq!(trust(&[(&other, None), (&own, Some(1000))]).check(folder.path()).unwrap(), Some(own.clone()));
        assert!(why(trust(&[(&other, None)])).contains("none of the trusted keys"));
        assert!(why(trust(&[(&own, Some(999))])).contains("expired"));
        let manifest = folder.path().join(MANIFEST);
        let text = std::fs::read_to_string(&manifest).unwrap();
        std::fs::write(&manifest, text.replace("kinit.0.1.0", "kinit.0.1.1")).unwrap();
        assert!(why(trust(&[])).contains("not what was signed"), "refused even where none is asked for");
        std::fs::write(path(folder.path()), "{}").unwrap();
        assert!(why(trust(&[])).contains("cannot be read"));
    }

    #[test]
    fn a_key_is_written_once_and_for_its_owner() {
        use std::os::unix::fs::PermissionsExt;
        let keys = tempfile::tempdir().unwrap();
        let file = keys.path().join("key.pem");
        new_key(&file).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(new_key(&file).is_err());
        let (folder, _) = bundle(b"program");
        std::fs::write(&file, "rubbish").unwrap();
        assert!(matches!(sign(folder.path(), &file), Err(Error::Key(_))));
    }
}
