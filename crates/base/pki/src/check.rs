//! Looking at certificates that exist.

use std::net::IpAddr;

use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::issue::{KeyAlgorithm, Subject, Usage};
use crate::{pair, trust};

/// What is wrong with a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It cannot be parsed.
    Unreadable(String),
    /// Its signature is not the authority's.
    OtherIssuer,
    /// It is no longer valid.
    Expired(OffsetDateTime),
    /// It ends within its [`renewal_margin`].
    ExpiresSoon(OffsetDateTime),
    /// Its key is of another kind.
    OtherAlgorithm,
    /// Its subject differs.
    OtherSubject(String),
    /// It lacks a name or an address.
    MissingName(String),
    /// It lacks a usage.
    MissingUsage(Usage),
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreadable(why) => write!(f, "cannot be read: {why}"),
            Self::OtherIssuer => f.write_str("is signed by another authority"),
            Self::Expired(when) => write!(f, "expired on {}", when.date()),
            Self::ExpiresSoon(when) => write!(f, "expires on {}", when.date()),
            Self::OtherAlgorithm => f.write_str("has a key of another kind than encryptionAlgorithm"),
            Self::OtherSubject(subject) => write!(f, "has another subject: {subject}"),
            Self::MissingName(name) => write!(f, "lacks the name {name}"),
            Self::MissingUsage(usage) => write!(f, "lacks the usage {usage:?}"),
        }
    }
}

/// How long before its end a certificate is renewed: when two thirds of its life are over, and no earlier than 30 days
/// before its end. So a certificate that was just issued is never due, however short its life.
pub fn renewal_margin(life: Duration) -> Duration {
    let third: Duration = life / 3;
    third.min(Duration::days(30))
}

/// Compares a certificate with what it should be. `authorities` holds the issuer's certificate, beside others during a
/// rotation.
pub fn check(
    cert_pem: &str,
    authorities: &str,
    subject: &Subject,
    algorithm: KeyAlgorithm,
    now: OffsetDateTime,
) -> Vec<Finding> {
    let unreadable = |why: String| vec![Finding::Unreadable(why)];
    let der = match parse_x509_pem(cert_pem.as_bytes()) {
        Ok((_, pem)) => pem.contents,
        Err(error) => return unreadable(error.to_string()),
    };
    let cert = match X509Certificate::from_der(&der) {
        Ok((_, cert)) => cert,
        Err(error) => return unreadable(error.to_string()),
    };
    let mut findings = Vec::new();
    if trust::issuer_of(&cert, authorities).is_none() {
        findings.push(Finding::OtherIssuer);
    }
    let (begin, end) = (cert.validity().not_before.to_datetime(), cert.validity().not_after.to_datetime());
    if end <= now {
        findings.push(Finding::Expired(end));
    } else if end - now < renewal_margin(end - begin) {
        findings.push(Finding::ExpiresSoon(end));
    }
    if pair::algorithm(&cert) != Some(algorithm) {
        findings.push(Finding::OtherAlgorithm);
    }
    findings.extend(check_subject(&cert, subject));
    findings.extend(check_names(&cert, subject));
    findings
}

fn check_subject(cert: &X509Certificate<'_>, subject: &Subject) -> Option<Finding> {
    let name = cert.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok()).unwrap_or("");
    let organizations: Vec<&str> = cert.subject().iter_organization().filter_map(|o| o.as_str().ok()).collect();
    let wanted: Vec<&str> = subject.organization.iter().map(String::as_str).collect();
    (name != subject.common_name || organizations != wanted).then(|| Finding::OtherSubject(cert.subject().to_string()))
}

fn check_names(cert: &X509Certificate<'_>, subject: &Subject) -> Vec<Finding> {
    let (mut dns, mut ips) = (Vec::new(), Vec::new());
    if let Ok(Some(extension)) = cert.subject_alternative_name() {
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => ips.extend(address(bytes)),
                _ => {}
            }
        }
    }
    let missing_dns = subject.dns.iter().filter(|name| !dns.contains(name)).cloned();
    let missing_ips = subject.ips.iter().filter(|ip| !ips.contains(ip)).map(ToString::to_string);
    let mut findings: Vec<Finding> = missing_dns.chain(missing_ips).map(Finding::MissingName).collect();
    let usage = cert
        .extended_key_usage()
        .ok()
        .flatten()
        .map(|e| (e.value.server_auth, e.value.client_auth))
        .unwrap_or_default();
    for wanted in &subject.usages {
        let has = match wanted {
            Usage::Server => usage.0,
            Usage::Client => usage.1,
        };
        if !has {
            findings.push(Finding::MissingUsage(*wanted));
        }
    }
    findings
}

pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4: Option<[u8; 4]> = bytes.try_into().ok();
    let v6: Option<[u8; 16]> = bytes.try_into().ok();
    v4.map(IpAddr::from).or_else(|| v6.map(IpAddr::from))
}

/// When a certificate ends; `None` when it cannot be read.
pub fn expires_at(cert_pem: &str) -> Option<OffsetDateTime> {
    let (_, pem) = parse_x509_pem(cert_pem.as_bytes()).ok()?;
    let (_, cert) = X509Certificate::from_der(&pem.contents).ok()?;
    Some(cert.validity().not_after.to_datetime())
}

/// kubeadm's `caCertHashes` form: `sha256:` and the hash of the certificate's SubjectPublicKeyInfo.
pub fn public_key_hash(cert_pem: &str) -> Option<String> {
    let (_, pem) = parse_x509_pem(cert_pem.as_bytes()).ok()?;
    let (_, cert) = X509Certificate::from_der(&pem.contents).ok()?;
    Some(format!("sha256:{}", hex::encode(Sha256::digest(cert.public_key().raw))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issue::{Pair, issue, new_authority, new_key, request};

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
    }

    fn subject() -> Subject {
        Subject {
            common_name: "kube-apiserver".into(),
            organization: Some("a".into()),
            usages: vec![Usage::Server],
            dns: vec!["kubernetes".into()],
            ips: vec!["10.96.0.1".parse().unwrap()],
            days: 365,
        }
    }

    fn new(subject: &Subject, algorithm: KeyAlgorithm, ca: &Pair) -> String {
        let csr = request(&new_key(algorithm).unwrap(), subject).unwrap();
        issue(ca, &csr, subject, now()).unwrap()
    }

    #[test]
    fn what_is_issued_passes_and_every_difference_is_found() {
        for algorithm in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::Rsa2048] {
            let ca = new_authority("kubernetes", algorithm, 3650, now()).unwrap();
            let other = new_authority("kubernetes", KeyAlgorithm::EcdsaP256, 3650, now()).unwrap();
            let cert = new(&subject(), algorithm, &ca);
            assert_eq!(check(&cert, &ca.cert, &subject(), algorithm, now()), vec![]);
            assert_eq!(check(&cert, &other.cert, &subject(), algorithm, now()), vec![Finding::OtherIssuer]);
            let late = now() + Duration::days(336);
            assert!(matches!(check(&cert, &ca.cert, &subject(), algorithm, late)[..], [Finding::ExpiresSoon(_)]));
            let end = now() + Duration::days(365);
            assert!(matches!(check(&cert, &ca.cert, &subject(), algorithm, end)[..], [Finding::Expired(_)]));
            let more = Subject {
                dns: vec!["other".into()],
                usages: vec![Usage::Client],
                common_name: "x".into(),
                ..subject()
            };
            assert_eq!(check(&cert, &ca.cert, &more, algorithm, now()).len(), 3);
            let wanted = KeyAlgorithm::EcdsaP384;
            assert_eq!(check(&cert, &ca.cert, &subject(), wanted, now()), vec![Finding::OtherAlgorithm]);
        }
    }

    #[test]
    fn a_certificate_just_issued_is_not_due_however_short_its_life() {
        let ca = new_authority("kubernetes", KeyAlgorithm::EcdsaP256, 3650, now()).unwrap();
        for (days, due) in [(1, Duration::hours(17)), (30, Duration::days(21)), (90, Duration::days(61))] {
            let subject = Subject { days, ..subject() };
            let cert = new(&subject, KeyAlgorithm::EcdsaP256, &ca);
            let at = |time| check(&cert, &ca.cert, &subject, KeyAlgorithm::EcdsaP256, time);
            assert_eq!(at(now()), vec![], "{days} days");
            assert!(matches!(at(now() + due)[..], [Finding::ExpiresSoon(_)]), "{days} days");
            assert_eq!(at(now() + due - Duration::days(2).min(due / 2)), vec![], "{days} days");
        }
    }

    /// During a rotation `ca.crt` holds the old authority and the new one; `ca.key` is one of theirs.
    #[test]
    fn of_two_trusted_authorities_the_one_with_the_key_signs_and_both_are_accepted() {
        let kind = KeyAlgorithm::EcdsaP256;
        let (old, young) = (
            new_authority("kubernetes", kind, 3650, now()).unwrap(),
            new_authority("kubernetes", kind, 3650, now()).unwrap(),
        );
        let bundle = old.cert.clone() + &young.cert;
        for (own, other) in [(&old, &young), (&young, &old)] {
            let both = Pair { cert: bundle.clone(), key: own.key.clone() };
            let cert = new(&subject(), kind, &both);
            for (authorities, expected) in
                [(&bundle, vec![]), (&own.cert, vec![]), (&other.cert, vec![Finding::OtherIssuer])]
            {
                assert_eq!(check(&cert, authorities, &subject(), kind, now()), expected);
            }
        }
        let torn = Pair { cert: old.cert, key: young.key };
        let csr = request(&new_key(kind).unwrap(), &subject()).unwrap();
        assert!(matches!(issue(&torn, &csr, &subject(), now()), Err(crate::Error::NoPair)));
    }

    #[test]
    fn a_request_cannot_ask_for_more_than_it_gets() {
        let ca = new_authority("kubernetes", KeyAlgorithm::EcdsaP256, 3650, now()).unwrap();
        let greedy = Subject { common_name: "admin".into(), organization: Some("system:masters".into()), ..subject() };
        let csr = request(&new_key(KeyAlgorithm::EcdsaP256).unwrap(), &greedy).unwrap();
        let cert = issue(&ca, &csr, &subject(), now()).unwrap();
        assert_eq!(check(&cert, &ca.cert, &subject(), KeyAlgorithm::EcdsaP256, now()), vec![]);
    }

    #[test]
    fn rubbish_is_reported_not_fatal() {
        assert!(matches!(
            check("rubbish", "rubbish", &subject(), KeyAlgorithm::EcdsaP256, now())[..],
            [Finding::Unreadable(_)]
        ));
        assert_eq!((expires_at(""), public_key_hash("")), (None, None));
    }
}
