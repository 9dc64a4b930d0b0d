//! What opens a backup: identities, passphrases, and which cluster is expected.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use kinit_backup::Keys;

use crate::cluster::write_new_private;
use crate::errors::Usage;
use crate::login::from_file;

/// Flags of verbs that open a backup.
#[derive(Args, Debug)]
pub struct OpenArgs {
    /// The backup's file
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: PathBuf,
    /// File with an identity that opens it, as `kinit backup new-identity` or age-keygen makes it
    #[arg(short = 'i', long, value_name = "FILE")]
    identity: Vec<PathBuf>,
    /// File whose first line is the passphrase that opens it
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// The signer of a backup whose cluster has an external authority, as `backup create` printed it
    #[arg(long, value_name = "HEX")]
    signer: Option<String>,
}

/// Flags of `kinit backup new-identity`.
#[derive(Args, Debug)]
pub struct NewIdentityArgs {
    /// Where to write it; it opens every backup for its recipient
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Reads what opens a backup; it must be of the cluster with this authority, where one is given.
pub(crate) fn keys(args: &OpenArgs, authority: Option<String>) -> Result<Keys> {
    let mut keys = Keys { authority, signer: args.signer.as_ref().map(|s| s.to_lowercase()), ..Keys::default() };
    for file in &args.identity {
        let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let wrong = |error: kinit_backup::Error| Usage(format!("{}: {error}", file.display()));
        keys.identity.add_file(&text).map_err(wrong)?;
    }
    if let Some(file) = &args.passphrase_file {
        keys.identity.set_passphrase(from_file(file)?.reveal().to_owned());
    }
    Ok(keys)
}

/// Makes an identity.
pub(super) fn new_identity(args: &NewIdentityArgs) -> Result<()> {
    let (text, recipient) = kinit_backup::new_identity();
    write_new_private(&args.file, &text)?;
    say!("{recipient}");
    tell!(
        "{} opens every backup that is made for this recipient: keep it apart from the cluster, in two places. Put the recipient into spec.backup.recipients",
        args.file.display()
    );
    Ok(())
}
