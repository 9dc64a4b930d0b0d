//! `kinit token`: bootstrap tokens, with kubeadm's flags.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use kinit_manifests::TOKENS;
use kinit_phases::{CertificateKey, Token, TokenOptions};

use crate::desk::Admin;
use crate::duration::duration;
use crate::errors::Usage;
use crate::progress::Output;

/// What can be done with tokens.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Create a token with which machines can join
    Create(Create),
    /// List the tokens, without their secrets
    List {
        #[command(flatten)]
        admin: AdminArgs,
        /// Output format
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Delete tokens
    Delete {
        /// IDs of the tokens (the part before the dot), or whole tokens
        #[arg(required = true, value_name = "TOKEN")]
        tokens: Vec<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Print a new token that no cluster knows yet
    Generate,
}

/// Where the administrator's kubeconfig is.
#[derive(Args, Debug)]
pub struct AdminArgs {
    /// The administrator's kubeconfig [default: the files that KUBECONFIG lists, else admin.conf]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

/// Flags of `kinit token create`.
#[derive(Args, Debug)]
pub struct Create {
    /// The token [default: a new one]
    token: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
    /// How long it is valid (30m, 24h, 7d); 0 for ever
    #[arg(long, default_value = "24h", value_name = "DURATION")]
    ttl: String,
    /// What it is for, in your words
    #[arg(long, default_value = "", value_name = "TEXT")]
    description: String,
    /// What it is good for: signing, authentication
    #[arg(long, value_delimiter = ',', default_values_t = ["signing".to_owned(), "authentication".to_owned()])]
    usages: Vec<String>,
    /// Groups of who uses it
    #[arg(long, value_delimiter = ',', default_values_t = [TOKENS.to_owned()])]
    groups: Vec<String>,
    /// Print the whole command that joins a machine
    #[arg(long)]
    print_join_command: bool,
    /// Print the command that joins a control plane; the key is the one that `kinit certs upload` has printed
    #[arg(long, value_name = "KEY", requires = "print_join_command")]
    certificate_key: Option<String>,
}

/// Does it.
pub async fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Generate => say!("{}", Token::generate()),
        Verb::Create(args) => create(args).await?,
        Verb::List { admin, output } => list(&admin, output).await?,
        Verb::Delete { tokens, admin } => delete(&tokens, &admin).await?,
    }
    Ok(())
}

async fn create(args: Create) -> Result<()> {
    let token = match &args.token {
        Some(text) => Token::parse(text).map_err(|error| Usage(format!("TOKEN: {error}")))?,
        None => Token::generate(),
    };
    let options = options(&args)?;
    let key = args.certificate_key.as_deref().map(CertificateKey::parse).transpose();
    let key = key.map_err(|error| Usage(format!("--certificate-key: {error}")))?;
    let admin = Admin::read(&args.admin).await?;
    kinit_phases::create_token(&admin.client, &token, &options).await?;
    if args.print_join_command {
        let (endpoint, hash) = (admin.endpoint()?, admin.authority()?);
        let control_plane = key.map(|key| format!(" --control-plane --certificate-key {key}")).unwrap_or_default();
        say!("kinit join {endpoint} --token {token} --discovery-token-ca-cert-hash {hash}{control_plane}");
    } else {
        say!("{token}");
    }
    Ok(())
}

fn options(args: &Create) -> Result<TokenOptions> {
    let life = duration("--ttl", &args.ttl)?;
    if let Some(usage) = args.usages.iter().find(|usage| !["signing", "authentication"].contains(&usage.as_str())) {
        return Err(Usage(format!("--usages: {usage:?} is neither signing nor authentication")).into());
    }
    // What the API server takes (BootstrapTokenExtraGroupsKey).
    let is_group = |group: &String| {
        group.strip_prefix("system:bootstrappers:").is_some_and(|rest| {
            let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == ':' || c == '-';
            let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            rest.chars().all(inner) && edge(rest.chars().next()) && edge(rest.chars().next_back()) && rest.len() <= 255
        })
    };
    if let Some(group) = args.groups.iter().find(|group| !is_group(group)) {
        return Err(Usage(format!("--groups: {group:?} is not system:bootstrappers: and a name")).into());
    }
    let life = (life > Duration::ZERO).then_some(life);
    let (description, usages, groups) = (args.description.clone(), args.usages.clone(), args.groups.clone());
    Ok(TokenOptions { life, description, usages, groups })
}

async fn list(admin: &AdminArgs, output: Output) -> Result<()> {
    let tokens = kinit_phases::list_tokens(&Admin::read(admin).await?.client).await?;
    if output == Output::Text {
        say!("{:<8} {:<22} {:<24} {:<40} GROUPS", "ID", "EXPIRES", "USAGES", "DESCRIPTION");
    }
    for token in tokens {
        let expires = if token.expires.is_empty() { "never" } else { &token.expires };
        match output {
            Output::Jsonl => say!("{}", serde_json::to_string(&token)?),
            Output::Text => {
                let (usages, groups) = (token.usages.join(","), token.groups.join(","));
                say!("{:<8} {expires:<22} {usages:<24} {:<40} {groups}", token.id, token.description);
            }
        }
    }
    Ok(())
}

async fn delete(tokens: &[String], admin: &AdminArgs) -> Result<()> {
    let id = |text: &String| {
        let id = text.split('.').next().unwrap_or_default();
        let is_id = id.len() == 6 && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if is_id {
            Ok(id.to_owned())
        } else {
            Err(Usage("a token's ID has 6 lower-case letters and digits".to_owned()))
        }
    };
    let ids: Vec<String> = tokens.iter().map(id).collect::<Result<_, _>>()?;
    let admin = Admin::read(admin).await?;
    let mut missing = Vec::new();
    for id in ids {
        match kinit_phases::delete_token(&admin.client, &id).await? {
            true => say!("deleted token {id}"),
            false => missing.push(id),
        }
    }
    if missing.is_empty() { Ok(()) } else { bail!("there is no token {}", missing.join(", ")) }
}
