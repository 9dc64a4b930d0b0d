//! `kinit backup create`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use kinit_backup::{Protection, check_recipient, listing, outdated};
use kinit_config::Cluster;
use kinit_phases::CreateOptions;
use serde_json::json;

use super::keep;
use crate::cluster::{Common, Lock, connect};
use crate::config;
use crate::errors::Usage;
use crate::login::from_file;
use crate::progress::Output;

/// Flags of `kinit backup create`.
#[derive(Args, Debug)]
pub struct CreateArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Folder on the desk to write it to [default: backups beside the cluster file]
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Encrypt it for this recipient (age1...), in place of those of spec.backup.recipients
    #[arg(long, value_name = "RECIPIENT")]
    recipient: Vec<String>,
    /// Encrypt it with the passphrase in the first line of a file, in place of recipients
    #[arg(long, value_name = "FILE", conflicts_with = "recipient")]
    passphrase_file: Option<PathBuf>,
    /// Do not encrypt it: whoever has the file has all keys and Secrets of the cluster
    #[arg(long, conflicts_with_all = ["recipient", "passphrase_file"])]
    unencrypted: bool,
    /// Do not restore it into a scratch etcd before it counts
    #[arg(long)]
    no_proof: bool,
    /// Delete those in the folder that spec.backup.retention does not keep
    #[arg(long)]
    prune: bool,
}

/// The folder of a cluster's backups on the desk.
pub(crate) fn folder(given: Option<&PathBuf>, file: &Path) -> PathBuf {
    given.cloned().unwrap_or_else(|| file.with_file_name("backups"))
}

fn protection(args: &CreateArgs, cluster: &Cluster) -> Result<Protection> {
    if args.unencrypted {
        return Ok(Protection::Plain);
    }
    if let Some(file) = &args.passphrase_file {
        return Ok(Protection::Passphrase(from_file(file)?.reveal().to_owned()));
    }
    recipients(&args.recipient, cluster)
}

/// Encrypted for those who are named, or else for those of the cluster file.
pub(crate) fn recipients(given: &[String], cluster: &Cluster) -> Result<Protection> {
    let in_file = cluster.spec.backup.iter().flat_map(|backup| backup.recipients.iter().cloned());
    let recipients = if given.is_empty() { in_file.collect() } else { given.to_vec() };
    for recipient in &recipients {
        check_recipient(recipient).map_err(|error| Usage(error.to_string()))?;
    }
    if recipients.is_empty() {
        let why = "nobody is named who could open the backup, and all keys and Secrets of the cluster are in it. \
                   `kinit backup new-identity FILE` makes an identity: keep the file apart from the cluster, and put the recipient \
                   that it prints into spec.backup.recipients (or --recipient). Without one: --passphrase-file FILE, \
                   or --unencrypted";
        return Err(Usage(why.to_owned()).into());
    }
    Ok(Protection::Recipients(recipients))
}

/// Makes a backup.
pub(super) async fn run(args: CreateArgs) -> Result<()> {
    let cluster = config::load(&args.common.file)?;
    let options =
        CreateOptions { protection: protection(&args, &cluster)?, prove: !args.no_proof, reason: "manual".to_owned() };
    let folder = folder(args.to.as_ref(), &args.common.file);
    let hosts = connect(&cluster, &args.common, "backup", Lock::Look).await?;
    let created = kinit_phases::create_backup(&hosts, &cluster, &folder, &options).await?;
    match args.common.output {
        Output::Text => {
            say!("{}", listing(&created.card));
            say!("written to {}", created.path.display());
            let manifest = &created.card.manifest;
            if let Some(proof) = &manifest.proof {
                say!(
                    "restored on {} in {:.1} s: revision {}, {} keys, {} of {} Secrets decrypted",
                    manifest.host,
                    proof.milliseconds as f64 / 1000.0,
                    proof.etcd.revision,
                    proof.etcd.keys,
                    proof.secrets.tried,
                    proof.secrets.all
                );
            }
            if manifest.signed_by == kinit_backup::Anchor::ServiceAccounts {
                say!("the authority is external; the signer is {} (--signer)", manifest.signer);
            }
        }
        Output::Jsonl => say!("{}", json!({"event": "done", "file": created.path, "card": created.card})),
    }
    if args.prune {
        let rule = cluster.spec.backup.map(|backup| backup.retention).unwrap_or_default();
        let backups = keep::read(&folder, Some(&created.card.manifest.cluster.authority))?;
        keep::remove(&folder, &outdated(&keep::times(&backups), rule), args.common.output)?;
    }
    Ok(())
}
