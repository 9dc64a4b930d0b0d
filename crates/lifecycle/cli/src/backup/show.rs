//! `kinit backup show` and `kinit backup verify`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use kinit_agent::Looked;
use kinit_phases::Opened;
use serde_json::{Value, json};

use super::{OpenArgs, keys};
use crate::cluster::{Common, Lock, connect};
use crate::config;
use crate::desk::known_authority;
use crate::errors::Usage;
use crate::login::LoginArgs;
use crate::progress::Output;

/// Where a snapshot is restored to be looked into: a host, or this machine.
#[derive(Args, Debug)]
pub struct WhereArgs {
    /// Cluster file: restore it on one of its control planes, and expect a backup of that cluster [default: on this
    /// machine, in memory, with the etcd and etcdutl in PATH]
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Hash of the authority's public key of the cluster whose backup is expected: sha256:HEX
    #[arg(long, value_name = "HASH")]
    ca_cert_hash: Option<String>,
    /// Accept and store the SSH host keys of unknown hosts (a changed key is always refused)
    #[arg(long)]
    accept_new_host_keys: bool,
    /// Timeout for connecting to a host, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    connect_timeout: u64,
    #[command(flatten)]
    login: LoginArgs,
    /// Output format
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

/// Flags of `kinit backup show`.
#[derive(Args, Debug)]
pub struct ShowArgs {
    #[command(flatten)]
    open: OpenArgs,
    #[command(flatten)]
    hosts: WhereArgs,
    /// Print an object, KIND/NAME, or all of a kind, KIND: as `deploy/web`, `secrets`; kinds by their plural or
    /// short name
    #[arg(long, value_name = "KIND[/NAME]", conflicts_with = "cat")]
    resource: Option<String>,
    /// Namespace of the object
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,
    /// Form in which objects are printed
    #[arg(short = 'o', long = "format", value_enum, default_value_t = Form::Yaml)]
    form: Form,
    /// Print a file of the backup, cluster.yaml for example
    #[arg(long, value_name = "PATH")]
    cat: Option<String>,
}

/// Form of objects.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// YAML documents
    Yaml,
    /// JSON, an object a line
    Json,
    /// Namespace and name
    Name,
}

/// Flags of `kinit backup verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    #[command(flatten)]
    open: OpenArgs,
    #[command(flatten)]
    pub(crate) hosts: WhereArgs,
    /// Check signature and hashes alone: do not restore it
    #[arg(long)]
    no_restore: bool,
}

impl WhereArgs {
    /// The cluster that is expected.
    fn authority(&self) -> Result<Option<String>> {
        let (kubeconfig, name) = match &self.file {
            Some(file) => (file.with_file_name("admin.conf"), config::load(file)?.metadata.name),
            None => Default::default(),
        };
        known_authority(&kubeconfig, &name, self.ca_cert_hash.as_deref())
    }

    /// Restores the snapshot and looks into it.
    async fn look(&self, backup: &Opened, get: Vec<String>) -> Result<(Looked, String)> {
        let Some(file) = &self.file else {
            return Ok((kinit_phases::look_here(backup, get).await?, "this machine".to_owned()));
        };
        let cluster = config::load(file)?;
        let common = Common {
            file: file.clone(),
            accept_new_host_keys: self.accept_new_host_keys,
            connect_timeout: self.connect_timeout,
            login: self.login.clone(),
            break_lock: false,
            dry_run: false,
            output: self.output,
            verbose: false,
        };
        let hosts = connect(&cluster, &common, "backup", Lock::Look).await?;
        let mut last = None;
        for host in cluster.hosts(kinit_config::Role::ControlPlane) {
            if hosts.agent(&host.name).is_err() {
                continue;
            }
            match kinit_phases::look_on_host(&hosts, &host.name, backup, get.clone()).await {
                Ok(looked) => return Ok((looked, host.name.clone())),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no control plane can be reached")))
    }
}

/// Shows a backup.
pub(super) async fn show(args: ShowArgs) -> Result<()> {
    let backup = kinit_phases::open_backup(&args.open.backup, keys(&args.open, args.hosts.authority()?)?).await?;
    if let Some(path) = &args.cat {
        let bytes = backup.files.get(path);
        let known = || backup.files.keys().cloned().collect::<Vec<_>>().join(", ");
        let bytes = bytes.ok_or_else(|| Usage(format!("the backup has no file {path:?}; it has {}", known())))?;
        return print(bytes);
    }
    let Some(resource) = &args.resource else {
        let text = serde_json::to_string_pretty(&backup.manifest).context("print the manifest")?;
        return print(format!("{text}\n").as_bytes());
    };
    let key = etcd_key(resource, &args.namespace)?;
    let (looked, _) = args.hosts.look(&backup, vec![key.clone()]).await?;
    if looked.values.is_empty() {
        bail!("the backup has no {resource} (nothing is stored at {key})");
    }
    let mut text = String::new();
    for (key, value) in &looked.values {
        let object: Value = serde_json::from_str(value)
            .with_context(|| format!("{key} is not stored as JSON: another API server wrote it"))?;
        text += &match args.form {
            Form::Json => format!("{object}\n"),
            Form::Yaml => format!("---\n{}", kinit_config::to_yaml(&object)?),
            Form::Name => format!("{}\n", name(&object)),
        };
    }
    print(text.strip_prefix("---\n").filter(|_| looked.values.len() == 1).unwrap_or(&text).as_bytes())
}

fn name(object: &Value) -> String {
    let field = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let namespace = field("/metadata/namespace");
    let separator = if namespace.is_empty() { "" } else { "/" };
    format!("{namespace}{separator}{}", field("/metadata/name"))
}

/// Prints what was asked for; on a full disk that is no success. A reader that goes away had enough.
fn print(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("write to standard output"),
        _ => Ok(()),
    }
}

/// Kinds whose place in etcd is not their plural (upstream's `kubeapiserver/default_storage_factory_builder.go`), or
/// that have a short name; and whether they have a namespace.
const KINDS: &[(&[&str], &str, bool)] = &[
    (&["node", "nodes", "no"], "minions", false),
    (&["service", "services", "svc"], "services/specs", true),
    (&["endpoints", "ep"], "services/endpoints", true),
    (&["namespace", "namespaces", "ns"], "namespaces", false),
    (&["pod", "pods", "po"], "pods", true),
    (&["configmap", "configmaps", "cm"], "configmaps", true),
    (&["secret", "secrets"], "secrets", true),
    (&["serviceaccount", "serviceaccounts", "sa"], "serviceaccounts", true),
    (&["deployment", "deployments", "deploy"], "deployments", true),
    (&["daemonset", "daemonsets", "ds"], "daemonsets", true),
    (&["statefulset", "statefulsets", "sts"], "statefulsets", true),
    (&["replicaset", "replicasets", "rs"], "replicasets", true),
    (&["job", "jobs"], "jobs", true),
    (&["cronjob", "cronjobs", "cj"], "cronjobs", true),
    (&["ingress", "ingresses", "ing"], "ingress", true),
    (&["networkpolicy", "networkpolicies", "netpol"], "networkpolicies", true),
    (&["persistentvolume", "persistentvolumes", "pv"], "persistentvolumes", false),
    (&["persistentvolumeclaim", "persistentvolumeclaims", "pvc"], "persistentvolumeclaims", true),
    (&["storageclass", "storageclasses", "sc"], "storageclasses", false),
    (&["role", "roles"], "roles", true),
    (&["rolebinding", "rolebindings"], "rolebindings", true),
    (&["clusterrole", "clusterroles"], "clusterroles", false),
    (&["clusterrolebinding", "clusterrolebindings"], "clusterrolebindings", false),
    (&["poddisruptionbudget", "poddisruptionbudgets", "pdb"], "poddisruptionbudgets", true),
    (&["lease", "leases"], "leases", true),
    (&["event", "events", "ev"], "events", true),
];

/// Where the API server keeps an object, or all of a kind: below `/registry/`. A kind that is not known is looked for
/// as it is written (`GROUP/PLURAL` for custom resources), with the namespace.
fn etcd_key(resource: &str, namespace: &str) -> Result<String> {
    let (kind, name) = match resource.rsplit_once('/') {
        Some((kind, name)) => (kind, Some(name)),
        None => (resource, None),
    };
    let plain = |text: &str| !text.is_empty() && !text.contains("..") && !text.chars().any(char::is_control);
    if !plain(kind) || !plain(namespace) || !name.is_none_or(plain) {
        return Err(Usage(format!("--resource: {resource:?} is not KIND or KIND/NAME")).into());
    }
    let lower = kind.to_lowercase();
    let known = KINDS.iter().find(|(names, ..)| names.contains(&lower.as_str()));
    let (place, namespaced) = known.map_or((kind, true), |(_, place, namespaced)| (*place, *namespaced));
    let within = if namespaced { format!("{namespace}/") } else { String::new() };
    Ok(format!("/registry/{place}/{within}{}", name.unwrap_or_default()))
}

/// Checks a backup.
pub(super) async fn verify(args: VerifyArgs) -> Result<()> {
    let backup = kinit_phases::open_backup(&args.open.backup, keys(&args.open, args.hosts.authority()?)?).await?;
    let manifest = &backup.manifest;
    let output = args.hosts.output;
    if output == Output::Text {
        say!("signature: by {} of the cluster's {}", manifest.signer, manifest.signed_by.file());
        say!("cluster:   {}, authority {}", manifest.cluster.name, manifest.cluster.authority);
        say!("files:     {} with the hashes that were signed", manifest.files.len());
    }
    if args.no_restore {
        return Ok(());
    }
    let (looked, place) = args.hosts.look(&backup, Vec::new()).await?;
    let expected = &manifest.etcd;
    // One that was not looked into when it was made says nothing of these.
    if manifest.proof.is_some()
        && looked.etcd != (kinit_backup::EtcdState { version: looked.etcd.version.clone(), ..expected.clone() })
    {
        bail!(
            "the restored keys are not those that were backed up: revision {} with {} keys and hash {:08x}, not {} with {} and {:08x}",
            looked.etcd.revision,
            looked.etcd.keys,
            looked.etcd.hash,
            expected.revision,
            expected.keys,
            expected.hash
        );
    }
    match output {
        Output::Text => say!(
            "restored:  on {place} in {:.1} s: revision {}, {} keys, hash {:08x}; {} of {} Secrets tried, {} of them encrypted, all opened",
            looked.milliseconds as f64 / 1000.0,
            looked.etcd.revision,
            looked.etcd.keys,
            looked.etcd.hash,
            looked.secrets.tried,
            looked.secrets.all,
            looked.secrets.encrypted
        ),
        Output::Jsonl => {
            say!(
                "{}",
                json!({"event": "done", "manifest": manifest, "etcd": looked.etcd, "secrets": looked.secrets, "on": place})
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_found_where_the_api_server_keeps_them() {
        for (resource, expected) in [
            ("deploy/web", "/registry/deployments/prod/web"),
            ("svc/web", "/registry/services/specs/prod/web"),
            ("node/cp1", "/registry/minions/cp1"),
            ("Secrets", "/registry/secrets/prod/"),
            ("example.org/widgets/w", "/registry/example.org/widgets/prod/w"),
        ] {
            assert_eq!(etcd_key(resource, "prod").unwrap(), expected);
        }
        for bad in ["", "/x", "deploy/", "a/../b"] {
            assert!(etcd_key(bad, "prod").is_err(), "{bad:?}");
        }
    }
}
