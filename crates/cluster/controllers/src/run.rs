//! From the command line to running controllers.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use kinit_client::leader::elect;
use kinit_client::serving::{SecurePort, serve_secure};
use kinit_client::{config_from_kubeconfig, from_config, from_kubeconfig};
use kinit_component_base::Shutdown;
use kinit_component_base::health::Checks;
use tokio::task::JoinSet;

use crate::args::Args;
use crate::context::Context;
use crate::identity::Identities;
use crate::registry;

const NAME: &str = "kube-controller-manager";
const RELEASE: Duration = Duration::from_millis(1200);

/// The program. `args` holds the program's name first.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            // Help and version come this way too; they are no failure.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
        }
    };
    let logging = args.logging.clone();
    kinit_component_base::run(NAME, &logging, move |shutdown| run(args, shutdown))
}

async fn run(args: Args, shutdown: Shutdown) -> Result<()> {
    args.validate()?;
    let selected = registry::selected(&args.controllers)?;
    let config = config_from_kubeconfig(&args.kubeconfig, NAME).await?;
    let root = from_config(config.clone())?;
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    tasks.spawn(secure_port(args.clone(), shutdown.clone()));

    let leadership = if args.election.leader_elect {
        let election = args.election.election(NAME);
        let client = from_kubeconfig(&args.kubeconfig, "kube-controller-manager/leader-election").await?;
        tokio::select! {
            leadership = elect(client, election, shutdown.clone()) => match leadership? {
                Some(leadership) => Some(leadership.lost()),
                None => return Ok(()),
            },
            Some(ended) = tasks.join_next() => return ended.context("the secure port's task ended")?,
        }
    } else {
        None
    };
    let lost = leadership.unwrap_or_default();

    let identities = Identities::new(root.clone(), config, args.use_service_account_credentials, shutdown.clone());
    let context = Context::new(args, root, identities, shutdown.clone());
    for controller in selected {
        let (context, name) = (context.clone(), controller.name);
        tasks.spawn(async move {
            tracing::info!(controller = name, "starting");
            (controller.start)(context).await.with_context(|| format!("controller {name}"))
        });
    }
    loop {
        tokio::select! {
            () = shutdown.cancelled() => {
                // The lease's release is under way; what it takes at most is bounded there.
                let _ = tokio::time::timeout(RELEASE, lost.cancelled()).await;
                return Ok(());
            }
            () = lost.cancelled() => bail!("leadership lost"),
            ended = tasks.join_next() => match ended {
                Some(ended) => {
                    let result = ended.context("a controller's task ended")?;
                    if !shutdown.is_cancelled() {
                        result?;
                    }
                }
                None => return Ok(()),
            },
        }
    }
}

async fn secure_port(args: Args, shutdown: Shutdown) -> Result<()> {
    let authentication =
        from_kubeconfig(args.authentication_kubeconfig.as_ref().unwrap_or(&args.kubeconfig), NAME).await?;
    let authorization =
        from_kubeconfig(args.authorization_kubeconfig.as_ref().unwrap_or(&args.kubeconfig), NAME).await?;
    let port = SecurePort {
        address: SocketAddr::new(args.bind_address, args.secure_port),
        certificate: args.tls_cert_file.zip(args.tls_private_key_file),
        client_ca: args.client_ca_file,
        requestheader_ca: args.requestheader_client_ca_file,
    };
    serve_secure(port, authentication, authorization, Checks::with_ping(), shutdown).await
}
