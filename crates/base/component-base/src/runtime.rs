//! From `main` to an async function with a shutdown token, and back to an exit code.

use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;

use clap::Parser;
use tokio_util::sync::CancellationToken;

use crate::logs::{self, LoggingArgs};

/// Cancelled on SIGTERM or SIGINT. Clone it into every task; `shutdown.cancelled().await` to wait.
pub type Shutdown = CancellationToken;

/// A component's main: parses `args` (the program's name first), then runs the component to its end as [`run`] does.
/// `logging` finds the logging flags among the component's own.
///
/// Exit codes as upstream's components have them (`k8s.io/component-base/cli`): 0 after help, version or a clean end, 1
/// after a wrong command line or an error.
pub fn main<A, Fut>(
    name: &'static str,
    args: Vec<OsString>,
    logging: impl FnOnce(&A) -> &LoggingArgs,
    f: impl FnOnce(A, Shutdown) -> Fut,
) -> ExitCode
where
    A: Parser,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let args = match A::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            // Help and version come this way too; clap knows which stream each belongs to.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let logging = logging(&args).clone();
    run(name, &logging, move |shutdown| f(args, shutdown))
}

/// Runs a component to its end.
///
/// Installs the TLS provider and the log, starts a runtime, turns SIGTERM and SIGINT into the token's cancellation (a
/// second signal ends the process by its default action), and maps the result: 0 for `Ok`, 1 for an error, whose whole
/// chain is printed to stderr. The failure of a supervised task ([`crate::supervise`]) is such an error.
pub fn run<F, Fut>(name: &'static str, logging: &LoggingArgs, f: F) -> ExitCode
where
    F: FnOnce(Shutdown) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    install_tls_provider();
    logs::init(logging);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name(name).build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(name, &anyhow::Error::new(error).context("start the async runtime")),
    };
    let result = runtime.block_on(async {
        let token = CancellationToken::new();
        watch_signals(token.clone())?;
        tracing::info!(version = crate::version::GIT_VERSION, "starting {name}");
        tokio::select! {
            result = f(token) => result,
            failure = crate::supervise::failed() => Err(anyhow::Error::msg(failure)),
        }
    });
    // Tasks that ignore the token must not hold the process back.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(name, &error),
    }
}

/// Makes aws-lc-rs rustls' provider. Safe to call more than once.
pub fn install_tls_provider() {
    // An error only says that a provider is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn watch_signals(token: CancellationToken) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tracing::info!("shutting down");
        token.cancel();
    });
    Ok(())
}

fn fail(name: &str, error: &anyhow::Error) -> ExitCode {
    eprintln!("{name}: error: {error:#}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flags of a component.
    #[derive(Parser)]
    #[command(version = "1")]
    struct Args {
        /// How it ends
        #[arg(long)]
        fails: bool,
        #[command(flatten)]
        logging: LoggingArgs,
    }

    async fn work(args: Args, _: Shutdown) -> anyhow::Result<()> {
        anyhow::ensure!(!args.fails, "it fails");
        Ok(())
    }

    #[test]
    fn exit_codes_as_upstream() {
        for (flags, code) in [
            (&["x"][..], ExitCode::SUCCESS),
            (&["x", "--help"], ExitCode::SUCCESS),
            (&["x", "--version"], ExitCode::SUCCESS),
            (&["x", "--fails"], ExitCode::from(1)),
            (&["x", "--unknown"], ExitCode::from(1)),
            (&["x", "--v=many"], ExitCode::from(1)),
        ] {
            let args = flags.iter().map(OsString::from).collect();
            assert_eq!(main("x", args, |args: &Args| &args.logging, work), code, "{flags:?}");
        }
    }
}
