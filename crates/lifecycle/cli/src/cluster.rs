//! `kinit init` and `kinit reset`.

use std::io::{BufRead, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use kinit_config::Cluster;
use kinit_manifests::Phase;
use kinit_phases::{ConnectOptions, Hosts, Init, LocalBundle};
use kinit_planner::{Finding, Plan};
use kinit_remote::OnUnknown;
use serde_json::json;

use crate::config;
use crate::desk::{forget, known_authority};
use crate::errors::{PreflightFailed, Usage};
use crate::login::LoginArgs;
use crate::progress::{Output, listeners};

/// What every verb that connects to hosts takes.
#[derive(Args, Debug)]
pub struct Common {
    /// The cluster file
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: PathBuf,
    /// Accept and remember the keys of hosts that are not known yet (a changed key is always refused)
    #[arg(long)]
    accept_new_host_keys: bool,
    /// Seconds that connecting to a host may take
    #[arg(long, default_value_t = 20)]
    connect_timeout: u64,
    #[command(flatten)]
    login: LoginArgs,
    /// Print the plan and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Form of the output
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Show every step
    #[arg(short, long)]
    verbose: bool,
}

/// Flags of `kinit init`.
#[derive(Args, Debug)]
pub struct InitArgs {
    #[command(flatten)]
    common: Common,
    /// Folder with the binaries and images to install [default: the folder of kinit itself]
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Preflight checks to pass over, by name; `all` for every one but OtherCluster
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    ignore_preflight_errors: Vec<String>,
    /// Phases to leave out, by name
    #[arg(long, value_delimiter = ',', value_name = "PHASES")]
    skip_phases: Vec<String>,
    /// Where to write the administrator's kubeconfig [default: admin.conf beside the cluster file]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Write the timing as JSON to a file
    #[arg(long, value_name = "FILE")]
    timing: Option<PathBuf>,
}

/// Flags of `kinit reset`.
#[derive(Args, Debug)]
pub struct ResetArgs {
    #[command(flatten)]
    common: Common,
    /// Do not ask
    #[arg(long)]
    force: bool,
    /// The administrator's kubeconfig, which tells the cluster from others [default: admin.conf beside the cluster
    /// file]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Hash of the cluster authority's public key, instead of the kubeconfig: sha256:HEX
    #[arg(long, value_name = "HASH")]
    ca_cert_hash: Option<String>,
}

/// Makes a cluster, or brings one to what the file says.
pub async fn init(args: InitArgs) -> Result<()> {
    let started = Instant::now();
    let cluster = Arc::new(config::load(&args.common.file)?);
    let skipped = skipped(&args.skip_phases)?;
    let kubeconfig = args.kubeconfig.clone().unwrap_or_else(|| args.common.file.with_file_name("admin.conf"));
    if !args.common.dry_run {
        writable(&kubeconfig)?;
    }
    let program = std::env::current_exe().context("find this program")?;
    let beside = program.parent().map(Path::to_owned).unwrap_or_default();
    let bundle = Arc::new(LocalBundle::read(args.bundle.as_deref().unwrap_or(&beside))?);
    let known = known_authority(&kubeconfig, None)?;
    let hosts = Arc::new(connect(&cluster, &args.common).await?);
    let init = Init { cluster: cluster.clone(), hosts, bundle };
    let (facts, findings) = init.preflight(jiff::Timestamp::now().as_second(), known.as_deref()).await?;
    judge(&findings, &args.ignore_preflight_errors)?;
    let mut plan = init.prepare(&facts).await?.plan;
    plan.stages.retain(|stage| !skipped.contains(&stage.phase));
    let changes = plan.changes();
    if args.common.dry_run {
        match args.common.output {
            Output::Text => show!(plan),
            Output::Jsonl => planned(&plan),
        }
        return Ok(());
    }
    let (listener, timing) = listeners(args.common.output, args.common.verbose);
    let result = init.execute(&plan, listener.as_ref()).await;
    if let Some(file) = &args.timing {
        std::fs::write(file, timing.json().to_string()).with_context(|| format!("write {}", file.display()))?;
    }
    // Written even after a failure: it is what finding the cause needs.
    let written = match init.admin_kubeconfig().await {
        Ok(text) => write_private(&kubeconfig, &text).map(|()| true)?,
        Err(_) => false,
    };
    result?;
    let kubeconfig = std::path::absolute(&kubeconfig).unwrap_or(kubeconfig);
    if args.common.output == Output::Jsonl {
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let file = written.then_some(&kubeconfig);
        say!("{}", json!({ "event": "done", "changes": changes, "milliseconds": milliseconds, "kubeconfig": file }));
        return Ok(());
    }
    if changes > 0 {
        say!("{}", timing.table());
    }
    let plural = if changes == 1 { "" } else { "s" };
    say!("{changes} change{plural} in {:.1} s", started.elapsed().as_secs_f64());
    if written {
        say!("export KUBECONFIG={}", kubeconfig.display());
    }
    Ok(())
}

/// The plan as JSON, a line a step.
fn planned(plan: &Plan) {
    for stage in &plan.stages {
        for step in &stage.steps {
            let (phase, host) = (stage.phase.name(), step.host.as_deref().unwrap_or_default());
            say!("{}", json!({ "event": "planned", "phase": phase, "host": host, "step": step.change.to_string() }));
        }
    }
    say!("{}", json!({ "event": "done", "changes": plan.changes(), "dryRun": true }));
}

/// Sees before a long run that what it gives can be written down at its end.
fn writable(kubeconfig: &Path) -> Result<()> {
    let probe = kubeconfig.with_extension("new");
    let written = match kubeconfig.is_dir() {
        true => Err(std::io::Error::from(std::io::ErrorKind::IsADirectory)),
        false => std::fs::write(&probe, "").and_then(|()| std::fs::remove_file(&probe)),
    };
    written.with_context(|| format!("write the kubeconfig {}", kubeconfig.display()))
}

/// Gives hosts back as they were.
pub async fn reset(args: ResetArgs) -> Result<()> {
    let cluster = config::load(&args.common.file)?;
    let kubeconfig = args.kubeconfig.clone().unwrap_or_else(|| args.common.file.with_file_name("admin.conf"));
    let known = known_authority(&kubeconfig, args.ca_cert_hash.as_deref())?;
    let hosts = connect(&cluster, &args.common).await?;
    let (plan, authority) = kinit_phases::reset_plan(&hosts, &cluster, known.as_deref()).await?;
    let changes: usize = plan.values().map(Vec::len).sum();
    for (host, lines) in plan.iter().filter(|_| args.common.dry_run || !args.force) {
        lines.iter().for_each(|line| match args.common.output {
            Output::Text => say!("{host:<10} {line}"),
            Output::Jsonl => say!("{}", json!({ "event": "planned", "host": host, "step": line })),
        });
    }
    if args.common.dry_run {
        match args.common.output {
            Output::Text => say!("{changes} changes"),
            Output::Jsonl => say!("{}", json!({ "event": "done", "changes": changes, "dryRun": true })),
        }
        return Ok(());
    }
    if changes > 0 && !args.force && !confirmed(&cluster)? {
        bail!("nothing was changed");
    }
    let report = kinit_phases::reset(&hosts, authority.as_deref()).await?;
    let left: Vec<String> =
        report.iter().flat_map(|(host, lines)| lines.iter().map(move |l| format!("{host}: {l}"))).collect();
    if !left.is_empty() {
        bail!("the hosts are not as they were:\n{}", left.join("\n"));
    }
    forget(&kubeconfig, authority.as_deref())?;
    match args.common.output {
        Output::Text => say!("{} hosts reset, {changes} changes undone, no residue", report.len()),
        Output::Jsonl => say!("{}", json!({ "event": "done", "changes": changes, "hosts": report.len() })),
    }
    Ok(())
}

async fn connect(cluster: &Cluster, common: &Common) -> Result<Hosts> {
    let program = std::fs::read("/proc/self/exe").context("read this program")?;
    let options = ConnectOptions {
        program: Arc::new(program),
        desk: common.login.desk()?,
        home: std::env::home_dir().context("find the home directory")?,
        on_unknown: on_unknown(common.accept_new_host_keys),
        timeout: Duration::from_secs(common.connect_timeout),
        waiting: Arc::new(|host| tell!("[connect] {host}: another kinit works on this host; waiting for it to end")),
        note: Arc::new(|host, text| tell!("[{host}] {text}")),
    };
    Ok(Hosts::connect(cluster, &options).await?)
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
        bail!("reset destroys the cluster and its data: confirm with --force");
    }
    let name = &cluster.metadata.name;
    Ok(ask(&format!("This destroys cluster {name} and its data. Type its name to go on: "))? == *name)
}

fn ask(question: &str) -> Result<String> {
    write!(std::io::stderr(), "{question}")?;
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

fn judge(findings: &[Finding], ignored: &[String]) -> Result<()> {
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
        let host = if finding.host.is_empty() { "cluster" } else { &finding.host };
        tell!("[preflight] {kind}: {host}: {}: {} ({})", finding.check, finding.message, finding.remedy);
    }
    let found = |name: &String| name == "all" || findings.iter().any(|f| name.eq_ignore_ascii_case(&f.check));
    for name in ignored.iter().filter(|name| !found(name)) {
        tell!("[preflight] warning: --ignore-preflight-errors={name}: no finding of this run has that name");
    }
    if failed > 0 { Err(PreflightFailed(failed).into()) } else { Ok(()) }
}

fn skipped(names: &[String]) -> Result<Vec<Phase>> {
    let find = |name: &String| Phase::ALL.into_iter().find(|p| p.name() == name);
    let known = || Phase::ALL.map(Phase::name).join(", ");
    names
        .iter()
        .map(|name| {
            find(name).ok_or_else(|| {
                Usage(format!("--skip-phases: there is no phase {name:?}; there are {}", known())).into()
            })
        })
        .collect()
}

/// Writes a file that only its owner may read, whole or not at all.
fn write_private(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        std::fs::remove_file(&temporary)
            .or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}
