//! Certificates that are signed elsewhere (`kinit certs csr`, `kinit certs import`): by an authority whose key is on no
//! host. Their keys are made here and stay here; requests leave the host, and certificates come back.
//!
//! ```text
//! /etc/kubernetes/pki/requests/NAME.key      the key (0600), until its certificate is in place
//!                              NAME.crt      what was signed for it, once it was handed in
//!                              NAME-ca.crt   the authority that it was checked against
//! ```

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use kinit_pki::{Finding, Usage};
use kinit_resource::LeafSpec;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::apply::note_parents;
use crate::files::{self, read_optional};
use crate::secrets;

const FOLDER: &str = "/etc/kubernetes/pki/requests";

/// What is asked of a host whose certificates are signed elsewhere.
#[derive(Clone, Serialize, Deserialize)]
pub enum SignedRequest {
    /// Make a key, or take the one that was made for an earlier request, and answer with the request.
    Make(Box<LeafSpec>),
    /// Say everything that is wrong with a certificate.
    Check(Box<Signed>),
    /// Keep a certificate beside its key until a plan puts both in place.
    Hold(Box<Signed>),
    /// Put a certificate that was handed in, and its key, in their places.
    Install(Box<LeafSpec>),
}

/// A certificate that was signed elsewhere. It holds no secret.
#[derive(Clone, Serialize, Deserialize)]
pub struct Signed {
    /// What it is for.
    pub leaf: LeafSpec,
    /// PEM: the certificate, and authorities between it and the cluster's where there are any.
    pub certificate: String,
    /// The cluster's authority, PEM.
    pub authority: String,
}

impl SignedRequest {
    pub(crate) fn only_looks(&self) -> bool {
        matches!(self, Self::Check(_))
    }

    /// How the journal names it.
    pub(crate) fn step(&self) -> Option<String> {
        match self {
            Self::Make(leaf) => Some(format!("request {}", leaf.request_name())),
            Self::Check(_) => None,
            Self::Hold(signed) => Some(format!("import {}", signed.leaf.request_name())),
            Self::Install(leaf) => Some(leaf.path()),
        }
    }
}

/// Does what is asked; lines of text come back.
pub(crate) fn answer(request: &SignedRequest) -> Result<Vec<String>> {
    let folder = Folder(FOLDER.to_owned());
    match request {
        SignedRequest::Make(leaf) => Ok(vec![folder.request(leaf)?]),
        SignedRequest::Check(signed) => folder.check(signed),
        SignedRequest::Hold(signed) => folder.hold(signed).map(|()| Vec::new()),
        SignedRequest::Install(leaf) => folder.install(leaf).map(|()| Vec::new()),
    }
}

/// Whether a certificate was handed in that fits, and that is to take the place of the present one.
pub(crate) fn waits(leaf: &LeafSpec) -> Result<bool> {
    Folder(FOLDER.to_owned()).waits(leaf)
}

/// Puts a certificate that was handed in, and its key, in their places.
pub(crate) fn install(leaf: &LeafSpec) -> Result<()> {
    Folder(FOLDER.to_owned()).install(leaf)
}

/// Where keys wait for their certificates.
struct Folder(String);

impl Folder {
    fn path(&self, leaf: &LeafSpec, ending: &str) -> String {
        format!("{}/{}{ending}", self.0, leaf.request_name().replace('/', "-"))
    }

    fn request(&self, leaf: &LeafSpec) -> Result<String> {
        let path = self.path(leaf, ".key");
        let made = read_optional(&path)?.filter(|key| is_of_kind(key, leaf).unwrap_or(false));
        let key = match made {
            // What was sent to the authority before stays of use.
            Some(key) => key,
            None => {
                let key =
                    kinit_pki::new_key(leaf.algorithm).with_context(|| format!("make the key of {}", leaf.path()))?;
                self.make_folder()?;
                files::write_own(&path, key.as_bytes())?;
                key
            }
        };
        request(&key, leaf).with_context(|| format!("request {}", leaf.path()))
    }

    /// Only root looks into it.
    fn make_folder(&self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        if self.0 == FOLDER {
            note_parents(&self.0)?;
        }
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0);
        made.with_context(|| format!("make the directory {}", self.0))
    }

    fn check(&self, signed: &Signed) -> Result<Vec<String>> {
        let Some(key) = read_optional(&self.path(&signed.leaf, ".key"))? else {
            return Ok(vec!["no request for it was made on this host (`kinit certs csr`)".to_owned()]);
        };
        Ok(wrong(&signed.leaf, &signed.certificate, &signed.authority, &key, OffsetDateTime::now_utc()))
    }

    fn hold(&self, signed: &Signed) -> Result<()> {
        let wrong = self.check(signed)?;
        ensure!(wrong.is_empty(), "the certificate {}", wrong.join(", "));
        files::write_own(&self.path(&signed.leaf, "-ca.crt"), signed.authority.as_bytes())?;
        files::write_own(&self.path(&signed.leaf, ".crt"), signed.certificate.as_bytes())
    }

    /// The certificate and its key, if they are there and nothing is wrong with them.
    fn held(&self, leaf: &LeafSpec) -> Result<Option<(String, String)>> {
        let read = |ending: &str| read_optional(&self.path(leaf, ending));
        let (Some(key), Some(certificate)) = (read(".key")?, read(".crt")?) else { return Ok(None) };
        // A host that is new has the authority's certificate later in the same run.
        let Some(authority) =
            read_optional(&leaf.authority_file)?.map_or_else(|| read("-ca.crt"), |own| Ok(Some(own)))?
        else {
            return Ok(None);
        };
        let wrong = wrong(leaf, &certificate, &authority, &key, OffsetDateTime::now_utc());
        Ok(wrong.is_empty().then_some((certificate, key)))
    }

    fn waits(&self, leaf: &LeafSpec) -> Result<bool> {
        Ok(self.held(leaf)?.is_some())
    }

    fn install(&self, leaf: &LeafSpec) -> Result<()> {
        let Some((certificate, key)) = self.held(leaf)? else {
            bail!("no certificate was handed in for {} that fits (`kinit certs import`)", leaf.path());
        };
        secrets::put(leaf, &certificate, &key)?;
        for ending in [".crt", "-ca.crt", ".key"] {
            files::remove(&self.path(leaf, ending))?;
        }
        // The last one takes the folder along; until then it is not empty.
        std::fs::remove_dir(Path::new(&self.0)).ok();
        Ok(())
    }
}

/// Everything that is wrong with a certificate.
fn wrong(leaf: &LeafSpec, certificate: &str, authority: &str, key: &str, now: OffsetDateTime) -> Vec<String> {
    let findings = kinit_pki::check(certificate, authority, &leaf.subject, leaf.algorithm, now);
    let mut words: Vec<String> = findings.iter().map(ToString::to_string).collect();
    if let [Finding::Unreadable(_)] = findings[..] {
        return words;
    }
    if let Some(info) = kinit_pki::inspect(certificate).first() {
        if info.authority {
            words.push("may sign others: it is an authority's".to_owned());
        }
        if info.not_before > now.unix_timestamp() {
            let begin = OffsetDateTime::from_unix_timestamp(info.not_before).map(|begin| begin.to_string());
            words.push(format!("is not valid before {}", begin.unwrap_or_default()));
        }
    }
    match kinit_pki::is_pair(first(certificate), key) {
        Ok(true) => {}
        Ok(false) => words.push("is for another key than the one that was made for its request".to_owned()),
        Err(error) => words.push(format!("cannot be compared with its key: {error}")),
    }
    words
}

/// The certificate itself, without authorities after it.
fn first(pem: &str) -> &str {
    const END: &str = "-----END CERTIFICATE-----";
    pem.find(END).and_then(|at| pem.get(..at + END.len())).unwrap_or(pem)
}

/// Whether a key is of the kind that is wanted now.
fn is_of_kind(key: &str, leaf: &LeafSpec) -> Result<bool> {
    let pair = KeyPair::from_pem(key).context("read a private key")?;
    let own = CertificateParams::default().self_signed(&pair).context("look at a private key")?.pem();
    let findings = kinit_pki::check(&own, "", &leaf.subject, leaf.algorithm, OffsetDateTime::now_utc());
    Ok(!findings.contains(&Finding::OtherAlgorithm))
}

/// A certificate signing request (PKCS#10) with subject, names and usages, so that whoever signs can copy its
/// extensions (`openssl x509 -req -copy_extensions copyall`).
fn request(key: &str, leaf: &LeafSpec) -> Result<String> {
    let pair = KeyPair::from_pem(key).context("read a private key")?;
    let subject = &leaf.subject;
    let mut name = DistinguishedName::new();
    if let Some(organization) = &subject.organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, &subject.common_name);
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    for dns in &subject.dns {
        let name = dns.as_str().try_into();
        params.subject_alt_names.push(SanType::DnsName(name.with_context(|| format!("the name {dns:?}"))?));
    }
    params.subject_alt_names.extend(subject.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    let usage = |usage: &Usage| match usage {
        Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
    };
    params.extended_key_usages = subject.usages.iter().map(usage).collect();
    let request = params.serialize_request(&pair).context("make a certificate signing request")?;
    request.pem().context("encode a certificate signing request")
}

#[cfg(test)]
#[path = "signed_tests.rs"]
mod tests;
