//! `kinit upgrade`: other versions, and the way back.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use kinit_config::{Cluster, Version};
use kinit_phases::{CreateOptions, Request, Run, UpgradeOptions, UpgradeReport};
use kinit_planner::{Direction, Plan};
use serde_json::json;

use crate::backup;
use crate::change::{ChangeArgs, rewrite};
use crate::cluster::{begin, judge, show_plan};
use crate::config;
use crate::desk::known_authority;
use crate::progress::Output;

/// What can be done with versions.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Show which components are where, what would change, and what speaks against it; changes nothing
    Plan(UpgradeArgs),
    /// Go to the version of a bundle: a backup, then control planes one after the other, then the nodes
    Apply(UpgradeArgs),
    /// Go back to the version before the last upgrade, or to that of an earlier bundle: nodes first
    Rollback(UpgradeArgs),
}

/// When nodes are drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DrainWhen {
    /// Where the kubelet goes to another minor version.
    Auto,
    /// Every node whose components change.
    Always,
    /// No node.
    Never,
}

/// What an upgrade may be limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Only {
    /// The components of control planes; nodes stay as they are.
    ControlPlane,
}

/// Flags of `kinit upgrade`.
#[derive(Args, Debug)]
pub struct UpgradeArgs {
    /// Version to go to, of those that `kinit bundle list` shows [default: the bundle's]
    #[arg(conflicts_with = "bundle")]
    version: Option<Version>,
    #[command(flatten)]
    change: ChangeArgs,
    /// Change this part only
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// Change these hosts only
    #[arg(long, value_delimiter = ',', value_name = "HOSTS")]
    hosts: Vec<String>,
    /// Workers that may be unavailable at once; control planes take turns
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    max_unavailable: u16,
    /// When nodes are drained before their turn
    #[arg(long, value_enum, default_value_t = DrainWhen::Auto)]
    drain: DrainWhen,
    /// Nodes that are not drained
    #[arg(long, value_delimiter = ',', value_name = "HOSTS")]
    no_drain: Vec<String>,
    /// Folder on the desk for the backup that is made first [default: backups beside the cluster file]
    #[arg(long, value_name = "DIR")]
    backup_to: Option<PathBuf>,
    /// Make no backup first
    #[arg(long, conflicts_with = "backup_to")]
    no_backup: bool,
    /// Write the new version into the cluster file, where that names one
    #[arg(long)]
    write: bool,
}

impl Verb {
    fn args(&self) -> &UpgradeArgs {
        match self {
            Self::Plan(args) | Self::Apply(args) | Self::Rollback(args) => args,
        }
    }

    pub(crate) fn is_jsonl(&self) -> bool {
        self.args().change.is_jsonl()
    }
}

/// Does it.
pub async fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Plan(args) => {
            let (_, report, plan) = args.prepare(Direction::Up, true).await?;
            show(&report, &plan, args.change.common.output);
            Ok(())
        }
        Verb::Apply(args) => args.carry_out(Direction::Up).await,
        Verb::Rollback(args) => args.carry_out(Direction::Down).await,
    }
}

impl UpgradeArgs {
    /// The folder of the bundle, where one is named.
    fn folder(&self) -> Result<Option<PathBuf>> {
        match &self.version {
            Some(version) => Ok(Some(crate::bundle::store()?.find(version)?)),
            None => Ok(self.change.bundle.clone()),
        }
    }

    fn options(&self, direction: Direction, cluster: &Cluster) -> Result<UpgradeOptions> {
        let backup = match self.no_backup {
            true => None,
            false => {
                let protection = backup::recipients(&[], cluster).map_err(|error| {
                    error.context("an upgrade begins with a backup (--no-backup goes on without one)")
                })?;
                let folder = backup::folder(self.backup_to.as_ref(), self.change.file());
                Some((folder, CreateOptions { protection, prove: true, reason: "before an upgrade".to_owned() }))
            }
        };
        Ok(UpgradeOptions {
            direction,
            max_unavailable: usize::from(self.max_unavailable),
            drain: match self.drain {
                DrainWhen::Auto => None,
                DrainWhen::Always => Some(true),
                DrainWhen::Never => Some(false),
            },
            not_drained: self.no_drain.iter().cloned().collect::<BTreeSet<_>>(),
            only_control_plane: self.only.is_some(),
            backup,
        })
    }

    /// Connects, checks, and plans.
    async fn prepare(&self, direction: Direction, look: bool) -> Result<(Run, UpgradeReport, Plan)> {
        let cluster = config::load(self.change.file())?;
        let options = self.options(direction, &cluster)?;
        let known = known_authority(&self.change.kubeconfig(), &cluster.metadata.name, None)?;
        let mut flags = self.change.flags(look, known.clone());
        flags.bundle = self.folder()?;
        flags.previous = direction == Direction::Down;
        let request = Request::Upgrade { only: self.hosts.clone() };
        let mut run = begin(cluster, &request, "upgrade", &self.change.common, flags).await?;
        let (report, mut findings) = kinit_phases::prepare_upgrade(&mut run, &options);
        findings.extend(run.preflight(jiff::Timestamp::now().as_second(), known.as_deref()));
        findings.extend(run.reachability().await?);
        findings.extend(kinit_phases::health(&run).await?);
        findings.extend(kinit_phases::budgets(&run, &report).await?);
        judge(&findings, &self.change.ignore_preflight_errors, self.change.common.output)?;
        let plan = run.plan().await?;
        Ok((run, report, plan))
    }

    async fn carry_out(&self, direction: Direction) -> Result<()> {
        let started = Instant::now();
        let (run, report, plan) = self.prepare(direction, false).await?;
        table(&report, self.change.common.output);
        if !self.change.carry_out(&run, &plan, started).await? {
            return Ok(());
        }
        self.remember(&report)
    }

    /// A file that names a version names the new one, or the next `apply` would ask for the old.
    fn remember(&self, report: &UpgradeReport) -> Result<()> {
        let file = self.change.file();
        let version = report.target.release();
        let named = config::load(file)?.spec.kubernetes_version;
        if named.is_none_or(|named| named == version) || self.only.is_some() || !self.hosts.is_empty() {
            return Ok(());
        }
        if self.write {
            return rewrite(file, |text| kinit_config::set_version(text, &version));
        }
        tell!("set spec.kubernetesVersion: {version} in {} (or run with --write)", file.display());
        Ok(())
    }
}

fn show(report: &UpgradeReport, plan: &Plan, output: Output) {
    table(report, output);
    show_plan(plan, output);
}

/// Which component goes where.
fn table(report: &UpgradeReport, output: Output) {
    if output == Output::Jsonl {
        say!("{}", json!({ "event": "upgrade", "report": report }));
        return;
    }
    say!("to {}", report.target);
    if report.hops.is_empty() {
        say!("every component is of that version");
        return;
    }
    say!("{:<10} {:<24} {:<30} TO", "HOST", "COMPONENT", "FROM");
    for hop in &report.hops {
        say!("{:<10} {:<24} {:<30} {}", hop.host, hop.component, hop.from, hop.to);
    }
    let drained: Vec<&str> = report.drained.iter().map(String::as_str).collect();
    say!("nodes that are drained: {}", if drained.is_empty() { "none".to_owned() } else { drained.join(", ") });
}
