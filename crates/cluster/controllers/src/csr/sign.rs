//! `csrsigning`: issues what was approved.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use kinit_client::informer::{Change, Store, key_of};
use kinit_client::queue::Queue;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use rcgen::{ExtendedKeyUsagePurpose as Extended, IsCa, Issuer, KeyPair, KeyUsagePurpose as Usage, SerialNumber};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::request::{Request, check_client, check_kubelet_client, check_kubelet_serving, parse};
use super::{ACCOUNT, CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY_UNKNOWN, has, is_issued};
use crate::context::Context;
use crate::object::now;

/// Clocks of clients may be behind ours.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);

/// Runs the controller; without a CA there is nothing to do.
pub async fn run(ctx: Context) -> Result<()> {
    let args = ctx.args().clone();
    let Some((certificate, key)) = args.cluster_signing_cert_file.zip(args.cluster_signing_key_file) else {
        tracing::info!("no --cluster-signing-cert-file: certificates are not signed here");
        return Ok(());
    };
    let client = ctx.client(ACCOUNT).await?;
    let requests = ctx.store::<CertificateSigningRequest>();
    let queue = Queue::new();
    let handler = queue.clone();
    requests.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            handler.add(key_of(&**change.object()));
        }
    });
    let work = Arc::new(Signer { client, requests, files: (certificate, key), longest: args.cluster_signing_duration });
    queue.run("csrsigning", 2, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

struct Signer {
    client: Client,
    requests: Arc<Store<CertificateSigningRequest>>,
    files: (std::path::PathBuf, std::path::PathBuf),
    longest: Duration,
}

impl Signer {
    async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        let Some(csr) = self.requests.get(&key) else { return Ok(None) };
        if is_issued(&csr) || !has(&csr, "Approved") || has(&csr, "Denied") || has(&csr, "Failed") {
            return Ok(None);
        }
        if ![CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY_UNKNOWN].contains(&csr.spec.signer_name.as_str()) {
            return Ok(None);
        }
        let mut csr = (*csr).clone();
        let status = csr.status.get_or_insert_default();
        match checked(&csr.spec) {
            Ok(request) => {
                let ca = Ca::read(&self.files)?;
                let pem = ca.sign(request, &csr.spec, self.longest, Timestamp::now())?;
                status.certificate = Some(ByteString(pem.into_bytes()));
                tracing::info!(csr = key, signer = csr.spec.signer_name, "signed");
            }
            Err(error) => {
                tracing::info!(csr = key, error = format!("{error:#}"), "refused to sign");
                status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
                    type_: "Failed".into(),
                    status: "True".into(),
                    reason: Some("SignerValidationFailure".into()),
                    message: Some(format!("{error:#}")),
                    last_update_time: Some(now()),
                    last_transition_time: Some(now()),
                });
            }
        }
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        api.replace_status(&key, &PostParams::default(), &csr)
            .await
            .with_context(|| format!("publish the certificate of {}", csr.name_any()))?;
        Ok(None)
    }
}

/// The signer's own rules, which hold whoever approved.
fn checked(spec: &CertificateSigningRequestSpec) -> Result<Request> {
    let request = parse(&spec.request.0)?;
    match spec.signer_name.as_str() {
        KUBELET_CLIENT => check_kubelet_client(&request, spec)?,
        KUBELET_SERVING => check_kubelet_serving(&request, spec)?,
        CLIENT => check_client(spec)?,
        _ => {}
    }
    purposes(spec)?;
    Ok(request)
}

/// Key usages and extended key usages of `spec.usages` (`certificates/v1.KeyUsage`).
fn purposes(spec: &CertificateSigningRequestSpec) -> Result<(Vec<Usage>, Vec<Extended>)> {
    let (mut usages, mut extended) = (Vec::new(), Vec::new());
    for usage in spec.usages.iter().flatten() {
        match usage.as_str() {
            "signing" | "digital signature" => usages.push(Usage::DigitalSignature),
            "content commitment" => usages.push(Usage::ContentCommitment),
            "key encipherment" => usages.push(Usage::KeyEncipherment),
            "key agreement" => usages.push(Usage::KeyAgreement),
            "data encipherment" => usages.push(Usage::DataEncipherment),
            "encipher only" => usages.push(Usage::EncipherOnly),
            "decipher only" => usages.push(Usage::DecipherOnly),
            "any" => extended.push(Extended::Any),
            "server auth" => extended.push(Extended::ServerAuth),
            "client auth" => extended.push(Extended::ClientAuth),
            "code signing" => extended.push(Extended::CodeSigning),
            "email protection" | "s/mime" => extended.push(Extended::EmailProtection),
            "timestamping" => extended.push(Extended::TimeStamping),
            "ocsp signing" => extended.push(Extended::OcspSigning),
            other => anyhow::bail!("usage {other:?} is not one this signer grants"),
        }
    }
    usages.sort_by_key(|u| format!("{u:?}"));
    usages.dedup();
    extended.dedup();
    Ok((usages, extended))
}

/// How long a certificate lives: what was asked for, at least 10 minutes, at most `longest` and the CA's own rest.
fn lifetime(asked: Option<i32>, longest: Duration) -> SignedDuration {
    let longest = SignedDuration::try_from(longest).unwrap_or(SignedDuration::MAX);
    match asked {
        Some(seconds) => SignedDuration::from_secs(i64::from(seconds).max(600)).min(longest),
        None => longest,
    }
}

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    /// Its name in DER.
    subject: Vec<u8>,
    not_after: Timestamp,
}

impl Ca {
    /// Read for each request: a rotated CA is used without a restart, and requests are rare.
    fn read((certificate, key): &(std::path::PathBuf, std::path::PathBuf)) -> Result<Self> {
        let pem = std::fs::read_to_string(key).with_context(|| format!("read {}", key.display()))?;
        let pair = KeyPair::from_pem(&pem).with_context(|| format!("parse the key in {}", key.display()))?;
        let text = std::fs::read(certificate).with_context(|| format!("read {}", certificate.display()))?;
        let der = Self::of(&text, &pair).with_context(|| format!("use {}", certificate.display()))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).context("parse the CA certificate")?;
        let not_after = Timestamp::from_second(parsed.validity().not_after.timestamp()).context("read the CA's end")?;
        anyhow::ensure!(parsed.is_ca(), "{} is not a CA certificate", certificate.display());
        let subject = parsed.subject().as_raw().to_vec();
        let issuer = Issuer::from_ca_cert_der(&der, pair).context("use the CA certificate")?;
        Ok(Self { issuer, subject, not_after })
    }

    /// The certificate that belongs to the key: while the CA is being replaced the file holds two.
    fn of(text: &[u8], pair: &KeyPair) -> Result<CertificateDer<'static>> {
        for der in CertificateDer::pem_slice_iter(text) {
            let der = der.context("parse a CA certificate")?;
            let (_, parsed) = x509_parser::parse_x509_certificate(&der).context("parse a CA certificate")?;
            if parsed.public_key().subject_public_key.data.as_ref() == pair.public_key_raw() {
                return Ok(der);
            }
        }
        anyhow::bail!("it has no certificate that belongs to the key")
    }

    fn sign(
        &self,
        mut request: Request,
        spec: &CertificateSigningRequestSpec,
        longest: Duration,
        now: Timestamp,
    ) -> Result<String> {
        anyhow::ensure!(now < self.not_after, "the CA certificate has expired");
        let (usages, extended) = purposes(spec)?;
        let begin = now.saturating_sub(BACKDATE)?;
        let end = now.saturating_add(lifetime(spec.expiration_seconds, longest))?.min(self.not_after);
        let params = &mut request.params.params;
        params.not_before = date(begin)?;
        params.not_after = date(end)?;
        params.serial_number = Some(SerialNumber::from_slice(&serial()));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = usages;
        params.extended_key_usages = extended;
        params.name_constraints = None;
        params.crl_distribution_points.clear();
        params.custom_extensions.clear();
        params.use_authority_key_identifier_extension = true;
        let signed = request.params.signed_by(&self.issuer).context("sign the certificate")?;
        // rcgen keeps one value of a kind: groups would be lost, and so would parts of the CA's own name.
        let key = self.issuer.key();
        let der = kinit_pki::certificate_with_names(signed.der(), &request.subject, &self.subject, key)
            .context("sign the certificate with its whole names")?;
        Ok(kinit_pki::pem("CERTIFICATE", &der))
    }
}

fn date(at: Timestamp) -> Result<time::OffsetDateTime> {
    time::OffsetDateTime::from_unix_timestamp(at.as_second()).context("write a certificate's date")
}

/// 127 random bits: positive, and unpredictable.
fn serial() -> [u8; 16] {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] &= 0x7f;
    bytes[0] |= 0x01;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType};

    #[test]
    fn lifetimes() {
        let year = Duration::from_secs(8760 * 3600);
        for (asked, seconds) in [(None, 8760 * 3600), (Some(3600), 3600), (Some(1), 600), (Some(i32::MAX), 8760 * 3600)]
        {
            assert_eq!(lifetime(asked, year).as_secs(), seconds, "{asked:?}");
        }
    }

    fn authority(key: KeyPair) -> (Ca, Vec<u8>) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let issuer = Issuer::from_ca_cert_der(certificate.der(), key).unwrap();
        let (_, read) = x509_parser::parse_x509_certificate(certificate.der()).unwrap();
        let subject = read.subject().as_raw().to_vec();
        let not_after = Timestamp::from_second(2_000_000_000).unwrap();
        (Ca { issuer, subject, not_after }, certificate.der().to_vec())
    }

    #[test]
    fn every_group_of_a_request_is_signed() {
        let rsa = kinit_pki::new_key(kinit_pki::KeyAlgorithm::Rsa2048).unwrap();
        for key in [KeyPair::generate().unwrap(), KeyPair::from_pem(&rsa).unwrap()] {
            let (ca, ca_der) = authority(key);
            let groups = ["dev".to_owned(), "ops".to_owned(), "dev".to_owned()];
            let own = KeyPair::generate().unwrap().serialize_pem();
            let spec = CertificateSigningRequestSpec {
                request: ByteString(kinit_pki::user_request(&own, "jane", &groups).unwrap().into_bytes()),
                signer_name: CLIENT.into(),
                usages: Some(vec!["client auth".into()]),
                ..Default::default()
            };
            let now = Timestamp::from_second(1_800_000_000).unwrap();
            let signed = ca.sign(checked(&spec).unwrap(), &spec, Duration::from_secs(3600), now).unwrap();
            let der = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
            let (_, cert) = x509_parser::parse_x509_certificate(&der).unwrap();
            let (_, ca) = x509_parser::parse_x509_certificate(&ca_der).unwrap();
            cert.verify_signature(Some(ca.public_key())).unwrap();
            let texts: Vec<&str> = cert.subject().iter_organization().map(|o| o.as_str().unwrap()).collect();
            assert_eq!(texts, groups);
            let names: Vec<&str> = cert.subject().iter_common_name().map(|o| o.as_str().unwrap()).collect();
            assert_eq!(names, ["jane"]);
            assert_eq!(cert.issuer(), ca.subject());
            assert!(cert.extended_key_usage().unwrap().unwrap().value.client_auth);
        }
    }

    #[test]
    fn of_two_authorities_the_one_with_the_key_signs() {
        let make = || {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let cert = params.self_signed(&key).unwrap();
            (cert.pem(), cert.der().clone(), key)
        };
        let (old, new, other) = (make(), make(), make());
        let both = format!("{}{}", old.0, new.0);
        for own in [&old, &new] {
            assert_eq!(Ca::of(both.as_bytes(), &own.2).unwrap(), own.1);
        }
        assert!(Ca::of(both.as_bytes(), &other.2).is_err());
    }

    #[test]
    fn a_request_for_a_ca_becomes_a_leaf() {
        let (ca, _) = authority(KeyPair::generate().unwrap());
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "system:node:a");
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![Usage::KeyCertSign];
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let spec = CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: KUBELET_CLIENT.into(),
            usages: Some(vec!["digital signature".into(), "client auth".into()]),
            ..Default::default()
        };
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let signed = ca.sign(checked(&spec).unwrap(), &spec, Duration::from_secs(9_000_000_000), now).unwrap();
        let der = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
        let (_, cert) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert!(!cert.is_ca());
        assert_eq!(cert.validity().not_after.timestamp(), 2_000_000_000, "not beyond the CA");
        let usage = cert.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && !usage.key_cert_sign());
        assert!(cert.extended_key_usage().unwrap().unwrap().value.client_auth);
        let bad = CertificateSigningRequestSpec {
            usages: Some(vec!["cert sign".into()]),
            signer_name: LEGACY_UNKNOWN.into(),
            ..spec
        };
        assert!(checked(&bad).is_err());
    }
}
