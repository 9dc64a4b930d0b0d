//! Leaf certificates and their keys on this host.

use std::path::Path;

use anyhow::{Context, Result};
use kinit_resource::{LeafForm, LeafSpec, Observed};
use time::OffsetDateTime;

use crate::apply::note_parents;
use crate::files::{self, read_optional};
use crate::kubeconfig::{self, Kubeconfig};
use crate::kubelet_certificates;
use crate::serve::State;

/// Makes a key, keeps it in memory, and returns the request for its certificate.
pub(crate) fn request(leaf: &LeafSpec, state: &mut State) -> Result<String> {
    let key = kinit_pki::new_key(leaf.algorithm).with_context(|| format!("make the key of {}", leaf.path()))?;
    let request = kinit_pki::request(&key, &leaf.subject).with_context(|| format!("request {}", leaf.path()))?;
    state.pending_keys.insert(leaf.path(), key);
    Ok(request)
}

/// Makes a key and has its certificate signed by this host's own authority.
pub(crate) fn issue_here(leaf: &LeafSpec) -> Result<()> {
    let key = kinit_pki::new_key(leaf.algorithm).with_context(|| format!("make the key of {}", leaf.path()))?;
    let request = kinit_pki::request(&key, &leaf.subject).with_context(|| format!("request {}", leaf.path()))?;
    let certificate = crate::shared::sign(leaf.leaf.authority(), &request, &leaf.subject)?;
    place(leaf, &certificate, &key)
}

/// Writes a certificate beside the key that was made for it, or both into a kubeconfig.
pub(crate) fn install(leaf: &LeafSpec, certificate: &str, state: &mut State) -> Result<()> {
    let key =
        state.pending_keys.remove(&leaf.path()).with_context(|| format!("no key was made for {}", leaf.path()))?;
    note_parents(&leaf.path())?;
    if let LeafForm::Files { path, .. } = &leaf.form {
        note_parents(&format!("{path}.key"))?;
    }
    place(leaf, certificate, &key)
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
    }
}

/// Compares a certificate on disk, its key, and the kubeconfig around them with what they should be.
pub(crate) fn observe(leaf: &LeafSpec) -> Result<Observed> {
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
            LeafSpec { leaf: Leaf::Admin, subject, algorithm: KIND, form, authority_file: self.path("ca.crt") }
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
