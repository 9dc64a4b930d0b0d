//! `kinit certs`.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use kinit_phases::{CertificateKey, CertificateStatus, Renewal, Request, UPLOAD_LIFE};
use kinit_resource::LeafName;
use serde_json::json;

use crate::change::ChangeArgs;
use crate::cluster::{Common, Lock, connect};
use crate::config;
use crate::desk::{known_authority, read};
use crate::errors::Usage;
use crate::progress::Output;
use crate::requests::{CsrArgs, ImportArgs};
use crate::rotate::CertsRotateArgs;

/// What can be done with certificates.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Show every certificate of the hosts and of the desk's kubeconfig; exit code 8 when one has ended or ends soon
    Check(CheckArgs),
    /// Issue certificates anew, one host after the other where something serves; works when all have ended
    Renew(RenewArgs),
    /// Put the cluster's secrets, encrypted, into the API for two hours, for control planes that join by themselves
    /// (`kinit join --control-plane`), and print the key
    Upload(UploadArgs),
    /// Write requests for the certificates of an authority whose key is on no control plane (an external CA)
    Csr(CsrArgs),
    /// Check certificates that an external CA has signed, and put them in place, one host after the other
    Import(ImportArgs),
    /// Replace an authority, or the key of service-account tokens, stage by stage, while everything works
    Rotate(CertsRotateArgs),
}

/// Flags of `kinit certs check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// How many days before its end a certificate is a problem
    #[arg(long, default_value_t = 7, value_name = "DAYS")]
    days: u32,
}

/// Flags of `kinit certs upload`.
#[derive(Args, Debug)]
pub struct UploadArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The key that encrypts them, 64 hexadecimal digits [default: a new one]
    #[arg(long, value_name = "KEY")]
    certificate_key: Option<String>,
}

/// Flags of `kinit certs renew`.
#[derive(Args, Debug)]
pub struct RenewArgs {
    /// Names of the certificates (see `kinit certs check`)
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    names: Vec<String>,
    /// All that kinit issues
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
}

impl Verb {
    pub(crate) fn is_jsonl(&self) -> bool {
        match self {
            Self::Check(args) => args.common.is_jsonl(),
            Self::Renew(args) => args.change.is_jsonl(),
            Self::Upload(args) => args.common.is_jsonl(),
            Self::Csr(args) => args.change.is_jsonl(),
            Self::Import(args) => args.change.is_jsonl(),
            Self::Rotate(args) => args.rotate.change.is_jsonl(),
        }
    }
}

/// Does it.
pub async fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Check(args) => check(args).await,
        Verb::Renew(args) => renew(args).await.map(|()| ExitCode::SUCCESS),
        Verb::Upload(args) => upload(args).await.map(|()| ExitCode::SUCCESS),
        Verb::Csr(args) => crate::requests::csr(args).await.map(|()| ExitCode::SUCCESS),
        Verb::Import(args) => crate::requests::import(args).await.map(|()| ExitCode::SUCCESS),
        Verb::Rotate(args) => crate::rotate::certs(args).await.map(|()| ExitCode::SUCCESS),
    }
}

/// The code of something that is not healthy; what, is in the table.
const UNHEALTHY: u8 = 8;

async fn check(args: CheckArgs) -> Result<ExitCode> {
    let cluster = config::load(&args.common.file)?;
    let hosts = connect(&cluster, &args.common, "certs check", Lock::Look).await?;
    let now = jiff::Timestamp::now().as_second();
    let mut all = kinit_phases::certificates(&hosts, &cluster, now).await?;
    all.extend(of_desk(&args, now)?);
    let is_bad = |one: &CertificateStatus| one.days.is_none_or(|days| days < i64::from(args.days));
    if args.common.output == Output::Text {
        say!(
            "{:<10} {:<26} {:<12} {:>6}  {:<10} SUBJECT AND NAMES",
            "HOST",
            "CERTIFICATE",
            "ENDS",
            "DAYS",
            "RENEWED BY"
        );
    }
    for one in &all {
        match args.common.output {
            Output::Jsonl => say!("{}", serde_json::to_string(one)?),
            Output::Text => row(one, is_bad(one)),
        }
    }
    for (host, why) in hosts.unreachable() {
        tell!("warning: {host} cannot be reached: {why}");
    }
    let bad = all.iter().filter(|one| is_bad(one)).count();
    if bad == 0 && hosts.unreachable().is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    if bad > 0 {
        tell!("error: {bad} certificate(s) have ended, end within {} days, or cannot be read", args.days);
        let by_hand = all.iter().any(|one| is_bad(one) && one.renewed_by == Renewal::Elsewhere);
        tell!("hint: `kinit certs renew --all` issues what kinit issues");
        if by_hand {
            tell!("hint: `kinit certs csr` writes requests for those of an external CA");
        }
    }
    Ok(ExitCode::from(UNHEALTHY))
}

fn row(one: &CertificateStatus, bad: bool) {
    let renewed = match one.renewed_by {
        Renewal::Kinit => "kinit",
        Renewal::Kubelet => "kubelet",
        Renewal::Desk => "this desk",
        Renewal::Elsewhere => "by hand",
        Renewal::Nobody => "-",
    };
    let mark = if bad { "!" } else { " " };
    let Some(certificate) = &one.certificate else {
        say!("{:<10} {:<26} cannot be read: {}", one.host, one.name, one.path);
        return;
    };
    let end = jiff::Timestamp::from_second(certificate.not_after).map(|end| end.strftime("%Y-%m-%d").to_string());
    let names =
        if certificate.names.is_empty() { String::new() } else { format!(" [{}]", certificate.names.join(" ")) };
    say!(
        "{:<10} {:<26} {:<12} {:>5}{mark}  {renewed:<10} {}{names}",
        one.host,
        one.name,
        end.unwrap_or_default(),
        one.days.unwrap_or_default(),
        certificate.subject
    );
}

/// The administrator's kubeconfig beside the cluster file.
fn of_desk(args: &CheckArgs, now: i64) -> Result<Option<CertificateStatus>> {
    let path = args.common.file.with_file_name("admin.conf");
    let Some(file) = read(&path)? else { return Ok(None) };
    let Some(data) = file.current().ok().and_then(|entry| file.client_certificate(&entry.user)) else {
        return Ok(None);
    };
    let pem = STANDARD.decode(data).ok().and_then(|pem| String::from_utf8(pem).ok());
    let certificate = pem.and_then(|pem| kinit_pki::inspect(&pem).into_iter().next());
    let certificate = certificate.with_context(|| format!("{} has no certificate that can be read", path.display()))?;
    Ok(Some(kinit_phases::desk_certificate(path.display().to_string(), certificate, now)))
}

async fn upload(args: UploadArgs) -> Result<()> {
    let key = match &args.certificate_key {
        Some(key) => CertificateKey::parse(key).map_err(|error| Usage(format!("--certificate-key: {error}")))?,
        None => CertificateKey::generate()?,
    };
    let cluster = config::load(&args.common.file)?;
    let known = known_authority(&args.common.file.with_file_name("admin.conf"), &cluster.metadata.name, None)?;
    let lock = if args.common.dry_run { Lock::Look } else { Lock::Take };
    let hosts = connect(&cluster, &args.common, "certs upload", lock).await?;
    kinit_phases::upload_certificates(&hosts, &cluster, known.as_deref(), &key, args.common.dry_run).await?;
    match (args.common.dry_run, args.common.output) {
        (true, Output::Text) => say!("1 change: Secret kube-system/kubeadm-certs"),
        (true, Output::Jsonl) => say!("{}", json!({ "event": "done", "changes": 1, "dryRun": true })),
        (false, Output::Text) => {
            tell!(
                "uploaded for {} h; whoever has this key and a bootstrap token has the cluster's keys",
                UPLOAD_LIFE.as_secs() / 3600
            );
            say!("{key}");
        }
        (false, Output::Jsonl) => {
            say!("{}", json!({ "event": "done", "changes": 1, "certificateKey": key.to_string() }));
        }
    }
    Ok(())
}

async fn renew(args: RenewArgs) -> Result<()> {
    let started = Instant::now();
    let cluster = config::load(args.change.file())?;
    let kubelets = cluster.signs_on_desk();
    let leaves = if args.all { all(kubelets) } else { named(&args.names, kubelets)? };
    let (run, plan) = args.change.prepare(cluster, &Request::Renew(leaves), "certs renew").await?;
    args.change.carry_out(&run, &plan, started).await.map(drop)
}

/// Everything that kinit issues; where nothing else signs, kubelets' certificates too.
fn all(kubelets: bool) -> Vec<LeafName> {
    let tree = kinit_phases::renewable().into_iter().map(LeafName::Tree);
    tree.chain(KUBELETS.map(|(_, leaf)| leaf).into_iter().filter(|_| kubelets)).collect()
}

const KUBELETS: [(&str, LeafName); 2] =
    [("kubelet-client", LeafName::KubeletClient), ("kubelet-server", LeafName::KubeletServer)];

fn named(names: &[String], kubelets: bool) -> Result<Vec<LeafName>> {
    let all = kinit_phases::renewable();
    let mut leaves = Vec::new();
    for name in names {
        // kubeadm writes etcd-server and admin.conf.
        let plain = name.trim_end_matches(".conf");
        let found = all.iter().find(|leaf| leaf.stem() == plain || leaf.stem().replace('/', "-") == plain);
        let of_kubelet = KUBELETS.iter().find(|(name, _)| kubelets && *name == plain);
        match found.map(|leaf| LeafName::Tree(*leaf)).or(of_kubelet.map(|(_, leaf)| *leaf)) {
            Some(leaf) => leaves.push(leaf),
            None if plain.starts_with("kubelet") => {
                bail!("kubelets renew their own certificates; `kinit apply` helps one whose certificate has ended")
            }
            None => {
                let known = all.iter().map(|leaf| leaf.stem()).collect::<Vec<_>>().join(", ");
                return Err(
                    Usage(format!("there is no certificate {name:?} that can be renewed; there are {known}")).into()
                );
            }
        }
    }
    Ok(leaves)
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn certificates_are_named_as_kubeadm_names_them() {
        let names = ["apiserver", "etcd-server", "etcd/peer", "admin.conf", "scheduler"].map(str::to_owned);
        assert_eq!(named(&names, false).unwrap().len(), 5);
        assert_eq!(named(&["kubelet-client".to_owned()], true).unwrap(), [super::LeafName::KubeletClient]);
        for (wrong, words) in
            [("ca", "no certificate \"ca\""), ("", "no certificate"), ("kubelet-client", "renew their own")]
        {
            let error = named(&[wrong.to_owned()], false).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
