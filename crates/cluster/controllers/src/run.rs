//! From the command line to running controllers.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use kinit_client::component::lead;
use kinit_client::{config_from_kubeconfig, from_config};
use kinit_component_base::Shutdown;

use crate::args::Args;
use crate::context::Context;
use crate::identity::Identities;
use crate::registry;

const NAME: &str = "kube-controller-manager";

/// The program. `args` holds the program's name first.
pub fn main(args: Vec<OsString>) -> ExitCode {
    kinit_component_base::main(NAME, args, |args: &Args| &args.component.logging, run)
}

/// Runs the selected controllers until `shutdown`.
pub async fn run(args: Args, shutdown: Shutdown) -> Result<()> {
    args.validate()?;
    let selected = registry::selected(&args.controllers)?;
    let config = config_from_kubeconfig(&args.component.kubeconfig, NAME).await?;
    let root = from_config(config.clone())?;
    let (common, port) = (args.component.clone(), args.secure_port);
    let identities = Identities::new(root.clone(), config, args.use_service_account_credentials, shutdown.clone());
    let context = Context::new(args, root, identities, shutdown.clone());
    if selected.iter().any(|d| d.name == "node-lifecycle-controller") {
        context.observer();
    }
    lead(NAME, &common, port, shutdown, |mut tasks| async move {
        for controller in selected {
            let (context, name) = (context.clone(), controller.name);
            tasks.spawn(async move {
                tracing::info!(controller = name, "starting");
                (controller.start)(context).await.with_context(|| format!("controller {name}"))
            });
        }
        Ok(tasks)
    })
    .await
}
