//! What every component that leads by election is started with, and how it starts.
//!
//! ```text
//! command line ─▶ component_base::main ─▶ the component's own preparation ─▶ lead ─┬─ secure port (health, metrics)
//!                                                                  └─ elected ─▶ its tasks, until shutdown or loss
//! ```

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::ArgAction;
use kinit_component_base::Shutdown;
use kinit_component_base::ciphers::TlsArgs;
use kinit_component_base::compatibility::CompatibilityArgs;
use kinit_component_base::flags::only_false;
use kinit_component_base::health::Checks;
use kinit_component_base::logs::LoggingArgs;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::from_kubeconfig;
use crate::leader::{ElectionArgs, elect};
use crate::serving::{SecurePort, serve_secure};

/// A little longer than the release of a lease may take.
const RELEASE: Duration = Duration::from_millis(1200);

/// Flags that upstream's `kube-controller-manager` and `kube-scheduler` share, but for `--secure-port`, whose default
/// is each one's own.
#[derive(clap::Args, Debug, Clone)]
pub struct ComponentArgs {
    /// The minor version whose behaviour is asked for.
    #[command(flatten)]
    pub compatibility: CompatibilityArgs,
    /// Kubeconfig with the API server's address and this component's identity
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Kubeconfig for TokenReviews about callers of the secure port [default: --kubeconfig]
    #[arg(long)]
    pub authentication_kubeconfig: Option<PathBuf>,
    /// Kubeconfig for SubjectAccessReviews about callers of the secure port [default: --kubeconfig]
    #[arg(long)]
    pub authorization_kubeconfig: Option<PathBuf>,
    /// Address of the secure port
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Certificate of the secure port; self-signed in memory when absent
    #[arg(long, requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Key of --tls-cert-file
    #[arg(long, requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Versions and suites of TLS.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// CA of client certificates on the secure port
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// CA of front proxies whose X-Remote-* headers are believed
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Serves profiles; not available
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = only_false)]
    pub profiling: bool,
    /// Who leads.
    #[command(flatten)]
    pub election: ElectionArgs,
    /// What is logged.
    #[command(flatten)]
    pub logging: LoggingArgs,
}

/// Serves the secure port, waits to lead, then runs the tasks that `start` spawns until `shutdown`.
///
/// Errors when leadership is lost or a task fails, so that the process ends: what acts without the lease acts beside
/// another leader.
pub async fn lead<Fut>(
    name: &'static str,
    args: &ComponentArgs,
    secure_port: u16,
    shutdown: Shutdown,
    start: impl FnOnce(JoinSet<Result<()>>) -> Fut,
) -> Result<()>
where
    Fut: Future<Output = Result<JoinSet<Result<()>>>>,
{
    // What is served differs between minor versions, and not what these components do with it.
    args.compatibility.resolve()?;
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    tasks.spawn(serve(name, args.clone(), secure_port, shutdown.clone()));
    let mut lost = None;
    if args.election.leader_elect {
        let client = from_kubeconfig(&args.kubeconfig, &format!("{name}/leader-election")).await?;
        tokio::select! {
            leadership = elect(client, args.election.election(name), shutdown.clone()) => match leadership? {
                Some(leadership) => lost = Some(leadership.lost()),
                None => return Ok(()),
            },
            Some(ended) = tasks.join_next() => return ended.context("the secure port's task ended")?,
        }
    }
    let never = CancellationToken::new();
    let losing = lost.as_ref().unwrap_or(&never);
    tasks = tokio::select! {
        tasks = start(tasks) => tasks?,
        () = losing.cancelled() => return after(&shutdown),
    };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => {
                if let Some(lost) = &lost {
                    // The lease's release is under way; what it takes at most is bounded there.
                    let _ = tokio::time::timeout(RELEASE, lost.cancelled()).await;
                }
                return Ok(());
            }
            () = losing.cancelled() => return after(&shutdown),
            ended = tasks.join_next() => match ended {
                Some(ended) => {
                    let result = ended.context("a task ended")?;
                    if !shutdown.is_cancelled() {
                        result?;
                    }
                }
                None => return Ok(()),
            },
        }
    }
}

/// A lease that was released on the way out is no loss.
fn after(shutdown: &Shutdown) -> Result<()> {
    if shutdown.is_cancelled() {
        return Ok(());
    }
    bail!("leadership lost")
}

async fn serve(name: &'static str, args: ComponentArgs, secure_port: u16, shutdown: Shutdown) -> Result<()> {
    let or_own = |path: Option<PathBuf>| path.unwrap_or_else(|| args.kubeconfig.clone());
    let authentication = from_kubeconfig(&or_own(args.authentication_kubeconfig.clone()), name).await?;
    let authorization = from_kubeconfig(&or_own(args.authorization_kubeconfig.clone()), name).await?;
    let port = SecurePort {
        address: SocketAddr::new(args.bind_address, secure_port),
        certificate: args.tls_cert_file.zip(args.tls_private_key_file),
        tls: args.tls,
        client_ca: args.client_ca_file,
        requestheader_ca: args.requestheader_client_ca_file,
    };
    serve_secure(port, authentication, authorization, Checks::with_ping(), shutdown).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    /// Does things
    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        common: ComponentArgs,
    }

    #[test]
    fn flags_as_upstream() {
        let about = <Args as clap::CommandFactory>::command().get_about().map(ToString::to_string);
        assert_eq!(about.as_deref(), Some("Does things"), "shared flags do not speak for the component");
        let parse = |flags: &[&str]| Args::try_parse_from([&["x"], flags].concat());
        for (flags, good) in [
            (&["--kubeconfig=/k", "--leader-elect", "--profiling=false"][..], true),
            (&["--kubeconfig=/k", "--bind-address=127.0.0.1", "--authentication-kubeconfig=/a", "--v=2"], true),
            (&[], false),
            (&["--kubeconfig=/k", "--profiling=true"], false),
            (&["--kubeconfig=/k", "--tls-cert-file=/c"], false),
        ] {
            assert_eq!(parse(flags).is_ok(), good, "{flags:?}");
        }
        let args = parse(&["--kubeconfig=/k"]).unwrap().common;
        assert!(args.election.leader_elect && args.bind_address.is_unspecified());
    }
}
