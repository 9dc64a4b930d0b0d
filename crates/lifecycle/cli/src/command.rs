//! The tree of commands.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand};
use kinit_agent::Opening;
use kinit_planner::Operation;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    backup, bundle, certs, change, cluster, config, doctor, errors, etcd, join, kubeconfig, logs, playground,
    reference, restore, rotate, status, support, token, upgrade,
};

/// Turns Linux machines with SSH and root into a highly available Kubernetes cluster, and looks after it
#[derive(Parser, Debug)]
#[command(name = "kinit", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Create a new cluster
    #[command(after_long_help = Operation::Init.describe())]
    Init(cluster::InitArgs),
    /// Bring a cluster to what its file says: hosts added and removed, roles and settings changed
    #[command(after_long_help = Operation::Apply.describe())]
    Apply(change::ApplyArgs),
    /// Show what `apply` would do; exit code 2 when something differs
    Plan(change::PlanArgs),
    /// Add a host to a cluster; on a machine itself, with --token, add that machine
    #[command(after_long_help = Operation::Join.describe())]
    Join(join::JoinArgs),
    /// Remove hosts from a cluster, alive or dead
    #[command(after_long_help = Operation::Remove.describe())]
    Remove(change::RemoveArgs),
    /// Show hosts, nodes, etcd and certificates on one screen; exit code 8 when something is wrong
    Status(status::StatusArgs),
    /// Look at everything that can be wrong with a cluster, and say what to do; exit code 8 when something is
    Doctor(doctor::DoctorArgs),
    /// Gather versions, states, logs, settings and events into one file, without secrets, for who is to find a fault
    SupportBundle(support::SupportArgs),
    /// Show the log of a component on a host
    Logs(logs::LogsArgs),
    /// Show who changed the hosts, when, by which operation, and with which result
    History(status::HistoryArgs),
    /// Certificates: when they end, and issuing them anew
    #[command(subcommand)]
    Certs(certs::Verb),
    /// Secrets at rest: the key that encrypts them
    #[command(subcommand)]
    Secrets(rotate::SecretsVerb),
    /// Bootstrap tokens, with which machines join by themselves
    #[command(subcommand)]
    Token(token::Verb),
    /// Kubeconfigs of users
    #[command(subcommand)]
    Kubeconfig(kubeconfig::Verb),
    /// Write man pages of all verbs
    Man {
        /// Directory to write them to
        directory: std::path::PathBuf,
    },
    /// Print completions for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Go to another version of Kubernetes, and back
    #[command(subcommand)]
    Upgrade(upgrade::Verb),
    /// Bundles: what kinit installs; make, look into, check, sign and import them
    #[command(subcommand)]
    Bundle(bundle::Verb),
    /// Look at etcd and look after it
    #[command(subcommand)]
    Etcd(etcd::Verb),
    /// Backups: make, list, check and prune them, and look into them
    #[command(subcommand)]
    Backup(backup::Verb),
    /// Make the hosts of a file the cluster that a backup has
    #[command(after_long_help = Operation::Restore.describe())]
    Restore(restore::RestoreArgs),
    /// Delete the cluster and all its data, and restore the hosts to their state before kinit
    #[command(after_long_help = Operation::Reset.describe())]
    Reset(cluster::ResetArgs),
    /// Cluster files: print an example, validate a file, show all defaults
    #[command(subcommand)]
    Config(config::Verb),
    /// Hosts on this machine to try kinit on: boot, power off, partition, delete
    #[command(subcommand)]
    Playground(playground::Verb),
    /// Serve a kinit over stdin and stdout (kinit starts this on hosts)
    #[command(hide = true)]
    HostAgent {
        /// Whom it serves
        #[arg(value_parser = Opening::from_argument)]
        opening: Opening,
    },
    /// Make the scheduled backup (a timer starts this on control planes)
    #[command(hide = true)]
    HostBackup {
        /// What is to be made
        config: std::path::PathBuf,
    },
    /// Renew this host's certificates that are due (a timer starts this on control planes)
    #[command(hide = true)]
    HostRenewal {
        /// What is to be renewed
        config: std::path::PathBuf,
    },
    /// Print docs/cli.md
    #[command(hide = true)]
    Reference,
}

impl Verb {
    /// Whether standard output is one JSON object per line, errors included.
    fn is_jsonl(&self) -> bool {
        match self {
            Self::Init(args) => args.is_jsonl(),
            Self::Reset(args) => args.is_jsonl(),
            Self::Apply(args) => args.change.is_jsonl(),
            Self::Plan(args) => args.change.is_jsonl(),
            Self::Join(args) => args.change.is_jsonl(),
            Self::Remove(args) => args.change.is_jsonl(),
            Self::Status(args) => args.common.is_jsonl(),
            Self::Doctor(args) => args.common.is_jsonl(),
            Self::SupportBundle(args) => args.common.is_jsonl(),
            Self::Certs(verb) => verb.is_jsonl(),
            Self::Secrets(verb) => verb.is_jsonl(),
            Self::Logs(args) => args.common.is_jsonl(),
            Self::History(args) => args.common.is_jsonl(),
            Self::Upgrade(verb) => verb.is_jsonl(),
            Self::Bundle(verb) => verb.is_jsonl(),
            Self::Etcd(verb) => verb.common().is_jsonl(),
            Self::Backup(verb) => verb.is_jsonl(),
            Self::Restore(args) => args.put_back.common.is_jsonl(),
            Self::Config(_)
            | Self::Playground(_)
            | Self::HostAgent { .. }
            | Self::HostBackup { .. }
            | Self::HostRenewal { .. }
            | Self::Reference
            | Self::Token(_)
            | Self::Kubeconfig(_)
            | Self::Man { .. }
            | Self::Completion { .. } => false,
        }
    }
}

/// docs/cli.md.
pub(crate) fn reference() -> String {
    reference::markdown(Cli::command())
}

/// Reads the command line, does what it says, and tells how it went; see [`errors::report`] for the exit codes.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let jsonl = cli.verb.is_jsonl();
    let result = match cli.verb {
        // A playground's inner verbs must not have threads.
        Verb::Playground(verb) => playground::run(verb),
        Verb::Config(verb) => config::run(verb).map(|()| ExitCode::SUCCESS),
        Verb::Reference => {
            show!(reference());
            Ok(ExitCode::SUCCESS)
        }
        Verb::Init(args) => on_runtime(cluster::init(args)),
        Verb::Apply(args) => on_runtime(change::apply(args)),
        Verb::Plan(args) => on_runtime_with_code(change::plan(args)),
        Verb::Join(args) => on_runtime(join::join(args)),
        Verb::Certs(verb) => on_runtime_with_code(certs::run(verb)),
        Verb::Secrets(verb) => on_runtime(rotate::secrets(verb)),
        Verb::Token(verb) => on_runtime(token::run(verb)),
        Verb::Kubeconfig(verb) => on_runtime(kubeconfig::run(verb)),
        Verb::Man { directory } => reference::man(Cli::command(), &directory).map(|()| ExitCode::SUCCESS),
        Verb::Remove(args) => on_runtime(change::remove(args)),
        Verb::Status(args) => on_runtime(status::run(args)),
        Verb::Doctor(args) => on_runtime(doctor::run(args)),
        Verb::SupportBundle(args) => on_runtime(support::run(args)),
        Verb::Logs(args) => on_runtime(logs::run(args)),
        Verb::History(args) => on_runtime(status::history(args)),
        Verb::Completion { shell } => {
            // Into memory first: a reader that goes away is no failure.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "kinit", &mut script);
            show!(String::from_utf8_lossy(&script));
            Ok(ExitCode::SUCCESS)
        }
        Verb::Etcd(verb) => on_runtime(etcd::run(verb)),
        Verb::Upgrade(verb) => on_runtime(upgrade::run(verb)),
        Verb::Bundle(verb) => on_runtime(async move { bundle::run(verb) }),
        Verb::Restore(args) => on_runtime(restore::restore(args)),
        Verb::Backup(verb) => on_runtime(backup::run(verb)),
        Verb::Reset(args) => on_runtime(cluster::reset(args)),
        Verb::HostBackup { config } => on_runtime(async move { kinit_agent::run_scheduled(&config).await }),
        Verb::HostRenewal { config } => {
            on_runtime(async move { kinit_agent::run_renewal(&config, &kinit_phases::NodeSigner).await })
        }
        Verb::HostAgent { opening } => {
            // The login shell's may be 077: packages' scripts, and parents of folders, would be closed to all but root.
            nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
            on_runtime(kinit_agent::serve(opening, tokio::io::stdin(), tokio::io::stdout()))
        }
    };
    result.unwrap_or_else(|error| errors::report(&error, jsonl))
}

/// Ends the process on SIGINT or SIGTERM with a word about what that means, and with the code shells give for the
/// signal.
///
/// The connections end with the process; an agent on a host notices, finishes the step it is at and goes.
///
/// It does not return through `main`: a question to the user holds the main task, and must end too.
#[allow(clippy::disallowed_methods)]
async fn end_on_signal(mut interrupt: Signal, mut terminate: Signal) {
    let (name, code) = tokio::select! {
        _ = interrupt.recv() => ("SIGINT", 130),
        _ = terminate.recv() => ("SIGTERM", 143),
    };
    tell!("error: stopped by {name}; each host finishes its current step and starts no other");
    tell!("hint: run the same command again to continue");
    std::process::exit(code);
}

/// Runs async work to its end, or to a signal.
pub fn on_runtime(work: impl Future<Output = Result<()>>) -> Result<ExitCode> {
    on_runtime_with_code(async { work.await.map(|()| ExitCode::SUCCESS) })
}

/// The same for work that chooses its exit code.
fn on_runtime_with_code(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    kinit_component_base::runtime::install_tls_provider();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the async runtime")?;
    {
        let _inside = runtime.enter();
        // From here on; with a handler that cannot be installed, signals keep their defaults.
        if let (Ok(interrupt), Ok(terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
            runtime.spawn(end_on_signal(interrupt, terminate));
        }
    }
    let result = runtime.block_on(work);
    // A read of stdin that never ends must not hold the process back.
    runtime.shutdown_background();
    result
}
