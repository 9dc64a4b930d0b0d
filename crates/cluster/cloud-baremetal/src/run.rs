//! From the command line to the running controller.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result};
use kinit_client::component::lead;
use kinit_client::from_kubeconfig;
use kinit_component_base::Shutdown;

use crate::args::Args;
use crate::controllers::runs_services;
use crate::{pools, sync};

const NAME: &str = "cloud-controller-manager";

/// The program. `args` holds the program's name first.
pub fn main(args: Vec<OsString>) -> ExitCode {
    kinit_component_base::main(NAME, args, |args: &Args| &args.component.logging, run)
}

/// Runs the controller until `shutdown`.
pub async fn run(args: Args, shutdown: Shutdown) -> Result<()> {
    let wanted = runs_services(&args.controllers)?;
    let pools = pools::read(&args.cloud_config)?;
    let client = from_kubeconfig(&args.component.kubeconfig, NAME).await?;
    let (workers, ending) = (usize::from(args.concurrent_service_syncs), shutdown.clone());
    lead(NAME, &args.component, args.secure_port, shutdown, |mut tasks| async move {
        if wanted {
            tracing::info!(cluster = args.cluster_name, pools = pools.len(), "service-lb-controller starts");
            tasks.spawn(async move {
                sync::run(client, pools, workers, ending).await.context("controller service-lb-controller")
            });
        }
        Ok(tasks)
    })
    .await
}
