//! From the command line to the running server.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use kinit_client::delegated::{Delegated, Trust};
use kinit_client::{config_from_kubeconfig, from_config, from_kubeconfig};
use kinit_component_base::health::Checks;
use kinit_component_base::serve::serve;
use kinit_component_base::tls::ReloadingCert;
use kinit_component_base::{Shutdown, supervise};

use crate::api::Api;
use crate::args::Args;
use crate::known;
use crate::kubelet::Kubelets;
use crate::metrics::Metrics;
use crate::rounds::{self, Collected};
use crate::server::Server;

const NAME: &str = "metrics-server";

/// The program. `args` holds the program's name first.
pub fn main(args: Vec<OsString>) -> ExitCode {
    kinit_component_base::main(NAME, args, |args: &Args| &args.logging, run)
}

/// Serves until `shutdown`.
pub async fn run(args: Args, shutdown: Shutdown) -> Result<()> {
    let config = config_from_kubeconfig(&args.kubeconfig, NAME).await?;
    let kubelets = Kubelets::new(&config, &args).context("make a client of kubelets")?;
    let client = from_config(config).with_context(|| format!("build a client from {}", args.kubeconfig.display()))?;
    let or_own = |path: &Option<PathBuf>| path.clone().unwrap_or_else(|| args.kubeconfig.clone());
    let authentication = from_kubeconfig(&or_own(&args.authentication_kubeconfig), NAME).await?;
    let authorization = from_kubeconfig(&or_own(&args.authorization_kubeconfig), NAME).await?;

    let trust = Trust::published(authentication.clone(), args.client_ca_file.as_deref(), &shutdown)?;
    let certificate = ReloadingCert::load(&args.tls_cert_file, &args.tls_private_key_file)?;
    let mut tls = args.tls.server()?.with_client_cert_verifier(trust.clone()).with_cert_resolver(certificate);
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let address = SocketAddr::new(args.bind_address, args.secure_port);
    let listener = tokio::net::TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;

    let nodes = known::nodes(client.clone(), &args.node_selector, &shutdown);
    let pods = known::pods(client, &shutdown);
    let collected = Collected::new(args.metric_resolution);
    let asking = rounds::run(collected.clone(), nodes.clone(), kubelets, Metrics::register(), shutdown.clone());
    supervise::vital("rounds", &shutdown, asking);

    let api = Api { nodes, pods, collected };
    let (live, ready) = checks(&api);
    let delegated = Delegated::new(trust, authentication, authorization);
    let server = Arc::new(Server { api, delegated, live, ready });
    serve(listener, Some(Arc::new(tls)), shutdown, move |request| {
        let server = server.clone();
        async move { server.answer(request).await }
    })
    .await;
    Ok(())
}

/// Upstream's checks of life and of readiness (`pkg/server`: `probeMetricCollectionTimely`, `probeMetricStorageReady`).
fn checks(api: &Api) -> (Checks, Checks) {
    let (live, ready) = (Checks::with_ping(), Checks::with_ping());
    let collected = api.collected.clone();
    live.add("metric-collection-timely", move || match collected.is_timely() {
        true => Ok(()),
        false => Err("the last round began too long ago".to_owned()),
    });
    let (nodes, pods) = (api.nodes.clone(), api.pods.clone());
    ready.add("metric-informer-sync", move || match nodes.is_synced() && pods.is_synced() {
        true => Ok(()),
        false => Err("nodes and pods are not known yet".to_owned()),
    });
    let collected = api.collected.clone();
    ready.add("metric-storage-ready", move || match collected.storage.read().known() {
        (0, 0) => Err("no metrics to serve".to_owned()),
        _ => Ok(()),
    });
    (live, ready)
}
