//! Secrets that several hosts share: authorities, the key for service-account tokens, the encryption configuration.
//!
//! A secret with two halves is two files, and a crash may come between them. So both halves are first written to one
//! file beside them ([`Store::pending`]), and whoever has the host's lock next finishes what was begun.

use std::path::Path;

use anyhow::{Context, Result, bail};
use kinit_pki::{Authority, KeyAlgorithm, Pair};
use kinit_resource::{Observed, Place, Shared, sha256};
use time::OffsetDateTime;

use crate::apply::note_parents;
use crate::encryption;
use crate::files::{self, read_optional};

const PKI: &str = "/etc/kubernetes/pki";

/// The folder with the shared secrets.
pub(crate) struct Store(String);

impl Store {
    /// This host's.
    pub(crate) fn host() -> Self {
        Self(PKI.to_owned())
    }

    fn path(&self, stem: &str) -> String {
        format!("{}/{stem}", self.0)
    }

    /// Both halves, until each is in its place.
    fn pending(&self, private: &str) -> String {
        self.path(&format!("{private}.kinit-pair"))
    }

    /// Identifies a shared secret without telling it. Where only one half of it is, it is not whole, and not missing
    /// either.
    pub(crate) fn observe(&self, shared: Shared, place: Place) -> Result<Observed> {
        let (public, private) = shared.files();
        let secret = read_optional(&self.path(&private))?;
        let Some(public) = public else {
            return Ok(secret.map_or(Observed::Missing, |text| Observed::Fingerprint(sha256(text.as_bytes()))));
        };
        let shown = read_optional(&self.path(&public))?;
        let whole = place == Place::Whole;
        Ok(match (shown, secret) {
            (None, Some(_)) if whole => Observed::Differs(format!("{} is missing", self.path(&public))),
            (None, _) => Observed::Missing,
            (Some(text), None) if whole => match shared {
                Shared::Authority(_) => Observed::Public(sha256(text.as_bytes())),
                _ => Observed::Differs(format!("{} is missing", self.path(&private))),
            },
            (Some(text), Some(secret)) if whole => match kinit_pki::is_pair(&text, &secret) {
                Ok(true) => Observed::Fingerprint(sha256(text.as_bytes())),
                Ok(false) => {
                    Observed::Differs(format!("{} does not belong to {}", self.path(&private), self.path(&public)))
                }
                Err(error) => Observed::Differs(format!("{}: {error}", self.path(&private))),
            },
            (Some(text), _) => Observed::Fingerprint(sha256(text.as_bytes())),
        })
    }

    /// Makes a shared secret. What exists already is never overwritten.
    pub(crate) fn generate(&self, shared: Shared, algorithm: KeyAlgorithm, days: u32) -> Result<()> {
        self.finish(shared)?;
        let (public, private) = shared.files();
        for file in public.iter().chain([&private]) {
            if Path::new(&self.path(file)).exists() {
                bail!("{} exists already", self.path(file));
            }
        }
        let pair = match shared {
            Shared::Authority(authority) => {
                kinit_pki::new_authority(authority.common_name(), algorithm, days, OffsetDateTime::now_utc())
            }
            Shared::ServiceAccountKey => kinit_pki::new_service_account_pair(algorithm),
            Shared::EncryptionConfig => Ok(Pair { cert: String::new(), key: encryption::fresh()? }),
        };
        self.write(shared, &pair.with_context(|| format!("make {}", shared.name()))?, false)
    }

    /// Reads a shared secret whole, or its public half alone where `public_only` is set.
    pub(crate) fn read(&self, shared: Shared, public_only: bool) -> Result<Pair> {
        self.finish(shared)?;
        let (public, private) = shared.files();
        let need = |file: &str| read_optional(file)?.with_context(|| format!("there is no {file}"));
        let cert = public.map(|file| need(&self.path(&file))).transpose()?.unwrap_or_default();
        let key = if public_only { String::new() } else { need(&self.path(&private))? };
        Ok(Pair { cert, key })
    }

    /// Writes a shared secret, or its public half alone.
    pub(crate) fn write(&self, shared: Shared, pair: &Pair, public_only: bool) -> Result<()> {
        let (public, private) = shared.files();
        let folder = self.path(&private);
        std::fs::create_dir_all(Path::new(&folder).parent().unwrap_or(Path::new(&self.0)))
            .context("make the folder for certificates")?;
        match public {
            None => files::write_private(&self.path(&private), pair.key.as_bytes()),
            Some(public) if public_only => self.write_public(&public, pair),
            Some(_) => {
                let both = serde_json::to_vec(pair).context("encode a pair of keys")?;
                files::write_private(&self.pending(&private), &both)?;
                self.place(shared, pair)
            }
        }
    }

    /// What there is of a secret: its public half (empty where it has none) and its private one. `None` when there is
    /// no public half, or nothing of a secret without one.
    pub(crate) fn halves(&self, shared: Shared) -> Result<Option<(String, Option<String>)>> {
        let (public, private) = shared.files();
        let secret = read_optional(&self.path(&private))?;
        Ok(match public {
            None => secret.map(|secret| (String::new(), Some(secret))),
            Some(public) => read_optional(&self.path(&public))?.map(|shown| (shown, secret)),
        })
    }

    /// Puts another pair in the place of the one that is there. A half that is the same stays as it is: its time tells
    /// who has to be started again.
    pub(crate) fn replace(&self, shared: Shared, pair: &Pair) -> Result<()> {
        let (public, private) = shared.files();
        let same =
            |file: &str, text: &str| Ok::<_, anyhow::Error>(read_optional(&self.path(file))?.as_deref() == Some(text));
        let (public_same, key_same) = match &public {
            Some(public) => (same(public, &pair.cert)?, same(&private, &pair.key)?),
            None => (true, same(&private, &pair.key)?),
        };
        match (public, public_same, key_same) {
            (_, true, true) => Ok(()),
            (Some(public), false, true) => self.write_public(&public, pair),
            (Some(_), true, false) => files::write_private(&self.path(&private), pair.key.as_bytes()),
            _ => self.write(shared, pair, false),
        }
    }

    fn write_public(&self, public: &str, pair: &Pair) -> Result<()> {
        files::write(&self.path(public), pair.cert.as_bytes(), 0o644, "root:root")
    }

    /// Puts both halves in place: the private one first, so that whoever sees the certificate finds the key.
    fn place(&self, shared: Shared, pair: &Pair) -> Result<()> {
        let (public, private) = shared.files();
        files::write_private(&self.path(&private), pair.key.as_bytes())?;
        if let Some(public) = public {
            self.write_public(&public, pair)?;
        }
        files::remove(&self.pending(&private))
    }

    /// Finishes a write that was interrupted. Halves that belong together meanwhile are somebody's repair and stay.
    fn finish(&self, shared: Shared) -> Result<()> {
        let (Some(public), private) = shared.files() else { return Ok(()) };
        let Some(text) = read_optional(&self.pending(&private))? else { return Ok(()) };
        let pair: Pair = serde_json::from_str(&text).with_context(|| format!("parse {}", self.pending(&private)))?;
        let halves = (read_optional(&self.path(&public))?, read_optional(&self.path(&private))?);
        if let (Some(public), Some(key)) = &halves
            && kinit_pki::is_pair(public, key).unwrap_or(false)
        {
            // A whole pair that is older than the pending one was about to be replaced; a control plane is copied to
            // again.
            return files::remove(&self.pending(&private));
        }
        self.place(shared, &pair)
    }
}

/// Finishes this host's writes that were interrupted. Only for whoever has the host's lock: another one may be writing.
pub(crate) fn finish_all() -> Result<()> {
    let store = Store::host();
    Shared::ALL.into_iter().try_for_each(|shared| store.finish(shared))
}

/// Notes in the ledger the files that are about to be written for a shared secret.
pub(crate) fn note(shared: Shared, public_only: bool) -> Result<()> {
    let (public, private) = shared.files();
    let store = Store::host();
    note_parents(&store.path(&private))?;
    if !public_only {
        note_parents(&store.pending(&private))?;
    }
    public.map_or(Ok(()), |public| note_parents(&store.path(&public)))
}

/// Signs with an authority of this host.
pub(crate) fn sign(authority: Authority, request: &str, subject: &kinit_pki::Subject) -> Result<String> {
    let pair = Store::host().read(Shared::Authority(authority), false)?;
    kinit_pki::issue(&pair, request, subject, OffsetDateTime::now_utc())
        .with_context(|| format!("sign {}", subject.common_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: Shared = Shared::Authority(Authority::Etcd);
    const KIND: KeyAlgorithm = KeyAlgorithm::EcdsaP256;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store(dir.path().display().to_string());
        (dir, store)
    }

    #[test]
    fn halves_that_do_not_belong_together_differ() {
        let (_dir, store) = store();
        for shared in [CA, Shared::ServiceAccountKey] {
            assert_eq!(store.observe(shared, Place::Whole).unwrap(), Observed::Missing);
            store.generate(shared, KIND, 10).unwrap();
            assert!(matches!(store.observe(shared, Place::Whole).unwrap(), Observed::Fingerprint(_)));
            assert!(store.generate(shared, KIND, 10).is_err(), "made again");
            let key = kinit_pki::new_key(KIND).unwrap();
            files::write_private(&store.path(&shared.files().1), key.as_bytes()).unwrap();
            let seen = store.observe(shared, Place::Whole).unwrap();
            assert!(matches!(&seen, Observed::Differs(why) if why.contains("does not belong to")), "{seen:?}");
            assert!(matches!(store.observe(shared, Place::Public).unwrap(), Observed::Fingerprint(_)));
            files::remove(&store.path(&shared.files().1)).unwrap();
            let seen = store.observe(shared, Place::Whole).unwrap();
            assert_eq!(matches!(seen, Observed::Public(_)), shared == CA, "{seen:?}");
        }
    }

    /// As far as a run can have come when it was killed: the pair is known, one of its files or none is written.
    #[test]
    fn a_write_that_was_interrupted_is_finished() {
        let (_dir, store) = store();
        let (public, private) = CA.files();
        let public = public.unwrap();
        let pair = |name: &str| kinit_pki::new_authority(name, KIND, 10, OffsetDateTime::now_utc()).unwrap();
        let (old, new) = (pair("old"), pair("new"));
        for before in [None, Some(&old)] {
            for written in 0..3 {
                for file in [&public, &private] {
                    files::remove(&store.path(file)).unwrap();
                }
                if let Some(before) = before {
                    store.write(CA, before, false).unwrap();
                }
                std::fs::create_dir_all(store.path("etcd")).unwrap();
                files::write_private(&store.pending(&private), &serde_json::to_vec(&new).unwrap()).unwrap();
                if written > 0 {
                    files::write_private(&store.path(&private), new.key.as_bytes()).unwrap();
                }
                if written > 1 {
                    files::write(&store.path(&public), new.cert.as_bytes(), 0o644, "root:root").unwrap();
                }
                store.finish(CA).unwrap();
                let seen = store.observe(CA, Place::Whole).unwrap();
                let stays = before.filter(|_| written == 0);
                let expected = stays.unwrap_or(&new);
                assert_eq!(seen, Observed::Fingerprint(sha256(expected.cert.as_bytes())), "{written}");
                assert!(store.read(CA, false).unwrap() == *expected);
                assert!(!Path::new(&store.pending(&private)).exists());
            }
        }
    }

    #[test]
    fn what_is_pending_is_read_by_root_only() {
        use std::os::unix::fs::MetadataExt;
        let (_dir, store) = store();
        std::fs::create_dir_all(store.path("etcd/ca.crt/x")).unwrap();
        // The public half cannot be put in place.
        let pair = kinit_pki::new_authority("ca", KIND, 10, OffsetDateTime::now_utc()).unwrap();
        store.write(CA, &pair, false).unwrap_err();
        assert_eq!(std::fs::metadata(store.pending("etcd/ca.key")).unwrap().mode() & 0o777, 0o600);
    }
}
