//! Encryption at rest, in upstream's stored form: `k8s:enc:<provider>:v1:<key name>:<bytes>`.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use rand::RngCore;

/// One key of a provider.
pub enum Key {
    /// AES-CBC with PKCS#7 padding.
    AesCbc {
        /// Name in the configuration.
        name: String,
        /// 16, 24 or 32 bytes.
        secret: Vec<u8>,
    },
    /// AES-GCM, the etcd key as additional data.
    AesGcm {
        /// Name in the configuration.
        name: String,
        /// The key.
        key: LessSafeKey,
    },
    /// Plain text.
    Identity,
}

/// Providers of one resource: the first writes, any reads.
#[derive(Default)]
pub struct Crypt {
    keys: Vec<Key>,
}

const MARK: &[u8] = b"k8s:enc:";
const CBC: &[u8] = b"k8s:enc:aescbc:v1:";
const GCM: &[u8] = b"k8s:enc:aesgcm:v1:";

impl Key {
    /// An AES-CBC key of 16, 24 or 32 bytes.
    pub fn aes_cbc(name: &str, secret: &[u8]) -> Result<Self, String> {
        if !matches!(secret.len(), 16 | 24 | 32) {
            return Err(format!("key {name:?} has {} bytes, want 16, 24 or 32", secret.len()));
        }
        Ok(Self::AesCbc { name: name.into(), secret: secret.to_vec() })
    }

    /// An AES-GCM key of 16 or 32 bytes.
    pub fn aes_gcm(name: &str, secret: &[u8]) -> Result<Self, String> {
        let algorithm = match secret.len() {
            16 => &AES_128_GCM,
            32 => &AES_256_GCM,
            n => return Err(format!("key {name:?} has {n} bytes, want 16 or 32")),
        };
        let key = UnboundKey::new(algorithm, secret).map_err(|_| format!("key {name:?} is not usable"))?;
        Ok(Self::AesGcm { name: name.into(), key: LessSafeKey::new(key) })
    }

    fn seal(&self, etcd_key: &str, plain: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Identity => Ok(plain.to_vec()),
            Self::AesCbc { name, secret } => {
                let key = PaddedBlockEncryptingKey::cbc_pkcs7(cbc_key(secret)?).map_err(|e| e.to_string())?;
                let mut body = plain.to_vec();
                let context = key.encrypt(&mut body).map_err(|e| e.to_string())?;
                let iv: &[u8] = (&context).try_into().map_err(|_| "no initialisation vector".to_owned())?;
                Ok([CBC, name.as_bytes(), b":", iv, &body].concat())
            }
            Self::AesGcm { name, key } => {
                let mut nonce = [0u8; 12];
                rand::rng().fill_bytes(&mut nonce);
                let mut body = plain.to_vec();
                key.seal_in_place_append_tag(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(etcd_key.as_bytes()),
                    &mut body,
                )
                .map_err(|e| e.to_string())?;
                Ok([GCM, name.as_bytes(), b":", &nonce, &body].concat())
            }
        }
    }

    /// Whether the bytes are this key's.
    fn wrote(&self, stored: &[u8]) -> bool {
        let (mark, name) = match self {
            Self::Identity => return !stored.starts_with(MARK),
            Self::AesCbc { name, .. } => (CBC, name),
            Self::AesGcm { name, .. } => (GCM, name),
        };
        let rest = stored.strip_prefix(mark).and_then(|rest| rest.strip_prefix(name.as_bytes()));
        rest.is_some_and(|rest| rest.starts_with(b":"))
    }

    /// `None` when the bytes are not this key's.
    fn open(&self, etcd_key: &str, stored: &[u8]) -> Option<Result<Vec<u8>, String>> {
        let body_of =
            |mark: &[u8], name: &str| stored.strip_prefix(mark)?.strip_prefix(name.as_bytes())?.strip_prefix(b":");
        match self {
            Self::Identity => (!stored.starts_with(MARK)).then(|| Ok(stored.to_vec())),
            Self::AesCbc { name, secret } => Some(open_cbc(secret, body_of(CBC, name)?)),
            Self::AesGcm { name, key } => {
                let body = body_of(GCM, name)?;
                let Some((nonce, sealed)) = body.split_first_chunk::<12>() else {
                    return Some(Err("the stored bytes are cut off".into()));
                };
                let mut sealed = sealed.to_vec();
                let plain = key
                    .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(etcd_key.as_bytes()), &mut sealed)
                    .map(|plain| plain.to_vec());
                Some(plain.map_err(|_| "it does not decrypt with its key".into()))
            }
        }
    }
}

fn cbc_key(secret: &[u8]) -> Result<UnboundCipherKey, String> {
    let algorithm = match secret.len() {
        16 => &AES_128,
        24 => &AES_192,
        _ => &AES_256,
    };
    UnboundCipherKey::new(algorithm, secret).map_err(|e| e.to_string())
}

fn open_cbc(secret: &[u8], body: &[u8]) -> Result<Vec<u8>, String> {
    let (iv, sealed) = body.split_first_chunk::<16>().ok_or("the stored bytes are cut off")?;
    let key = PaddedBlockDecryptingKey::cbc_pkcs7(cbc_key(secret)?).map_err(|e| e.to_string())?;
    let mut sealed = sealed.to_vec();
    let context = DecryptionContext::Iv128(FixedLength::from(iv));
    let plain = key.decrypt(&mut sealed, context).map_err(|_| "it does not decrypt with its key")?;
    Ok(plain.to_vec())
}

impl Crypt {
    /// Providers in the order of the configuration.
    pub fn new(keys: Vec<Key>) -> Self {
        Self { keys }
    }

    /// What to store for `plain` under `etcd_key`.
    pub fn seal(&self, etcd_key: &str, plain: &[u8]) -> Result<Vec<u8>, String> {
        self.keys.first().map_or_else(|| Ok(plain.to_vec()), |key| key.seal(etcd_key, plain))
    }

    /// Whether another key than the one that writes now wrote it: then the next write of the object replaces it, even
    /// where nothing else changes (upstream's `stale` of `storage/value.Transformer`).
    pub fn is_outdated(&self, stored: &[u8]) -> bool {
        match self.keys.first() {
            None => stored.starts_with(MARK),
            Some(first) => !first.wrote(stored),
        }
    }

    /// The plain text of what is stored.
    pub fn open(&self, etcd_key: &str, stored: &[u8]) -> Result<Vec<u8>, String> {
        if self.keys.is_empty() && !stored.starts_with(MARK) {
            return Ok(stored.to_vec());
        }
        self.keys
            .iter()
            .find_map(|key| key.open(etcd_key, stored))
            .unwrap_or_else(|| Err("no provider of the encryption configuration matches it".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_provider_wrote_all_that_know_its_key_read() {
        let gcm = || Key::aes_gcm("g", &[7; 32]).unwrap();
        let cbc = || Key::aes_cbc("c", &[9; 32]).unwrap();
        let all = Crypt::new(vec![gcm(), cbc(), Key::Identity]);
        for writer in [Crypt::new(vec![gcm()]), Crypt::new(vec![cbc()]), Crypt::new(vec![])] {
            let stored = writer.seal("/registry/secrets/a/b", b"{\"x\":1}").unwrap();
            assert_eq!(all.open("/registry/secrets/a/b", &stored).unwrap(), b"{\"x\":1}");
        }
        let stored = Crypt::new(vec![gcm()]).seal("/registry/secrets/a/b", b"{}").unwrap();
        assert!(stored.starts_with(b"k8s:enc:aesgcm:v1:g:"));
        assert!(all.open("/registry/secrets/a/other", &stored).is_err(), "bound to its key");
        assert!(Crypt::new(vec![cbc()]).open("/registry/secrets/a/b", &stored).is_err());
        assert!(Crypt::new(vec![]).open("/registry/secrets/a/b", &stored).is_err());
        assert!(Key::aes_gcm("g", &[0; 5]).is_err());
    }

    #[test]
    fn what_another_key_wrote_is_outdated() {
        let gcm = |name: &str| Key::aes_gcm(name, &[7; 32]).unwrap();
        let by = |keys: Vec<Key>| Crypt::new(keys).seal("/registry/secrets/a/b", b"{}").unwrap();
        let now = Crypt::new(vec![gcm("key2"), gcm("key1"), Key::Identity]);
        assert!(!now.is_outdated(&by(vec![gcm("key2")])));
        for old in [by(vec![gcm("key1")]), by(vec![gcm("key22")]), by(vec![])] {
            assert!(now.is_outdated(&old));
        }
        assert!(!Crypt::default().is_outdated(b"{}") && Crypt::default().is_outdated(&by(vec![gcm("key1")])));
    }
}
