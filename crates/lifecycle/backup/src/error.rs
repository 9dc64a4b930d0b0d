//! What can be wrong with a backup, told apart.

/// Why a backup cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something else altogether.
    #[error("this is no backup of kinit's: {0}")]
    NotABackup(String),
    /// Its end is missing.
    #[error("the backup is truncated: its end is missing. Fetch it again, or take another one")]
    Truncated,
    /// It was changed after it was written.
    #[error("the backup was tampered with or damaged: {0}. Do not use it; take another one")]
    Tampered(String),
    /// Its last part cannot be decrypted: it was changed, or what follows is missing.
    #[error("the backup is truncated or damaged: its last part does not decrypt. Fetch it again, or take another one")]
    Damaged,
    /// Its signature is not what it should be.
    #[error("the backup's signature is wrong: {0}. Do not use it; take another one")]
    Signature(String),
    /// A later kinit made it.
    #[error("the backup has format {found}, and this kinit reads up to format {known}: use a newer kinit", known = crate::FORMAT)]
    NewerFormat {
        /// Its format.
        found: u32,
    },
    /// None of the identities opens it.
    #[error("none of the identities opens the backup: it is encrypted for other recipients")]
    WrongIdentity,
    /// It is encrypted, and nothing was given to open it.
    #[error("the backup is encrypted for recipients: give the file with an identity of theirs (--identity FILE)")]
    NeedsIdentity,
    /// It is encrypted with a passphrase.
    #[error("the backup is encrypted with a passphrase: give it (--passphrase-file FILE)")]
    NeedsPassphrase,
    /// The passphrase is another one.
    #[error("the passphrase does not open the backup")]
    WrongPassphrase,
    /// A recipient or identity that is none.
    #[error("{0}")]
    Key(String),
    /// A file changed while it was read.
    #[error("{0} changed while it was backed up; try again")]
    Moved(String),
    /// Reading or writing failed.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// With what was being done.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}
