//! Clients from kubeconfigs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwapOption;
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kinit_component_base::tls::ReloadingCert;
use kinit_component_base::version::user_agent;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use tower::{ServiceBuilder, ServiceExt};

use crate::counted::Counted;

const CONNECT: Duration = Duration::from_secs(4);
/// For the whole of a connection's beginning: a server that stops in the middle of a handshake sends nothing more, and
/// no ping runs yet.
const HANDSHAKE: Duration = Duration::from_secs(6);
/// A dead server answers no ping: with these two its connection, and every watch on it, ends within five seconds.
const PING_INTERVAL: Duration = Duration::from_secs(3);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// A client for `component` from a kubeconfig's current context.
///
/// A client certificate that the kubeconfig names by file is read again when the file changes (the kubelet's rotation
/// needs no new client); one embedded in the kubeconfig is fixed.
pub async fn from_kubeconfig(path: &Path, component: &str) -> Result<Client> {
    let config = config_from_kubeconfig(path, component).await?;
    from_config(config).with_context(|| format!("build a client from {}", path.display()))
}

/// The configuration behind [`from_kubeconfig`], to be changed before [`from_config`].
pub async fn config_from_kubeconfig(path: &Path, component: &str) -> Result<Config> {
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("read kubeconfig {}", path.display()))?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("use kubeconfig {}", path.display()))?;
    config.headers.push(agent_header(component)?);
    Ok(config)
}

/// A client from the service account mounted into a pod (`/var/run/secrets/kubernetes.io/serviceaccount`); its token is
/// read again when it changes.
pub fn in_cluster(component: &str) -> Result<Client> {
    let mut config = Config::incluster_env().context("read the pod's service account")?;
    config.headers.push(agent_header(component)?);
    from_config(config)
}

/// The same server as `config`, as the bearer of `token` and nobody else.
pub fn with_token(config: &Config, component: &str, token: String) -> Result<Client> {
    let mut config = config.clone();
    config.auth_info = kube::config::AuthInfo { token: Some(token.into()), ..Default::default() };
    config.headers.retain(|(name, _)| name != "user-agent");
    config.headers.push(agent_header(component)?);
    from_config(config)
}

/// A bearer token that can be replaced while clients use it.
#[derive(Clone)]
pub struct TokenSource(Arc<ArcSwapOption<http::HeaderValue>>);

impl TokenSource {
    /// Holds no token yet: requests go out without credentials until [`set`](Self::set).
    pub fn empty() -> Self {
        Self(Arc::new(ArcSwapOption::empty()))
    }

    /// Replaces the token for all requests from now on.
    pub fn set(&self, token: &str) -> Result<()> {
        let mut value = http::HeaderValue::from_str(&format!("Bearer {token}")).context("use a token as a header")?;
        value.set_sensitive(true);
        self.0.store(Some(Arc::new(value)));
        Ok(())
    }
}

/// The same server as `config`, as the bearer of whatever token `source` holds at the time of each request.
pub fn with_token_source(config: &Config, component: &str, source: TokenSource) -> Result<Client> {
    let mut config = config.clone();
    config.auth_info = kube::config::AuthInfo::default();
    config.headers.retain(|(name, _)| name != "user-agent");
    config.headers.push(agent_header(component)?);
    build(config, move |mut request: http::Request<Body>| {
        if let Some(value) = source.0.load_full() {
            request.headers_mut().insert(http::header::AUTHORIZATION, (*value).clone());
        }
        request
    })
}

/// Builds the client: HTTP/2 where the server has it, pings, no read timeout (watches are long; a dead server is found
/// by the pings).
pub fn from_config(config: Config) -> Result<Client> {
    build(config, |request| request)
}

fn build<F>(config: Config, dress: F) -> Result<Client>
where
    F: FnMut(http::Request<Body>) -> http::Request<Body> + Clone + Send + 'static,
{
    let tls = tls_config(&config)?;
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT));
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(http);
    let connector = tower::service_fn(move |uri: http::Uri| -> BoxFuture<'static, Result<_, tower::BoxError>> {
        let connecting = connector.clone().oneshot(uri);
        async move { tokio::time::timeout(HANDSHAKE, connecting).await.map_err(|_| "the connection was not ready in time")? }
            .boxed()
    });
    let hyper = hyper_util::client::legacy::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_keep_alive_while_idle(true)
        .http2_adaptive_window(true)
        .build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().context("prepare the credentials")?)
        .layer(config.extra_headers_layer().context("prepare the request headers")?)
        .map_request(dress)
        .map_err(tower::BoxError::from)
        // The innermost: here a request has its whole URI.
        .service(Counted(hyper));
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

/// The TLS of a kubeconfig: which servers are believed, and the client certificate that is shown. For servers beside
/// the API server which know the same identities (kubelets).
pub fn tls_config(config: &Config) -> Result<rustls::ClientConfig> {
    kinit_component_base::runtime::install_tls_provider();
    let mut tls = config.rustls_client_config().context("build the TLS configuration")?;
    if let Some(files) = certificate_files(config) {
        tls.client_auth_cert_resolver = Arc::new(FromFiles(ReloadingCert::load(&files.0, &files.1)?));
    }
    Ok(tls)
}

fn certificate_files(config: &Config) -> Option<(PathBuf, PathBuf)> {
    let auth = &config.auth_info;
    Some((auth.client_certificate.as_ref()?.into(), auth.client_key.as_ref()?.into()))
}

fn agent_header(component: &str) -> Result<(http::HeaderName, http::HeaderValue)> {
    let value = http::HeaderValue::from_str(&user_agent(component)).map_err(|e| anyhow!("user agent: {e}"))?;
    Ok((http::header::USER_AGENT, value))
}

#[derive(Debug)]
struct FromFiles(Arc<ReloadingCert>);

impl ResolvesClientCert for FromFiles {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current())
    }
    fn has_certs(&self) -> bool {
        true
    }
}
