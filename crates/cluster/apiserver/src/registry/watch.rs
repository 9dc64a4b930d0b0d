//! WATCH: events as a stream of JSON objects, from the history of the cache.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use kinit_apimachinery::{ApiError, proto};
use kinit_component_base::Shutdown;
use kinit_storage::{Cache, Cursor, Entry, Event, EventKind, Expired};
use rand::Rng;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::list::{Filter, cache_of, parse_version, selected};
use super::list_options::list_options;
use super::{Request, present};
use crate::http::{ApiResponse, Encoding, View};
use crate::resources::{Custom, Descriptor};
use crate::tables;

/// Bookmarks come this often at the latest (upstream sends them about once a minute).
const BOOKMARK: Duration = Duration::from_secs(50);
/// Nobody waits longer; and the clock cannot overflow.
const MAX_TIMEOUT: u64 = 10 * 365 * 24 * 3600;

struct Watcher {
    desc: Arc<Descriptor>,
    filter: Filter,
    namespace: String,
    view: View,
    encoding: Encoding,
    include: tables::Include,
    first_table: bool,
    bookmarks: bool,
    out: mpsc::Sender<Bytes>,
}

/// Handles the request.
pub async fn handle(request: &Request) -> Result<ApiResponse, ApiError> {
    let filter = Filter::of(request)?;
    let cache = cache_of(request)?;
    let options = list_options(request)?;
    let (initial, bookmarks) = (options.initial, options.bookmarks);
    let namespace = if request.desc.namespaced { request.info.namespace.clone() } else { String::new() };
    let within = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
    let (entries, since) = beginning(request, &cache, &filter, &within, (options.version, initial)).await?;
    let (out, frames) = mpsc::channel::<Bytes>(16);
    let encoding = request.accepted.encoding;
    let cursor = match cache.events_since(since) {
        Ok(cursor) => cursor,
        // The watch is accepted and ends with an error event: that is where clients look for it.
        Err(Expired(oldest)) => {
            let status = too_old(since, oldest).to_status().to_string();
            // The channel is empty and its other end is at hand: there is room.
            let _ = out.try_send(framed("ERROR", status.as_bytes(), encoding));
            return Ok(response(frames, encoding));
        }
    };
    let watcher = Watcher {
        desc: request.desc.clone(),
        filter,
        namespace,
        view: request.accepted.view,
        encoding,
        include: present::include_object(request),
        first_table: true,
        bookmarks,
        out,
    };
    // Between one and two times the minimum, so that watchers do not all come back at once.
    let least = request.server.options.min_request_timeout.clamp(1, MAX_TIMEOUT);
    let patience = options.timeout.unwrap_or_else(|| rand::rng().random_range(least..2 * least));
    let deadline = Instant::now() + Duration::from_secs(patience.min(MAX_TIMEOUT));
    let ended = ended(request.server.shutdown.clone(), request.desc.custom.clone());
    let guard = request.server.metrics.long_running(&request.info, &request.desc);
    tokio::spawn(async move {
        let _guard = guard;
        let end_mark = initial == Some(true);
        tokio::select! {
            () = ended => {}
            () = watcher.run(entries, since, cursor, deadline, end_mark) => {}
        }
    });
    Ok(response(frames, encoding))
}

/// What a watch begins with: the objects that are shown first, and the version after which events follow.
async fn beginning(
    request: &Request,
    cache: &Cache,
    filter: &Filter,
    within: &str,
    (version, initial): (&str, Option<bool>),
) -> Result<(Vec<Arc<Entry>>, u64), ApiError> {
    let store = &request.server.store;
    match version {
        "" if initial != Some(false) => store.catch_up().await.map_err(|e| request.storage_error(e))?,
        "" | "0" => {}
        other => {
            let wanted = parse_version(other)?;
            if initial == Some(true) {
                store.wait_for(wanted).await.map_err(|e| request.storage_error(e))?;
            }
        }
    }
    // Without a version, or with 0, or with sendInitialEvents, the watch starts with what is there.
    if initial.unwrap_or(version.is_empty() || version == "0") {
        selected(request, filter, within)
    } else if version.is_empty() || version == "0" {
        Ok((Vec::new(), cache.revision()))
    } else {
        Ok((Vec::new(), parse_version(version)?))
    }
}

/// The server ends, or what is served has changed: clients come back and see it as it is now.
async fn ended(shutdown: Shutdown, custom: Option<Arc<Custom>>) {
    match custom {
        Some(custom) => tokio::select! {
            () = shutdown.cancelled() => {}
            () = custom.life.cancelled() => {}
        },
        None => shutdown.cancelled().await,
    }
}

fn too_old(since: u64, oldest: u64) -> ApiError {
    ApiError::expired(format!("too old resource version: {since} ({oldest})"))
}

fn response(frames: mpsc::Receiver<Bytes>, encoding: Encoding) -> ApiResponse {
    let stream = futures::stream::unfold(frames, |mut frames| async move {
        let bytes = frames.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), frames))
    });
    let mut response = ApiResponse::new(StreamBody::new(stream).boxed_unsync());
    let media_type = match encoding {
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        Encoding::Json | Encoding::Yaml => "application/json",
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

impl Watcher {
    async fn run(
        mut self,
        initial: Vec<Arc<Entry>>,
        since: u64,
        mut cursor: Cursor,
        deadline: Instant,
        end_mark: bool,
    ) {
        for entry in initial {
            let Ok(kept) = self.keeps(&entry).await else { return };
            if kept && self.send("ADDED", &entry).await.is_err() {
                return;
            }
        }
        if end_mark && self.bookmark(since, true).await.is_err() {
            return;
        }
        let mut sent = since;
        let mut next_bookmark = Instant::now() + BOOKMARK;
        loop {
            let (events, reached) = match cursor.ready() {
                Ok(ready) => ready,
                Err(Expired(oldest)) => {
                    let _ =
                        self.frame("ERROR", too_old(sent, oldest).to_status().to_string().into_bytes().into()).await;
                    return;
                }
            };
            for event in &events {
                if self.event(event).await.is_err() {
                    return;
                }
            }
            sent = reached.max(sent);
            if self.bookmarks && Instant::now() >= next_bookmark {
                next_bookmark = Instant::now() + BOOKMARK;
                if self.bookmark(sent, false).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = cursor.wait() => {}
                () = self.out.closed() => return,
                () = tokio::time::sleep_until(next_bookmark) => {}
                () = tokio::time::sleep_until(deadline) => {
                    if self.bookmarks {
                        let _ = self.bookmark(sent, false).await;
                    }
                    return;
                }
            }
        }
    }

    async fn event(&mut self, event: &Event) -> Result<(), ()> {
        let (now, before) = (&event.current, event.previous.as_deref());
        if !self.namespace.is_empty() && now.namespace() != self.namespace {
            return Ok(());
        }
        if event.kind == EventKind::Unreadable {
            return self.unreadable(now).await;
        }
        let was = match before {
            Some(before) => self.keeps(before).await?,
            None => false,
        };
        let is = event.kind == EventKind::Put && self.keeps(now).await?;
        match (was, is) {
            (false, false) => Ok(()),
            (false, true) => self.send("ADDED", now).await,
            (true, true) => self.send("MODIFIED", now).await,
            // What left the selection is shown as it was when it was last in it, at the event's revision.
            (true, false) if event.kind == EventKind::Delete => self.send("DELETED", now).await,
            (true, false) => match before {
                Some(before) => self.send("DELETED", &before.at_revision(event.revision)).await,
                None => Ok(()),
            },
        }
    }

    /// An object that cannot be decoded ends the watch with an error: it is there, and what it is now nobody can say.
    async fn unreadable(&self, entry: &Entry) -> Result<(), ()> {
        let other = |name: &str| name != entry.name();
        if self.filter.fields.exact("metadata.name").is_some_and(other) {
            return Ok(());
        }
        let text = format!(
            "{} \"{}\" cannot be read from the storage",
            kinit_apimachinery::status::qualified(&self.desc.group, &self.desc.plural),
            entry.key
        );
        self.fail(&ApiError::internal(text)).await
    }

    /// Whether an object is in the selection. What cannot be converted cannot be watched.
    async fn keeps(&self, entry: &Entry) -> Result<bool, ()> {
        match self.filter.passes(&self.desc, entry).await {
            Ok(kept) => Ok(kept),
            Err(error) => self.fail(&error).await.map(|()| false),
        }
    }

    /// Ends the watch with an error.
    async fn fail(&self, error: &ApiError) -> Result<(), ()> {
        self.frame("ERROR", error.to_status().to_string().into_bytes().into()).await?;
        Err(())
    }

    async fn send(&mut self, kind: &str, entry: &Entry) -> Result<(), ()> {
        let bytes = match self.view {
            View::Object if self.desc.shows(&entry.bytes) => entry.bytes.clone(),
            _ => match self.desc.shown(entry.value()).await {
                Ok(shown) => self.viewed(shown),
                Err(error) => return self.fail(&error).await,
            },
        };
        self.frame(kind, bytes).await
    }

    fn viewed(&mut self, object: Value) -> Bytes {
        let value = match self.view {
            View::Object => object,
            View::Metadata => present::metadata_of(&object),
            View::Table => {
                use kinit_apimachinery::meta::Meta;
                let version = object.resource_version().to_owned();
                let headers = std::mem::replace(&mut self.first_table, false);
                tables::table(&self.desc, &[object], &version, self.include, headers)
            }
        };
        value.to_string().into_bytes().into()
    }

    async fn bookmark(&mut self, revision: u64, end_of_initial: bool) -> Result<(), ()> {
        let mut meta = json!({"resourceVersion": revision.to_string()});
        if end_of_initial {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({"kind": self.desc.kind, "apiVersion": self.desc.api_version(), "metadata": meta});
        let bytes = match self.view {
            View::Object => object.to_string().into_bytes().into(),
            _ => self.viewed(object),
        };
        self.frame("BOOKMARK", bytes).await
    }

    async fn frame(&self, kind: &str, object: Bytes) -> Result<(), ()> {
        self.out.send(framed(kind, &object, self.encoding)).await.map_err(|_| ())
    }
}

/// One event in one frame. The object's bytes are copied into it, once a watcher.
fn framed(kind: &str, object: &[u8], encoding: Encoding) -> Bytes {
    if encoding == Encoding::Protobuf {
        return proto::encode_event(kind, object)
            .or_else(|error| proto::encode_event("ERROR", &unframed(&error)))
            .unwrap_or_default()
            .into();
    }
    let mut line = Vec::with_capacity(object.len() + 40);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(kind.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    line.into()
}

/// What the client learns of an object that has no protobuf form.
fn unframed(error: &proto::NoMessage) -> Vec<u8> {
    ApiError::internal(error).to_status().to_string().into_bytes()
}
