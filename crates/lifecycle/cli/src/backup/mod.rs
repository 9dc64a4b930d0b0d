//! `kinit backup`.

mod create;
mod keep;
mod open;
mod show;

use anyhow::Result;
use clap::Subcommand;

pub(crate) use create::{folder, recipients};
pub(crate) use open::{OpenArgs, keys};

/// What can be done with backups.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Make a backup: etcd, keys, authorities and the cluster file in one encrypted file, restored once before
    /// it counts
    Create(create::CreateArgs),
    /// List the backups of a folder
    List(keep::ListArgs),
    /// Show what is in a backup, or one object or file of it
    Show(show::ShowArgs),
    /// Check a backup: signature, every hash, and a restore into a scratch etcd
    Verify(show::VerifyArgs),
    /// Delete backups that are not to be kept any longer
    Prune(keep::PruneArgs),
    /// Delete backups
    Delete(keep::DeleteArgs),
    /// Make an identity that can open backups, and print its recipient for the cluster file
    NewIdentity(open::NewIdentityArgs),
}

impl Verb {
    pub(crate) fn is_jsonl(&self) -> bool {
        match self {
            Self::Create(args) => args.common.is_jsonl(),
            Self::List(args) => args.output.is_jsonl(),
            Self::Show(_) | Self::NewIdentity(_) => false,
            Self::Verify(args) => args.hosts.output.is_jsonl(),
            Self::Prune(args) => args.output.is_jsonl(),
            Self::Delete(args) => args.output.is_jsonl(),
        }
    }
}

/// Does it.
pub async fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Create(args) => create::run(args).await,
        Verb::List(args) => keep::list(&args),
        Verb::Show(args) => show::show(args).await,
        Verb::Verify(args) => show::verify(args).await,
        Verb::Prune(args) => keep::prune(&args),
        Verb::Delete(args) => keep::delete(&args),
        Verb::NewIdentity(args) => open::new_identity(&args),
    }
}
