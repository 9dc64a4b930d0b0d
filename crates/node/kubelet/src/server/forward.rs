//! port-forward: a connection is dialled from inside the pod's network namespace, on a thread that does nothing else.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as BlockingStream};
use std::path::PathBuf;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kinit_cri::v1::PodSandboxStatusRequest;
use kinit_streaming::channels::TUNNEL;
use kinit_streaming::forward;
use kinit_streaming::idle::Noted;
use kinit_streaming::spdy::Session;
use kinit_streaming::tunnel::Tunnel;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{Body, Server, text, upgrade};
use crate::pod::observe::observe;

const CONNECT: Duration = Duration::from_secs(10);

/// Answers.
pub async fn serve(server: &Server, namespace: &str, pod: &str, mut request: Request<Incoming>) -> Response<Body> {
    let namespace_file = match network(server, namespace, pod).await {
        Ok(path) => path,
        Err((status, message)) => return text(status, message),
    };
    let idle = server.kubelet.config.streaming_connection_idle_timeout;
    let dial = move |port: u16| dial(namespace_file.clone(), port);
    if upgrade::is_websocket(&request) {
        let (response, _) = match upgrade::accept(&request, &[TUNNEL]) {
            Ok(accepted) => accepted,
            Err(message) => return text(StatusCode::BAD_REQUEST, format!("{message}\n")),
        };
        let taken = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            if let Ok(client) = taken.await {
                carry(Tunnel::new(upgrade::websocket(client).await), idle, dial).await;
            }
        });
        return response;
    }
    if !upgrade::is_spdy(&request) {
        return text(StatusCode::BAD_REQUEST, "Upgrade request required\n");
    }
    let mut response = upgrade::switching("SPDY/3.1");
    response.headers_mut().insert("x-stream-protocol-version", HeaderValue::from_static("portforward.k8s.io"));
    let taken = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(client) = taken.await {
            carry(TokioIo::new(client), idle, dial).await;
        }
    });
    response
}

/// Serves a client until it leaves, or says nothing for too long.
async fn carry<D, F>(client: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, idle: Duration, dial: D)
where
    D: Fn(u16) -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<TcpStream>> + Send + 'static,
{
    let (client, quiet) = Noted::new(client);
    let (session, streams) = Session::start(client, false);
    let end = session.clone();
    tokio::select! {
        () = forward::serve(session, streams, dial) => {}
        () = quiet.lasts(idle) => {
            tracing::debug!(?idle, "a port-forward was idle for too long");
            end.close();
        }
    }
}

/// The pod's network namespace; `None` is the host's.
async fn network(server: &Server, namespace: &str, pod: &str) -> Result<Option<PathBuf>, (StatusCode, String)> {
    let broken = |e: String| (StatusCode::INTERNAL_SERVER_ERROR, e);
    let found = server.manager.find(namespace, pod);
    let (uid, spec) =
        found.ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod {namespace}/{pod} does not exist\n")))?;
    if spec.spec.as_ref().and_then(|s| s.host_network) == Some(true) {
        return Ok(None);
    }
    let runtime = &server.kubelet.runtime;
    let seen = observe(runtime, &uid).await.map_err(|e| broken(e.to_string()))?;
    let sandbox = seen.sandbox().ok_or_else(|| broken(format!("pod {namespace}/{pod} has no sandbox\n")))?;
    let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.id.clone(), verbose: true };
    let answer = runtime.pod_sandbox_status(request).await.map_err(|e| broken(e.to_string()))?;
    let info = answer.info.get("info").map_or("", String::as_str);
    namespace_of(info)
        .map(Some)
        .ok_or_else(|| broken("the runtime does not tell the pod's network namespace\n".to_owned()))
}

/// Reads containerd's and CRI-O's verbose status.
fn namespace_of(info: &str) -> Option<PathBuf> {
    let info: serde_json::Value = serde_json::from_str(info).ok()?;
    let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array();
    let named =
        namespaces.and_then(|list| list.iter().find(|n| n["type"] == "network")).and_then(|n| n["path"].as_str());
    match named {
        Some(path) if !path.is_empty() => Some(PathBuf::from(path)),
        _ => info["pid"].as_u64().map(|pid| PathBuf::from(format!("/proc/{pid}/ns/net"))),
    }
}

async fn dial(namespace: Option<PathBuf>, port: u16) -> io::Result<TcpStream> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // A namespace belongs to a thread: this one ends with it, so that no other work ever runs in the pod's network.
    std::thread::Builder::new().name("port-forward".to_owned()).spawn(move || {
        let _ = sender.send(connect(namespace.as_deref(), port));
    })?;
    let stream = receiver.await.map_err(|_| io::Error::other("the dialling thread ended"))??;
    stream.set_nonblocking(true)?;
    let _ = stream.set_nodelay(true);
    TcpStream::from_std(stream)
}

fn connect(namespace: Option<&std::path::Path>, port: u16) -> io::Result<BlockingStream> {
    if let Some(path) = namespace {
        let file = std::fs::File::open(path)?;
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
    }
    let v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port);
    BlockingStream::connect_timeout(&v4, CONNECT)
        .or_else(|first| BlockingStream::connect_timeout(&v6, CONNECT).map_err(|_| first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_namespace() {
        let info = r#"{"pid": 7, "runtimeSpec": {"linux": {"namespaces": [{"type": "ipc"}, {"type": "network", "path": "/run/netns/x"}]}}}"#;
        assert_eq!(namespace_of(info), Some(PathBuf::from("/run/netns/x")));
        assert_eq!(namespace_of(r#"{"pid": 7}"#), Some(PathBuf::from("/proc/7/ns/net")));
        assert_eq!(namespace_of(""), None);
    }
}
