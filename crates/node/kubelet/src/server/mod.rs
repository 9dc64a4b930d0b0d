//! The kubelet's HTTPS server (`pkg/kubelet/server/server.go`).
//!
//! ```text
//! request ─► authn (certificate, token) ─► authz (SubjectAccessReview) ─► route ─► pods, logs, exec, forward, stats
//! ```

pub mod auth;
pub mod cadvisor;
pub mod exec;
pub mod exposition;
pub mod follow;
pub mod forward;
pub mod logs;
pub mod route;
pub mod stats;
pub mod upgrade;
pub mod usage;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use kinit_component_base::Shutdown;
use kinit_component_base::serve::{Connection, serve};
use rustls::ServerConfig;
use tokio::net::TcpListener;

use crate::kubelet::Kubelet;
use crate::pod::manager::Manager;

/// A body that may be endless.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// What handlers share.
#[derive(Clone)]
pub struct Server {
    /// The kubelet.
    pub kubelet: Arc<Kubelet>,
    /// Its pods.
    pub manager: Manager,
    /// Who may do what.
    pub gate: Arc<auth::Gate>,
}

impl Server {
    /// Serves until `shutdown`.
    pub async fn run(self, address: SocketAddr, tls: Arc<ServerConfig>, shutdown: Shutdown) -> Result<()> {
        let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
        let server = self;
        serve(listener, Some(tls), shutdown, move |request| {
            let server = server.clone();
            async move { server.handle(request).await }
        })
        .await;
        Ok(())
    }

    async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        let certificates = request.extensions().get::<Connection>().map(|c| c.certificates.clone());
        let user = match self.gate.who(&request, certificates.as_deref().and_then(|c| c.first())).await {
            Ok(user) => user,
            Err(error) => {
                tracing::debug!(error, "authenticate a request");
                return text(StatusCode::UNAUTHORIZED, "Unauthorized");
            }
        };
        match self.gate.may(&user, request.method(), request.uri().path()).await {
            Ok(true) => route::route(self, request).await,
            Ok(false) => {
                let verb = auth::verb(request.method());
                let sub = auth::subresources(request.uri().path()).last().copied().unwrap_or("proxy");
                let message = format!(
                    "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{sub}])\n",
                    user.username
                );
                text(StatusCode::FORBIDDEN, message)
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("Authorization error: {error}\n")),
        }
    }
}

/// A plain answer.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    typed(status, "text/plain; charset=utf-8", body)
}

/// An answer of some type.
pub fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}
