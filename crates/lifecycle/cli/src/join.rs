//! `kinit join`: a host is added from the desk, or a machine adds itself.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use kinit_bundle::Trust;
use kinit_config::{Cluster, HostSpec, Role};
use kinit_phases::{CertificateKey, JoinOptions, Joining, LocalBundle, Machine, Pin, Request, Token};

use crate::change::{ChangeArgs, confirm, rewrite};
use crate::cluster::{Lock, beside, finished, judge, show_plan};
use crate::config;
use crate::desk::{is_key_hash, opening};
use crate::errors::Usage;
use crate::progress::{Output, listeners};

/// Flags of `kinit join`.
#[derive(Args, Debug)]
pub struct JoinArgs {
    /// Name of the host to add; one that the file has already needs no other flag. On the machine itself, with --token:
    /// HOST:PORT of the API
    #[arg(value_name = "HOST|ENDPOINT")]
    target: String,
    /// Its address [on the machine itself: the one that leads to the API]
    #[arg(long)]
    address: Option<String>,
    /// What it is for: control-plane, worker or loadbalancer
    #[arg(long, value_delimiter = ',', value_name = "ROLES", conflicts_with = "token")]
    role: Vec<String>,
    /// Add the host to the cluster file
    #[arg(long, conflicts_with = "token")]
    write: bool,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
}

/// How a machine joins by itself.
#[derive(Args, Debug)]
pub struct MachineArgs {
    /// Join this very machine, as a worker unless --control-plane is given, with a bootstrap token of `kinit token
    /// create`; `-` reads it from standard input
    #[arg(long, value_name = "TOKEN", conflicts_with = "file")]
    token: Option<String>,
    /// Hash of the public key of the cluster's authority: sha256:HEX; can be given several times
    #[arg(long, value_name = "HASH", requires = "token")]
    discovery_token_ca_cert_hash: Vec<String>,
    /// Believe whoever knows the token: anyone who has seen it can pretend to be the cluster
    #[arg(long, requires = "token", conflicts_with = "discovery_token_ca_cert_hash")]
    discovery_token_unsafe_skip_ca_verification: bool,
    /// Become a control plane; with the key of `kinit certs upload`
    #[arg(long, requires = "token", requires = "certificate_key")]
    control_plane: bool,
    /// What decrypts the cluster's secrets; `-` reads it from standard input, after the token
    #[arg(long, value_name = "KEY", requires = "control_plane")]
    certificate_key: Option<String>,
    /// Name of this machine's node [default: its host name]
    #[arg(long, value_name = "NAME", requires = "token")]
    node_name: Option<String>,
}

/// Adds a host.
pub async fn join(args: JoinArgs) -> Result<()> {
    if let Some(token) = args.machine.token.clone() {
        return by_itself(args, &token).await;
    }
    let started = Instant::now();
    let cluster = config::load(args.change.file())?;
    let host = wanted(&cluster, &args)?;
    let in_file = cluster.spec.hosts.iter().any(|known| known.name == host.name);
    let (run, plan) = args.change.prepare(cluster, &Request::Join(vec![host.clone()]), "join").await?;
    if !args.change.carry_out(&run, &plan, started).await? || in_file {
        return Ok(());
    }
    if args.write {
        rewrite(args.change.file(), |text| kinit_config::add_host(text, &host))?;
    } else if args.change.common.output == Output::Text {
        let lines = kinit_config::host_lines(&host);
        say!("add it to {}, or the next `kinit apply` removes it:\n{lines}", args.change.file().display());
    }
    Ok(())
}
/// The host that joins, from the file or from flags.
fn wanted(cluster: &Cluster, args: &JoinArgs) -> Result<HostSpec> {
    if let Some(known) = cluster.spec.hosts.iter().find(|host| host.name == args.target) {
        if args.address.as_ref().is_some_and(|address| *address != known.address) || !args.role.is_empty() {
            return Err(Usage(format!("{} is in the cluster file: change it there", args.target)).into());
        }
        return Ok(known.clone());
    }
    let address = args
        .address
        .clone()
        .ok_or_else(|| Usage(format!("{} is not in the file: --address is needed", args.target)))?;
    if args.role.is_empty() {
        return Err(Usage("--role is needed: control-plane, worker or loadbalancer".to_owned()).into());
    }
    let role = |text: &String| match text.as_str() {
        "control-plane" => Ok(Role::ControlPlane),
        "worker" => Ok(Role::Worker),
        "loadbalancer" => Ok(Role::LoadBalancer),
        other => Err(Usage(format!("--role: {other:?} is none of control-plane, worker, loadbalancer"))),
    };
    let roles = args.role.iter().map(role).collect::<Result<_, _>>()?;
    Ok(HostSpec {
        name: args.target.to_lowercase(),
        address,
        roles,
        ssh: None,
        labels: Default::default(),
        taints: Vec::new(),
    })
}

/// This machine becomes a node.
async fn by_itself(args: JoinArgs, token: &str) -> Result<()> {
    let started = Instant::now();
    let output = args.change.common.output;
    let token = Token::parse(given(token)?.trim()).map_err(|error| Usage(format!("--token: {error}")))?;
    let key = |key| -> Result<CertificateKey> {
        let key = CertificateKey::parse(given(key)?.trim());
        Ok(key.map_err(|error| Usage(format!("--certificate-key: {error}")))?)
    };
    let control_plane = args.machine.certificate_key.as_deref().map(key).transpose()?;
    let bundle: PathBuf = args.change.one_bundle()?.map_or_else(beside, Ok)?;
    let look = if args.change.common.dry_run { Lock::Look } else { Lock::Take };
    let program = Arc::new(std::fs::read("/proc/self/exe").context("read this program")?);
    let options = JoinOptions {
        endpoint: &endpoint(&args.target)?,
        token,
        pin: pin(&args.machine)?,
        control_plane,
        machine: Machine { name: args.machine.node_name.clone(), address: args.address.clone() },
        bundle: LocalBundle::read(&bundle, program.clone(), &Trust::default())?,
        program: &program,
        opening: opening("join", look, args.change.common.break_lock),
    };
    let joining = Joining::begin(options).await?;
    let mut findings = joining.preflight(jiff::Timestamp::now().as_second());
    findings.extend(joining.packages().await?);
    judge(&findings, &args.change.ignore_preflight_errors, output)?;
    let plan = joining.plan().await?;
    if args.change.common.dry_run {
        show_plan(&plan, output);
        return Ok(());
    }
    if plan.changes() > 0 && !args.change.yes {
        show_plan(&plan, output);
        confirm(&plan)?;
    }
    let (listener, timing) = listeners(output, args.change.common.verbose);
    joining.execute(&plan, listener.as_ref()).await?;
    finished(&plan, &BTreeMap::new(), started, &timing, output, None);
    if output == Output::Text {
        let lines = kinit_config::host_lines(joining.host());
        let also = if joining.host().is(Role::ControlPlane) {
            " and run `kinit apply`, which tells the load balancer of it too"
        } else {
            ""
        };
        say!(
            "this machine is a node now; for kinit to look after it, add it to the cluster file on the desk{also}:\n{lines}"
        );
    }
    Ok(())
}

/// The next line of standard input, for `-`: a command line can be read by everybody on the machine.
fn given(secret: &str) -> Result<String> {
    if secret != "-" {
        return Ok(secret.to_owned());
    }
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).context("read a secret from standard input")?;
    Ok(line)
}

fn endpoint(text: &str) -> Result<String> {
    let wrong = || Usage(format!("{text:?} is not HOST:PORT of an API server"));
    let (host, port) = text.rsplit_once(':').unwrap_or((text, "6443"));
    let is_name = |host: &str| host.split('.').all(|label| !label.is_empty() && label.bytes().all(is_of_name));
    let valid = (host.parse::<Ipv4Addr>().is_ok() || is_name(host)) && port.parse::<u16>().is_ok_and(|port| port > 0);
    if valid { Ok(format!("{host}:{port}")) } else { Err(wrong().into()) }
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

fn pin(args: &MachineArgs) -> Result<Pin> {
    if args.discovery_token_unsafe_skip_ca_verification {
        return Ok(Pin::Unsafe);
    }
    let hashes = &args.discovery_token_ca_cert_hash;
    if hashes.is_empty() {
        return Err(Usage(
            "--discovery-token-ca-cert-hash is needed: it tells the cluster from one that only has its token (`kinit token create --print-join-command` prints it)"
                .to_owned(),
        )
        .into());
    }
    match hashes.iter().find(|hash| !is_key_hash(hash)) {
        Some(wrong) => {
            let text = format!("--discovery-token-ca-cert-hash: {wrong:?} is not sha256: and 64 hexadecimal digits");
            Err(Usage(text).into())
        }
        None => Ok(Pin::Hashes(hashes.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_names_or_addresses_with_a_port() {
        for (text, expected) in [("10.0.0.1:6443", "10.0.0.1:6443"), ("api.example.com", "api.example.com:6443")] {
            assert_eq!(endpoint(text).unwrap(), expected);
        }
        for wrong in ["", ":6443", "a:0", "a:70000", "https://a:6443", "a/b:1", "a b", "[::1]:6443"] {
            assert!(endpoint(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_pin_is_needed_and_has_its_form() {
        let args = |hashes: &[&str], skip| MachineArgs {
            token: None,
            discovery_token_ca_cert_hash: hashes.iter().map(|h| (*h).to_owned()).collect(),
            discovery_token_unsafe_skip_ca_verification: skip,
            node_name: None,
            control_plane: false,
            certificate_key: None,
        };
        let good = format!("sha256:{}", "Ab".repeat(32));
        assert!(matches!(pin(&args(&[&good], false)).unwrap(), Pin::Hashes(h) if h == [good.clone()]));
        assert!(matches!(pin(&args(&[], true)).unwrap(), Pin::Unsafe));
        for wrong in [&[][..], &["sha256:ab"], &[good.as_str(), "md5:00"]] {
            assert!(pin(&args(wrong, false)).is_err(), "{wrong:?}");
        }
    }
}
