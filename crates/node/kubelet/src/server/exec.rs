//! exec and attach. WebSocket clients are pumped to the runtime's SPDY streams; SPDY clients are passed through.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kinit_cri::v1::{AttachRequest, ExecRequest};
use kinit_streaming::channels::{self, Protocol};
use kinit_streaming::exec::{Streams, pump};
use kinit_streaming::idle::Noted;
use kinit_streaming::spdy::Session;

use super::route::Query;
use super::{Body, Server, text, upgrade};
use crate::pod::observe::{Life, observe};

/// A new process, or the container's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A new process.
    Exec,
    /// The container's own.
    Attach,
}

/// Answers.
pub async fn serve(
    server: &Server,
    what: What,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Response<Body> {
    let bad = |message: &str| text(StatusCode::BAD_REQUEST, format!("{message}\n"));
    let on = |kubelet: &str, api: &str| query.on(kubelet) || query.on(api);
    let streams = Streams {
        stdin: on("input", "stdin"),
        stdout: on("output", "stdout"),
        stderr: on("error", "stderr"),
        tty: query.on("tty"),
    };
    if !streams.stdin && !streams.stdout && !streams.stderr {
        return bad("you must specify at least 1 of stdin, stdout, stderr");
    }
    let id = match running(server, namespace, pod, container).await {
        Ok(id) => id,
        Err((status, message)) => return text(status, message),
    };
    let command = query.all("command");
    if what == What::Exec && command.is_empty() {
        return bad("you must specify a command");
    }
    let url = match url(server, what, id, command, streams).await {
        Ok(url) => url,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error),
    };
    let idle = server.kubelet.config.streaming_connection_idle_timeout;
    if upgrade::is_websocket(&request) {
        return websocket(&url, streams, idle, request).await;
    }
    if upgrade::is_spdy(&request) {
        return spdy(&url, idle, request).await;
    }
    bad("Upgrade request required")
}

async fn running(server: &Server, namespace: &str, pod: &str, container: &str) -> Result<String, (StatusCode, String)> {
    let found = server.manager.find(namespace, pod);
    let (uid, _) = found.ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod {namespace}/{pod} does not exist\n")))?;
    let seen =
        observe(&server.kubelet.runtime, &uid).await.map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    let found = seen.latest(container).filter(|c| c.life == Life::Running);
    found
        .map(|c| c.id.clone())
        .ok_or_else(|| (StatusCode::NOT_FOUND, format!("container not found (\"{container}\")\n")))
}

async fn url(server: &Server, what: What, id: String, cmd: Vec<String>, streams: Streams) -> Result<String, String> {
    let runtime = &server.kubelet.runtime;
    let Streams { stdin, stdout, stderr, tty } = streams;
    // A terminal has one output; runtimes refuse to be asked for two.
    let stderr = stderr && !tty;
    let answer = match what {
        What::Exec => {
            runtime.exec(ExecRequest { container_id: id, cmd, tty, stdin, stdout, stderr }).await.map(|a| a.url)
        }
        What::Attach => {
            runtime.attach(AttachRequest { container_id: id, tty, stdin, stdout, stderr }).await.map(|a| a.url)
        }
    };
    answer.map_err(|e| e.to_string())
}

async fn websocket(url: &str, streams: Streams, idle: Duration, mut request: Request<Incoming>) -> Response<Body> {
    let (response, protocol) = match upgrade::accept(&request, &channels::PROTOCOLS) {
        Ok(accepted) => accepted,
        Err(message) => return text(StatusCode::BAD_REQUEST, format!("{message}\n")),
    };
    let runtime = match upgrade::to_runtime(url, &["v4.channel.k8s.io"]).await {
        Ok((upgraded, _)) => upgraded,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error),
    };
    let protocol = protocol.and_then(Protocol::named).unwrap_or_default();
    tracing::debug!(?protocol, ?streams, "stream");
    let taken = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let client = match taken.await {
            Ok(client) => upgrade::websocket(client).await,
            Err(error) => return tracing::debug!(%error, "take over a connection"),
        };
        // The runtime's end counts: clients and their pings are there whether or not anything is said.
        let (runtime, quiet) = Noted::new(TokioIo::new(runtime));
        let (session, _incoming) = Session::start(runtime, true);
        let end = session.clone();
        tokio::select! {
            done = pump(client, protocol, session, streams) => {
                if let Err(error) = done {
                    tracing::debug!(%error, "stream");
                }
            }
            () = quiet.lasts(idle) => {
                tracing::debug!(?idle, "a stream was idle for too long");
                end.close();
            }
        }
    });
    response
}

async fn spdy(url: &str, idle: Duration, mut request: Request<Incoming>) -> Response<Body> {
    let offered = request.headers().get_all("x-stream-protocol-version");
    let versions: Vec<String> = offered.into_iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect();
    let versions: Vec<&str> = versions.iter().map(String::as_str).collect();
    let ((mut runtime, quiet), version) = match upgrade::to_runtime(url, &versions).await {
        Ok((upgraded, version)) => (Noted::new(TokioIo::new(upgraded)), version),
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error),
    };
    let mut response = upgrade::switching("SPDY/3.1");
    let version = version.unwrap_or_else(|| HeaderValue::from_static("v4.channel.k8s.io"));
    response.headers_mut().insert("x-stream-protocol-version", version);
    let taken = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(client) = taken.await {
            let mut client = TokioIo::new(client);
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut runtime) => {}
                () = quiet.lasts(idle) => tracing::debug!(?idle, "a stream was idle for too long"),
            }
        }
    });
    response
}
