//! Questions to kubelets: TLS that is verified, our identity, an answer of bounded size in bounded time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http::header::{AUTHORIZATION, HeaderValue};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use jiff::Timestamp;
use kinit_component_base::tls::read_roots;
use kube::Config;
use rustls::client::WebPkiServerVerifier;
use secrecy::ExposeSecret;

use crate::args::Args;
use crate::exposition;
use crate::known::Known;
use crate::storage::Batch;

/// Of several thousand containers.
const LARGEST: usize = 16 * 1024 * 1024;
const IDLE: Duration = Duration::from_secs(90);

/// A client of all kubelets.
pub struct Kubelets {
    client: legacy::Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    token: Token,
    port: u16,
    use_status_port: bool,
    types: Vec<String>,
    patience: Duration,
}

/// A bearer token beside, or in the place of, the client certificate.
enum Token {
    None,
    Fixed(HeaderValue),
    File(PathBuf),
}

impl Kubelets {
    /// With the identity of a kubeconfig.
    pub fn new(config: &Config, args: &Args) -> Result<Self> {
        let mut tls = kinit_client::tls_config(config)?;
        if let Some(ca) = &args.kubelet_certificate_authority {
            let verifier = WebPkiServerVerifier::builder(Arc::new(read_roots(ca)?)).build();
            let verifier = verifier.with_context(|| format!("use {} as CA of kubelets", ca.display()))?;
            tls.dangerous().set_certificate_verifier(verifier);
        }
        tls.alpn_protocols.clear();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .wrap_connector(http);
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .build(connector);
        Ok(Self {
            client,
            token: Token::of(config)?,
            port: args.kubelet_port,
            use_status_port: args.kubelet_use_node_status_port,
            types: args.kubelet_preferred_address_types.clone(),
            patience: args.kubelet_request_timeout,
        })
    }

    /// What a node's kubelet says.
    pub async fn ask(&self, node: &Known) -> Result<Batch> {
        let url = url(node, &self.types, self.use_status_port.then_some(node.port).flatten().unwrap_or(self.port))
            .with_context(|| format!("node {} has no address of {}", node.name, self.types.join(", ")))?;
        let (status, body) = tokio::time::timeout(self.patience, self.get(&url))
            .await
            .with_context(|| format!("no answer from {url} in {:?}", self.patience))?
            .with_context(|| format!("read {url}"))?;
        ensure!(status == 200, "{url} answered {status}");
        let text = std::str::from_utf8(&body).with_context(|| format!("read {url} as UTF-8"))?;
        Ok(exposition::read(&node.name, text, Timestamp::now().as_millisecond())?)
    }

    async fn get(&self, url: &str) -> Result<(u16, Bytes)> {
        let mut request = Request::get(url).body(Empty::new())?;
        if let Some(value) = self.token.header()? {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let response = self.client.request(request).await?;
        let status = response.status().as_u16();
        match Limited::new(response.into_body(), LARGEST).collect().await {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) => bail!("read the answer, of {LARGEST} bytes at most: {error}"),
        }
    }
}

impl Token {
    fn of(config: &Config) -> Result<Self> {
        let auth = &config.auth_info;
        Ok(match (&auth.token, &auth.token_file) {
            (Some(token), _) => Self::Fixed(bearer(token.expose_secret())?),
            (None, Some(file)) => Self::File(file.into()),
            (None, None) => Self::None,
        })
    }

    /// A file is read each time: tokens are replaced while they are used.
    fn header(&self) -> Result<Option<HeaderValue>> {
        let read = |path: &Path| std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
        Ok(match self {
            Self::None => None,
            Self::Fixed(value) => Some(value.clone()),
            Self::File(path) => Some(bearer(read(path)?.trim())?),
        })
    }
}

fn bearer(token: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).context("use a token as a header")?;
    value.set_sensitive(true);
    Ok(value)
}

/// Where a node's kubelet is asked: at its address of the first type that it has.
fn url(node: &Known, types: &[String], port: u16) -> Option<String> {
    let of = |wanted: &String| node.addresses.iter().find(|(kind, _)| **kind == **wanted).map(|(_, address)| address);
    let host = types.iter().find_map(of)?;
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
    Some(format!("https://{host}:{port}/metrics/resource"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_address_is_called() {
        let mut node = crate::known::tests::known("", "n", &[]);
        node.addresses =
            [("InternalIP", "fd00::1"), ("Hostname", "n.example")].map(|(k, v)| (k.into(), v.into())).into();
        let at = |types: &[&str]| url(&node, &types.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>(), 1);
        assert_eq!(at(&["Hostname", "InternalIP"]).as_deref(), Some("https://n.example:1/metrics/resource"));
        assert_eq!(at(&["ExternalIP", "InternalIP"]).as_deref(), Some("https://[fd00::1]:1/metrics/resource"));
        assert_eq!(at(&["ExternalIP"]), None);
    }
}
