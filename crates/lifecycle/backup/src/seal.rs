//! Encryption of the file: age (age-encryption.org/v1), for recipients or with a passphrase.

use std::io::{BufRead, Read, Write};
use std::str::FromStr;

use age::secrecy::{ExposeSecret, SecretString};
use age::{DecryptError, Decryptor, Encryptor};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// How a backup is protected. A passphrase travels in it; there is no `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Protection {
    /// For those who have an identity of one of these (`age1…`).
    Recipients(Vec<String>),
    /// For those who know it.
    Passphrase(String),
    /// Not at all: who has the file has the cluster.
    Plain,
}

/// Says what is wrong with a recipient.
pub fn check_recipient(text: &str) -> Result<(), Error> {
    recipient(text).map(drop)
}

fn recipient(text: &str) -> Result<age::x25519::Recipient, Error> {
    let wrong = |why| Error::Key(format!("{text:?} is no recipient of age (age1...): {why}"));
    age::x25519::Recipient::from_str(text).map_err(wrong)
}

/// A new identity: the text for its file, and its recipient.
pub fn new_identity() -> (String, String) {
    let identity = age::x25519::Identity::generate();
    let recipient = identity.to_public().to_string();
    (format!("# public key: {recipient}\n{}\n", identity.to_string().expose_secret()), recipient)
}

impl Protection {
    /// The encrypting end of a stream; `None` where nothing is encrypted.
    fn encryptor(&self) -> Result<Option<Encryptor>, Error> {
        match self {
            Self::Plain => Ok(None),
            Self::Passphrase(text) => {
                if text.is_empty() {
                    return Err(Error::Key("the passphrase is empty".to_owned()));
                }
                Ok(Some(Encryptor::with_user_passphrase(SecretString::from(text.clone()))))
            }
            Self::Recipients(list) => {
                let list = list.iter().map(|text| recipient(text)).collect::<Result<Vec<_>, _>>()?;
                let encryptor = Encryptor::with_recipients(list.iter().map(|r| r as &dyn age::Recipient));
                let encryptor = encryptor.map_err(|error| Error::Key(format!("encrypt the backup: {error}")))?;
                Ok(Some(encryptor))
            }
        }
    }

    pub(crate) fn wrap<W: Write>(&self, out: W) -> Result<Sealed<W>, Error> {
        match self.encryptor()? {
            None => Ok(Sealed::Plain(out)),
            Some(encryptor) => {
                let wrapped = encryptor.wrap_output(out).map_err(Error::io("begin to encrypt the backup"))?;
                Ok(Sealed::Age(wrapped))
            }
        }
    }
}

/// A writer that encrypts, or not.
pub(crate) enum Sealed<W: Write> {
    Plain(W),
    Age(age::stream::StreamWriter<W>),
}

impl<W: Write> Sealed<W> {
    pub(crate) fn finish(self) -> std::io::Result<W> {
        match self {
            Self::Plain(out) => Ok(out),
            Self::Age(out) => out.finish(),
        }
    }
}

impl<W: Write> Write for Sealed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(out) => out.write(bytes),
            Self::Age(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(out) => out.flush(),
            Self::Age(out) => out.flush(),
        }
    }
}

/// What opens a backup. There is no `Debug`.
#[derive(Default)]
pub struct Identity {
    identities: Vec<age::x25519::Identity>,
    passphrase: Option<SecretString>,
}

impl Identity {
    /// Adds the identities of a file's text, as `age-keygen` and [`new_identity`] write it.
    pub fn add_file(&mut self, text: &str) -> Result<(), Error> {
        // A parser's message could quote the key.
        let broken = || Error::Key("the identity file cannot be read: it has lines AGE-SECRET-KEY-1...".to_owned());
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let found: Result<Vec<_>, _> = lines.map(age::x25519::Identity::from_str).collect();
        let found = found.map_err(|_| broken())?;
        if found.is_empty() {
            return Err(broken());
        }
        self.identities.extend(found);
        Ok(())
    }

    /// Sets the passphrase.
    pub fn set_passphrase(&mut self, text: String) {
        self.passphrase = Some(SecretString::from(text));
    }

    /// The decrypting end of a stream that begins with age's header.
    pub(crate) fn open<R: BufRead>(&self, input: R) -> Result<impl Read + use<R>, Error> {
        let decryptor = Decryptor::new_buffered(input).map_err(|error| told(error, false))?;
        let with_passphrase = decryptor.is_scrypt();
        let scrypt = self.passphrase.clone().map(age::scrypt::Identity::new);
        let opened = match (with_passphrase, &scrypt) {
            (true, None) => return Err(Error::NeedsPassphrase),
            (true, Some(scrypt)) => decryptor.decrypt(std::iter::once(scrypt as &dyn age::Identity)),
            (false, _) if self.identities.is_empty() => return Err(Error::NeedsIdentity),
            (false, _) => decryptor.decrypt(self.identities.iter().map(|i| i as &dyn age::Identity)),
        };
        opened.map_err(|error| told(error, with_passphrase))
    }
}

fn told(error: DecryptError, with_passphrase: bool) -> Error {
    match error {
        DecryptError::NoMatchingKeys if !with_passphrase => Error::WrongIdentity,
        DecryptError::NoMatchingKeys | DecryptError::KeyDecryptionFailed | DecryptError::DecryptionFailed
            if with_passphrase =>
        {
            Error::WrongPassphrase
        }
        DecryptError::Io(source) if source.kind() == std::io::ErrorKind::UnexpectedEof => Error::Truncated,
        DecryptError::Io(source) => Error::Io { doing: "read the backup".to_owned(), source },
        DecryptError::UnknownFormat => Error::NotABackup("it is encrypted in a way that age does not know".to_owned()),
        other => Error::Tampered(format!("its header does not decrypt ({other})")),
    }
}
