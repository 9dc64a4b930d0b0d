//! From the command line to a running scheduler.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use k8s_openapi::api::core::v1::Pod;
use kinit_client::events::Recorder;
use kinit_client::from_kubeconfig;
use kinit_client::informer::spawn;
use kinit_client::leader::elect;
use kinit_client::serving::{SecurePort, serve_secure};
use kinit_component_base::Shutdown;
use kinit_component_base::health::Checks;
use kube::runtime::watcher::Config;
use kube::{Api, Client};
use tokio::task::JoinSet;

use crate::args::Args;
use crate::worker::{PROFILE, Stores, Worker};

const NAME: &str = "kube-scheduler";
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
    let client = from_kubeconfig(&args.kubeconfig, NAME).await?;
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    tasks.spawn(secure_port(args.clone(), shutdown.clone()));
    // The stores fill before the election is won: a new leader decides at once.
    let stores = stores(&client, &shutdown);
    let mut lost = Shutdown::new();
    if args.election.leader_elect {
        let election = args.election.election(NAME);
        let candidate = from_kubeconfig(&args.kubeconfig, "kube-scheduler/leader-election").await?;
        tokio::select! {
            leadership = elect(candidate, election, shutdown.clone()) => match leadership? {
                Some(leadership) => lost = leadership.lost(),
                None => return Ok(()),
            },
            Some(ended) = tasks.join_next() => return ended.context("the secure port's task ended")?,
        }
    }
    tokio::select! { () = shutdown.cancelled() => {}, () = stores.synced() => {} }
    let recorder = Recorder::new(client.clone(), PROFILE, "");
    let worker = Worker::new(client, stores, recorder);
    let working = worker.run(shutdown.clone());
    tokio::select! {
        () = working => {}
        () = lost.cancelled() => bail!("leadership lost"),
        Some(ended) = tasks.join_next() => {
            if !shutdown.is_cancelled() {
                return ended.context("the secure port's task ended")?;
            }
        }
    }
    if args.election.leader_elect {
        // The lease's release is under way; what it takes at most is bounded there.
        let _ = tokio::time::timeout(RELEASE, lost.cancelled()).await;
    }
    Ok(())
}

fn stores(client: &Client, shutdown: &Shutdown) -> Stores {
    let live = Config::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let all = Config::default;
    Stores {
        pods: spawn(Api::<Pod>::all(client.clone()), live, shutdown),
        nodes: spawn(Api::all(client.clone()), all(), shutdown),
        namespaces: spawn(Api::all(client.clone()), all(), shutdown),
        services: spawn(Api::all(client.clone()), all(), shutdown),
        replica_sets: spawn(Api::all(client.clone()), all(), shutdown),
        stateful_sets: spawn(Api::all(client.clone()), all(), shutdown),
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
