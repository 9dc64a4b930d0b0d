//! The authorities' keys where they are kept on the desk (`spec.certificates.caKeys: desk`): in a file beside the
//! cluster file, encrypted with age, and in memory for as long as a run needs them. They reach no host.
//!
//! ```text
//! ca-keys.age ── age (recipients, or a passphrase) ──► {"version": 1, "authorities": {"ca": {cert, key}, ...}}
//! ```

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use kinit_backup::{Error, Identity, Protection, seal, unseal};
use kinit_pki::{Authority, KeyAlgorithm, Pair, Subject};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Why the authorities' keys cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("the authorities' keys in {file}: {why}")]
pub struct Locked {
    file: String,
    why: String,
}

/// How the file is opened, and closed for the first time.
pub trait Unlock: Send + Sync {
    /// Identities of age, and the passphrase where the file has one (`passphrase`): it may have to be asked for.
    fn identity(&self, file: &Path, passphrase: bool) -> Result<Identity>;
    /// The passphrase of a new file, or the one that the file was opened with.
    fn passphrase(&self, file: &Path) -> Result<String>;
}

/// The file, opened when something is needed of it.
pub struct Keyring {
    file: PathBuf,
    recipients: Vec<String>,
    unlock: Box<dyn Unlock>,
    opened: Mutex<Option<Pairs>>,
}

type Pairs = BTreeMap<String, Pair>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    authorities: Pairs,
}

const VERSION: u32 = 1;

/// How age marks a file with a passphrase, in the first lines of its header.
const SCRYPT: &[u8] = b"-> scrypt ";
const HEADER: usize = 200;

impl Keyring {
    /// The file at this path, for these recipients (`age1…`); with a passphrase where there are none.
    pub fn new(file: PathBuf, recipients: Vec<String>, unlock: Box<dyn Unlock>) -> Self {
        Self { file, recipients, unlock, opened: Mutex::new(None) }
    }

    /// Whether there is such a file.
    pub fn exists(&self) -> bool {
        self.file.exists()
    }

    /// Opens the file, if there is one: before anything is changed by a run that needs it.
    pub(crate) fn open(&self) -> Result<()> {
        self.with(|_| Ok(()))
    }

    /// Compares what the file has of an authority with its certificate on a host: a file of another cluster would sign
    /// what nobody here trusts.
    pub(crate) fn is_of(&self, authority: Authority, host: &str, shown: &str) -> Result<()> {
        let kept = self.with(|pairs| Ok(pairs.get(authority.stem()).cloned()))?;
        let Some(kept) = kept else { return Ok(()) };
        if kinit_pki::is_pair(shown, &kept.key).unwrap_or(false) {
            return Ok(());
        }
        let why = format!(
            "the key of {} is not that of {host}: the file is another cluster's, and has to be moved away",
            authority.stem()
        );
        Err(Locked { file: self.file.display().to_string(), why }.into())
    }

    /// An authority, whole.
    pub(crate) fn pair(&self, authority: Authority) -> Result<Pair> {
        let found = self.with(|pairs| Ok(pairs.get(authority.stem()).cloned()))?;
        let (name, file) = (authority.stem(), self.file.display());
        found.with_context(|| {
            format!("{file} has no key of {name}: put the right file there, or the key back to a control plane")
        })
    }

    /// Signs a request; everything but its key comes from `subject`.
    pub(crate) fn sign(&self, authority: Authority, request: &str, subject: &Subject) -> Result<String> {
        let pair = self.pair(authority)?;
        kinit_pki::issue(&pair, request, subject, OffsetDateTime::now_utc())
            .with_context(|| format!("sign {}", subject.common_name))
    }

    /// Makes an authority, if an earlier run has not; it is in the file before anybody sees it.
    pub(crate) fn generate(&self, authority: Authority, algorithm: KeyAlgorithm, days: u32) -> Result<()> {
        self.with(|pairs| {
            if pairs.contains_key(authority.stem()) {
                return Ok(());
            }
            let made = kinit_pki::new_authority(authority.common_name(), algorithm, days, OffsetDateTime::now_utc());
            let pair = made.with_context(|| format!("make {}", authority.stem()))?;
            self.keep_in(pairs, authority, pair)
        })
    }

    /// Keeps an authority that a host had so far. What the file has is not overwritten.
    pub(crate) fn keep(&self, authority: Authority, pair: Pair) -> Result<()> {
        ensure!(kinit_pki::is_pair(&pair.cert, &pair.key).unwrap_or(false), "{} is not whole", authority.stem());
        self.with(|pairs| match pairs.get(authority.stem()) {
            Some(kept) if kept.key == pair.key => Ok(()),
            Some(_) => bail!(
                "{} has another key of {}: it belongs to another cluster, or to one that was rotated; move it away",
                self.file.display(),
                authority.stem()
            ),
            None => self.keep_in(pairs, authority, pair),
        })
    }

    fn keep_in(&self, pairs: &mut Pairs, authority: Authority, pair: Pair) -> Result<()> {
        let mut all = pairs.clone();
        all.insert(authority.stem().to_owned(), pair);
        self.write(&all)?;
        *pairs = all;
        Ok(())
    }

    /// Does something with the keys; opens the file before, the first time.
    fn with<T>(&self, work: impl FnOnce(&mut Pairs) -> Result<T>) -> Result<T> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if opened.is_none() {
            *opened = Some(self.read()?);
        }
        work(opened.get_or_insert_default())
    }

    fn read(&self) -> Result<Pairs> {
        let file = self.file.display();
        let sealed = match std::fs::read(&self.file) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Pairs::new()),
            Err(error) => return Err(error).with_context(|| format!("read {file}")),
        };
        let header = sealed.get(..HEADER.min(sealed.len())).unwrap_or_default();
        let passphrase = header.windows(SCRYPT.len()).any(|part| part == SCRYPT);
        let identity = self.unlock.identity(&self.file, passphrase)?;
        let text = unseal(&sealed, &identity).map_err(|error| self.locked(&error))?;
        // A parser's message could quote a key.
        let contents: Option<Contents> = serde_json::from_slice(&text).ok();
        let contents = contents.filter(|contents| contents.version == VERSION);
        let contents = contents.with_context(|| format!("{file} holds no keys that this kinit can read"))?;
        Ok(contents.authorities)
    }

    /// In the words of this file, not of a backup's.
    fn locked(&self, error: &Error) -> Locked {
        let why = match error {
            Error::NeedsIdentity => {
                "they are encrypted for recipients: give the file with an identity of theirs (--ca-key-identity FILE), or move it away if it is another cluster's"
                    .to_owned()
            }
            Error::WrongIdentity => "none of the identities of --ca-key-identity opens them".to_owned(),
            Error::NeedsPassphrase => "they have a passphrase: give it (--ca-passphrase-fd N), or move the file away if it is another cluster's".to_owned(),
            Error::WrongPassphrase => "the passphrase does not open them".to_owned(),
            Error::Key(why) => why.clone(),
            _ => "the file is damaged, or is none of kinit's".to_owned(),
        };
        Locked { file: self.file.display().to_string(), why }
    }

    /// Atomic, and only the owner's from the first byte.
    fn write(&self, pairs: &Pairs) -> Result<()> {
        let contents = Contents { version: VERSION, authorities: pairs.clone() };
        let text = serde_json::to_vec(&contents).context("encode the authorities' keys")?;
        let protection = if self.recipients.is_empty() {
            Protection::Passphrase(self.unlock.passphrase(&self.file)?)
        } else {
            Protection::Recipients(self.recipients.clone())
        };
        let sealed = seal(&text, &protection).map_err(|error| self.locked(&error))?;
        let temporary = self.file.with_extension("age.new");
        let write = || -> std::io::Result<()> {
            std::fs::remove_file(&temporary)
                .or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(&sealed)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &self.file)?;
            // Hosts lose their keys next: the name has to be on disk too.
            let folder = self.file.parent().filter(|folder| !folder.as_os_str().is_empty());
            std::fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        write().with_context(|| format!("write {}", self.file.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const KIND: KeyAlgorithm = KeyAlgorithm::EcdsaP256;

    struct Known(&'static str, Arc<AtomicU32>);

    impl Unlock for Known {
        fn identity(&self, _: &Path, passphrase: bool) -> Result<Identity> {
            assert!(passphrase);
            self.1.fetch_add(1, Ordering::Relaxed);
            let mut identity = Identity::default();
            identity.set_passphrase(self.0.to_owned());
            Ok(identity)
        }

        fn passphrase(&self, _: &Path) -> Result<String> {
            Ok(self.0.to_owned())
        }
    }

    fn keyring(folder: &Path, passphrase: &'static str) -> (Keyring, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let unlock = Box::new(Known(passphrase, asked.clone()));
        (Keyring::new(folder.join("ca-keys.age"), Vec::new(), unlock), asked)
    }

    #[test]
    fn an_authority_is_made_once_and_signs_from_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let (first, asked) = keyring(dir.path(), "one");
        assert!(!first.exists() && first.pair(Authority::Etcd).is_err());
        first.generate(Authority::Etcd, KIND, 10).unwrap();
        let made = first.pair(Authority::Etcd).unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 0, "there was nothing to open");
        assert_eq!(std::fs::metadata(dir.path().join("ca-keys.age")).unwrap().mode() & 0o777, 0o600);
        // A run after one that was interrupted.
        let (again, asked) = keyring(dir.path(), "one");
        again.generate(Authority::Etcd, KIND, 10).unwrap();
        assert!(again.pair(Authority::Etcd).unwrap() == made);
        let subject =
            Subject { common_name: "x".into(), organization: None, usages: vec![], dns: vec![], ips: vec![], days: 1 };
        let request = kinit_pki::request(&kinit_pki::new_key(KIND).unwrap(), &subject).unwrap();
        let certificate = again.sign(Authority::Etcd, &request, &subject).unwrap();
        assert_eq!(kinit_pki::check(&certificate, &made.cert, &subject, KIND, OffsetDateTime::now_utc()), []);
        let error = format!("{:#}", again.sign(Authority::Kubernetes, &request, &subject).unwrap_err());
        assert!(error.contains("has no key of ca"), "{error}");
        assert_eq!(asked.load(Ordering::Relaxed), 1, "asked once");
        let (other, _) = keyring(dir.path(), "two");
        assert!(format!("{:#}", other.pair(Authority::Etcd).unwrap_err()).contains("passphrase"));
    }

    #[test]
    fn what_hosts_had_is_kept_and_another_clusters_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let (ring, _) = keyring(dir.path(), "one");
        let pair = || kinit_pki::new_authority("ca", KIND, 10, OffsetDateTime::now_utc()).unwrap();
        let (one, two) = (pair(), pair());
        ring.keep(Authority::Kubernetes, one.clone()).unwrap();
        ring.keep(Authority::Kubernetes, one.clone()).unwrap();
        assert!(ring.keep(Authority::Kubernetes, two.clone()).unwrap_err().to_string().contains("another key"));
        ring.is_of(Authority::Kubernetes, "cp1", &one.cert).unwrap();
        ring.is_of(Authority::Etcd, "cp1", &two.cert).unwrap();
        let other = ring.is_of(Authority::Kubernetes, "cp1", &two.cert).unwrap_err().to_string();
        assert!(other.contains("another cluster's"), "{other}");
        let torn = Pair { cert: one.cert.clone(), key: two.key };
        assert!(ring.keep(Authority::Etcd, torn).is_err());
        let (again, _) = keyring(dir.path(), "one");
        assert!(again.pair(Authority::Kubernetes).unwrap() == one);
        std::fs::write(dir.path().join("ca-keys.age"), "rubbish").unwrap();
        let (broken, _) = keyring_without_passphrase(dir.path());
        assert!(broken.exists() && broken.open().unwrap_err().to_string().contains("none of kinit's"));
    }

    /// A file without the mark of a passphrase is opened with identities.
    struct Bare;

    impl Unlock for Bare {
        fn identity(&self, _: &Path, passphrase: bool) -> Result<Identity> {
            assert!(!passphrase);
            Ok(Identity::default())
        }

        fn passphrase(&self, _: &Path) -> Result<String> {
            bail!("not asked for")
        }
    }

    fn keyring_without_passphrase(folder: &Path) -> (Keyring, ()) {
        (Keyring::new(folder.join("ca-keys.age"), Vec::new(), Box::new(Bare)), ())
    }

    #[test]
    fn recipients_can_keep_keys_without_an_identity_and_open_them_with_one_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (_, recipient) = kinit_backup::new_identity();
        let ring = || Keyring::new(dir.path().join("ca-keys.age"), vec![recipient.clone()], Box::new(Bare));
        let first = ring();
        first.generate(Authority::Etcd, KIND, 10).unwrap();
        first.generate(Authority::Kubernetes, KIND, 10).unwrap();
        first.pair(Authority::Etcd).unwrap();
        let error = ring().pair(Authority::Etcd).unwrap_err().to_string();
        assert!(error.contains("--ca-key-identity"), "{error}");
    }
}
