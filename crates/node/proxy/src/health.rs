//! The proxy's own health, and the health ports by which load balancers choose nodes.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Response, StatusCode};
use jiff::Timestamp;
use kinit_component_base::serve::serve;
use kinit_component_base::{Shutdown, supervise};
use parking_lot::Mutex;
use serde_json::json;

use crate::services::ServicePort;

/// Changes that wait longer than this for the kernel make the proxy unhealthy.
const PATIENCE: Duration = Duration::from_secs(60);

/// When the rules were last right.
#[derive(Clone)]
pub struct Freshness(Arc<Mutex<State>>);

struct State {
    updated: Option<Timestamp>,
    waiting_since: Option<Instant>,
}

impl Freshness {
    /// Nothing was applied yet.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State { updated: None, waiting_since: Some(Instant::now()) })))
    }

    /// Something changed and is to be applied.
    pub fn wanted(&self) {
        self.0.lock().waiting_since.get_or_insert_with(Instant::now);
    }

    /// All changes were applied.
    pub fn applied(&self) {
        *self.0.lock() = State { updated: Some(Timestamp::now()), waiting_since: None };
    }

    fn is_healthy(&self) -> bool {
        self.0.lock().waiting_since.is_none_or(|since| since.elapsed() < PATIENCE)
    }

    fn answer(&self) -> Response<Full<Bytes>> {
        let state = self.0.lock();
        let healthy = state.waiting_since.is_none_or(|since| since.elapsed() < PATIENCE);
        let body = json!({
            "lastUpdated": state.updated.map(|t| t.to_string()), "currentTime": Timestamp::now().to_string(),
            "nodeEligible": true
        });
        response(if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body.to_string())
    }
}

fn response(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    response
}

/// Serves `/healthz` and `/livez`.
pub async fn serve_healthz(address: SocketAddr, freshness: Freshness, shutdown: Shutdown) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address} for health checks"))?;
    serve(listener, None, shutdown, move |request| {
        let answer = match request.uri().path() {
            "/healthz" | "/livez" => freshness.answer(),
            _ => response(StatusCode::NOT_FOUND, "{}".into()),
        };
        async move { answer }
    })
    .await;
    Ok(())
}

/// How many endpoints a Service has here, by its health port.
pub fn wanted<'a>(ports: impl IntoIterator<Item = &'a ServicePort>) -> BTreeMap<u16, (String, usize)> {
    let mut wanted: BTreeMap<u16, (String, usize)> = BTreeMap::new();
    for port in ports {
        if let Some(number) = port.health_port {
            let entry = wanted.entry(number).or_insert_with(|| (port.service.to_string(), 0));
            entry.1 = entry.1.max(port.ready_here);
        }
    }
    wanted
}

/// A Service and how many endpoints it has here.
type Shown = Arc<Mutex<(String, usize)>>;

/// The open health ports.
pub struct HealthPorts {
    open: HashMap<u16, (Shutdown, Shown)>,
    freshness: Freshness,
    shutdown: Shutdown,
}

impl HealthPorts {
    /// None yet. While the rules are not `freshness`, no port says yes.
    pub fn new(freshness: Freshness, shutdown: Shutdown) -> Self {
        Self { open: HashMap::new(), freshness, shutdown }
    }

    /// Opens, closes and updates ports.
    pub async fn update(&mut self, wanted: BTreeMap<u16, (String, usize)>) {
        self.open.retain(|number, (stop, _)| {
            let keep = wanted.contains_key(number);
            if !keep {
                stop.cancel();
            }
            keep
        });
        for (number, state) in wanted {
            if let Some((_, current)) = self.open.get(&number) {
                *current.lock() = state;
                continue;
            }
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, number));
            match tokio::net::TcpListener::bind(address).await {
                Ok(listener) => {
                    let (stop, current) = (self.shutdown.child_token(), Arc::new(Mutex::new(state)));
                    let (shown, freshness) = (current.clone(), self.freshness.clone());
                    supervise::spawn(
                        "health port",
                        serve(listener, None, stop.clone(), move |_request| {
                            let (service, count) = shown.lock().clone();
                            let healthy = freshness.is_healthy();
                            async move { node_answer(&service, count, healthy) }
                        }),
                    );
                    self.open.insert(number, (stop, current));
                }
                // It is tried again with the next change.
                Err(error) => tracing::warn!(port = number, %error, "open a Service's health port"),
            }
        }
    }
}

/// `pkg/proxy/healthcheck/service_health.go`: balancers may weigh nodes by the header.
fn node_answer(service: &str, count: usize, healthy: bool) -> Response<Full<Bytes>> {
    let (namespace, name) = service.split_once('/').unwrap_or(("", service));
    let body = json!({
        "service": {"namespace": namespace, "name": name}, "localEndpoints": count, "serviceProxyHealthy": healthy
    });
    let status = if count > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut answer = response(status, body.to_string());
    answer.headers_mut().insert("x-load-balancing-endpoint-weight", count.into());
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_says_yes_with_endpoints_and_fresh_rules() {
        for (count, healthy, status) in [(2, true, 200), (0, true, 503), (2, false, 503)] {
            let answer = node_answer("n/s", count, healthy);
            let weight = answer.headers()["x-load-balancing-endpoint-weight"].to_str().unwrap().to_owned();
            assert_eq!((answer.status().as_u16(), weight), (status, count.to_string()));
        }
    }
}
