//! `kinit init` and `kinit reset`.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use kinit_agent::WireUse;
use kinit_bundle::{Trust, TrustedKey};
use kinit_config::{Bundles, Cluster, HostSpec};
use kinit_manifests::Phase;
use kinit_phases::{
    BundleSource, ConnectOptions, DrainOptions, Hosts, KubeconfigFile, LocalBundle, Request, Reset, Run,
};
use kinit_planner::{Finding, Operation, Plan};
use kinit_remote::OnUnknown;
use serde_json::json;

use crate::config;
use crate::desk::{forget, known_authority, merge, opening, read};
use crate::errors::{PreflightFailed, Unidentified, Usage};
use crate::keys::KeyArgs;
use crate::login::LoginArgs;
use crate::progress::{Output, Timing, listeners};

/// What every verb that connects to hosts takes.
#[derive(Args, Debug)]
pub struct Common {
    /// The cluster file
    #[arg(short = 'f', long = "file", value_name = "FILE", default_value = "cluster.yaml")]
    pub(crate) file: PathBuf,
    /// Accept and store the SSH host keys of unknown hosts (a changed key is always refused)
    #[arg(long)]
    pub(crate) accept_new_host_keys: bool,
    /// Timeout for connecting to a host, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    pub(crate) connect_timeout: u64,
    #[command(flatten)]
    pub(crate) login: LoginArgs,
    /// Break the lock of another kinit on a host: that one stops before its next step, then this one continues
    #[arg(long)]
    pub(crate) break_lock: bool,
    /// Print the plan and exit without changing anything
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
    /// Show every step, not only slow ones (`--output jsonl` always does)
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

/// Flags of `kinit init`.
#[derive(Args, Debug)]
pub struct InitArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    keys: KeyArgs,
    /// Directory with the binaries and images to install [default: the directory of kinit itself]
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Preflight checks to ignore, by name
    #[arg(long, value_delimiter = ',', value_name = "NAMES", help = checks_help())]
    ignore_preflight_errors: Vec<String>,
    /// Phases to skip, by name
    #[arg(long, value_delimiter = ',', value_name = "PHASES", help = phases_help())]
    skip_phases: Vec<String>,
    /// Where to write the administrator's kubeconfig [default: admin.conf beside the cluster file]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Write timings as JSON to a file
    #[arg(long, value_name = "FILE")]
    timing: Option<PathBuf>,
}

impl InitArgs {
    pub(crate) fn is_jsonl(&self) -> bool {
        self.common.output == Output::Jsonl
    }
}

fn checks_help() -> String {
    let names = kinit_planner::CHECKS.join(", ");
    format!("Preflight checks to ignore, by name; `all` for every one but OtherCluster. Checks: {names}")
}

fn phases_help() -> String {
    format!("Phases to skip, by name: {}", Operation::Init.names())
}

/// Flags of `kinit reset`.
#[derive(Args, Debug)]
pub struct ResetArgs {
    #[command(flatten)]
    common: Common,
    /// Do not ask for confirmation
    #[arg(long)]
    force: bool,
    /// The administrator's kubeconfig, which identifies the cluster [default: admin.conf beside the cluster file]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Hash of the cluster CA's public key, in place of the kubeconfig: sha256:HEX
    #[arg(long, value_name = "HASH")]
    ca_cert_hash: Option<String>,
}

impl Common {
    pub(crate) fn is_jsonl(&self) -> bool {
        self.output == Output::Jsonl
    }
}

impl ResetArgs {
    pub(crate) fn is_jsonl(&self) -> bool {
        self.common.output == Output::Jsonl
    }
}

/// Creates a cluster, or finishes one whose first run was interrupted.
pub async fn init(args: InitArgs) -> Result<()> {
    let started = Instant::now();
    let cluster = config::load(&args.common.file)?;
    let skipped = skipped(&args.skip_phases)?;
    let kubeconfig = args.kubeconfig.clone().unwrap_or_else(|| args.common.file.with_file_name("admin.conf"));
    if !args.common.dry_run {
        writable(&kubeconfig)?;
    }
    let known = known_authority(&kubeconfig, &cluster.metadata.name, None)?;
    let name = cluster.metadata.name.clone();
    let (bundle, keys) = (args.bundle.clone(), args.keys.clone());
    let flags = Flags { bundle, keys, known: known.clone(), ..Flags::default() };
    let run = begin(cluster, &Request::Init, "init", &args.common, flags).await?;
    let mut findings = run.preflight(jiff::Timestamp::now().as_second(), known.as_deref());
    findings.extend(run.reachability().await?);
    findings.extend(run.packages().await?);
    if skipped.contains(&Phase::Preflight) {
        // Another cluster's host is taken over by the check's name alone, never with all the rest.
        findings.retain(|finding| finding.check == "OtherCluster");
    }
    judge(&findings, &args.ignore_preflight_errors, args.common.output)?;
    unclaimed(&kubeconfig, &name, known.as_deref(), run.own_authority().as_deref())?;
    let mut plan = run.plan().await?;
    plan.stages.retain(|stage| !skipped.contains(&stage.phase));
    if args.common.dry_run {
        show_plan(&plan, args.common.output);
        return Ok(());
    }
    let (listener, timing) = listeners(args.common.output, args.common.verbose);
    let result = run.execute(&plan, listener.as_ref()).await;
    if let Some(file) = &args.timing {
        std::fs::write(file, timing.json().to_string()).with_context(|| format!("write {}", file.display()))?;
    }
    // Written even after a failure: it is what finding the cause needs.
    let written = match run.admin_kubeconfig().await {
        Ok(text) => merge(&kubeconfig, &KubeconfigFile::parse(&text)?, None).map(|()| true)?,
        Err(_) => false,
    };
    result?;
    let kubeconfig = std::path::absolute(&kubeconfig).unwrap_or(kubeconfig);
    finished(
        &plan,
        &run.hosts().wire_use(),
        started,
        &timing,
        args.common.output,
        written.then_some(kubeconfig.as_path()),
    );
    Ok(())
}

/// A kubeconfig that others use too has no other cluster of this name; one of its own is taken over.
fn unclaimed(kubeconfig: &Path, name: &str, known: Option<&str>, ours: Option<&str>) -> Result<()> {
    let others = read(kubeconfig)?.map_or(0, |file| file.clusters().saturating_sub(1));
    if known.is_none() || known == ours || others == 0 {
        return Ok(());
    }
    let file = kubeconfig.display();
    bail!(
        "{file} has a cluster {name:?} already, with another authority; give this one a metadata.name of its own, or write to another file with --kubeconfig"
    )
}

/// Says how a run ended; to programs also what it cost each host's line.
pub(crate) fn finished(
    plan: &Plan,
    wire: &BTreeMap<String, WireUse>,
    started: Instant,
    timing: &Timing,
    output: Output,
    kubeconfig: Option<&Path>,
) {
    let changes = plan.changes();
    if output == Output::Jsonl {
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let done = json!({ "event": "done", "changes": changes, "milliseconds": milliseconds, "kubeconfig": kubeconfig, "wire": wire });
        say!("{done}");
        return;
    }
    if changes > 0 {
        say!("{}", timing.table());
    }
    let plural = if changes == 1 { "" } else { "s" };
    say!("{changes} change{plural} in {:.1} s", started.elapsed().as_secs_f64());
    if let Some(kubeconfig) = kubeconfig {
        say!("export KUBECONFIG={}", kubeconfig.display());
    }
}

/// What an operation takes besides what all take.
#[derive(Default)]
pub(crate) struct Flags {
    /// Folder with what is installed.
    pub(crate) bundle: Option<PathBuf>,
    /// Without a folder: what the cluster was made of before its last upgrade.
    pub(crate) previous: bool,
    /// How nodes are drained.
    pub(crate) drain: DrainOptions,
    /// Nothing will be changed.
    pub(crate) look: bool,
    /// The cluster's authority as the desk knows it.
    pub(crate) known: Option<String>,
    /// What opens the authorities' keys on the desk.
    pub(crate) keys: KeyArgs,
}

/// Connects to the hosts that a request needs.
pub(crate) async fn begin(
    cluster: Cluster,
    request: &Request,
    operation: &str,
    common: &Common,
    flags: Flags,
) -> Result<Run> {
    let lock = if flags.look || common.dry_run { Lock::Look } else { Lock::Take };
    let options = connect_options(common, operation, lock)?;
    let bundle = match flags.bundle.clone() {
        None if flags.previous => BundleSource::Previous(options.program.clone()),
        folder => {
            let folder = folder.map_or_else(beside, Ok)?;
            let trust = trust(&cluster.spec.bundles)?;
            BundleSource::Desk(Arc::new(LocalBundle::read(&folder, options.program.clone(), &trust)?))
        }
    };
    let keys = flags.keys.keyring(&cluster, &common.file)?;
    Ok(Run::begin(cluster, request, bundle, &options, flags.drain, flags.known.as_deref()).await?.with_keys(keys))
}

/// Whose bundles are accepted.
pub(crate) fn trust(bundles: &Bundles) -> Result<Trust> {
    let key = |key: &kinit_config::TrustedKey| {
        let not_after = key.end().map_err(Usage)?;
        anyhow::Ok(TrustedKey { key: key.key.clone(), not_after })
    };
    let keys = bundles.trusted_keys.iter().map(key).collect::<Result<_>>()?;
    Ok(Trust { keys, now: jiff::Timestamp::now().as_second() })
}

/// The folder of kinit itself, where the bundle is by default.
pub(crate) fn beside() -> Result<PathBuf> {
    let program = std::env::current_exe().context("find this program")?;
    Ok(program.parent().map(Path::to_owned).unwrap_or_default())
}

/// Prints a plan.
pub(crate) fn show_plan(plan: &Plan, output: Output) {
    match output {
        Output::Text => show!(plan),
        Output::Jsonl => planned(plan),
    }
}

/// The plan as JSON, a line a step.
fn planned(plan: &Plan) {
    for stage in &plan.stages {
        for step in &stage.steps {
            let (phase, host) = (stage.phase.name(), step.host.as_deref().unwrap_or_default());
            let mut event =
                json!({ "event": "planned", "phase": phase, "host": host, "step": step.change.to_string() });
            if let Some(diff) = &step.change.diff {
                event["diff"] = json!(diff);
            }
            say!("{event}");
        }
    }
    say!("{}", json!({ "event": "done", "changes": plan.changes(), "dryRun": true }));
}

/// Sees before a long run that what it gives can be written down at its end.
pub(crate) fn writable(kubeconfig: &Path) -> Result<()> {
    let probe = kubeconfig.with_extension("new");
    let written = match kubeconfig.is_dir() {
        true => Err(std::io::Error::from(std::io::ErrorKind::IsADirectory)),
        false => std::fs::write(&probe, "").and_then(|()| std::fs::remove_file(&probe)),
    };
    written.with_context(|| format!("write the kubeconfig {}", kubeconfig.display()))
}

/// Deletes the cluster and restores the hosts.
pub async fn reset(args: ResetArgs) -> Result<()> {
    let cluster = config::load(&args.common.file)?;
    let kubeconfig = args.kubeconfig.clone().unwrap_or_else(|| args.common.file.with_file_name("admin.conf"));
    let known = known_authority(&kubeconfig, &cluster.metadata.name, args.ca_cert_hash.as_deref())?;
    let look = if args.common.dry_run { Lock::Look } else { Lock::Take };
    let hosts = connect(&cluster, &args.common, "reset", look).await?;
    hosts.need_all()?;
    let reset = Reset::begin(hosts, &cluster, known.as_deref()).await?;
    let plan = reset.plan();
    if args.common.dry_run {
        show_plan(plan, args.common.output);
        return Ok(());
    }
    // Wrong addresses alone must never delete a cluster: a person names it, or the desk knows it.
    if let (true, None, Some(authority)) = (args.force, &known, reset.authority()) {
        let (kubeconfig, authority) = (kubeconfig.display().to_string(), authority.to_owned());
        return Err(Unidentified { kubeconfig, authority }.into());
    }
    if plan.changes() > 0 && !args.force {
        show_plan(plan, args.common.output);
        if !confirmed(&cluster)? {
            bail!("nothing was changed");
        }
    }
    let (listener, _) = listeners(args.common.output, args.common.verbose);
    reset.execute(listener.as_ref()).await?;
    forget(&kubeconfig, &cluster.metadata.name, reset.authority())?;
    let (hosts, undone) = (cluster.spec.hosts.len(), plan.steps().filter_map(|s| s.change.diff.as_deref()));
    let undone: usize = undone.map(|lines| lines.lines().count()).sum();
    match args.common.output {
        Output::Text => say!("{hosts} hosts reset, {undone} changes undone, no residue"),
        Output::Jsonl => say!("{}", json!({ "event": "done", "changes": undone, "hosts": hosts })),
    }
    Ok(())
}

/// Connects to all hosts of a file; some may be unreachable.
pub(crate) async fn connect(cluster: &Cluster, common: &Common, operation: &str, lock: Lock) -> Result<Hosts> {
    Ok(Hosts::connect(cluster, &cluster.spec.hosts, &connect_options(common, operation, lock)?).await?)
}

/// Connects to some hosts of a file, all of which are needed.
pub(crate) async fn connect_to<'a>(
    cluster: &Cluster,
    hosts: impl IntoIterator<Item = &'a HostSpec>,
    common: &Common,
    operation: &str,
    lock: Lock,
) -> Result<Hosts> {
    let hosts = Hosts::connect(cluster, hosts, &connect_options(common, operation, lock)?).await?;
    hosts.need_all()?;
    Ok(hosts)
}

/// What a verb does about the hosts' locks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lock {
    /// It changes something: nobody else does meanwhile.
    Take,
    /// It only looks.
    Look,
}

fn connect_options(common: &Common, operation: &str, lock: Lock) -> Result<ConnectOptions> {
    let program = std::fs::read("/proc/self/exe").context("read this program")?;
    Ok(ConnectOptions {
        program: Arc::new(program),
        desk: common.login.desk()?,
        home: std::env::home_dir().context("find the home directory")?,
        on_unknown: on_unknown(common.accept_new_host_keys),
        timeout: Duration::from_secs(common.connect_timeout),
        opening: opening(operation, lock, common.break_lock),
        waiting: Arc::new(|host, held| {
            tell!(
                "[connect] {host}: another kinit works on this host: {held}; waiting for it to end (--break-lock takes over)"
            );
        }),
        note: Arc::new(|host, text| tell!("[{host}] {text}")),
    })
}

/// On a terminal a new host's key is asked for, one at a time; elsewhere the flag says.
fn on_unknown(accept: bool) -> OnUnknown {
    if accept {
        return OnUnknown::Accept;
    }
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return OnUnknown::Refuse;
    }
    let turn = Mutex::new(());
    OnUnknown::Ask(Arc::new(move |host, fingerprint| {
        let _turn = turn.lock();
        ask(&format!("{host} is not known; its key is {fingerprint}. Is it the right one? (yes/no) "))
            .is_ok_and(|a| a == "yes")
    }))
}

fn confirmed(cluster: &Cluster) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("reset deletes the cluster and all its data: confirm with --force");
    }
    let name = &cluster.metadata.name;
    Ok(ask(&format!("This deletes cluster {name} and all its data. Type the name of the cluster to continue: "))?
        == *name)
}

pub(crate) fn ask(question: &str) -> Result<String> {
    write!(std::io::stderr(), "{question}")?;
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

pub(crate) fn judge(findings: &[Finding], ignored: &[String], output: Output) -> Result<()> {
    // Another cluster's host is taken over by its name alone, never with all the rest.
    let by_all = |f: &Finding| f.check != "OtherCluster";
    let is_ignored =
        |f: &Finding| ignored.iter().any(|name| (name == "all" && by_all(f)) || name.eq_ignore_ascii_case(&f.check));
    let mut failed = 0;
    for finding in findings {
        let kind = match (finding.warning, is_ignored(finding)) {
            (true, _) => "warning",
            (false, true) => "ignored",
            (false, false) => {
                failed += 1;
                "failed"
            }
        };
        if output == Output::Jsonl {
            let Finding { host, check, message, remedy, .. } = finding;
            let event = json!({ "event": "preflight", "result": kind, "host": host, "check": check, "message": message, "remedy": remedy });
            say!("{event}");
        }
        let host = if finding.host.is_empty() { "cluster" } else { &finding.host };
        tell!("[preflight] {kind}: {host}: {}: {} ({})", finding.check, finding.message, finding.remedy);
    }
    let found = |name: &String| name == "all" || findings.iter().any(|f| name.eq_ignore_ascii_case(&f.check));
    for name in ignored.iter().filter(|name| !found(name)) {
        tell!("[preflight] warning: --ignore-preflight-errors={name}: no check of this run failed under that name");
    }
    if failed > 0 { Err(PreflightFailed(failed).into()) } else { Ok(()) }
}

fn skipped(names: &[String]) -> Result<Vec<Phase>> {
    let find = |name: &String| {
        let missing =
            || Usage(format!("--skip-phases: init has no phase {name:?}; it has {}", Operation::Init.names()));
        Operation::Init.phase(name).ok_or_else(|| missing().into())
    };
    names.iter().map(find).collect()
}

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    write_whole(path, text, 0o600)
}

/// Writes a file that only its owner may read, where none is yet.
pub(crate) fn write_new_private(path: &Path, text: &str) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// Writes a file in place of the one that is there, with its mode, whole or not at all.
pub(crate) fn replace(path: &Path, text: &str) -> Result<()> {
    let mode = std::fs::metadata(path).with_context(|| format!("look at {}", path.display()))?.permissions().mode();
    write_whole(path, text, mode & 0o7777)
}

fn write_whole(path: &Path, text: &str, mode: u32) -> Result<()> {
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        std::fs::remove_file(&temporary)
            .or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}
