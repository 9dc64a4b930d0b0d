//! `kinit apply`, `plan` and `remove`, and what `join` shares with them: operations on a cluster that is there. Each
//! shows its plan and asks.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use kinit_config::Cluster;
use kinit_phases::{DrainOptions, KubeconfigFile, Request, Run};
use kinit_planner::{Action, Plan};
use serde::{Deserialize, Serialize};

use crate::cluster::{Common, Flags, ask, begin, finished, judge, show_plan};
use crate::config;
use crate::desk::{known_authority, merge, read};
use crate::errors::{Moved, Usage};
use crate::keys::KeyArgs;
use crate::progress::{Output, listeners};

/// What all of these take.
#[derive(Args, Debug)]
pub struct ChangeArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    keys: KeyArgs,
    /// Folder with the binaries and images to install; an upgrade takes several, in order [default: the folder of kinit
    /// itself]
    #[arg(long, value_name = "DIR")]
    pub(crate) bundle: Vec<PathBuf>,
    /// Preflight checks to ignore, by name; `all` for every one but OtherCluster
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) ignore_preflight_errors: Vec<String>,
    /// Do not ask
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
    #[command(flatten)]
    drain: DrainArgs,
}

/// How nodes are drained, as `kubectl drain` does.
#[derive(Args, Debug)]
pub struct DrainArgs {
    /// Seconds that draining a node may take
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    drain_timeout: u64,
    /// Drain nodes with pods that have data in emptyDir volumes too; the data is lost
    #[arg(long)]
    delete_emptydir_data: bool,
    /// Drain nodes with pods that no controller makes again too; they are deleted
    #[arg(long)]
    force: bool,
    /// Delete pods instead of evicting them: PodDisruptionBudgets are ignored
    #[arg(long)]
    disable_eviction: bool,
    /// Seconds that pods get to end [default: their own]
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u32>,
}

/// Flags of `kinit apply`.
#[derive(Args, Debug)]
pub struct ApplyArgs {
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
    /// Bring only these hosts to what the file says
    #[arg(long, value_delimiter = ',', value_name = "HOSTS")]
    host: Vec<String>,
    /// Carry out a plan that `kinit plan -o` wrote, or refuse because the cluster is not as it was then
    #[arg(long, value_name = "FILE", conflicts_with = "host")]
    plan: Option<PathBuf>,
}

/// Flags of `kinit plan`.
#[derive(Args, Debug)]
pub struct PlanArgs {
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
    /// Plan for these hosts only
    #[arg(long, value_delimiter = ',', value_name = "HOSTS")]
    host: Vec<String>,
    /// Write the plan to a file, for `kinit apply --plan`
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Flags of `kinit remove`.
#[derive(Args, Debug)]
pub struct RemoveArgs {
    /// Names of the hosts to remove
    #[arg(required = true)]
    hosts: Vec<String>,
    /// Remove the hosts from the cluster file
    #[arg(long)]
    write: bool,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
}

/// A plan in a file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SavedPlan {
    api_version: String,
    kind: String,
    /// The cluster file that it is for, with all defaults.
    cluster: String,
    hosts: Vec<String>,
    plan: Plan,
}

const SAVED: (&str, &str) = ("kinit.dev/v1alpha1", "Plan");

impl ChangeArgs {
    /// The one bundle of an operation.
    pub(crate) fn one_bundle(&self) -> Result<Option<PathBuf>> {
        match self.bundle.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one.clone())),
            _ => Err(Usage("--bundle: only `kinit upgrade` takes several bundles".to_owned()).into()),
        }
    }

    pub(crate) fn flags(&self, look: bool, known: Option<String>, bundle: Option<PathBuf>) -> Flags {
        let args = &self.drain;
        let drain = DrainOptions {
            timeout: Duration::from_secs(args.drain_timeout),
            delete_emptydir_data: args.delete_emptydir_data,
            force: args.force,
            disable_eviction: args.disable_eviction,
            grace_period: args.grace_period,
        };
        Flags { bundle, drain, look, known, keys: self.keys.clone(), previous: false }
    }

    pub(crate) fn is_jsonl(&self) -> bool {
        self.common.is_jsonl()
    }

    pub(crate) fn file(&self) -> &Path {
        &self.common.file
    }

    /// Where `init` wrote the administrator's kubeconfig, by default.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.file().with_file_name("admin.conf")
    }

    /// Connects, checks, and plans.
    pub(crate) async fn prepare(&self, cluster: Cluster, request: &Request, operation: &str) -> Result<(Run, Plan)> {
        let run = self.begin(cluster, request, operation).await?;
        let plan = run.plan().await?;
        Ok((run, plan))
    }

    /// Connects, and checks.
    pub(crate) async fn begin(&self, cluster: Cluster, request: &Request, operation: &str) -> Result<Run> {
        let known = known_authority(&self.kubeconfig(), &cluster.metadata.name, None)?;
        let flags = self.flags(operation == "plan", known.clone(), self.one_bundle()?);
        let run = begin(cluster, request, operation, &self.common, flags).await?;
        let mut findings = run.preflight(jiff::Timestamp::now().as_second(), known.as_deref());
        findings.extend(run.reachability().await?);
        findings.extend(run.packages().await?);
        judge(&findings, &self.ignore_preflight_errors, self.common.output)?;
        Ok(run)
    }

    /// Shows the plan, asks, and carries it out; `false` when that was not wanted.
    pub(crate) async fn carry_out(&self, run: &Run, plan: &Plan, started: Instant) -> Result<bool> {
        let output = self.common.output;
        if self.common.dry_run {
            show_plan(plan, output);
            return Ok(false);
        }
        if plan.changes() > 0 && !self.yes {
            show_plan(plan, output);
            confirm(plan)?;
        }
        let (listener, timing) = listeners(output, self.common.verbose);
        run.execute(plan, listener.as_ref()).await?;
        self.follow(run).await?;
        finished(plan, &run.hosts().wire_use(), started, &timing, output, None);
        for host in run.not_cleaned() {
            tell!(
                "warning: {host} could not be reached: its disk holds the cluster's keys still. Erase it, or reset it (`kinit reset`) before it joins anything"
            );
        }
        Ok(true)
    }
}

impl ChangeArgs {
    /// The desk's kubeconfig leads to where the endpoint is now.
    pub(crate) async fn follow(&self, run: &Run) -> Result<()> {
        let path = self.kubeconfig();
        if read(&path)?.is_some() {
            merge(&path, &KubeconfigFile::parse(&run.admin_kubeconfig().await?)?, None)?;
        }
        Ok(())
    }
}

/// Asks whether to go on.
pub(crate) fn confirm(plan: &Plan) -> Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!("nothing was changed: there is nobody to ask; --yes carries the plan out");
    }
    let resets: Vec<&str> =
        plan.steps().filter(|s| s.action == Action::ResetHost).filter_map(|s| s.host.as_deref()).collect();
    if !resets.is_empty() {
        tell!("everything of the cluster on {} will be deleted", resets.join(", "));
    }
    match ask("Carry this out? [y/N] ")?.to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => bail!("nothing was changed"),
    }
}

/// Brings a cluster to what its file says.
pub async fn apply(args: ApplyArgs) -> Result<()> {
    let started = Instant::now();
    let cluster = config::load(args.change.file())?;
    let saved = args.plan.as_deref().map(read_plan).transpose()?;
    let only = saved.as_ref().map_or_else(|| args.host.clone(), |saved| saved.hosts.clone());
    if let Some(saved) = &saved
        && saved.cluster != kinit_config::print(&cluster)?
    {
        return Err(Moved("the cluster file is another than the plan was made for".to_owned()).into());
    }
    let (run, plan) = args.change.prepare(cluster, &Request::Apply { only }, "apply").await?;
    if let Some(saved) = &saved {
        same(&saved.plan, &plan)?;
    }
    args.change.carry_out(&run, &plan, started).await.map(drop)
}

/// Exit code of `kinit plan` when something differs, as `terraform plan -detailed-exitcode` has it.
const DIFFERS: u8 = 2;

/// Shows what `apply` would do.
pub async fn plan(args: PlanArgs) -> Result<ExitCode> {
    let cluster = config::load(args.change.file())?;
    let text = kinit_config::print(&cluster)?;
    let (_, plan) = args.change.prepare(cluster, &Request::Apply { only: args.host.clone() }, "plan").await?;
    show_plan(&plan, args.change.common.output);
    let differs = plan.changes() > 0;
    if let Some(file) = &args.out {
        let (api_version, kind) = (SAVED.0.to_owned(), SAVED.1.to_owned());
        let saved = SavedPlan { api_version, kind, cluster: text, hosts: args.host, plan };
        let json = serde_json::to_string_pretty(&saved).context("encode the plan")?;
        crate::cluster::write_private(file, &json)?;
    }
    Ok(if differs { ExitCode::from(DIFFERS) } else { ExitCode::SUCCESS })
}

fn read_plan(file: &Path) -> Result<SavedPlan> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let saved: SavedPlan = serde_json::from_str(&text)
        .map_err(|error| Usage(format!("{} is no plan of this kinit: {error}", file.display())))?;
    if (saved.api_version.as_str(), saved.kind.as_str()) != SAVED {
        return Err(Usage(format!("{} is no plan of this kinit", file.display())).into());
    }
    Ok(saved)
}

/// A saved plan is carried out as it was shown, or not at all.
fn same(saved: &Plan, now: &Plan) -> Result<()> {
    if saved == now {
        return Ok(());
    }
    let lines = |plan: &Plan| plan.to_string().lines().map(str::to_owned).collect::<Vec<_>>();
    let (then, now) = (lines(saved), lines(now));
    let first = then.iter().zip(&now).find(|(a, b)| a != b);
    let what = match first {
        Some((then, now)) => format!("it was {:?} and would be {:?} now", then.trim(), now.trim()),
        None => format!("it had {} lines and would have {} now", then.len(), now.len()),
    };
    Err(Moved(what).into())
}

/// Removes hosts.
pub async fn remove(args: RemoveArgs) -> Result<()> {
    let started = Instant::now();
    let cluster = config::load(args.change.file())?;
    let in_file: Vec<String> =
        args.hosts.iter().filter(|name| cluster.spec.hosts.iter().any(|h| h.name == **name)).cloned().collect();
    let (run, plan) = args.change.prepare(cluster, &Request::Remove(args.hosts.clone()), "remove").await?;
    if !args.change.carry_out(&run, &plan, started).await? {
        return Ok(());
    }
    if args.write {
        for name in &in_file {
            rewrite(args.change.file(), |text| kinit_config::remove_host(text, name))?;
        }
    } else if !in_file.is_empty() && args.change.common.output == Output::Text {
        let file = args.change.file().display();
        say!("delete {} from {file}, or the next `kinit apply` adds it again", in_file.join(", "));
    }
    Ok(())
}

/// Changes a cluster file in place.
pub(crate) fn rewrite(file: &Path, change: impl Fn(&str) -> Result<String, kinit_config::EditError>) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let changed = change(&text).with_context(|| format!("change {}", file.display()))?;
    crate::cluster::replace(file, &changed)?;
    tell!("changed {}", file.display());
    Ok(())
}
