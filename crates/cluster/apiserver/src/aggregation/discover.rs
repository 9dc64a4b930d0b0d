//! What an extension API server says it has: its discovery, fetched when it comes and every minute, read with bounds
//! and kept (`kube-aggregator/pkg/apiserver/handler_discovery.go`).

use std::sync::Arc;
use std::time::Duration;

use kinit_apimachinery::meta::{Meta, strings};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::backend::OwnRequest;
use super::{Aggregator, Remote};
use crate::authn::{MASTERS, User};
use crate::server::Server;

const EVERY: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(5);
const LARGEST: usize = 4 * 1024 * 1024;
/// How many resources one group version may have.
const MOST: usize = 2000;
/// The documents of whole servers, as clients ask for them.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// What was learned.
pub struct Discovered {
    at: Instant,
    /// The answer to the last question, or one before it.
    resources: Vec<Value>,
    /// Whether the last question was answered.
    is_current: bool,
    /// Of which state of the APIService.
    of: super::service::Target,
}

impl Aggregator {
    /// An `APIVersionDiscovery` of an extension server's version.
    pub fn discovery(&self, remote: &Remote) -> Value {
        let version = &remote.service.version;
        let known = self.discovered.lock().get(&remote.service.name).cloned();
        match known {
            Some(known) => {
                let fresh = known.is_current && remote.service.is_available;
                let freshness = if fresh { "Current" } else { "Stale" };
                json!({"version": version, "freshness": freshness, "resources": known.resources})
            }
            None => json!({"version": version, "freshness": "Stale"}),
        }
    }
}

/// Asks anew where that is due.
pub async fn refresh(server: &Server, remote: &Remote) {
    let Some(target) = remote.service.target.clone() else { return };
    let known = server.aggregator.discovered.lock().get(&remote.service.name).cloned();
    if known.as_ref().is_some_and(|k| k.is_current && k.of == target && k.at.elapsed() < EVERY) {
        return;
    }
    let at = Instant::now();
    let found = match fetch(remote).await {
        Ok(resources) => Discovered { at, resources, is_current: true, of: target },
        Err(problem) => {
            tracing::warn!(name = remote.service.name, problem, "read the discovery of an extension API server");
            let resources = known.map(|k| k.resources.clone()).unwrap_or_default();
            Discovered { at, resources, is_current: false, of: target }
        }
    };
    server.aggregator.discovered.lock().insert(remote.service.name.clone(), Arc::new(found));
}

async fn fetch(remote: &Remote) -> Result<Vec<Value>, String> {
    let user = User { name: "system:kube-aggregator".into(), groups: vec![MASTERS.into()], ..User::default() };
    let request = |path, accept| OwnRequest { path, accept, tag: "", limit: LARGEST, patience: PATIENCE };
    let answer = remote.backend.get(&request("/apis", AGGREGATED), &user).await?;
    let (group, version) = (remote.service.group.as_str(), remote.service.version.as_str());
    if answer.status == 200 && answer.content_type.contains("as=APIGroupDiscoveryList") {
        return of_aggregated(&parsed(&answer.body)?, group, version)
            .ok_or_else(|| format!("the aggregated discovery does not have {group}/{version}"));
    }
    let path = remote.service.path();
    let answer = remote.backend.get(&request(&path, "application/json"), &user).await?;
    if answer.status != 200 {
        return Err(format!("failed to download discovery for {path}: status {}", answer.status));
    }
    of_list(&parsed(&answer.body)?, group, version)
}

fn parsed(body: &[u8]) -> Result<Value, String> {
    let decoded =
        kinit_apimachinery::decode::json(body).map_err(|e| kinit_apimachinery::decode::problem(&e).to_string())?;
    Ok(decoded.0)
}

/// From an `APIGroupDiscoveryList`: what it says of this version alone.
fn of_aggregated(document: &Value, group: &str, version: &str) -> Option<Vec<Value>> {
    let groups = document.get("items")?.as_array()?;
    let found = groups.iter().find(|g| g.str_at(&["metadata", "name"]) == group)?;
    let versions = found.get("versions")?.as_array()?;
    let found = versions.iter().find(|v| v.str_at(&["version"]) == version)?;
    let resources = found.get("resources").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Some(resources.iter().take(MOST).filter_map(|r| resource(r, group, version)).collect())
}

/// A resource of such a list with what is known of it, and nothing else.
fn resource(given: &Value, group: &str, version: &str) -> Option<Value> {
    let name = given.str_at(&["resource"]);
    if name.is_empty() || name.contains('/') {
        return None;
    }
    let mut out = common(given, group, version, given.get("responseKind"));
    out.insert("resource".into(), name.into());
    let scope = if given.str_at(&["scope"]) == "Namespaced" { "Namespaced" } else { "Cluster" };
    out.insert("scope".into(), scope.into());
    out.insert("singularResource".into(), given.str_at(&["singularResource"]).into());
    let subs = given.get("subresources").and_then(Value::as_array).into_iter().flatten().take(MOST);
    let subs: Vec<Value> = subs
        .filter(|sub| !sub.str_at(&["subresource"]).is_empty())
        .map(|sub| {
            let mut out = common(sub, group, version, sub.get("responseKind"));
            out.insert("subresource".into(), sub.str_at(&["subresource"]).into());
            out.into()
        })
        .collect();
    if !subs.is_empty() {
        out.insert("subresources".into(), subs.into());
    }
    Some(out.into())
}

fn common(given: &Value, group: &str, version: &str, kind: Option<&Value>) -> Map<String, Value> {
    let mut out = Map::new();
    if let Some(kind) = kind.filter(|kind| !kind.str_at(&["kind"]).is_empty()) {
        let or = |key: &str, otherwise: &str| match kind.str_at(&[key]) {
            "" => otherwise.to_owned(),
            text => text.to_owned(),
        };
        let kind = json!({"group": or("group", group), "version": or("version", version), "kind": kind["kind"]});
        out.insert("responseKind".into(), kind);
    }
    out.insert("verbs".into(), strings(given.get("verbs")).into());
    for key in ["shortNames", "categories"] {
        let list = strings(given.get(key));
        if !list.is_empty() {
            out.insert(key.into(), list.into());
        }
    }
    out
}

/// From an `APIResourceList` (`ConvertGroupVersionIntoToDiscovery`).
fn of_list(document: &Value, group: &str, version: &str) -> Result<Vec<Value>, String> {
    let list = document.get("resources").and_then(Value::as_array);
    let list = list.filter(|_| document.str_at(&["kind"]) == "APIResourceList");
    let list = list.ok_or_else(|| "the discovery is no APIResourceList".to_owned())?;
    let mut out: Vec<Value> = Vec::new();
    for given in list.iter().take(MOST) {
        let (name, sub) = given.str_at(&["name"]).split_once('/').unwrap_or((given.str_at(&["name"]), ""));
        if name.is_empty() {
            continue;
        }
        let kind = json!({"group": given["group"], "version": given["version"], "kind": given["kind"]});
        let mut entry = common(given, group, version, Some(&kind));
        if sub.is_empty() {
            entry.insert("resource".into(), name.into());
            let namespaced = given.get("namespaced") == Some(&Value::Bool(true));
            entry.insert("scope".into(), if namespaced { "Namespaced" } else { "Cluster" }.into());
            entry.insert("singularResource".into(), given.str_at(&["singularName"]).into());
            out.push(entry.into());
            continue;
        }
        entry.insert("subresource".into(), sub.into());
        let Some(parent) = out.iter_mut().find(|r| r.str_at(&["resource"]) == name).and_then(Value::as_object_mut)
        else {
            continue;
        };
        let subs = parent.entry("subresources").or_insert_with(|| Value::Array(Vec::new()));
        if let Some(subs) = subs.as_array_mut() {
            subs.push(entry.into());
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_becomes_a_discovery() {
        let document = json!({"kind": "APIResourceList", "groupVersion": "m.k/v1", "resources": [
            {"name": "nodes", "singularName": "", "namespaced": false, "kind": "NodeMetrics", "verbs": ["get", "list"]},
            {"name": "pods", "namespaced": true, "kind": "PodMetrics", "verbs": ["get"], "shortNames": ["p", 1]},
            {"name": "pods/scale", "group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get"]},
            {"name": "lost/status", "kind": "X", "verbs": []}, {"name": 3}]});
        let want = json!([
            {"responseKind": {"group": "m.k", "version": "v1", "kind": "NodeMetrics"}, "verbs": ["get", "list"],
                "resource": "nodes", "scope": "Cluster", "singularResource": ""},
            {"responseKind": {"group": "m.k", "version": "v1", "kind": "PodMetrics"}, "verbs": ["get"], "shortNames": ["p"],
                "resource": "pods", "scope": "Namespaced", "singularResource": "", "subresources": [
                    {"responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}, "verbs": ["get"],
                        "subresource": "scale"}]}]);
        assert_eq!(Value::from(of_list(&document, "m.k", "v1").unwrap()), want);
        assert!(of_list(&json!({"kind": "Status"}), "m.k", "v1").is_err());
        assert!(of_list(&json!([1]), "m.k", "v1").is_err());
    }

    #[test]
    fn a_server_speaks_for_its_own_group_version_alone() {
        let resources = json!([{"resource": "a", "scope": "Lies", "responseKind": {"kind": "A"}, "verbs": "get", "x": 1},
            {"resource": "b/c"}, 7]);
        let document = json!({"items": [
            {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": resources}]},
            {"metadata": {"name": "m.k"}, "versions": [{"version": "v2"}, {"version": "v1", "resources": resources}]}]});
        let found = of_aggregated(&document, "m.k", "v1").unwrap();
        let want = json!([{"responseKind": {"group": "m.k", "version": "v1", "kind": "A"}, "verbs": [], "resource": "a",
            "scope": "Cluster", "singularResource": ""}]);
        assert_eq!(Value::from(found), want);
        assert_eq!(of_aggregated(&document, "m.k", "v2"), Some(Vec::new()));
        assert_eq!(of_aggregated(&document, "other", "v1"), None);
        assert_eq!(of_aggregated(&json!("<html>"), "m.k", "v1"), None);
    }
}
