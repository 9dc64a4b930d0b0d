use std::os::unix::fs::MetadataExt;

use kinit_pki::{KeyAlgorithm, Leaf, Pair, Subject};
use kinit_resource::{LeafForm, LeafName};

use super::*;

const KIND: KeyAlgorithm = KeyAlgorithm::EcdsaP256;

struct Host {
    _dir: tempfile::TempDir,
    folder: Folder,
    leaf: LeafSpec,
    ca: Pair,
}

fn authority() -> Pair {
    kinit_pki::new_authority("kubernetes", KIND, 400, OffsetDateTime::now_utc()).unwrap()
}

fn host() -> Host {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let subject = Subject {
        common_name: "kube-apiserver".into(),
        organization: Some("a".into()),
        usages: vec![Usage::Server],
        dns: vec!["kubernetes".into(), "cp1".into()],
        ips: vec!["10.96.0.1".parse().unwrap()],
        days: 365,
    };
    let form = LeafForm::Combined { path: path("pair.pem") };
    let (leaf, authority_file) = (LeafName::Tree(Leaf::EtcdServer), path("ca.crt"));
    let leaf = LeafSpec { leaf, subject, algorithm: KIND, form, authority_file };
    Host { folder: Folder(path("requests")), leaf, ca: authority(), _dir: dir }
}

impl Host {
    fn signed(&self, request: &str, by: &Pair, subject: &Subject, now: OffsetDateTime) -> Signed {
        let certificate = kinit_pki::issue(by, request, subject, now).unwrap();
        Signed { leaf: self.leaf.clone(), certificate, authority: self.ca.cert.clone() }
    }

    fn wrong(&self, request: &str, by: &Pair, subject: &Subject, now: OffsetDateTime) -> String {
        self.folder.check(&self.signed(request, by, subject, now)).unwrap().join("; ")
    }
}

#[test]
fn a_request_has_everything_that_is_to_be_signed_and_its_key_stays() {
    let host = host();
    let pem = host.folder.request(&host.leaf).unwrap();
    let key = read_optional(&host.folder.path(&host.leaf, ".key")).unwrap().unwrap();
    assert!(kinit_pki::public_key_pem(&key).is_ok());
    let key = std::fs::metadata(host.folder.path(&host.leaf, ".key")).unwrap();
    assert_eq!((key.mode() & 0o777, std::fs::metadata(&host.folder.0).unwrap().mode() & 0o777), (0o600, 0o700));
    let read = rcgen::CertificateSigningRequestParams::from_pem(&pem).unwrap().params;
    assert_eq!(read.extended_key_usages, [ExtendedKeyUsagePurpose::ServerAuth]);
    assert_eq!(read.subject_alt_names.len(), 3);
    assert_eq!(read.distinguished_name.get(&DnType::OrganizationName), Some(&"a".into()));
    // Another request for the same key, so that what was signed for the first one fits.
    let again = host.folder.request(&host.leaf).unwrap();
    let signed = host.signed(&pem, &host.ca, &host.leaf.subject, OffsetDateTime::now_utc());
    assert_eq!(host.folder.check(&signed).unwrap(), Vec::<String>::new(), "{again}");
    // A key of another kind than is wanted now is made anew.
    let other = LeafSpec { algorithm: KeyAlgorithm::EcdsaP384, ..host.leaf.clone() };
    host.folder.request(&other).unwrap();
    assert!(host.folder.check(&signed).unwrap().join(" ").contains("another key"));
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let host = host();
    let now = OffsetDateTime::now_utc();
    let before =
        host.folder.check(&Signed { leaf: host.leaf.clone(), certificate: String::new(), authority: String::new() });
    assert!(before.unwrap()[0].contains("no request"));
    let request = host.folder.request(&host.leaf).unwrap();
    let subject = &host.leaf.subject;
    assert_eq!(host.wrong(&request, &host.ca, subject, now), "");
    assert!(host.wrong(&request, &authority(), subject, now).contains("another authority"));
    let stranger = kinit_pki::request(&kinit_pki::new_key(KIND).unwrap(), subject).unwrap();
    assert!(host.wrong(&stranger, &host.ca, subject, now).contains("another key"));
    let without = Subject { dns: vec!["kubernetes".into()], usages: vec![Usage::Client], ..subject.clone() };
    let words = host.wrong(&stranger, &authority(), &without, now);
    for word in ["lacks the name cp1", "lacks the usage Server", "another authority", "another key"] {
        assert!(words.contains(word), "{word}: {words}");
    }
    assert!(host.wrong(&request, &host.ca, subject, now - time::Duration::days(366)).contains("expired"));
    assert!(host.wrong(&request, &host.ca, subject, now + time::Duration::days(1)).contains("is not valid before"));
    let named = Subject { common_name: "admin".into(), ..subject.clone() };
    assert!(host.wrong(&request, &host.ca, &named, now).contains("another subject"));
    let rubbish = Signed { leaf: host.leaf.clone(), certificate: "rubbish".into(), authority: host.ca.cert.clone() };
    assert!(host.folder.check(&rubbish).unwrap()[0].contains("cannot be read"));
    assert!(host.folder.hold(&rubbish).is_err() && !host.folder.waits(&host.leaf).unwrap());
}

#[test]
fn what_was_handed_in_takes_its_place_once() {
    let host = host();
    let request = host.folder.request(&host.leaf).unwrap();
    let signed = host.signed(&request, &host.ca, &host.leaf.subject, OffsetDateTime::now_utc());
    assert!(!host.folder.waits(&host.leaf).unwrap());
    host.folder.hold(&signed).unwrap();
    assert!(host.folder.waits(&host.leaf).unwrap(), "before the host has the authority's certificate");
    // Another authority is the cluster's by now.
    std::fs::write(&host.leaf.authority_file, authority().cert).unwrap();
    assert!(!host.folder.waits(&host.leaf).unwrap() && host.folder.install(&host.leaf).is_err());
    std::fs::write(&host.leaf.authority_file, &host.ca.cert).unwrap();
    host.folder.install(&host.leaf).unwrap();
    let text = std::fs::read_to_string(host.leaf.path()).unwrap();
    assert!(text.starts_with(&signed.certificate) && text.contains("PRIVATE KEY"));
    assert_eq!(std::fs::metadata(host.leaf.path()).unwrap().mode() & 0o777, 0o600);
    assert!(!Path::new(&host.folder.0).exists(), "nothing is left");
    assert_eq!(secrets::observe(&host.leaf).unwrap(), kinit_resource::Observed::AsWanted);
    assert!(host.folder.install(&host.leaf).is_err());
}
