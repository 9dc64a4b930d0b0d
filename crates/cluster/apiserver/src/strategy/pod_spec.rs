//! Defaults of a pod's spec, in pods and in templates (`pkg/apis/core/v1/defaults.go`).

use kinit_apimachinery::meta::Meta;
use serde_json::{Value, json};

use super::tools::{absent, each, empty, object};

/// Defaults of a template.
pub fn default_template(template: &mut Value) {
    if template.is_object() {
        default(object(template, "spec"));
    }
}

/// Defaults of a spec.
pub fn default(spec: &mut Value) {
    empty(spec, "restartPolicy", "Always");
    empty(spec, "dnsPolicy", "ClusterFirst");
    absent(spec, "terminationGracePeriodSeconds", 30);
    object(spec, "securityContext");
    empty(spec, "schedulerName", "default-scheduler");
    // The old name of the field follows the new one, and the other way round.
    let account = match spec.str_at(&["serviceAccountName"]) {
        "" => spec.str_at(&["serviceAccount"]).to_owned(),
        name => name.to_owned(),
    };
    if !account.is_empty() {
        spec["serviceAccountName"] = account.clone().into();
        spec["serviceAccount"] = account.into();
    }
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in each(spec, list) {
            default_container(container, host_network);
        }
    }
    for volume in each(spec, "volumes") {
        default_volume(volume);
    }
}

fn default_container(container: &mut Value, host_network: bool) {
    empty(container, "terminationMessagePath", "/dev/termination-log");
    empty(container, "terminationMessagePolicy", "File");
    let policy = pull_policy(container.str_at(&["image"]));
    empty(container, "imagePullPolicy", policy);
    object(container, "resources");
    for port in each(container, "ports") {
        empty(port, "protocol", "TCP");
        if host_network && let Some(number) = port.get("containerPort").cloned() {
            empty(port, "hostPort", number);
        }
    }
    for env in each(container, "env") {
        if let Some(field) = env.get_mut("valueFrom").and_then(|v| v.get_mut("fieldRef")) {
            empty(field, "apiVersion", "v1");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe).filter(|p| p.is_object()) {
            default_probe(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(get) =
            container.get_mut("lifecycle").and_then(|l| l.get_mut(hook)).and_then(|h| h.get_mut("httpGet"))
        {
            default_http_get(get);
        }
    }
}

fn default_probe(probe: &mut Value) {
    for (key, value) in [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        empty(probe, key, value);
    }
    if let Some(get) = probe.get_mut("httpGet") {
        default_http_get(get);
    }
    if let Some(grpc) = probe.get_mut("grpc") {
        absent(grpc, "service", "");
    }
}

fn default_http_get(get: &mut Value) {
    empty(get, "path", "/");
    empty(get, "scheme", "HTTP");
}

/// `Always` for the tag latest or none, else `IfNotPresent`; a digest is no tag.
fn pull_policy(image: &str) -> &'static str {
    let name = image.split('@').next().unwrap_or_default();
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = name.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn default_volume(volume: &mut Value) {
    if volume.as_object().is_some_and(|m| m.keys().all(|k| k == "name")) {
        volume["emptyDir"] = json!({});
    }
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(kind).filter(|s| s.is_object()) {
            absent(source, "defaultMode", 420);
        }
    }
    if let Some(path) = volume.get_mut("hostPath").filter(|s| s.is_object()) {
        absent(path, "type", "");
    }
    if let Some(source) = volume.get_mut("downwardAPI") {
        default_downward(source);
    }
    if let Some(projected) = volume.get_mut("projected") {
        for source in each(projected, "sources") {
            if let Some(token) = source.get_mut("serviceAccountToken").filter(|t| t.is_object()) {
                absent(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = source.get_mut("downwardAPI") {
                default_downward(downward);
            }
        }
    }
    if let Some(image) = volume.get_mut("image").filter(|i| i.is_object()) {
        let policy = pull_policy(image.str_at(&["reference"]));
        empty(image, "pullPolicy", policy);
    }
    if let Some(spec) =
        volume.get_mut("ephemeral").and_then(|e| e.get_mut("volumeClaimTemplate")).and_then(|t| t.get_mut("spec"))
    {
        absent(spec, "volumeMode", "Filesystem");
    }
}

fn default_downward(source: &mut Value) {
    for item in each(source, "items") {
        if let Some(field) = item.get_mut("fieldRef") {
            empty(field, "apiVersion", "v1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policies() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.2", "IfNotPresent"),
            ("host:5000/nginx", "Always"),
            ("host:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn a_minimal_spec() {
        let mut spec = json!({"containers":[{"name":"c","image":"x:1","ports":[{"containerPort":80}],"livenessProbe":{"httpGet":{"port":80}}}],
            "volumes":[{"name":"v"},{"name":"s","secret":{"secretName":"x"}}]});
        default(&mut spec);
        assert_eq!(spec["containers"][0]["ports"][0]["protocol"], "TCP");
        assert_eq!(spec["containers"][0]["livenessProbe"]["failureThreshold"], 3);
        assert_eq!(spec["volumes"][0]["emptyDir"], json!({}));
        assert_eq!(spec["volumes"][1]["secret"]["defaultMode"], 420);
        let once = spec.clone();
        default(&mut spec);
        assert_eq!(spec, once, "defaulting twice changes nothing");
    }
}
