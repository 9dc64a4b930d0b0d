//! The keys of service account tokens: reading them, signing and checking with them.

use std::path::Path;

use anyhow::{Context, Result, bail};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rustls_pki_types::pem::PemObject;
use serde_json::Value;

/// Keys of `--service-account-key-file` and `--service-account-signing-key-file`.
pub struct Keys {
    verify: Vec<(String, Algorithm, DecodingKey)>,
    sign: Option<(String, Algorithm, EncodingKey)>,
    /// Public keys in DER (SubjectPublicKeyInfo) with their ids, for the JWKS document.
    pub public: Vec<(String, Vec<u8>)>,
}

impl Keys {
    /// Reads the files.
    pub fn load(verify: &[std::path::PathBuf], sign: Option<&Path>) -> Result<Self> {
        let mut out = Self { verify: Vec::new(), sign: None, public: Vec::new() };
        for path in verify {
            let pem = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
            out.add_public(&pem).with_context(|| format!("use {}", path.display()))?;
        }
        if let Some(path) = sign {
            let pem = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
            let key = PrivateKey::parse(&pem).with_context(|| format!("use {}", path.display()))?;
            let id = key_id(&key.public);
            if !out.verify.iter().any(|(k, _, _)| *k == id) {
                out.add_der(&key.public)?;
            }
            out.sign = Some((id, key.algorithm, key.encoding));
        }
        Ok(out)
    }

    fn add_public(&mut self, pem: &[u8]) -> Result<()> {
        let mut any = false;
        for section in PemSections::of(pem) {
            match section.0.as_str() {
                "PUBLIC KEY" => self.add_der(&section.1)?,
                "RSA PRIVATE KEY" | "EC PRIVATE KEY" | "PRIVATE KEY" => {
                    let key = PrivateKey::parse(pem)?;
                    self.add_der(&key.public)?;
                }
                "EC PARAMETERS" => continue,
                other => bail!("{other} is no key for service account tokens"),
            }
            any = true;
        }
        anyhow::ensure!(any, "no key in the file");
        Ok(())
    }

    fn add_der(&mut self, spki: &[u8]) -> Result<()> {
        let algorithm = algorithm_of(spki)?;
        let key = match algorithm {
            Algorithm::RS256 => {
                let (_, info) = x509_parser::x509::SubjectPublicKeyInfo::from_der_any(spki)?;
                DecodingKey::from_rsa_der(&info)
            }
            _ => {
                let (_, info) = x509_parser::x509::SubjectPublicKeyInfo::from_der_any(spki)?;
                DecodingKey::from_ec_der(&info)
            }
        };
        let id = key_id(spki);
        self.verify.push((id.clone(), algorithm, key));
        self.public.push((id, spki.to_vec()));
        Ok(())
    }

    /// Whether tokens can be issued.
    pub fn can_sign(&self) -> bool {
        self.sign.is_some()
    }

    /// Signs claims.
    pub fn encode(&self, claims: &Value) -> Result<String> {
        let (id, algorithm, key) = self.sign.as_ref().context("no signing key is configured")?;
        let mut header = Header::new(*algorithm);
        header.typ = None;
        header.kid = Some(id.clone());
        Ok(jsonwebtoken::encode(&header, claims, key)?)
    }

    /// The claims of a token that one of the keys signed and that is valid now. Legacy tokens name no end.
    pub fn decode(&self, token: &str) -> Option<Value> {
        let header = jsonwebtoken::decode_header(token).ok()?;
        let candidates = self
            .verify
            .iter()
            .filter(|(id, algorithm, _)| *algorithm == header.alg && header.kid.as_ref().is_none_or(|k| k == id));
        for (_, algorithm, key) in candidates {
            let mut validation = Validation::new(*algorithm);
            validation.validate_aud = false;
            validation.validate_nbf = true;
            validation.leeway = 10;
            validation.set_required_spec_claims::<&str>(&[]);
            if let Ok(data) = jsonwebtoken::decode::<Value>(token, key, &validation) {
                return Some(data.claims);
            }
        }
        None
    }
}

/// SHA-256 of the public key, base64url: upstream's key id.
fn key_id(spki: &[u8]) -> String {
    use base64::Engine;
    use sha2::Digest;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(spki))
}

fn algorithm_of(spki: &[u8]) -> Result<Algorithm> {
    use x509_parser::prelude::FromDer;
    let (_, info) =
        x509_parser::x509::SubjectPublicKeyInfo::from_der(spki).map_err(|_| anyhow::anyhow!("not a public key"))?;
    match info.algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.1" => Ok(Algorithm::RS256),
        "1.2.840.10045.2.1" => {
            let curve = info.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).map(|o| o.to_id_string());
            match curve.as_deref() {
                Some("1.2.840.10045.3.1.7") => Ok(Algorithm::ES256),
                Some("1.3.132.0.34") => Ok(Algorithm::ES384),
                other => bail!("curve {other:?} is not supported; use P-256 or P-384"),
            }
        }
        other => bail!("key algorithm {other} is not supported; use RSA or ECDSA"),
    }
}

/// The bit string of a SubjectPublicKeyInfo.
trait PublicKeyBits {
    fn from_der_any(spki: &[u8]) -> Result<((), Vec<u8>)>;
}

impl PublicKeyBits for x509_parser::x509::SubjectPublicKeyInfo<'_> {
    fn from_der_any(spki: &[u8]) -> Result<((), Vec<u8>)> {
        use x509_parser::prelude::FromDer;
        let (_, info) =
            x509_parser::x509::SubjectPublicKeyInfo::from_der(spki).map_err(|_| anyhow::anyhow!("not a public key"))?;
        Ok(((), info.subject_public_key.data.to_vec()))
    }
}

struct PrivateKey {
    algorithm: Algorithm,
    encoding: EncodingKey,
    public: Vec<u8>,
}

impl PrivateKey {
    /// RSA (PKCS#1, PKCS#8) or ECDSA (SEC1, PKCS#8).
    fn parse(pem: &[u8]) -> Result<Self> {
        use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
        use aws_lc_rs::signature::{
            ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
        };
        let der = rustls_pki_types::PrivateKeyDer::from_pem_slice(pem).context("parse the private key")?;
        let rsa = match &der {
            rustls_pki_types::PrivateKeyDer::Pkcs1(k) => aws_lc_rs::rsa::KeyPair::from_der(k.secret_pkcs1_der()).ok(),
            rustls_pki_types::PrivateKeyDer::Pkcs8(k) => aws_lc_rs::rsa::KeyPair::from_pkcs8(k.secret_pkcs8_der()).ok(),
            _ => None,
        };
        if let Some(pair) = rsa {
            let public: PublicKeyX509Der<'_> =
                AsDer::as_der(pair.public_key()).map_err(|_| anyhow::anyhow!("encode the public key"))?;
            let encoding = match &der {
                rustls_pki_types::PrivateKeyDer::Pkcs1(k) => EncodingKey::from_rsa_der(k.secret_pkcs1_der()),
                _ => {
                    let text = std::str::from_utf8(pem).context("the key file is not text")?;
                    EncodingKey::from_rsa_pem(text.as_bytes())?
                }
            };
            return Ok(Self { algorithm: Algorithm::RS256, encoding, public: public.as_ref().to_vec() });
        }
        for (signing, algorithm) in
            [(&ECDSA_P256_SHA256_FIXED_SIGNING, Algorithm::ES256), (&ECDSA_P384_SHA384_FIXED_SIGNING, Algorithm::ES384)]
        {
            let pair = match &der {
                rustls_pki_types::PrivateKeyDer::Sec1(k) => {
                    EcdsaKeyPair::from_private_key_der(signing, k.secret_sec1_der()).ok()
                }
                rustls_pki_types::PrivateKeyDer::Pkcs8(k) => {
                    EcdsaKeyPair::from_pkcs8(signing, k.secret_pkcs8_der()).ok()
                }
                _ => None,
            };
            if let Some(pair) = pair {
                let pkcs8 = pair.to_pkcs8v1().map_err(|_| anyhow::anyhow!("encode the key"))?;
                let public: PublicKeyX509Der<'_> =
                    AsDer::as_der(pair.public_key()).map_err(|_| anyhow::anyhow!("encode the public key"))?;
                let encoding = EncodingKey::from_ec_der(pkcs8.as_ref());
                return Ok(Self { algorithm, encoding, public: public.as_ref().to_vec() });
            }
        }
        bail!("not an RSA, P-256 or P-384 private key")
    }
}

struct PemSections;

impl PemSections {
    fn of(pem: &[u8]) -> Vec<(String, Vec<u8>)> {
        use base64::Engine;
        let text = String::from_utf8_lossy(pem);
        let (mut out, mut label, mut body) = (Vec::new(), None::<String>, String::new());
        for line in text.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("-----BEGIN ") {
                label = Some(rest.trim_end_matches('-').to_owned());
                body.clear();
            } else if line.starts_with("-----END ") {
                if let (Some(label), Ok(der)) = (label.take(), base64::engine::general_purpose::STANDARD.decode(&body))
                {
                    out.push((label, der));
                }
            } else if label.is_some() {
                body.push_str(line);
            }
        }
        out
    }
}
