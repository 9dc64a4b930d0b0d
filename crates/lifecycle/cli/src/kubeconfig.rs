//! `kinit kubeconfig`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use kinit_phases::{Entry, KubeconfigFile, NewUser};

use crate::cluster::write_private;
use crate::desk::{Admin, merge, read};
use crate::duration::duration;
use crate::errors::Usage;
use crate::token::AdminArgs;

/// What can be done with kubeconfigs.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Write a kubeconfig for a user, with a client certificate that the cluster signs
    User(UserArgs),
    /// Take a kubeconfig's current context over into another file, beside the clusters that are in there
    Merge(MergeArgs),
}

/// Flags of `kinit kubeconfig user`.
#[derive(Args, Debug)]
pub struct UserArgs {
    /// The user's name towards the API
    name: String,
    /// A group of the user towards the API; RBAC gives it rights. May be given several times
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// How long the certificate is valid (at least 10m; the cluster gives a year at most)
    #[arg(long, default_value = "24h", value_name = "DURATION")]
    ttl: String,
    #[command(flatten)]
    admin: AdminArgs,
    /// Where to write the kubeconfig; `-` for standard output
    #[arg(short = 'o', long = "out", value_name = "FILE", default_value = "-", conflicts_with = "merge")]
    out: PathBuf,
    /// Put it into an existing kubeconfig instead, and make it the current context there
    #[arg(long, value_name = "FILE")]
    merge: Option<PathBuf>,
}

/// Flags of `kinit kubeconfig merge`.
#[derive(Args, Debug)]
pub struct MergeArgs {
    /// The kubeconfig to take over
    #[arg(long, value_name = "FILE", default_value = "admin.conf")]
    from: PathBuf,
    /// The kubeconfig that gets it, such as ~/.kube/config
    into: PathBuf,
    /// Name for its cluster, context and user there [default: as they are]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

/// Does it.
pub async fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::User(args) => user(args).await,
        Verb::Merge(args) => take_over(&args),
    }
}

async fn user(args: UserArgs) -> Result<()> {
    let plain = |text: &str| !text.is_empty() && text.len() <= 64 && !text.contains(char::is_control);
    if !plain(&args.name) || !args.groups.iter().all(|group| plain(group)) {
        return Err(Usage(
            "the names of user and groups have 1 to 64 characters, none of them a control character".to_owned(),
        )
        .into());
    }
    // The API server refuses it too, but not in these words.
    if args.groups.iter().any(|group| group == "system:masters") {
        return Err(Usage("system:masters cannot be taken back; bind another group to cluster-admin".to_owned()).into());
    }
    let life = duration("--ttl", &args.ttl)?;
    if life.as_secs() < 600 {
        return Err(Usage("--ttl: certificates are valid for 10m at least".to_owned()).into());
    }
    let admin = Admin::read(&args.admin).await?;
    let names = admin.file.current()?;
    let cluster = admin.file.cluster(&names.cluster).context("the kubeconfig has no cluster")?.clone();
    let user = NewUser { name: args.name.clone(), groups: args.groups.clone(), life };
    let made = kinit_phases::new_user(&admin.client, &user).await?;
    let file = KubeconfigFile::of_user(&cluster, &names.cluster, &args.name, &made.certificate, &made.key);
    match &args.merge {
        Some(path) => {
            same_cluster(path, &file, &names.cluster)?;
            merge(path, &file, None)?;
            tell!("wrote user {} into {}", args.name, path.display());
        }
        None if args.out.as_os_str() == "-" => show!(file.text()?),
        None => {
            write_private(&args.out, &file.text()?)?;
            tell!("wrote {}", args.out.display());
        }
    }
    Ok(())
}

/// An entry of the same name is replaced only if it is of the same cluster.
fn same_cluster(path: &std::path::Path, new: &KubeconfigFile, name: &str) -> Result<()> {
    let theirs = match read(path)? {
        Some(file) => file.authority(name)?,
        None => None,
    };
    let ours = new.authority(&new.current()?.cluster)?;
    if theirs.is_some() && theirs != ours {
        bail!(
            "{} has another cluster {name:?} already: give this one a name of its own (`kinit kubeconfig merge --context`)",
            path.display()
        );
    }
    Ok(())
}

fn take_over(args: &MergeArgs) -> Result<()> {
    let from = read(&args.from)?.with_context(|| format!("there is no {}", args.from.display()))?;
    let theirs = from.current().with_context(|| format!("read {}", args.from.display()))?;
    let names = args.context.clone().map(|name| Entry { cluster: name.clone(), user: name.clone(), context: name });
    let cluster = names.as_ref().map_or(&theirs.cluster, |names| &names.cluster).clone();
    same_cluster(&args.into, &from, &cluster)?;
    merge(&args.into, &from, names)?;
    tell!("{} has the cluster now, as its current context", args.into.display());
    Ok(())
}
