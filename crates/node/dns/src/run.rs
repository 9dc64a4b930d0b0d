//! From the command line to a running server.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hickory_server::Server;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Response, StatusCode};
use k8s_openapi::api::core::v1::ConfigMap;
use kinit_client::informer::{Change, spawn};
use kinit_client::{from_kubeconfig, in_cluster};
use kinit_component_base::Shutdown;
use kinit_component_base::health::Checks;
use kinit_component_base::serve::{serve, serve_health};
use kube::runtime::watcher::Config;
use kube::{Api, Client};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use crate::args::Args;
use crate::data::Data;
use crate::forward::Forwarder;
use crate::router::Router;
use crate::server::Handler;
use crate::zone::Zone;

const NAME: &str = "kube-dns";
const SYSTEM: &str = "kube-system";
const TCP_TIMEOUT: Duration = Duration::from_secs(10);
const TCP_BUFFER: usize = 32;
/// On the way out, queries are answered for this long after `/ready` says no, so that none meets a closed port.
const LAME_DUCK: Duration = Duration::from_secs(5);

/// The program. `args` holds the program's name first.
pub fn main(args: Vec<OsString>) -> ExitCode {
    kinit_component_base::main(NAME, args, |args: &Args| &args.logging, run)
}

async fn run(args: Args, shutdown: Shutdown) -> Result<()> {
    let client = match &args.kubeconfig {
        Some(path) => from_kubeconfig(path, NAME).await?,
        None => in_cluster(NAME)?,
    };
    let stop = Shutdown::new();
    let data = Data::new(
        spawn(Api::all(client.clone()), Config::default(), &stop),
        spawn(Api::all(client.clone()), Config::default(), &stop),
        spawn(Api::all(client.clone()), Config::default(), &stop),
    );
    let zone = Arc::new(Zone::new(&args.cluster_domain, data).context("use --cluster-domain")?);
    let router = Arc::new(Router::new(Forwarder::from_file(&args.resolv_conf)?));
    follow(&router, client, &stop);
    let address = SocketAddr::new(args.dns_bind_address, args.dns_port);
    let mut server = Server::new(Handler::new(zone.clone(), router));
    server.register_socket(UdpSocket::bind(address).await.with_context(|| format!("listen on {address}, UDP"))?);
    let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}, TCP"))?;
    server.register_listener(listener, TCP_TIMEOUT, TCP_BUFFER);
    tracing::info!(%address, domain = args.cluster_domain, "answering");

    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    tasks.spawn(serve_one(args.health_bind_address, "/health", stop.clone(), || true));
    let leaving = shutdown.clone();
    let ready = move || zone.data().is_synced() && !leaving.is_cancelled();
    tasks.spawn(serve_one(args.ready_bind_address, "/ready", stop.clone(), ready));
    tasks.spawn(serve_health(args.metrics_bind_address, Checks::with_ping(), stop.clone()));
    tokio::select! {
        () = shutdown.cancelled() => {}
        ended = server.block_until_done() => return ended.context("answer queries"),
        Some(ended) = tasks.join_next() => return ended.context("a server's task ended")?,
    }
    tokio::select! { () = tokio::time::sleep(LAME_DUCK) => {}, _ = server.block_until_done() => {} }
    stop.cancel();
    Ok(())
}

/// Takes the settings in their ConfigMap, now and whenever they change.
fn follow(router: &Arc<Router>, client: Client, stop: &Shutdown) {
    let config = Config::default().fields(&format!("metadata.name={NAME}"));
    let maps = spawn(Api::<ConfigMap>::namespaced(client, SYSTEM), config, stop);
    let router = router.clone();
    maps.on_change(move |change| {
        let data = match change {
            Change::Deleted(_) => None,
            _ => Some(change.object().data.clone().unwrap_or_default()),
        };
        match router.take(data.as_ref()) {
            Ok(()) => tracing::info!(map = NAME, "took the settings"),
            Err(error) => tracing::error!(map = NAME, error = format!("{error:#}"), "keep the settings of before"),
        }
    });
}

/// One path that says OK or not.
async fn serve_one(
    address: SocketAddr,
    path: &'static str,
    shutdown: Shutdown,
    good: impl Fn() -> bool + Clone + Send + 'static,
) -> Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address} for {path}"))?;
    serve(listener, None, shutdown, move |request| {
        let (status, text) = match request.uri().path() == path {
            true if good() => (StatusCode::OK, "OK"),
            true => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
            false => (StatusCode::NOT_FOUND, "not found"),
        };
        let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        *response.status_mut() = status;
        async move { response }
    })
    .await;
    Ok(())
}
