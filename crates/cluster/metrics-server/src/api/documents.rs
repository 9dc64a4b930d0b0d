//! Discovery and OpenAPI: what the aggregating API server and clients ask a server about itself.

use serde_json::{Value, json};

use super::{GROUP, JSON, VERSION};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const PREFIX: &str = "io.k8s.metrics.pkg.apis.metrics.v1beta1.";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// The document at a path, with its media type.
pub fn document(path: &str, accept: &str) -> Option<(&'static str, String)> {
    let version = json!({"groupVersion": format!("{GROUP}/{VERSION}"), "version": VERSION});
    let group = json!({"name": GROUP, "versions": [version], "preferredVersion": version});
    let with = |kind: &str, mut object: Value| {
        object["kind"] = kind.into();
        object["apiVersion"] = "v1".into();
        object
    };
    let value = match path {
        "/apis" if accept.contains("as=APIGroupDiscoveryList") && accept.contains("v=v2;") => {
            return Some((AGGREGATED, aggregated().to_string()));
        }
        "/apis" => with("APIGroupList", json!({"groups": [group]})),
        "/apis/metrics.k8s.io" => with("APIGroup", group),
        "/apis/metrics.k8s.io/v1beta1" => with("APIResourceList", resources()),
        "/openapi/v3" => {
            let url = format!("/openapi/v3/apis/{GROUP}/{VERSION}?hash={}", kinit_component_base::version::GIT_VERSION);
            json!({"paths": {format!("apis/{GROUP}/{VERSION}"): {"serverRelativeURL": url}}})
        }
        "/openapi/v3/apis/metrics.k8s.io/v1beta1" => openapi(),
        _ => return None,
    };
    Some((JSON, value.to_string()))
}

fn resources() -> Value {
    let entry = |name: &str, namespaced: bool, kind: &str| json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]});
    let resources = [entry("nodes", false, "NodeMetrics"), entry("pods", true, "PodMetrics")];
    json!({"groupVersion": format!("{GROUP}/{VERSION}"), "resources": resources})
}

fn aggregated() -> Value {
    let entry = |name: &str, scope: &str, kind: &str| {
        let kind = json!({"group": GROUP, "version": VERSION, "kind": kind});
        json!({"resource": name, "responseKind": kind, "scope": scope, "singularResource": "", "verbs": ["get", "list"]})
    };
    let resources = [entry("nodes", "Cluster", "NodeMetrics"), entry("pods", "Namespaced", "PodMetrics")];
    let version = json!({"version": VERSION, "freshness": "Current", "resources": resources});
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": [{"metadata": {"name": GROUP, "creationTimestamp": null}, "versions": [version]}]})
}

fn openapi() -> Value {
    let base = format!("/apis/{GROUP}/{VERSION}");
    let paths = json!({
        format!("{base}/nodes"): operation("NodeMetrics", "NodeMetricsList", "list", &[]),
        format!("{base}/nodes/{{name}}"): operation("NodeMetrics", "NodeMetrics", "get", &["name"]),
        format!("{base}/pods"): operation("PodMetrics", "PodMetricsList", "list", &[]),
        format!("{base}/namespaces/{{namespace}}/pods"): operation("PodMetrics", "PodMetricsList", "list", &["namespace"]),
        format!("{base}/namespaces/{{namespace}}/pods/{{name}}"):
            operation("PodMetrics", "PodMetrics", "get", &["namespace", "name"]),
    });
    let info = json!({"title": "Resource metrics", "version": kinit_component_base::version::GIT_VERSION});
    json!({"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas()}})
}

fn operation(kind: &str, answer: &str, action: &str, parameters: &[&str]) -> Value {
    let parameter = |name: &&str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}});
    let mut parameters: Vec<Value> = parameters.iter().map(parameter).collect();
    if action == "list" {
        let query =
            |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
        parameters.extend([query("labelSelector"), query("fieldSelector")]);
    }
    let content = json!({JSON: {"schema": reference(PREFIX, answer)}});
    json!({"get": {"tags": ["metrics_v1beta1"], "x-kubernetes-action": action, "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": content}},
        "x-kubernetes-group-version-kind": {"group": GROUP, "version": VERSION, "kind": kind}}})
}

fn reference(prefix: &str, name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{prefix}{name}")})
}

fn schemas() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    let usage = json!({"type": "object", "description": "What is used: cpu and memory, as quantities.",
        "additionalProperties": {"type": "string"}});
    let top = |kind: &str, about: &str, required: Value, more: Value| {
        let mut properties = json!({
            "apiVersion": text("Version of the schema of this object."), "kind": text("Kind of this object.")});
        for (key, value) in more.as_object().into_iter().flatten() {
            properties[key] = value.clone();
        }
        json!({"type": "object", "description": about, "required": required, "properties": properties,
            "x-kubernetes-group-version-kind": [{"group": GROUP, "version": VERSION, "kind": kind}]})
    };
    let when = |more: (&str, Value)| {
        json!({"metadata": reference(META, "ObjectMeta"), "timestamp": {"type": "string", "format": "date-time",
                "description": "End of the time over which was measured."},
            "window": text("Length of the time over which was measured; CPU is the average of it."), more.0: more.1})
    };
    let list = |kind: &str| {
        let items = json!({"type": "array", "description": "One for each of which the use is known.", "items": reference(PREFIX, kind)});
        let properties = json!({"metadata": reference(META, "ListMeta"), "items": items});
        top(&format!("{kind}List"), &format!("A list of {kind}."), json!(["items"]), properties)
    };
    let containers = json!({"type": "array", "description": "What each container uses.", "items": reference(PREFIX, "ContainerMetrics")});
    json!({
        format!("{PREFIX}NodeMetrics"): top("NodeMetrics", "What a node uses.", json!(["timestamp", "window", "usage"]), when(("usage", usage.clone()))),
        format!("{PREFIX}NodeMetricsList"): list("NodeMetrics"),
        format!("{PREFIX}PodMetrics"): top("PodMetrics", "What a pod's containers use.", json!(["timestamp", "window", "containers"]), when(("containers", containers))),
        format!("{PREFIX}PodMetricsList"): list("PodMetrics"),
        format!("{PREFIX}ContainerMetrics"): {"type": "object", "description": "What a container uses.", "required": ["name", "usage"],
            "properties": {"name": text("The container's name in the pod's spec."), "usage": usage}},
        format!("{META}ObjectMeta"): {"type": "object", "description": "Name, namespace and labels of the node or pod.", "properties": {
            "name": text("Name of the node or pod."), "namespace": text("Namespace of the pod."),
            "creationTimestamp": {"type": "string", "format": "date-time", "description": "When this answer was made."},
            "labels": {"type": "object", "description": "Labels of the node or pod.", "additionalProperties": {"type": "string"}}}},
        format!("{META}ListMeta"): {"type": "object", "description": "Metadata of a list.", "properties": {
            "resourceVersion": text("Not set."), "continue": text("Not set: lists are whole.")}},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_resolve() {
        let (_, text) = document("/openapi/v3/apis/metrics.k8s.io/v1beta1", "").unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for part in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name}");
        }
        assert_eq!(document["paths"].as_object().unwrap().len(), 5);
    }

    #[test]
    fn discovery_in_both_forms() {
        let (media, text) = document("/apis", &format!("{AGGREGATED},application/json")).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((media, value["items"][0]["metadata"]["name"].as_str()), (AGGREGATED, Some(GROUP)));
        for (path, kind) in [
            ("/apis", "APIGroupList"),
            ("/apis/metrics.k8s.io", "APIGroup"),
            ("/apis/metrics.k8s.io/v1beta1", "APIResourceList"),
        ] {
            let value: Value = serde_json::from_str(&document(path, "application/json").unwrap().1).unwrap();
            assert_eq!(value["kind"], kind, "{path}");
        }
        assert_eq!(document("/api", ""), None);
    }
}
