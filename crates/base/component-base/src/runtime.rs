//! From `main` to an async function with a shutdown token, and back to an exit code.

use std::future::Future;
use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use crate::logs::{self, LoggingArgs};

/// Cancelled on SIGTERM or SIGINT. Clone it into every task; `shutdown.cancelled().await` to wait.
pub type Shutdown = CancellationToken;

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
