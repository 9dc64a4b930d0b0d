//! Keys, requests, certificates.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, RsaKeySize, SanType,
};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

/// Certificates are valid from five minutes before they are made, for hosts whose clocks are behind (as kubeadm's are).
const BACKDATE: Duration = Duration::minutes(5);

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The library refused; `doing` says what was asked of it.
    #[error("{doing}")]
    Rcgen {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        #[source]
        source: rcgen::Error,
    },
    /// A name that cannot be in a certificate.
    #[error("{0:?} cannot be a name in a certificate")]
    Name(String),
    /// What should be a certificate or a request is not DER as it should be.
    #[error("the DER of a certificate or a request cannot be read")]
    Der,
    /// None of the authority's certificates belongs to its key.
    #[error("none of the authority's certificates belongs to its key")]
    NoPair,
}

pub(crate) fn because(doing: &'static str) -> impl Fn(rcgen::Error) -> Error {
    move |source| Error::Rcgen { doing, source }
}

/// kubeadm's `encryptionAlgorithm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum KeyAlgorithm {
    /// The default.
    #[default]
    #[serde(rename = "RSA-2048")]
    Rsa2048,
    /// A longer RSA key.
    #[serde(rename = "RSA-3072")]
    Rsa3072,
    /// The longest RSA key offered.
    #[serde(rename = "RSA-4096")]
    Rsa4096,
    /// An elliptic curve: small and fast.
    #[serde(rename = "ECDSA-P256")]
    EcdsaP256,
    /// A larger curve.
    #[serde(rename = "ECDSA-P384")]
    EcdsaP384,
}

/// A certificate and its key, both PEM. `Debug` shows no key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The certificate, or a public key for pairs that are not certificates.
    pub cert: String,
    /// The private key, PKCS#8.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("cert", &self.cert).field("key", &"(secret)").finish()
    }
}

/// What a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Usage {
    /// TLS servers.
    Server,
    /// TLS clients.
    Client,
}

/// Everything about a leaf certificate but its key and its issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// CN: the user's name towards the API.
    pub common_name: String,
    /// O: the user's group towards the API. One at most; [`crate::user_request`] has several.
    pub organization: Option<String>,
    /// Extended key usages.
    pub usages: Vec<Usage>,
    /// DNS names.
    pub dns: Vec<String>,
    /// IP addresses.
    pub ips: Vec<IpAddr>,
    /// How long it is valid, in days.
    pub days: u32,
}

/// A private key in PKCS#8 PEM. RSA keys take some 0.1 to 0.4 s of CPU.
pub fn new_key(algorithm: KeyAlgorithm) -> Result<String, Error> {
    let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size);
    let pair = match algorithm {
        KeyAlgorithm::Rsa2048 => rsa(RsaKeySize::_2048),
        KeyAlgorithm::Rsa3072 => rsa(RsaKeySize::_3072),
        KeyAlgorithm::Rsa4096 => rsa(RsaKeySize::_4096),
        KeyAlgorithm::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        KeyAlgorithm::EcdsaP384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
    };
    Ok(pair.map_err(because("make a private key"))?.serialize_pem())
}

pub(crate) fn read_key(pem: &str) -> Result<KeyPair, Error> {
    KeyPair::from_pem(pem).map_err(because("read a private key"))
}

/// The public half of a private key, SubjectPublicKeyInfo PEM (`sa.pub`).
pub fn public_key_pem(key_pem: &str) -> Result<String, Error> {
    Ok(read_key(key_pem)?.public_key_pem())
}

/// `sa.key` and `sa.pub`: the pair that signs service-account tokens.
pub fn new_service_account_pair(algorithm: KeyAlgorithm) -> Result<Pair, Error> {
    let key = new_key(algorithm)?;
    Ok(Pair { cert: public_key_pem(&key)?, key })
}

/// A self-signed authority that may sign leaves only (path length 0 is not set, as upstream's are not).
pub fn new_authority(
    common_name: &str,
    algorithm: KeyAlgorithm,
    days: u32,
    now: OffsetDateTime,
) -> Result<Pair, Error> {
    let key = new_key(algorithm)?;
    let pair = read_key(&key)?;
    let mut params = params(common_name, None, days, now);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
    // kubeadm's authorities carry their name as a DNS name too.
    params.subject_alt_names = vec![dns_name(common_name)?];
    let cert = params.self_signed(&pair).map_err(because("sign an authority"))?;
    Ok(Pair { cert: cert.pem(), key })
}

/// A certificate signing request that carries `key_pem`'s public half and the subject for people to read.
pub fn request(key_pem: &str, subject: &Subject) -> Result<String, Error> {
    let key = read_key(key_pem)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(&subject.common_name, subject.organization.as_deref());
    params.subject_alt_names = names(subject)?;
    let request = params.serialize_request(&key).map_err(because("make a certificate signing request"))?;
    request.pem().map_err(because("encode a certificate signing request"))
}

/// Signs the request's public key. The request's signature is verified; its subject, names and usages are ignored: they
/// come from `subject`. Where the authority's file holds several certificates, the one that belongs to the key signs.
pub fn issue(authority: &Pair, request_pem: &str, subject: &Subject, now: OffsetDateTime) -> Result<String, Error> {
    let request = CertificateSigningRequestParams::from_pem(request_pem)
        .map_err(because("read a certificate signing request"))?;
    let issuing = crate::pair::issuing(&authority.cert, &authority.key)?;
    let key = read_key(&authority.key)?;
    let issuer = Issuer::from_ca_cert_der(&issuing.as_slice().into(), key)
        .map_err(because("read the authority's certificate"))?;
    let mut params = params(&subject.common_name, subject.organization.as_deref(), subject.days, now);
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = subject
        .usages
        .iter()
        .map(|usage| match usage {
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        })
        .collect();
    params.subject_alt_names = names(subject)?;
    let cert = params.signed_by(&request.public_key, &issuer).map_err(because("sign a certificate"))?;
    Ok(cert.pem())
}

fn params(common_name: &str, organization: Option<&str>, days: u32, now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(common_name, organization);
    params.not_before = now - BACKDATE;
    params.not_after = now + Duration::days(days.into());
    params
}

fn distinguished_name(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn names(subject: &Subject) -> Result<Vec<SanType>, Error> {
    let mut names = subject.dns.iter().map(|name| dns_name(name)).collect::<Result<Vec<_>, _>>()?;
    names.extend(subject.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    Ok(names)
}

fn dns_name(name: &str) -> Result<SanType, Error> {
    Ok(SanType::DnsName(name.try_into().map_err(|_| Error::Name(name.to_owned()))?))
}
