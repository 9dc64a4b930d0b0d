//! Private keys on the desk: read once, opened with their passphrase at most once.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use russh::keys::ssh_key::private::KeypairData;
use russh::keys::{PrivateKey, PublicKey, decode_secret_key, load_public_key};
use tokio::sync::{Mutex, OnceCell};
use zeroize::Zeroizing;

use crate::desk::{Prompt, Questions};

/// What a file of `IdentityFile` is.
pub(crate) enum KeyFile {
    /// A key that can be used.
    Open(Arc<PrivateKey>),
    /// A key with a passphrase, and its public half where that can be read without.
    Locked(Option<PublicKey>),
    /// A public key alone: its private half is in the SSH agent.
    Public(PublicKey),
}

impl KeyFile {
    /// The public half, if it is known.
    pub(crate) fn public(&self) -> Option<&PublicKey> {
        match self {
            Self::Open(key) => Some(key.public_key()),
            Self::Locked(public) => public.as_ref(),
            Self::Public(public) => Some(public),
        }
    }
}

/// A key that was opened, or why it was not; hosts that come later are told the same.
type Opened = Arc<OnceCell<Result<Arc<PrivateKey>, String>>>;

/// The keys of a run.
pub(crate) struct Keyring {
    prompt: Arc<dyn Prompt>,
    questions: Questions,
    opened: Mutex<HashMap<PathBuf, Opened>>,
}

/// As often as ssh(1) asks (`NumberOfPasswordPrompts`).
const ATTEMPTS: u32 = 3;

impl Keyring {
    pub(crate) fn new(prompt: Arc<dyn Prompt>, questions: Questions) -> Self {
        Self { prompt, questions, opened: Mutex::default() }
    }

    /// Opens a key with its passphrase; whoever comes first asks, for all.
    pub(crate) async fn unlock(&self, path: &Path) -> Result<Arc<PrivateKey>> {
        let cell = self.opened.lock().await.entry(path.to_owned()).or_default().clone();
        let ask = async {
            let (prompt, path) = (self.prompt.clone(), path.to_owned());
            let opened = self.questions.ask(move || ask(prompt.as_ref(), &path)).await;
            opened.and_then(|o| o).map_err(|error| format!("{error:#}"))
        };
        cell.get_or_init(|| ask).await.clone().map_err(|why| anyhow!(why))
    }
}

fn ask(prompt: &dyn Prompt, path: &Path) -> Result<Arc<PrivateKey>> {
    let text = Zeroizing::new(std::fs::read_to_string(path).context("read it")?);
    for wrong in 0..ATTEMPTS {
        let passphrase = prompt.passphrase(path, wrong)?;
        if let Ok(key) = decode_secret_key(&text, Some(passphrase.reveal())) {
            return Ok(Arc::new(key));
        }
    }
    bail!("no passphrase was right")
}

/// Reads a key's file.
pub(crate) fn look(path: &Path) -> Result<KeyFile> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("read the SSH key {shown}"))?;
    let text = Zeroizing::new(text);
    if let Ok(public) = PublicKey::from_openssh(text.trim()) {
        return Ok(KeyFile::Public(public));
    }
    refuse_open_key(path)?;
    if let Ok(key) = PrivateKey::from_openssh(text.as_bytes()) {
        // OpenSSH's own format keeps the public half readable.
        return Ok(match key.key_data() {
            KeypairData::Encrypted(_) => KeyFile::Locked(Some(key.public_key().clone())),
            _ => KeyFile::Open(Arc::new(key)),
        });
    }
    if text.contains("ENCRYPTED") {
        let beside = PathBuf::from(format!("{shown}.pub"));
        return Ok(KeyFile::Locked(load_public_key(beside).ok()));
    }
    let key = decode_secret_key(&text, None).with_context(|| format!("read the SSH key {shown}"))?;
    Ok(KeyFile::Open(Arc::new(key)))
}

/// A private key that others can read is none any more: refused, as ssh(1) does.
fn refuse_open_key(path: &Path) -> Result<()> {
    let metadata = std::fs::metadata(path).with_context(|| format!("read the SSH key {}", path.display()))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.display();
        bail!("the SSH key {path} is open to others (mode {mode:04o}); `chmod 600 {path}`");
    }
    Ok(())
}
