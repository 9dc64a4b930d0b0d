//! The tree of commands.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{cluster, config, errors, playground, reference};

/// Turns Linux machines with SSH and root into a highly available Kubernetes cluster, and looks after it
#[derive(Parser, Debug)]
#[command(name = "kinit", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Make a cluster, or bring one to what its file says
    Init(cluster::InitArgs),
    /// Give hosts back as they were
    Reset(cluster::ResetArgs),
    /// Cluster files: an example, a check, all defaults
    #[command(subcommand)]
    Config(config::Verb),
    /// Hosts on this machine to try things on: boot, unplug, partition, throw away
    #[command(subcommand)]
    Playground(playground::Verb),
    /// Serve a kinit over stdin and stdout (kinit starts this on hosts)
    #[command(hide = true)]
    HostAgent,
    /// Print docs/cli.md
    #[command(hide = true)]
    Reference,
}

/// docs/cli.md.
pub(crate) fn reference() -> String {
    reference::markdown(Cli::command())
}

/// Reads the command line, does what it says, and tells how it went; see [`errors::report`] for the exit codes.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.verb {
        // A playground's inner verbs must not have threads.
        Verb::Playground(verb) => playground::run(verb),
        Verb::Config(verb) => config::run(verb).map(|()| ExitCode::SUCCESS),
        Verb::Reference => {
            show!(reference());
            Ok(ExitCode::SUCCESS)
        }
        Verb::Init(args) => on_runtime(cluster::init(args)),
        Verb::Reset(args) => on_runtime(cluster::reset(args)),
        Verb::HostAgent => {
            // The login shell's may be 077: packages' scripts, and parents of folders, would be closed to all but root.
            nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
            on_runtime(kinit_agent::serve(tokio::io::stdin(), tokio::io::stdout()))
        }
    };
    result.unwrap_or_else(|error| errors::report(&error))
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
    tell!("error: stopped by {name}; each host finishes the step it is at, and nothing after it is begun");
    tell!("hint: run the same command again to go on from there");
    std::process::exit(code);
}

/// Runs async work to its end, or to a signal.
pub fn on_runtime(work: impl Future<Output = Result<()>>) -> Result<ExitCode> {
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
    result.map(|()| ExitCode::SUCCESS)
}
