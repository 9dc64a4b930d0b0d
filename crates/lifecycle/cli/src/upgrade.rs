//! `kinit upgrade`: other versions, and the way back.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use kinit_config::{Cluster, Version};
use kinit_phases::{CreateOptions, LocalBundle, PackageRow, Request, Run, UpgradeOptions, UpgradeReport};
use kinit_planner::{Direction, Plan};
use serde_json::json;

use crate::backup;
use crate::change::{ChangeArgs, rewrite};
use crate::cluster::{begin, judge, show_plan, trust};
use crate::config;
use crate::desk::known_authority;
use crate::errors::Usage;
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
    /// Version to go to, of those that `kinit bundle list` shows; several are gone to one after the other [default: the
    /// bundle's]
    #[arg(conflicts_with = "bundle")]
    version: Vec<Version>,
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
        Verb::Plan(args) => args.show_path().await,
        Verb::Apply(args) => args.go_up().await,
        Verb::Rollback(args) => {
            let folders = args.folders()?;
            if folders.len() > 1 {
                return Err(Usage("a rollback goes back to one version: name one bundle".to_owned()).into());
            }
            args.carry_out(Direction::Down, folders.into_iter().next(), &[], Backup::First).await.map(drop)
        }
    }
}

/// Whether a hop begins with a backup.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Backup {
    /// It is the first.
    First,
    /// The run has made one.
    Made,
}

/// The bundles that were named, or the one that is there when none was.
fn first_or_default(folders: &[PathBuf]) -> impl Iterator<Item = Option<PathBuf>> {
    let named = folders.iter().cloned().map(Some);
    named.chain(folders.is_empty().then_some(None))
}

impl UpgradeArgs {
    /// The folders of the bundles, in order; none where the bundle is not named.
    fn folders(&self) -> Result<Vec<PathBuf>> {
        if self.version.is_empty() {
            return Ok(self.change.bundle.clone());
        }
        let store = crate::bundle::store()?;
        self.version.iter().map(|version| Ok(store.find(version)?)).collect()
    }

    /// The bundles after the first, read and checked before anything changes.
    fn later(&self, folders: &[PathBuf]) -> Result<Vec<LocalBundle>> {
        let later = folders.get(1..).unwrap_or_default();
        if later.is_empty() {
            return Ok(Vec::new());
        }
        let trust = trust(&config::load(self.change.file())?.spec.bundles)?;
        let program = Arc::new(std::fs::read("/proc/self/exe").context("read this program")?);
        later.iter().map(|folder| LocalBundle::read(folder, program.clone(), &trust)).collect()
    }

    async fn show_path(&self) -> Result<()> {
        let folders = self.folders()?;
        let later = self.later(&folders)?;
        let output = self.change.common.output;
        for (index, folder) in first_or_default(&folders).enumerate() {
            let rest = later.get(index..).unwrap_or_default();
            let Some((_, report, plan)) = self.prepare(Direction::Up, true, folder, rest, Backup::First).await? else {
                continue;
            };
            show(&report, &plan, output);
            for version in rest.iter().map(|bundle| &bundle.bundle.version) {
                match output {
                    Output::Text => say!("then to {version}, the same way"),
                    Output::Jsonl => say!("{}", json!({ "event": "then", "target": version })),
                }
            }
            return Ok(());
        }
        Ok(())
    }

    /// One hop after the other; what speaks against any of them stops the run before the first.
    async fn go_up(&self) -> Result<()> {
        let folders = self.folders()?;
        let later = self.later(&folders)?;
        if self.change.common.dry_run && !later.is_empty() {
            return self.show_path().await;
        }
        let mut backup = Backup::First;
        for (index, folder) in first_or_default(&folders).enumerate() {
            let rest = later.get(index..).unwrap_or_default();
            if self.carry_out(Direction::Up, folder, rest, backup).await? {
                backup = Backup::Made;
            }
        }
        Ok(())
    }

    fn options(&self, direction: Direction, cluster: &Cluster, backup: Backup) -> Result<UpgradeOptions> {
        let backup = match self.no_backup || backup == Backup::Made {
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

    /// Connects, checks, and plans; nothing where the cluster is beyond a hop that others follow.
    async fn prepare(
        &self,
        direction: Direction,
        look: bool,
        bundle: Option<PathBuf>,
        later: &[LocalBundle],
        backup: Backup,
    ) -> Result<Option<(Run, UpgradeReport, Plan)>> {
        let cluster = config::load(self.change.file())?;
        let options = self.options(direction, &cluster, backup)?;
        let known = known_authority(&self.change.kubeconfig(), &cluster.metadata.name, None)?;
        let mut flags = self.change.flags(look, known.clone(), bundle);
        flags.previous = direction == Direction::Down;
        let request = Request::Upgrade { only: self.hosts.clone() };
        let mut run = begin(cluster, &request, "upgrade", &self.change.common, flags).await?;
        if !later.is_empty() && kinit_phases::passed(&run) {
            return Ok(None);
        }
        let (report, mut findings) = kinit_phases::prepare_upgrade(&mut run, &options);
        findings.extend(kinit_phases::later_hops(&run, &options, later));
        findings.extend(run.preflight(jiff::Timestamp::now().as_second(), known.as_deref()));
        findings.extend(run.reachability().await?);
        findings.extend(run.packages().await?);
        findings.extend(kinit_phases::health(&run).await?);
        findings.extend(kinit_phases::budgets(&run, &report).await?);
        judge(&findings, &self.change.ignore_preflight_errors, self.change.common.output)?;
        let plan = run.plan().await?;
        Ok(Some((run, report, plan)))
    }

    /// Goes to a bundle's version; `false` where there was nothing to do, or only to show.
    async fn carry_out(
        &self,
        direction: Direction,
        bundle: Option<PathBuf>,
        later: &[LocalBundle],
        backup: Backup,
    ) -> Result<bool> {
        let started = Instant::now();
        let Some((run, report, plan)) = self.prepare(direction, false, bundle, later, backup).await? else {
            return Ok(false);
        };
        table(&report, self.change.common.output);
        if !self.change.carry_out(&run, &plan, started).await? {
            return Ok(false);
        }
        self.remember(&report)?;
        Ok(true)
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
    packages(&report.packages);
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

/// The distribution's packages beside the bundle's.
fn packages(rows: &[PackageRow]) {
    say!("{:<10} {:<28} {:<30} {:<10} BUNDLE", "HOST", "PACKAGE", "INSTALLED", "HELD");
    for row in rows {
        let shown = |version: &Option<String>| version.clone().unwrap_or_else(|| "-".to_owned());
        let newer = if row.is_older() { " (newer)" } else { "" };
        let (installed, held) = (shown(&row.installed), if row.held { "held" } else { "not held" });
        say!("{:<10} {:<28} {installed:<30} {held:<10} {}{newer}", row.host, row.package, shown(&row.bundle));
    }
}
