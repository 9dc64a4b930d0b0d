//! `kinit restore` and `kinit etcd recover`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use kinit_config::Cluster;
use kinit_phases::{EtcdOverview, KubeconfigFile, Request, Restoration, Run};

use crate::backup::{OpenArgs, keys};
use crate::cluster::{Common, Flags, ask, begin, finished, judge, show_plan, writable};
use crate::config;
use crate::desk::{known_authority, merge};
use crate::errors::Usage;
use crate::keys::KeyArgs;
use crate::progress::{Output, listeners};

/// What both take.
#[derive(Args, Debug)]
pub struct PutBackArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    keys: KeyArgs,
    /// Folder with the binaries and images to install [default: the folder of kinit itself]
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Preflight checks to ignore, by name; `all` for every one but OtherCluster
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    ignore_preflight_errors: Vec<String>,
    /// Do not ask. When the cluster runs, --confirm is needed besides
    #[arg(long, short = 'y')]
    yes: bool,
    /// Name of the cluster: what happened in it since is to be given up, though it runs
    #[arg(long, value_name = "CLUSTER")]
    confirm: Option<String>,
    /// Where to write the administrator's kubeconfig [default: admin.conf beside the cluster file]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Hash of the cluster CA's public key, in place of the kubeconfig: sha256:HEX
    #[arg(long, value_name = "HASH")]
    ca_cert_hash: Option<String>,
}

/// Flags of `kinit restore`.
#[derive(Args, Debug)]
pub struct RestoreArgs {
    #[command(flatten)]
    open: OpenArgs,
    #[command(flatten)]
    pub(crate) put_back: PutBackArgs,
}

/// Flags of `kinit etcd recover`.
#[derive(Args, Debug)]
pub struct RecoverArgs {
    /// The control plane whose data the cluster goes on with
    #[arg(long, value_name = "HOST")]
    from: String,
    #[command(flatten)]
    pub(crate) put_back: PutBackArgs,
}

impl PutBackArgs {
    fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone().unwrap_or_else(|| self.common.file.with_file_name("admin.conf"))
    }

    fn flags(&self, known: Option<String>) -> Flags {
        Flags { bundle: self.bundle.clone(), known, keys: self.keys.clone(), ..Flags::default() }
    }

    /// Asks, when nobody has answered yet.
    fn confirmed(&self, cluster: &Cluster, runs: bool, changes: usize) -> Result<()> {
        let name = &cluster.metadata.name;
        if let Some(given) = &self.confirm
            && given != name
        {
            return Err(Usage(format!("--confirm: the cluster is called {name:?}, not {given:?}")).into());
        }
        let terminal = std::io::stdin().is_terminal();
        if runs && self.confirm.is_none() {
            if !terminal {
                bail!(
                    "nothing was changed: cluster {name} runs, and everything that happened in it since is given up by this. --confirm {name} says that this is meant"
                );
            }
            let question = format!(
                "Cluster {name} runs. Everything that happened in it since is given up. Type the name of the cluster to continue: "
            );
            return if ask(&question)? == *name { Ok(()) } else { bail!("nothing was changed") };
        }
        if self.yes || self.confirm.is_some() || changes == 0 {
            return Ok(());
        }
        if !terminal {
            bail!("nothing was changed: there is nobody to ask; --yes carries the plan out");
        }
        match ask("Carry this out? [y/N] ")?.to_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => bail!("nothing was changed"),
        }
    }

    async fn carry_out(&self, run: &Run, cluster: &Cluster, known: Option<&str>, started: Instant) -> Result<()> {
        let output = self.common.output;
        let kubeconfig = self.kubeconfig();
        if !self.common.dry_run {
            writable(&kubeconfig)?;
        }
        let mut findings = run.preflight(jiff::Timestamp::now().as_second(), known);
        findings.extend(run.packages().await?);
        judge(&findings, &self.ignore_preflight_errors, output)?;
        let plan = run.plan().await?;
        if self.common.dry_run {
            show_plan(&plan, output);
            return Ok(());
        }
        if output == Output::Text && !self.yes {
            show_plan(&plan, output);
        }
        self.confirmed(cluster, run.runs().await?, plan.changes())?;
        let (listener, timing) = listeners(output, self.common.verbose);
        let result = run.execute(&plan, listener.as_ref()).await;
        let written = match run.admin_kubeconfig().await {
            Ok(text) => merge(&kubeconfig, &KubeconfigFile::parse(&text)?, None).map(|()| true)?,
            Err(_) => false,
        };
        result?;
        let kubeconfig = std::path::absolute(&kubeconfig).unwrap_or(kubeconfig);
        finished(&plan, &run.hosts().wire_use(), started, &timing, output, written.then_some(kubeconfig.as_path()));
        Ok(())
    }
}

/// Makes the hosts of a file the cluster that a backup has.
pub async fn restore(args: RestoreArgs) -> Result<()> {
    let started = Instant::now();
    let put_back = &args.put_back;
    let cluster = config::load(&put_back.common.file)?;
    let known = known_authority(&put_back.kubeconfig(), &cluster.metadata.name, put_back.ca_cert_hash.as_deref())?;
    if kinit_backup::is_snapshot(&args.open.backup) {
        let snapshot = kinit_phases::Snapshot::open(&args.open.backup).await?;
        tell!("[restore] a snapshot of etcd alone: authorities and keys have to be those on the hosts");
        let flags = put_back.flags(known.clone());
        let mut run = begin(cluster.clone(), &Request::Restore, "restore", &put_back.common, flags).await?;
        run.restores(Restoration::Snapshot(Arc::new(snapshot)));
        return put_back.carry_out(&run, &cluster, known.as_deref(), started).await;
    }
    let backup = kinit_phases::open_backup(&args.open.backup, keys(&args.open, known)?).await?;
    let folder = put_back.bundle.clone().map_or_else(crate::cluster::beside, Ok)?;
    kinit_phases::fits(&backup, &cluster, &kinit_bundle::read_manifest(&folder)?.version)?;
    if put_back.common.output == Output::Text {
        let manifest = &backup.manifest;
        tell!(
            "[restore] {} of {}, revision {}, made on {}: signature and {} files are as they were signed",
            manifest.cluster.name,
            manifest.created,
            manifest.etcd.revision,
            manifest.host,
            manifest.files.len()
        );
    }
    let authority = Some(backup.manifest.cluster.authority.clone());
    let flags = put_back.flags(authority.clone());
    let mut run = begin(cluster.clone(), &Request::Restore, "restore", &put_back.common, flags).await?;
    run.restores(Restoration::Backup(Arc::new(backup)));
    put_back.carry_out(&run, &cluster, authority.as_deref(), started).await
}

/// Goes on with one control plane's data.
pub async fn recover(args: RecoverArgs) -> Result<()> {
    let started = Instant::now();
    let put_back = &args.put_back;
    let cluster = config::load(&put_back.common.file)?;
    if !cluster.hosts(kinit_config::Role::ControlPlane).any(|host| host.name == args.from) {
        return Err(
            Usage(format!("--from: {} is no control plane of {}", args.from, put_back.common.file.display())).into()
        );
    }
    let known = known_authority(&put_back.kubeconfig(), &cluster.metadata.name, put_back.ca_cert_hash.as_deref())?;
    let mut run =
        begin(cluster.clone(), &Request::Restore, "recover", &put_back.common, put_back.flags(known.clone())).await?;
    let overview = EtcdOverview::of(run.hosts(), &cluster).await;
    for (host, said) in &overview.hosts {
        match said {
            Ok(status) => tell!(
                "[recover] {host}: revision {}, log up to {} of term {}{}",
                status.revision,
                status.raft_applied_index,
                status.raft_term,
                if status.leader == 0 { ", no leader" } else { "" }
            ),
            Err(why) => tell!("[recover] {host}: {why}"),
        }
    }
    let ahead = overview.hosts.iter().filter_map(|(host, said)| Some((host, said.as_ref().ok()?.raft_applied_index)));
    let own =
        overview.hosts.get(&args.from).and_then(|said| said.as_ref().ok()).map(|status| status.raft_applied_index);
    if let Some(own) = own {
        for (host, _) in ahead.filter(|(_, index)| *index > own) {
            tell!("[recover] warning: {host} has more than {}", args.from);
        }
    }
    run.restores(Restoration::Survivor(args.from.clone()));
    if overview.healthy().next().is_some()
        && !run.is_under_way().await.context("look for a recovery that is under way")?
    {
        bail!(
            "etcd has a leader: there is nothing to recover. `kinit apply` replaces members that have lost their data"
        );
    }
    put_back.carry_out(&run, &cluster, known.as_deref(), started).await
}
