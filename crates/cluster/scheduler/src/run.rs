//! From the command line to a running scheduler.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kinit_client::component::lead;
use kinit_client::events::Recorder;
use kinit_client::from_kubeconfig;
use kinit_client::informer::spawn;
use kinit_component_base::Shutdown;
use kube::runtime::watcher::Config;
use kube::{Api, Client};

use crate::args::Args;
use crate::volumes::VolumeStores;
use crate::worker::{PROFILE, Stores, Worker};

const NAME: &str = "kube-scheduler";

/// The program. `args` holds the program's name first.
pub fn main(args: Vec<OsString>) -> ExitCode {
    kinit_component_base::main(NAME, args, |args: &Args| &args.component.logging, run)
}

/// Waits to lead, then schedules until `shutdown`.
pub async fn run(args: Args, shutdown: Shutdown) -> Result<()> {
    let client = from_kubeconfig(&args.component.kubeconfig, NAME).await?;
    // The stores fill before the election is won: a new leader decides at once.
    let stores = stores(&client, &shutdown);
    let working = shutdown.clone();
    lead(NAME, &args.component, args.secure_port, shutdown, |mut tasks| async move {
        tokio::select! { () = working.cancelled() => return Ok(tasks), () = stores.synced() => {} }
        let recorder = Recorder::new(client.clone(), PROFILE, "");
        let worker = Worker::new(client, stores, recorder);
        tasks.spawn(async move {
            worker.run(working).await;
            Ok(())
        });
        Ok(tasks)
    })
    .await
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
        replication_controllers: spawn(Api::all(client.clone()), all(), shutdown),
        budgets: spawn(Api::all(client.clone()), all(), shutdown),
        volumes: VolumeStores {
            claims: spawn(Api::all(client.clone()), all(), shutdown),
            volumes: spawn(Api::all(client.clone()), all(), shutdown),
            classes: spawn(Api::all(client.clone()), all(), shutdown),
        },
    }
}
