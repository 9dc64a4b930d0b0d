//! Discovery: legacy documents and the aggregated one (`apidiscovery.k8s.io/v2`).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::aggregation::{self, catalog};
use crate::definitions;
use crate::http::{ApiResponse, respond};
use crate::resources::Descriptor;
use crate::resources::descriptor::api_version;
use crate::server::Server;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Answers a discovery path, `None` for others.
pub fn handle(server: &Server, path: &str, accept: &str) -> Option<ApiResponse> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["api"] if aggregated(accept) => Some(list(server, true)),
        ["apis"] if aggregated(accept) => Some(list(server, false)),
        ["api"] => Some(respond::json(
            200,
            &json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0",
                "serverAddress": format!("{}:{}", server.options.advertised(), server.options.secure_port)}]}),
        )),
        ["apis"] => {
            let groups: Vec<Value> = groups(server).iter().filter(|g| !g.name.is_empty()).map(group).collect();
            Some(respond::json(200, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})))
        }
        ["apis", name] => {
            let mut value = group(groups(server).iter().find(|g| g.name == *name)?);
            value["kind"] = "APIGroup".into();
            value["apiVersion"] = "v1".into();
            Some(respond::json(200, &value))
        }
        ["api", version] => resources(server, "", version),
        ["apis", group, version] => resources(server, group, version),
        _ => None,
    }
}

fn aggregated(accept: &str) -> bool {
    accept.split(',').any(|clause| {
        let has = |part: &str| clause.split(';').any(|p| p.trim() == part);
        has("g=apidiscovery.k8s.io") && has("v=v2") && has("as=APIGroupDiscoveryList")
    })
}

/// The groups, the first ones first.
fn groups(server: &Server) -> Vec<catalog::Group> {
    catalog::of(&server.registry, &server.aggregator)
}

fn group(group: &catalog::Group) -> Value {
    let catalog::Group { name, versions, .. } = group;
    let version = |v: &catalog::Version| json!({"groupVersion": api_version(name, &v.name), "version": v.name});
    json!({"name": name, "versions": versions.iter().map(version).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(version)})
}

fn resources(server: &Server, group: &str, version: &str) -> Option<ApiResponse> {
    let mut list = Vec::new();
    for desc in server.registry.all().iter().filter(|d| d.group == group && d.version == version) {
        let mut main = json!({"name": desc.plural, "singularName": desc.singular, "namespaced": desc.namespaced,
            "kind": desc.kind, "verbs": verbs(desc)});
        if !desc.short.is_empty() {
            main["shortNames"] = desc.short.iter().cloned().collect();
        }
        if !desc.categories.is_empty() {
            main["categories"] = desc.categories.iter().cloned().collect();
        }
        if !desc.prefix.is_empty() {
            main["storageVersionHash"] = hash(desc).into();
        }
        list.push(main);
        for sub in &desc.subresources {
            let (g, v, k) = sub.gvk.unwrap_or((group, version, &desc.kind));
            let mut entry = json!({"name": format!("{}/{}", desc.plural, sub.name), "singularName": "",
                "namespaced": desc.namespaced, "kind": k, "verbs": sub.verbs});
            if sub.gvk.is_some() && (g, v) != (group, version) {
                entry["group"] = g.into();
                entry["version"] = v.into();
            }
            list.push(entry);
        }
    }
    if list.is_empty() {
        return None;
    }
    Some(respond::json(
        200,
        &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version(group, version), "resources": list}),
    ))
}

/// What may be done; nothing new comes of a definition that is on its way out.
fn verbs(desc: &Descriptor) -> Vec<&'static str> {
    let goes = desc.is_terminating();
    let ends = ["delete", "deletecollection", "get", "list", "watch"];
    desc.verbs.iter().copied().filter(|verb| !goes || ends.contains(verb)).collect()
}

fn hash(desc: &Descriptor) -> String {
    use base64::Engine;
    use sha2::Digest;
    let digest = sha2::Sha256::digest(format!("{}/{}/{}", desc.group, desc.version, desc.kind));
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

fn list(server: &Server, core: bool) -> ApiResponse {
    let mut items = Vec::new();
    let all = server.registry.all();
    // Resources of a definition that cannot be read are there and not told of: whoever goes through all that is served,
    // as for a namespace that ends, must know that something is missing.
    let unreadable = definitions::unreadable(server);
    let broken: BTreeSet<&str> = unreadable.iter().map(|name| definitions::group_of(name)).collect();
    let known = groups(server);
    if !core {
        let lost = broken.iter().filter(|group| known.iter().all(|g| g.name != **group));
        items.extend(lost.filter_map(|group| stale(server, group)));
    }
    for catalog::Group { name, versions, .. } in known.into_iter().filter(|g| g.name.is_empty() == core) {
        let version = |version: &catalog::Version| match &version.remote {
            Some(remote) => server.aggregator.discovery(remote),
            None => {
                let own = all.iter().filter(|d| d.group == name && d.version == version.name);
                let resources: Vec<Value> = own.map(|d| entry(d)).collect();
                let freshness = if broken.contains(name.as_str()) { "Stale" } else { "Current" };
                json!({"version": version.name, "freshness": freshness, "resources": resources})
            }
        };
        let versions: Vec<Value> = versions.iter().map(version).collect();
        let metadata =
            if core { json!({"creationTimestamp": null}) } else { json!({"name": name, "creationTimestamp": null}) };
        items.push(json!({"metadata": metadata, "versions": versions}));
    }
    let value = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items});
    let mut text = value.to_string();
    text.push('\n');
    respond::bytes(200, AGGREGATED, text)
}

/// A group that is known by its APIServices alone, because none of its definitions can be read.
fn stale(server: &Server, group: &str) -> Option<Value> {
    let cache = server.store.cache(aggregation::PREFIX)?;
    let (services, _) = cache.all_last_known("", |entry| definitions::group_of(entry.name()) == group);
    let version = |name: &str| json!({"version": name, "freshness": "Stale", "resources": []});
    let versions: Vec<Value> =
        services.iter().filter_map(|entry| Some(version(entry.name().split_once('.')?.0))).collect();
    let metadata = json!({"name": group, "creationTimestamp": null});
    (!versions.is_empty()).then(|| json!({"metadata": metadata, "versions": versions}))
}

fn entry(desc: &Descriptor) -> Value {
    let scope = if desc.namespaced { "Namespaced" } else { "Cluster" };
    let kind = |g: &str, v: &str, k: &str| json!({"group": g, "version": v, "kind": k});
    let mut out = json!({"resource": desc.plural, "responseKind": kind(&desc.group, &desc.version, &desc.kind),
        "scope": scope, "singularResource": desc.singular, "verbs": verbs(desc)});
    if !desc.short.is_empty() {
        out["shortNames"] = desc.short.iter().cloned().collect();
    }
    if !desc.categories.is_empty() {
        out["categories"] = desc.categories.iter().cloned().collect();
    }
    if !desc.subresources.is_empty() {
        out["subresources"] = desc
            .subresources
            .iter()
            .map(|s| {
                let (g, v, k) = s.gvk.unwrap_or((&desc.group, &desc.version, &desc.kind));
                json!({"subresource": s.name, "responseKind": kind(g, v, k), "verbs": s.verbs})
            })
            .collect();
    }
    out
}
