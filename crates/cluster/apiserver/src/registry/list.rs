//! GET of one object and of collections.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Bytes, BytesMut};
use kinit_apimachinery::ApiError;
use kinit_apimachinery::selector::{FieldSelector, LabelSelector};
use kinit_storage::Entry;
use serde_json::{Value, json};

use super::{Request, present};
use crate::http::{ApiResponse, View, respond};
use crate::tables;

/// What of a collection is asked for.
#[derive(Debug, Default)]
pub struct Filter {
    /// By labels.
    pub labels: LabelSelector,
    /// By fields.
    pub fields: FieldSelector,
}

impl Filter {
    /// Reads the request's selectors; 400 for broken ones or unknown fields.
    pub fn of(request: &Request) -> Result<Self, ApiError> {
        let bad = |what: &str, e: String| ApiError::bad_request(format!("unable to parse {what}: {e}"));
        let labels =
            LabelSelector::parse(request.param("labelSelector").unwrap_or("")).map_err(|e| bad("requirement", e))?;
        let fields =
            FieldSelector::parse(request.param("fieldSelector").unwrap_or("")).map_err(ApiError::bad_request)?;
        for (path, _, _) in &fields.0 {
            if !request.desc.selects(path) {
                return Err(ApiError::bad_request(format!(
                    "Unable to find \"{}, Resource={}\" that match label selector \"{}\", field selector \"{}\": field label not supported: {path}",
                    request.desc.api_version(),
                    request.desc.plural,
                    request.param("labelSelector").unwrap_or(""),
                    request.param("fieldSelector").unwrap_or(""),
                )));
            }
        }
        Ok(Self { labels, fields })
    }

    /// Whether an object passes.
    pub fn keeps(&self, entry: &Entry) -> bool {
        self.labels.matches(|k| entry.label(k)) && self.fields.matches(|k| entry.field(k))
    }
}

/// GET of an object.
pub async fn get(request: &Request) -> Result<ApiResponse, ApiError> {
    let server = &request.server;
    let key = request.key();
    let entry = match request.param("resourceVersion") {
        // "Any version will do": the cache answers at once.
        Some(version) if !version.is_empty() => {
            let wanted: u64 = parse_version(version)?;
            if wanted > 0 {
                server.store.wait_for(wanted).await.map_err(|e| request.storage_error(e))?;
            }
            cache_of(request)?.get(&key)
        }
        _ => server.store.get(&request.desc.prefix, &key).await.map_err(|e| request.storage_error(e))?.map(Arc::new),
    };
    let entry = entry.ok_or_else(|| request.not_found())?;
    if request.desc.face.is_some() {
        return Ok(present::object(request, 200, request.desc.shown(entry.value())));
    }
    Ok(present::bytes(request, entry.bytes.clone(), || entry.value()))
}

/// The cache behind the request's resource.
pub fn cache_of(request: &Request) -> Result<Arc<kinit_storage::Cache>, ApiError> {
    request.server.store.cache(&request.desc.prefix).ok_or_else(|| ApiError::internal("the resource has no cache"))
}

/// Parses a resource version.
pub fn parse_version(text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
        ))
    })
}

struct Picture {
    entries: Vec<Arc<Entry>>,
    revision: u64,
    next: Option<String>,
    remaining: Option<u64>,
}

/// GET of a collection.
pub async fn list(request: &Request) -> Result<ApiResponse, ApiError> {
    let filter = Filter::of(request)?;
    let picture = picture(request, &filter).await?;
    Ok(render(request, picture))
}

async fn picture(request: &Request, filter: &Filter) -> Result<Picture, ApiError> {
    let within = within(request);
    let limit: usize = match request.param("limit") {
        Some(text) if !text.is_empty() => text.parse().map_err(|_| ApiError::bad_request("limit is not a number"))?,
        _ => 0,
    };
    let version = request.param("resourceVersion").unwrap_or("");
    let how = request.param("resourceVersionMatch").unwrap_or("");
    if !how.is_empty() && version.is_empty() {
        return Err(ApiError::bad_request(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ));
    }
    if let Some(token) = request.param("continue").filter(|t| !t.is_empty()) {
        if !version.is_empty() && version != "0" {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        let (revision, start) = read_token(token)?;
        return exact(request, filter, &within, &start, limit, revision).await;
    }
    match (how, version) {
        ("Exact", "0") => Err(ApiError::bad_request(
            "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        )),
        ("Exact", version) => {
            let revision = parse_version(version)?;
            exact(request, filter, &within, "", limit, revision).await
        }
        ("" | "NotOlderThan", _) => {
            match version {
                "" => request.server.store.catch_up().await.map_err(|e| request.storage_error(e))?,
                version => {
                    let wanted = parse_version(version)?;
                    if wanted > 0 {
                        request.server.store.wait_for(wanted).await.map_err(|e| request.storage_error(e))?;
                    }
                }
            }
            from_cache(request, filter, &within, limit)
        }
        (other, _) => Err(ApiError::bad_request(format!(
            "resourceVersionMatch: Unsupported value: \"{other}\": supported values: \"Exact\", \"NotOlderThan\""
        ))),
    }
}

fn within(request: &Request) -> String {
    if request.desc.namespaced && !request.info.namespace.is_empty() {
        format!("{}/", request.info.namespace)
    } else {
        String::new()
    }
}

fn from_cache(request: &Request, filter: &Filter, within: &str, limit: usize) -> Result<Picture, ApiError> {
    let (mut entries, revision) = cache_of(request)?.list(within, |e| filter.keeps(e));
    let (mut next, mut remaining) = (None, None);
    if limit > 0 && entries.len() > limit {
        let plain = filter.labels.is_empty() && filter.fields.is_empty();
        remaining = plain.then_some((entries.len() - limit) as u64);
        entries.truncate(limit);
        next = entries.last().map(|e| token(revision, &e.key));
    }
    Ok(Picture { entries, revision, next, remaining })
}

/// Pages at an exact revision come from etcd: the cache keeps only the present.
async fn exact(
    request: &Request,
    filter: &Filter,
    within: &str,
    start: &str,
    limit: usize,
    revision: u64,
) -> Result<Picture, ApiError> {
    let mut start = start.to_owned();
    let mut entries: Vec<Arc<Entry>> = Vec::new();
    loop {
        let page_size = if limit == 0 { 0 } else { limit.max(50) as i64 };
        let page = request
            .server
            .store
            .page(&request.desc.prefix, within, &start, page_size, revision)
            .await
            .map_err(|e| request.storage_error(e))?;
        let more = page.more;
        let mut read = 0u64;
        for entry in page.entries {
            read += 1;
            start = format!("{}\0", entry.key);
            if !filter.keeps(&entry) {
                continue;
            }
            entries.push(Arc::new(entry));
            if limit > 0 && entries.len() == limit {
                break;
            }
        }
        let full = limit > 0 && entries.len() == limit;
        if full || !more {
            let left = page.count.saturating_sub(read);
            let next = (full && left > 0).then(|| entries.last().map(|e| token(revision, &e.key))).flatten();
            let plain = filter.labels.is_empty() && filter.fields.is_empty();
            let remaining = (next.is_some() && plain).then_some(left);
            return Ok(Picture { entries, revision, next, remaining });
        }
    }
}

fn token(revision: u64, last: &str) -> String {
    let text = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": format!("{last}\0")}).to_string();
    URL_SAFE_NO_PAD.encode(text)
}

fn read_token(token: &str) -> Result<(u64, String), ApiError> {
    let bad = || ApiError::bad_request("continue key is not valid");
    let text = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|_| bad())?;
    let value: Value = serde_json::from_slice(&text).map_err(|_| bad())?;
    let revision = value.get("rv").and_then(Value::as_u64).ok_or_else(bad)?;
    let start = value.get("start").and_then(Value::as_str).ok_or_else(bad)?;
    if start.contains("..") || revision == 0 {
        return Err(bad());
    }
    Ok((revision, start.to_owned()))
}

fn render(request: &Request, picture: Picture) -> ApiResponse {
    let desc = &request.desc;
    let mut meta = json!({"resourceVersion": picture.revision.to_string()});
    if let Some(next) = &picture.next {
        meta["continue"] = next.clone().into();
    }
    if let Some(remaining) = picture.remaining {
        meta["remainingItemCount"] = remaining.into();
    }
    let objects = || picture.entries.iter().map(|e| desc.shown(e.value()));
    match request.accepted.view {
        View::Object if !request.accepted.yaml => {
            respond::bytes(200, "application/json", joined(request, &picture.entries, &meta))
        }
        View::Object => {
            let list = json!({"kind": format!("{}List", desc.kind), "apiVersion": desc.api_version(),
                "metadata": meta, "items": objects().collect::<Vec<_>>()});
            respond::document(200, &list, true)
        }
        View::Metadata => {
            let items: Vec<Value> = objects().map(|o| present::metadata_of(&o)).collect();
            let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "items": items});
            respond::document(200, &list, request.accepted.yaml)
        }
        View::Table => {
            let objects: Vec<Value> = objects().collect();
            let version = picture.revision.to_string();
            let mut table = tables::table(desc, &objects, &version, present::include_object(request), true);
            table["metadata"] = meta;
            respond::document(200, &table, request.accepted.yaml)
        }
    }
}

/// A list by joining the bytes the cache holds.
fn joined(request: &Request, entries: &[Arc<Entry>], meta: &Value) -> Bytes {
    let desc = &request.desc;
    let head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
        desc.kind,
        desc.api_version()
    );
    let size: usize = entries.iter().map(|e| e.bytes.len() + 1).sum();
    let mut out = BytesMut::with_capacity(head.len() + size + 4);
    out.extend_from_slice(head.as_bytes());
    for (i, entry) in entries.iter().enumerate() {
        if i > 0 {
            out.extend_from_slice(b",");
        }
        match desc.face {
            None => out.extend_from_slice(&entry.bytes),
            Some(_) => out.extend_from_slice(desc.shown(entry.value()).to_string().as_bytes()),
        }
    }
    out.extend_from_slice(b"]}\n");
    out.freeze()
}
