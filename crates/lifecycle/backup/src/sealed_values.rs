//! Values that the API server encrypted in etcd (`k8s:enc:PROVIDER:v1:KEY:BYTES`, upstream's
//! `storage/value/encrypt`), opened with the keys of a backed-up EncryptionConfiguration.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_128, AES_192, AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::error::Error;

const MARK: &[u8] = b"k8s:enc:";

/// The keys of an EncryptionConfiguration. There is no `Debug`.
pub struct StoredKeys(Vec<(String, String, Vec<u8>)>);

#[derive(Deserialize)]
struct Configuration {
    resources: Vec<Resources>,
}

#[derive(Deserialize)]
struct Resources {
    providers: Vec<Provider>,
}

#[derive(Deserialize)]
struct Provider {
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
}

#[derive(Deserialize)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    name: String,
    secret: String,
}

impl StoredKeys {
    /// No keys at all: nothing that is encrypted can be opened.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// Reads an EncryptionConfiguration (apiserver.config.k8s.io/v1). Providers other than aesgcm and aescbc open
    /// nothing.
    pub fn parse(yaml: &str) -> Result<Self, Error> {
        // A parser's message could quote a key.
        let broken = || Error::Key("encryption.yaml is no EncryptionConfiguration".to_owned());
        let configuration: Configuration = serde_saphyr::from_str(yaml).map_err(|_| broken())?;
        let mut all = Vec::new();
        for provider in configuration.resources.into_iter().flat_map(|r| r.providers) {
            for (name, keys) in [("aesgcm", provider.aesgcm), ("aescbc", provider.aescbc)] {
                for key in keys.into_iter().flat_map(|k| k.keys) {
                    let secret = STANDARD.decode(&key.secret).map_err(|_| broken())?;
                    all.push((name.to_owned(), key.name, secret));
                }
            }
        }
        Ok(Self(all))
    }

    /// The plain text of what etcd has under a key; `None` where no key opens it.
    pub fn open(&self, etcd_key: &str, stored: &[u8]) -> Option<Vec<u8>> {
        if !Self::is_encrypted(stored) {
            return Some(stored.to_vec());
        }
        self.0.iter().find_map(|(provider, name, secret)| {
            let mark = format!("k8s:enc:{provider}:v1:{name}:");
            let body = stored.strip_prefix(mark.as_bytes())?;
            if provider == "aesgcm" { open_gcm(secret, etcd_key, body) } else { open_cbc(secret, body) }
        })
    }

    /// Whether a stored value is encrypted.
    pub fn is_encrypted(stored: &[u8]) -> bool {
        stored.starts_with(MARK)
    }
}

fn open_gcm(secret: &[u8], etcd_key: &str, body: &[u8]) -> Option<Vec<u8>> {
    let algorithm = if secret.len() == 16 { &AES_128_GCM } else { &AES_256_GCM };
    let key = LessSafeKey::new(UnboundKey::new(algorithm, secret).ok()?);
    let (nonce, sealed) = body.split_first_chunk::<12>()?;
    let mut sealed = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    key.open_in_place(nonce, Aad::from(etcd_key.as_bytes()), &mut sealed).ok().map(|plain| plain.to_vec())
}

fn open_cbc(secret: &[u8], body: &[u8]) -> Option<Vec<u8>> {
    let algorithm = match secret.len() {
        16 => &AES_128,
        24 => &AES_192,
        _ => &AES_256,
    };
    let key = PaddedBlockDecryptingKey::cbc_pkcs7(UnboundCipherKey::new(algorithm, secret).ok()?).ok()?;
    let (iv, sealed) = body.split_first_chunk::<16>()?;
    let mut sealed = sealed.to_vec();
    let context = DecryptionContext::Iv128(FixedLength::from(iv));
    key.decrypt(&mut sealed, context).ok().map(|plain| plain.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_opened_with_their_own_key_alone() {
        let secret = [7u8; 32];
        let yaml = |secret: &[u8]| {
            format!(
                "kind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  - aesgcm:\n      keys:\n      - name: key1\n        secret: {}\n  - identity: {{}}\n",
                STANDARD.encode(secret)
            )
        };
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &secret).unwrap());
        let mut body = b"{\"a\":1}".to_vec();
        let nonce = Nonce::assume_unique_for_key([1; 12]);
        key.seal_in_place_append_tag(nonce, Aad::from(b"/registry/secrets/a/b"), &mut body).unwrap();
        let stored = [b"k8s:enc:aesgcm:v1:key1:".as_slice(), &[1; 12], &body].concat();
        let keys = StoredKeys::parse(&yaml(&secret)).unwrap();
        assert_eq!(keys.open("/registry/secrets/a/b", &stored).unwrap(), b"{\"a\":1}");
        assert!(keys.open("/registry/secrets/a/c", &stored).is_none());
        assert!(StoredKeys::parse(&yaml(&[8; 32])).unwrap().open("/registry/secrets/a/b", &stored).is_none());
        assert!(keys.open("/x", b"k8s:enc:aesgcm:v1:key1:short").is_none());
        assert_eq!(keys.open("/x", b"{}").unwrap(), b"{}");
        assert!(StoredKeys::parse("resources: 7").is_err());
    }
}
