//! What opens the authorities' keys on the desk: identities of age from files, a passphrase from a file descriptor or
//! the terminal. Never from the command line or the environment.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use clap::Args;
use kinit_backup::Identity;
use kinit_config::Cluster;
use kinit_phases::{Keyring, Unlock};
use kinit_remote::Secret;

use crate::login::{from_descriptor, from_file_text};
use crate::terminal;

/// The file beside the cluster file.
const FILE: &str = "ca-keys.age";

/// Flags of verbs that may have to sign with keys on the desk.
#[derive(Args, Debug, Clone, Default)]
pub struct KeyArgs {
    /// File with an identity of age that opens the authorities' keys on this desk (`caKeys: desk`, for recipients)
    #[arg(long, value_name = "FILE")]
    ca_key_identity: Vec<PathBuf>,
    /// Read the passphrase of the authorities' keys on this desk from this file descriptor, one line [default: asked
    /// for on the terminal when they are needed]
    #[arg(long, value_name = "N")]
    ca_passphrase_fd: Option<u32>,
}

impl KeyArgs {
    /// The keys of a cluster, beside its file. File descriptors are read at once.
    pub(crate) fn keyring(&self, cluster: &Cluster, file: &Path) -> Result<Keyring> {
        let given = self.ca_passphrase_fd.map(|fd| from_descriptor(fd).context("--ca-passphrase-fd")).transpose()?;
        let unlock = Sources { identities: self.ca_key_identity.clone(), given, asked: Mutex::new(None) };
        let recipients = cluster.spec.certificates.ca_key_recipients.clone();
        Ok(Keyring::new(file.with_file_name(FILE), recipients, Box::new(unlock)))
    }
}

struct Sources {
    identities: Vec<PathBuf>,
    given: Option<Secret>,
    /// What was typed, so that nobody is asked twice.
    asked: Mutex<Option<Secret>>,
}

impl Sources {
    fn known(&self) -> Option<Secret> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        self.given.clone().or_else(|| asked.clone())
    }

    fn remember(&self, secret: &Secret) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(secret.clone());
    }
}

impl Unlock for Sources {
    fn identity(&self, file: &Path, passphrase: bool) -> Result<Identity> {
        let mut identity = Identity::default();
        for path in &self.identities {
            let text = from_file_text(path)?;
            identity.add_file(&text).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        }
        if passphrase {
            let secret = match self.known() {
                Some(secret) => secret,
                None => terminal::ask_secret(&format!("passphrase of the authorities' keys in {}: ", file.display()))
                    .context("give it by --ca-passphrase-fd")?,
            };
            self.remember(&secret);
            identity.set_passphrase(secret.reveal().to_owned());
        }
        Ok(identity)
    }

    fn passphrase(&self, file: &Path) -> Result<String> {
        if let Some(secret) = self.known() {
            return Ok(secret.reveal().to_owned());
        }
        let file = file.display();
        let ask = |question: String| terminal::ask_secret(&question).context("give it by --ca-passphrase-fd");
        let secret = ask(format!("a passphrase for the authorities' keys in {file}, which are lost without it: "))?;
        if ask("the same once more: ".to_owned())?.reveal() != secret.reveal() {
            bail!("the two differ");
        }
        self.remember(&secret);
        Ok(secret.reveal().to_owned())
    }
}
