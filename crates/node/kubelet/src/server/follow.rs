//! `/containerLogs`: a container's log from some point on, followed by inotify for as long as the container lives.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{Response, StatusCode};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::sync::{broadcast, mpsc};

use super::logs::{Filter, Reader};
use super::route::Query;
use super::{Body, Server, text};
use crate::inotify::Watcher;
use crate::kubelet::Kubelet;
use crate::pod::ephemeral;
use crate::pod::observe::{Container, Life, observe};

/// Answers.
pub async fn serve(server: &Server, namespace: &str, pod: &str, container: &str, query: &Query) -> Response<Body> {
    let Some((uid, spec)) = server.manager.find(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, format!("pod \"{pod}\" does not exist\n"));
    };
    if ephemeral::find(&spec, container).is_none() {
        return text(StatusCode::NOT_FOUND, format!("container {container} not found in pod {pod}\n"));
    }
    let filter = match filter(query) {
        Ok(filter) => filter,
        Err(message) => return text(StatusCode::BAD_REQUEST, format!("{message}\n")),
    };
    let happenings = server.manager.happenings();
    let seen = match observe(&server.kubelet.runtime, &uid).await {
        Ok(seen) => seen,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let found = if query.on("previous") { seen.previous(container) } else { seen.latest(container) };
    let Some(found) = found.filter(|c| c.life != Life::Created) else {
        let message = if query.on("previous") {
            format!("previous terminated container \"{container}\" in pod \"{pod}\" not found\n")
        } else {
            format!("container \"{container}\" in pod \"{pod}\" is waiting to start\n")
        };
        return text(StatusCode::BAD_REQUEST, message);
    };
    let follow = query.on("follow") && found.life == Life::Running;
    let (sender, receiver) = mpsc::channel::<Bytes>(8);
    let task = Task { runtime: server.kubelet.clone(), container: found.clone(), follow, sender };
    tokio::spawn(async move {
        if let Err(error) = task.run(filter, happenings).await {
            tracing::debug!(%error, "serve a log");
        }
    });
    let frames = futures::stream::unfold(receiver, |mut r| async { r.recv().await.map(|b| (Ok(Frame::data(b)), r)) });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn filter(query: &Query) -> Result<Filter, String> {
    let number = |name: &str| -> Result<Option<u64>, String> {
        match query.get(name).filter(|v| !v.is_empty()) {
            Some(text) => text.parse().map(Some).map_err(|_| format!("{name} must be a number that is not negative")),
            None => Ok(None),
        }
    };
    let since_time = match query.get("sinceTime").filter(|v| !v.is_empty()) {
        Some(text) => Some(text.parse::<Timestamp>().map_err(|e| format!("sinceTime: {e}"))?),
        None => None,
    };
    let since_seconds = number("sinceSeconds")?.and_then(|s| i64::try_from(s).ok());
    let since_seconds = since_seconds.and_then(|s| Timestamp::now().checked_sub(SignedDuration::from_secs(s)).ok());
    let streams = match query.get("stream") {
        None | Some("" | "All") => None,
        Some("Stdout") => Some("stdout"),
        Some("Stderr") => Some("stderr"),
        Some(other) => return Err(format!("stream {other:?} is none of All, Stdout, Stderr")),
    };
    Ok(Filter {
        tail: number("tailLines")?,
        since: since_time.or(since_seconds),
        limit: number("limitBytes")?,
        timestamps: query.on("timestamps"),
        stream: streams,
    })
}

struct Task {
    runtime: std::sync::Arc<Kubelet>,
    container: Container,
    follow: bool,
    sender: mpsc::Sender<Bytes>,
}

/// Should the runtime's events be missed, the container's state is looked at after this.
const PATIENCE: Duration = Duration::from_secs(30);

impl Task {
    async fn run(self, filter: Filter, mut happenings: broadcast::Receiver<String>) -> std::io::Result<()> {
        let path = PathBuf::from(&self.container.log_path);
        // The watch begins before the first read: nothing falls between them.
        let watcher = if self.follow { Some(Watcher::new()?) } else { None };
        if let Some((watcher, directory)) = watcher.as_ref().zip(path.parent()) {
            watcher.add(directory)?;
        }
        let mut reader = Reader::open(&path, filter)?;
        loop {
            // Whether it still ran is asked before reading to the end: what it wrote last is then read for sure.
            let over = !self.follow || self.ended().await;
            while let Some(bytes) = reader.next()? {
                if self.sender.send(bytes).await.is_err() {
                    return Ok(());
                }
            }
            if over || reader.exhausted() {
                return Ok(());
            }
            let Some(watcher) = &watcher else { return Ok(()) };
            let id = self.container.id.clone();
            tokio::select! {
                changed = watcher.changed() => changed?,
                () = wait_for(&mut happenings, &id) => {}
                () = self.sender.closed() => return Ok(()),
                () = tokio::time::sleep(PATIENCE) => {}
            }
        }
    }

    async fn ended(&self) -> bool {
        let request = kinit_cri::v1::ContainerStatusRequest { container_id: self.container.id.clone(), verbose: false };
        match self.runtime.runtime.container_status(request).await {
            Ok(answer) => {
                answer.status.is_none_or(|s| s.state != kinit_cri::v1::ContainerState::ContainerRunning as i32)
            }
            Err(error) => error.is_not_found(),
        }
    }
}

async fn wait_for(happenings: &mut broadcast::Receiver<String>, id: &str) {
    loop {
        match happenings.recv().await {
            Ok(happened) if happened == id => return,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
