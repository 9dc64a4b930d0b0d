//! The ports the kubelet listens on: its server and `/healthz`.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use kinit_component_base::health::Checks;
use kinit_component_base::serve::serve_health_on;
use kinit_component_base::{Shutdown, supervise, tls};
use rustls::server::ResolvesServerCert;
use tokio::net::TcpListener;

use crate::args::Args;
use crate::certs::serving;
use crate::certs::store::Store;
use crate::config::KubeletConfig;
use crate::kubelet::Kubelet;
use crate::pod::manager::Manager;
use crate::server::Server;
use crate::server::auth::Gate;

/// The HTTPS server's task.
pub type Serving = tokio::task::JoinHandle<Result<()>>;

/// Starts the HTTPS server.
pub fn serve(
    args: &Args,
    kubelet: &Arc<Kubelet>,
    manager: &Manager,
    ip: IpAddr,
    shutdown: Shutdown,
) -> Result<Serving> {
    let config = &kubelet.config;
    if config.enable_server == Some(false) {
        return Ok(tokio::spawn(async move {
            shutdown.cancelled().await;
            Ok(())
        }));
    }
    let certificates = args.certificates();
    let resolver: Arc<dyn ResolvesServerCert> = if !config.tls_cert_file.is_empty() {
        tls::ReloadingCert::load(config.tls_cert_file.as_ref(), config.tls_private_key_file.as_ref())?
    } else if config.server_tls_bootstrap {
        let file = Store::new(&certificates, "kubelet-server").current();
        serving::Resolver::new(file, &certificates, &kubelet.node_name, &[ip])?
    } else {
        serving::self_signed(&certificates, &kubelet.node_name, &[ip])?
    };
    let ca = &config.authentication.x509.client_ca_file;
    let clients = if ca.is_empty() { tls::ClientAuth::None } else { tls::ClientAuth::Optional(ca.into()) };
    let tls = tls::server_config(resolver, &clients, &config.tls())?;
    let address: IpAddr = match config.address.as_str() {
        // Unless the file says so, other addresses of the host have no business with the kubelet.
        "" => ip,
        given => given.parse().with_context(|| format!("address {given:?}"))?,
    };
    let gate = Gate::new(
        kubelet.client.clone(),
        &kubelet.node_name,
        config.authentication.clone(),
        config.authorization.clone(),
    );
    let server = Server { kubelet: kubelet.clone(), manager: manager.clone(), gate: Arc::new(gate) };
    let address = std::net::SocketAddr::new(address, config.port);
    Ok(tokio::spawn(server.run(address, tls, shutdown)))
}

/// `/healthz` on a port of its own. An address that cannot be had ends the kubelet: who watches over it would take it
/// for dead.
pub async fn health(config: &KubeletConfig, shutdown: Shutdown) -> Result<()> {
    let port = config.healthz_port.unwrap_or(10248);
    if port == 0 {
        return Ok(());
    }
    let ip: IpAddr = config.healthz_bind_address.parse().context("healthzBindAddress")?;
    let address = std::net::SocketAddr::new(ip, port);
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("listen on {address} for health checks"))?;
    supervise::spawn("health checks", serve_health_on(listener, Checks::with_ping(), shutdown));
    Ok(())
}
