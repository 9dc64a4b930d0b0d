//! GET of one object and of collections.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use kinit_apimachinery::ApiError;
use kinit_apimachinery::selector::{FieldSelector, LabelSelector};
use kinit_storage::Entry;
use serde_json::{Value, json};

use super::list_options::list_options;
use super::{Request, present};
use crate::definitions::value_at;
use crate::http::joined::Joined;
use crate::http::{ApiResponse, View, respond};
use crate::resources::Descriptor;
use crate::tables;

/// What of a collection is asked for.
#[derive(Debug, Default)]
pub struct Filter {
    /// By labels.
    pub labels: LabelSelector,
    /// By fields.
    pub fields: FieldSelector,
    /// By fields that are elsewhere in what is stored: only the object as it is shown tells.
    pub shown: FieldSelector,
}

impl Filter {
    /// Reads the request's selectors; 400 for broken ones or unknown fields.
    pub fn of(request: &Request) -> Result<Self, ApiError> {
        let labels =
            LabelSelector::parse(request.param("labelSelector").unwrap_or("")).map_err(ApiError::bad_request)?;
        let mut fields =
            FieldSelector::parse(request.param("fieldSelector").unwrap_or("")).map_err(ApiError::bad_request)?;
        for (path, _, _) in &fields.0 {
            if !request.desc.selects(path) {
                // Kinds with fields of their own have words of their own upstream.
                return Err(ApiError::bad_request(
                    if request.desc.selectable.is_empty() && request.desc.custom.is_none() {
                        format!(
                            "\"{path}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                        )
                    } else {
                        format!("field label not supported: {path}")
                    },
                ));
            }
        }
        if request.info.named && request.info.verb == "watch" {
            only(&mut fields, &request.info.name)?;
        }
        let mut shown = FieldSelector::default();
        if request.desc.converter.as_ref().is_some_and(|converter| converter.moves_fields()) {
            (fields.0, shown.0) = fields.0.into_iter().partition(|(path, ..)| path.starts_with("metadata."));
        }
        Ok(Self { labels, fields, shown })
    }

    /// Whether a stored object passes, for a resource that may show it in another form.
    pub async fn passes(&self, desc: &Descriptor, entry: &Entry) -> Result<bool, ApiError> {
        if !self.keeps(entry) || self.shown.is_empty() {
            return Ok(self.keeps(entry));
        }
        Ok(self.keeps_shown(&desc.shown(entry.value()).await?))
    }

    /// Whether an object passes that is in the form it is shown in; the rest was looked at before.
    fn keeps_shown(&self, object: &Value) -> bool {
        self.shown.is_empty() || {
            let values: Vec<(&str, String)> =
                self.shown.0.iter().map(|(p, ..)| (p.as_str(), value_at(object, p))).collect();
            self.shown.matches(|path| values.iter().find(|(known, _)| *known == path).map(|(_, value)| value.as_str()))
        }
    }

    /// Whether an object passes, as far as what is stored tells.
    pub fn keeps(&self, entry: &Entry) -> bool {
        self.labels.matches(|k| entry.label(k)) && self.fields.matches(|k| entry.field(k))
    }
}

/// A watch whose path names an object is of that object alone; a selector may only say the same (`ListResource`).
fn only(fields: &mut FieldSelector, name: &str) -> Result<(), ApiError> {
    if !fields.is_empty() && fields.exact("metadata.name") != Some(name) {
        return Err(ApiError::bad_request("fieldSelector metadata.name doesn't match requested name"));
    }
    fields.0.push(("metadata.name".to_owned(), true, name.to_owned()));
    Ok(())
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
            let cache = cache_of(request)?;
            cache.get(&key).map_err(|e| request.storage_error(e))?
        }
        _ => server.store.get(&request.desc.prefix, &key).await.map_err(|e| request.storage_error(e))?.map(Arc::new),
    };
    let entry = entry.ok_or_else(|| request.not_found())?;
    if !request.desc.shows(&entry.bytes) {
        return Ok(present::object(request, 200, request.desc.shown(entry.value()).await?));
    }
    Ok(present::bytes(request, entry.bytes.clone(), || entry.value()))
}

/// The cache behind the request's resource.
pub fn cache_of(request: &Request) -> Result<Arc<kinit_storage::Cache>, ApiError> {
    // A definition may go while a request is on its way.
    let gone = || match request.desc.custom {
        Some(_) => ApiError::no_such_path(),
        None => ApiError::internal("the resource has no cache"),
    };
    request.server.store.cache(&request.desc.prefix).ok_or_else(gone)
}

/// The objects below `within` that pass, and the revision they are of; an error when one there cannot be read, whatever
/// the selectors: nobody knows whether it would pass.
pub fn selected(request: &Request, filter: &Filter, within: &str) -> Result<(Vec<Arc<Entry>>, u64), ApiError> {
    let cache = cache_of(request)?;
    cache.list(within, |e| filter.keeps(e)).map_err(|e| request.storage_error(e))
}

/// Parses a resource version.
pub fn parse_version(text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
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
    render(request, &filter, picture).await
}

async fn picture(request: &Request, filter: &Filter) -> Result<Picture, ApiError> {
    let within = within(request);
    let options = list_options(request)?;
    let (limit, store) = (options.limit, &request.server.store);
    if !options.token.is_empty() {
        let (revision, start) = read_token(options.token, &within)?;
        if !matches!(options.version, "" | "0") {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        return match exact(request, filter, &within, &start, limit, revision).await {
            Err(error) if error.code == 410 => Err(page_is_gone(&start)),
            other => other,
        };
    }
    // A first page of a version that is named is of exactly that version.
    let paged = options.matching.is_empty() && limit > 0 && !matches!(options.version, "" | "0");
    if options.matching == "Exact" || paged {
        return exact(request, filter, &within, "", limit, parse_version(options.version)?).await;
    }
    match options.version {
        "" => store.catch_up().await.map_err(|e| request.storage_error(e))?,
        version => {
            let wanted = parse_version(version)?;
            if wanted > 0 {
                store.wait_for(wanted).await.map_err(|e| request.storage_error(e))?;
            }
        }
    }
    from_cache(request, filter, &within, limit)
}

/// 410 with a token that goes on with what there is now (`handleCompactedErrorForPaging`).
fn page_is_gone(start: &str) -> ApiError {
    let mut error = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    error.next = Some(token(-1, start));
    error
}

fn within(request: &Request) -> String {
    if request.desc.namespaced && !request.info.namespace.is_empty() {
        format!("{}/", request.info.namespace)
    } else {
        String::new()
    }
}

fn from_cache(request: &Request, filter: &Filter, within: &str, limit: usize) -> Result<Picture, ApiError> {
    let (mut entries, revision) = selected(request, filter, within)?;
    let (mut next, mut remaining) = (None, None);
    if limit > 0 && entries.len() > limit {
        let plain = filter.labels.is_empty() && filter.fields.is_empty();
        remaining = plain.then_some((entries.len() - limit) as u64);
        entries.truncate(limit);
        next = entries.last().map(|e| token_after(revision, &e.key));
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
    // Revision 0 is now; the following pages are then of the first one's revision.
    let mut revision = revision;
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
        revision = page.revision;
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
            let next = (full && left > 0).then(|| entries.last().map(|e| token_after(revision, &e.key))).flatten();
            let plain = filter.labels.is_empty() && filter.fields.is_empty();
            let remaining = (next.is_some() && plain).then_some(left);
            return Ok(Picture { entries, revision, next, remaining });
        }
    }
}

fn token_after(revision: u64, last: &str) -> String {
    token(i64::try_from(revision).unwrap_or(i64::MAX), &format!("{last}\0"))
}

/// Revision -1 stands for "now".
fn token(revision: i64, start: &str) -> String {
    URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start}).to_string())
}

/// The revision (0 for now) and the key to start from, which must be within the collection: whoever may list one
/// namespace must not read another by a token of their own making.
fn read_token(token: &str, within: &str) -> Result<(u64, String), ApiError> {
    let bad = |why: &str| ApiError::bad_request(format!("invalid continue token: {why}"));
    let text = URL_SAFE_NO_PAD
        .decode(token.trim_end_matches('='))
        .map_err(|e| bad(&format!("continue key is not valid: {e}")))?;
    let value: Value = serde_json::from_slice(&text).map_err(|e| bad(&format!("continue key is not valid: {e}")))?;
    if value.get("v").and_then(Value::as_str) != Some("meta.k8s.io/v1") {
        return Err(bad("continue key is not valid: server does not recognize this encoded version"));
    }
    let revision = match value.get("rv").and_then(Value::as_i64) {
        Some(-1) => 0,
        Some(n) if n > 0 => n.cast_unsigned(),
        _ => return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)")),
    };
    let start = value.get("start").and_then(Value::as_str).unwrap_or_default();
    if start.is_empty() {
        return Err(bad("encoded start key empty (version meta.k8s.io/v1)"));
    }
    if !start.starts_with(within) || start.split('/').any(|part| part == "..") {
        return Err(bad("continue key is not valid: it starts outside of the collection"));
    }
    Ok((revision, start.to_owned()))
}

async fn render(request: &Request, filter: &Filter, picture: Picture) -> Result<ApiResponse, ApiError> {
    let desc = &request.desc;
    let mut meta = json!({"resourceVersion": picture.revision.to_string()});
    if let Some(next) = &picture.next {
        meta["continue"] = next.clone().into();
    }
    if let Some(remaining) = picture.remaining {
        meta["remainingItemCount"] = remaining.into();
    }
    if request.accepted.view == View::Object
        && !request.accepted.is_yaml()
        && filter.shown.is_empty()
        && picture.entries.iter().all(|e| desc.shows(&e.bytes))
    {
        let parts = picture.entries.iter().map(|e| e.bytes.clone()).collect();
        return Ok(respond::stream(200, "application/json", joined(request, parts, &meta)));
    }
    let mut objects = desc.all_shown(picture.entries.iter().map(|e| e.value()).collect()).await?;
    objects.retain(|object| filter.keeps_shown(object));
    Ok(match request.accepted.view {
        View::Object if !request.accepted.is_yaml() => {
            let parts = objects.iter().map(|o| o.to_string().into()).collect();
            respond::stream(200, "application/json", joined(request, parts, &meta))
        }
        View::Object => {
            let list = json!({"kind": desc.list_kind(), "apiVersion": desc.api_version(),
                "metadata": meta, "items": objects});
            respond::document(200, &list, true)
        }
        View::Metadata => {
            let items: Vec<Value> = objects.iter().map(present::metadata_of).collect();
            let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "items": items});
            respond::document(200, &list, request.accepted.is_yaml())
        }
        View::Table => {
            let version = picture.revision.to_string();
            let mut table = tables::table(desc, &objects, &version, present::include_object(request), true);
            table["metadata"] = meta;
            respond::document(200, &table, request.accepted.is_yaml())
        }
    })
}

/// A list of what the cache holds, which is not copied into one buffer.
fn joined(request: &Request, parts: Vec<Bytes>, meta: &Value) -> Joined {
    let desc = &request.desc;
    let head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
        desc.list_kind(),
        desc.api_version()
    );
    Joined::new(head, parts, "]}\n")
}
