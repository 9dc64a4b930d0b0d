//! OpenAPI documents of extension API servers: fetched when they say they changed, bounded, kept compressed. One that
//! cannot be had is absent; the others are as they were (`kube-aggregator/pkg/controllers/openapiv3`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kinit_apimachinery::meta::Meta;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::backend::OwnRequest;
use super::{Aggregator, Remote};
use crate::authn::User;
use crate::openapi::published::Published;
use crate::server::Server;

const EVERY: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(10);
const LARGEST: usize = 16 * 1024 * 1024;

/// The documents by the APIService's name.
#[derive(Default)]
pub struct Documents(Mutex<HashMap<String, Kept>>);

#[derive(Clone)]
struct Kept {
    at: Instant,
    /// What the server says to know a change by; "" where it says nothing.
    mark: String,
    document: Option<Arc<Published>>,
}

impl Documents {
    /// Forgets those that are not wanted any more.
    pub fn retain(&self, wanted: impl Fn(&str) -> bool) {
        self.0.lock().retain(|name, _| wanted(name));
    }
}

impl Aggregator {
    /// The OpenAPI v3 document of an extension server's group version.
    pub fn document(&self, remote: &Remote) -> Option<Arc<Published>> {
        self.documents.0.lock().get(&remote.service.name)?.document.clone()
    }

    /// The names of all extension servers' group versions, each with what tells its document from another.
    pub fn document_marks(&self) -> Vec<String> {
        let mark = |r: &Remote| self.document(r).map(|document| document.hash.clone()).unwrap_or_default();
        self.remotes().iter().map(|r| format!("{} {}", r.service.name, mark(r))).collect()
    }

    /// All of them, with group and version.
    pub fn documents_by_group_version(&self) -> Vec<(String, String, Arc<Published>)> {
        let all = self.remotes().into_iter();
        all.filter_map(|r| Some((r.service.group.clone(), r.service.version.clone(), self.document(&r)?))).collect()
    }
}

/// Asks anew where that is due.
pub async fn refresh(server: &Server, remote: &Remote) {
    let name = &remote.service.name;
    let documents = &server.aggregator.documents;
    let known = documents.0.lock().get(name).cloned();
    if known.as_ref().is_some_and(|k| k.at.elapsed() < EVERY) {
        return;
    }
    let at = Instant::now();
    let kept = match fetch(remote, known.as_ref()).await {
        Ok(Some((mark, document))) => Kept { at, mark, document: Some(Arc::new(document)) },
        Ok(None) => match known {
            Some(known) => Kept { at, ..known },
            None => return,
        },
        Err(problem) => {
            tracing::warn!(name, problem, "read the OpenAPI document of an extension API server");
            Kept { at, mark: String::new(), document: known.and_then(|k| k.document) }
        }
    };
    documents.0.lock().insert(name.clone(), kept);
}

/// The document with its mark; `None` when it is the known one.
async fn fetch(remote: &Remote, known: Option<&Kept>) -> Result<Option<(String, Published)>, String> {
    let user = User { name: "system:aggregator".into(), ..User::default() };
    let request = |path, tag| OwnRequest { path, accept: "application/json", tag, limit: LARGEST, patience: PATIENCE };
    let path = remote.service.path();
    let index = remote.backend.get(&request("/openapi/v3", ""), &user).await?;
    let url = match index.status {
        200 => url_of(&index.body, path.trim_start_matches('/')),
        _ => None,
    };
    if let Some(url) = url {
        if known.is_some_and(|k| k.mark == url && k.document.is_some()) {
            return Ok(None);
        }
        let answer = remote.backend.get(&request(&url, ""), &user).await?;
        let document = checked(answer.status, &answer.body, "openapi")?;
        return published(&document).map(|document| Some((url, document)));
    }
    let tag = known.filter(|k| k.document.is_some()).map_or("", |k| k.mark.as_str());
    let answer = remote.backend.get(&request("/openapi/v2", tag), &user).await?;
    if answer.status == 304 {
        return Ok(None);
    }
    let document = upgraded(&checked(answer.status, &answer.body, "swagger")?);
    published(&document).map(|document| Some((answer.tag, document)))
}

fn published(document: &Value) -> Result<Published, String> {
    Published::new(document.to_string().as_bytes()).map_err(|e| e.to_string())
}

/// Where the index says a document is; only on the server itself.
fn url_of(index: &[u8], key: &str) -> Option<String> {
    let index: Value = serde_json::from_slice(index).ok()?;
    let url = index.get("paths")?.get(key)?.str_at(&["serverRelativeURL"]);
    (url.starts_with("/openapi/v3/") && url.len() < 1024).then(|| url.to_owned())
}

fn checked(status: u16, body: &[u8], key: &str) -> Result<Value, String> {
    if status != 200 {
        return Err(format!("the server answered {status}"));
    }
    let document: Value = serde_json::from_slice(body).map_err(|e| format!("the document is no JSON: {e}"))?;
    match document.get(key).is_some_and(Value::is_string) {
        true => Ok(document),
        false => Err(format!("the document has no {key}")),
    }
}

/// The definitions of a document of v2 as a document of v3.
fn upgraded(document: &Value) -> Value {
    let definitions = document.get("definitions").cloned().unwrap_or_else(|| Value::Object(Map::new()));
    let text = definitions.to_string().replace("\"#/definitions/", "\"#/components/schemas/");
    let schemas: Value = serde_json::from_str(&text).unwrap_or(definitions);
    json!({"openapi": "3.0.0", "info": document.get("info").cloned().unwrap_or_default(), "paths": paths(document),
        "components": {"schemas": schemas}})
}

/// The paths of a document of v2 with what says of which kind they are, by which `kubectl explain` finds a kind.
fn paths(document: &Value) -> Map<String, Value> {
    let operation = |(method, given): (&String, &Value)| {
        let kept = given.as_object()?.iter().filter(|(key, _)| key.starts_with("x-kubernetes-"));
        let mut kept: Map<String, Value> = kept.map(|(key, value)| (key.clone(), value.clone())).collect();
        kept.insert("responses".into(), json!({"200": {"description": "OK"}}));
        Some((method.clone(), Value::Object(kept)))
    };
    let path = |(path, item): (&String, &Value)| {
        let operations: Map<String, Value> = item.as_object()?.iter().filter_map(operation).collect();
        Some((path.clone(), Value::Object(operations)))
    };
    document.get("paths").and_then(Value::as_object).into_iter().flatten().filter_map(path).collect()
}

/// The schemas of a kept document that are of a group version or of no kind, for the document of v2.
pub fn schemas(document: &Published, group: &str, version: &str) -> Map<String, Value> {
    let parsed: Option<Value> = document.text().ok().and_then(|text| serde_json::from_slice(&text).ok());
    let Some(Value::Object(mut all)) =
        parsed.and_then(|mut d| Some(d.get_mut("components")?.get_mut("schemas")?.take()))
    else {
        return Map::new();
    };
    all.retain(|_, schema| match schema.get("x-kubernetes-group-version-kind").and_then(Value::as_array) {
        None => schema.is_object(),
        Some(kinds) => kinds.iter().any(|k| k.str_at(&["group"]) == group && k.str_at(&["version"]) == version),
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_leads_to_the_server_itself() {
        let index = |url: &str| json!({"paths": {"apis/m.k/v1": {"serverRelativeURL": url}}}).to_string();
        let found = |url: &str| url_of(index(url).as_bytes(), "apis/m.k/v1");
        assert_eq!(found("/openapi/v3/apis/m.k/v1?hash=A").as_deref(), Some("/openapi/v3/apis/m.k/v1?hash=A"));
        assert_eq!(found("https://elsewhere/openapi/v3/apis/m.k/v1"), None);
        assert_eq!(found("/api/v1/secrets"), None);
        assert_eq!(url_of(b"<html>", "apis/m.k/v1"), None);
    }

    #[test]
    fn a_document_of_v2_is_made_one_of_v3() {
        let kind = json!({"group": "m.k", "version": "v1", "kind": "A"});
        let get = json!({"operationId": "x", "x-kubernetes-group-version-kind": kind});
        let document = json!({"swagger": "2.0", "paths": {"/apis/m.k/v1/a": {"get": get, "parameters": []}}, "definitions": {"a": {"properties": {"b": {"$ref": "#/definitions/b"}}},
            "b": {"x-kubernetes-group-version-kind": [{"group": "apps", "version": "v1", "kind": "B"}]}}});
        let new = upgraded(&checked(200, document.to_string().as_bytes(), "swagger").unwrap());
        assert_eq!(new["components"]["schemas"]["a"]["properties"]["b"]["$ref"], "#/components/schemas/b");
        assert_eq!(new["paths"]["/apis/m.k/v1/a"]["get"]["x-kubernetes-group-version-kind"], kind);
        assert_eq!(new["paths"]["/apis/m.k/v1/a"].as_object().unwrap().len(), 1);
        let kept = schemas(&published(&new).unwrap(), "m.k", "v1");
        assert_eq!(kept.keys().collect::<Vec<_>>(), ["a"]);
        assert!(checked(200, b"[]", "openapi").is_err() && checked(200, b"<html>", "openapi").is_err());
    }
}
