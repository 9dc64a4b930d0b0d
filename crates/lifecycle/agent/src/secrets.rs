//! Leaf certificates and their keys on this host.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use kinit_resource::{LeafForm, LeafSpec, Observed};
use time::OffsetDateTime;

use crate::apply::note_parents;
use crate::files::{self, read_optional};
use crate::kubeconfig::{self, Kubeconfig};
use crate::kubelet_certificates;
use crate::serve::State;
use crate::signed;

/// Makes a key, keeps it in memory, and returns the request for its certificate.
pub(crate) fn request(leaf: &LeafSpec, state: &mut State) -> Result<String> {
    let (key, request) = new_request(leaf)?;
    state.pending_keys.insert(leaf.path(), key);
    Ok(request)
}

/// A key, and the request for its certificate.
pub(crate) fn new_request(leaf: &LeafSpec) -> Result<(String, String)> {
    let key = kinit_pki::new_key(leaf.algorithm).with_context(|| format!("make the key of {}", leaf.path()))?;
    let request = kinit_pki::request(&key, &leaf.subject).with_context(|| format!("request {}", leaf.path()))?;
    Ok((key, request))
}

/// Takes a certificate that somebody else has signed for a key of this host, if it is what was asked for: the present
/// one stays otherwise.
pub(crate) fn take(leaf: &LeafSpec, certificate: &str, key: &str) -> Result<()> {
    let authority =
        std::fs::read_to_string(&leaf.authority_file).with_context(|| format!("read {}", leaf.authority_file))?;
    let mut wrong: Vec<String> =
        kinit_pki::check(certificate, &authority, &leaf.subject, leaf.algorithm, OffsetDateTime::now_utc())
            .iter()
            .map(ToString::to_string)
            .collect();
    if !kinit_pki::is_pair(certificate, key).unwrap_or(false) {
        wrong.push("is for another key".to_owned());
    }
    ensure!(wrong.is_empty(), "the certificate that was signed {}", wrong.join(", "));
    place(leaf, certificate, key)
}

/// Makes a key and has its certificate signed by this host's own authority.
pub(crate) fn issue_here(leaf: &LeafSpec) -> Result<()> {
    let (key, request) = new_request(leaf)?;
    let certificate = crate::shared::sign(leaf.leaf.authority(), &request, &leaf.subject)?;
    place(leaf, &certificate, &key)
}

/// Writes a certificate beside the key that was made for it, or both into a kubeconfig.
pub(crate) fn install(leaf: &LeafSpec, certificate: &str, state: &mut State) -> Result<()> {
    let key =
        state.pending_keys.remove(&leaf.path()).with_context(|| format!("no key was made for {}", leaf.path()))?;
    put(leaf, certificate, &key)
}

/// Notes what will be written, and writes it.
pub(crate) fn put(leaf: &LeafSpec, certificate: &str, key: &str) -> Result<()> {
    note_parents(&leaf.path())?;
    if let LeafForm::Files { path, .. } = &leaf.form {
        note_parents(&format!("{path}.key"))?;
    }
    place(leaf, certificate, key)
}

/// Key first. Between the two the old certificate has another key: what reads them then fails, and the next run
/// issues both anew.
fn place(leaf: &LeafSpec, certificate: &str, key: &str) -> Result<()> {
    let shown = leaf.path();
    std::fs::create_dir_all(Path::new(&shown).parent().unwrap_or(Path::new("/")))
        .context("make the folder for certificates")?;
    match &leaf.form {
        LeafForm::Files { path, owner } => {
            files::write(&format!("{path}.key"), key.as_bytes(), 0o600, owner)?;
            files::write(&shown, certificate.as_bytes(), 0o644, owner)
        }
        LeafForm::Kubeconfig { server, cluster, .. } => {
            let authority = std::fs::read_to_string(&leaf.authority_file)
                .with_context(|| format!("read {}", leaf.authority_file))?;
            let user = &leaf.subject.common_name;
            let text = kubeconfig::render(cluster, server, &authority, user, certificate, key);
            files::write_private(&shown, text.as_bytes())
        }
        LeafForm::Combined { .. } => files::write_own(&shown, format!("{}\n{key}", certificate.trim_end()).as_bytes()),
    }
}

/// Compares a certificate on disk, its key, and the kubeconfig around them with what they should be; one that was
/// signed elsewhere and handed in takes its place.
pub(crate) fn observe(leaf: &LeafSpec) -> Result<Observed> {
    let there = there(leaf)?;
    if !signed::waits(leaf)? {
        return Ok(there);
    }
    Ok(match there {
        Observed::AsWanted => Observed::Signed("another one was imported".to_owned()),
        Observed::Missing => Observed::Signed("missing".to_owned()),
        Observed::Differs(why) => Observed::Signed(why),
        other => other,
    })
}

/// What is in its place.
fn there(leaf: &LeafSpec) -> Result<Observed> {
    let Some(text) = read_optional(&leaf.path())? else { return Ok(Observed::Missing) };
    let Some(authority) = read_optional(&leaf.authority_file)? else {
        return Ok(Observed::Differs(format!("{} is missing", leaf.authority_file)));
    };
    let (certificate, key) = match &leaf.form {
        LeafForm::Files { path, .. } => match read_optional(&format!("{path}.key"))? {
            Some(key) => (text, key),
            None => return Ok(Observed::Differs("its key is missing".to_owned())),
        },
        LeafForm::Kubeconfig { server, .. } => match embedded(leaf, &text, server, &authority) {
            Ok(pair) => pair,
            Err(why) => return Ok(Observed::Differs(why)),
        },
        LeafForm::Combined { .. } => match private_key(&text) {
            Some(key) => (text.clone(), key),
            None => return Ok(Observed::Differs("its key is missing".to_owned())),
        },
    };
    let now = OffsetDateTime::now_utc();
    let findings = kinit_pki::check(&certificate, &authority, &leaf.subject, leaf.algorithm, now);
    let mut words: Vec<String> = findings.iter().map(ToString::to_string).collect();
    if kubelet_certificates::is_of_former(&certificate, &authority) {
        words.push("is signed by an authority that another one replaces".to_owned());
    }
    match kinit_pki::is_pair(&certificate, &key) {
        Ok(true) => {}
        Ok(false) => words.push("its key is another's".to_owned()),
        Err(error) => words.push(format!("its key: {error}")),
    }
    Ok(if words.is_empty() { Observed::AsWanted } else { Observed::Differs(words.join(", ")) })
}

/// The private key of a file that holds a certificate too.
fn private_key(text: &str) -> Option<String> {
    let label = text.find("PRIVATE KEY-----")?;
    let begin = text.get(..label)?.rfind("-----BEGIN ")?;
    text.get(begin..).map(str::to_owned)
}

/// The pair in a kubeconfig that is otherwise as wanted, or what differs.
fn embedded(leaf: &LeafSpec, text: &str, server: &str, authority: &str) -> Result<(String, String), String> {
    let read = Kubeconfig::parse(text).map_err(|error| format!("{error:#}"))?;
    if let Some(why) = read.cluster_differs(server, authority, &leaf.authority_file) {
        return Err(why);
    }
    if read.user() != leaf.subject.common_name {
        return Err(format!("its user is {:?}, not {:?}", read.user(), leaf.subject.common_name));
    }
    read.credentials().ok_or_else(|| "it has no embedded certificate and key".to_owned())
}

#[cfg(test)]
mod tests {
    use kinit_pki::{KeyAlgorithm, Leaf, Pair, Subject, Usage};

    use super::*;

    const KIND: KeyAlgorithm = KeyAlgorithm::EcdsaP256;

    struct Place {
        dir: tempfile::TempDir,
        ca: Pair,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let ca = kinit_pki::new_authority("ca", KIND, 400, OffsetDateTime::now_utc()).unwrap();
            std::fs::write(dir.path().join("ca.crt"), &ca.cert).unwrap();
            Self { dir, ca }
        }

        fn path(&self, name: &str) -> String {
            self.dir.path().join(name).display().to_string()
        }

        fn leaf(&self, form: LeafForm, days: u32) -> LeafSpec {
            let subject = Subject {
                common_name: "kubernetes-admin".into(),
                organization: None,
                usages: vec![Usage::Client],
                dns: vec![],
                ips: vec![],
                days,
            };
            LeafSpec { leaf: Leaf::Admin.into(), subject, algorithm: KIND, form, authority_file: self.path("ca.crt") }
        }

        fn forms(&self) -> [LeafForm; 2] {
            [
                LeafForm::Files { path: self.path("admin"), owner: "root:root".into() },
                LeafForm::Kubeconfig {
                    path: self.path("admin.conf"),
                    server: "https://10.0.0.1:6443".into(),
                    cluster: "c".into(),
                },
            ]
        }

        fn issue(&self, leaf: &LeafSpec) {
            let key = kinit_pki::new_key(leaf.algorithm).unwrap();
            place(leaf, &self.sign(leaf, &key), &key).unwrap();
        }

        fn sign(&self, leaf: &LeafSpec, key: &str) -> String {
            let request = kinit_pki::request(key, &leaf.subject).unwrap();
            kinit_pki::issue(&self.ca, &request, &leaf.subject, OffsetDateTime::now_utc()).unwrap()
        }
    }

    fn why(leaf: &LeafSpec) -> String {
        match observe(leaf).unwrap() {
            Observed::AsWanted => String::new(),
            Observed::Differs(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_just_issued_is_as_wanted_however_short_its_life() {
        let place = Place::new();
        for form in place.forms() {
            for days in [1, 7, 30, 365] {
                let leaf = place.leaf(form.clone(), days);
                place.issue(&leaf);
                assert_eq!(why(&leaf), "", "{days} days");
            }
        }
    }

    #[test]
    fn a_certificate_with_anothers_key_is_issued_anew() {
        let place = Place::new();
        for form in place.forms() {
            let leaf = place.leaf(form, 365);
            let (one, two) = (kinit_pki::new_key(KIND).unwrap(), kinit_pki::new_key(KIND).unwrap());
            super::place(&leaf, &place.sign(&leaf, &one), &two).unwrap();
            assert_eq!(why(&leaf), "its key is another's");
            super::place(&leaf, &place.sign(&leaf, &one), "rubbish").unwrap();
            assert_eq!(why(&leaf), "its key: read a private key");
            place.issue(&leaf);
            assert_eq!(why(&leaf), "");
        }
    }

    #[test]
    fn what_the_cluster_signed_is_taken_only_if_it_is_what_was_asked_for() {
        let place = Place::new();
        for form in place.forms() {
            let leaf = place.leaf(form, 365);
            place.issue(&leaf);
            let before = std::fs::read_to_string(leaf.path()).unwrap();
            let (key, request) = new_request(&leaf).unwrap();
            let now = OffsetDateTime::now_utc();
            let stranger = kinit_pki::new_authority("ca", KIND, 400, now).unwrap();
            let other = Subject { common_name: "system:kube-netd".into(), ..leaf.subject.clone() };
            for (by, subject, word) in
                [(&stranger, &leaf.subject, "another authority"), (&place.ca, &other, "another subject")]
            {
                let certificate = kinit_pki::issue(by, &request, subject, now).unwrap();
                let error = take(&leaf, &certificate, &key).unwrap_err().to_string();
                assert!(error.contains(word), "{error}");
            }
            let good = kinit_pki::issue(&place.ca, &request, &leaf.subject, now).unwrap();
            let another = kinit_pki::new_key(KIND).unwrap();
            assert!(take(&leaf, &good, &another).unwrap_err().to_string().contains("another key"));
            assert_eq!(std::fs::read_to_string(leaf.path()).unwrap(), before, "the present one stays");
            take(&leaf, &good, &key).unwrap();
            assert_eq!(why(&leaf), "");
        }
    }

    #[test]
    fn another_kind_of_key_is_issued_anew() {
        let place = Place::new();
        for form in place.forms() {
            let leaf = place.leaf(form, 365);
            place.issue(&leaf);
            let wanted = LeafSpec { algorithm: KeyAlgorithm::EcdsaP384, ..leaf };
            assert!(why(&wanted).contains("encryptionAlgorithm"), "{}", why(&wanted));
            place.issue(&wanted);
            assert_eq!(why(&wanted), "");
        }
    }

    #[test]
    fn a_kubeconfig_with_other_cluster_data_differs() {
        let place = Place::new();
        let [_, form] = place.forms();
        let mut leaf = place.leaf(form, 365);
        place.issue(&leaf);
        // The authority's file gets a second one, as in a rotation.
        let young = kinit_pki::new_authority("ca", KIND, 400, OffsetDateTime::now_utc()).unwrap();
        std::fs::write(&leaf.authority_file, place.ca.cert.clone() + &young.cert).unwrap();
        assert!(why(&leaf).contains("certificate-authority-data"), "{}", why(&leaf));
        place.issue(&leaf);
        assert_eq!(why(&leaf), "");
        leaf.subject.common_name = "other".into();
        assert!(why(&leaf).contains("its user is"), "{}", why(&leaf));
        std::fs::write(leaf.path(), "rubbish").unwrap();
        assert!(!why(&leaf).is_empty());
    }
}
