//! Kinds with little of their own.

use base64::Engine;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::status::FieldErrors;
use serde_json::{Value, json};

use super::tools::{absent, each, empty, immutable, items, object};

const RBAC: &str = "rbac.authorization.k8s.io";
const MAX_DATA: usize = 1024 * 1024;

// --- namespaces and nodes

/// Every namespace carries its name as a label.
pub fn default_namespace(o: &mut Value) {
    let name = o.name().to_owned();
    if !name.is_empty() {
        let metadata = object(o, "metadata");
        object(metadata, "labels")["kubernetes.io/metadata.name"] = name.into();
    }
}

/// A new namespace is active and held by the namespace controller.
pub fn prepare_namespace(o: &mut Value) {
    o["status"] = json!({"phase": "Active"});
    let mut held = kinit_apimachinery::meta::strings(o.at(&["spec", "finalizers"]));
    if !held.iter().any(|f| f == "kubernetes") {
        held.push("kubernetes".into());
    }
    object(o, "spec")["finalizers"] = held.into_iter().collect();
}

/// `spec.finalizers` has a subresource of its own.
pub fn prepare_namespace_update(new: &mut Value, old: &Value) {
    new["spec"] = old["spec"].clone();
}

// --- config maps and secrets

pub fn default_secret(o: &mut Value) {
    empty(o, "type", "Opaque");
    let Some(plain) = o.as_object_mut().and_then(|m| m.shift_remove("stringData")) else { return };
    let Some(plain) = plain.as_object().filter(|m| !m.is_empty()).cloned() else { return };
    let data = object(o, "data");
    for (key, value) in plain {
        data[&key] = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default()).into();
    }
}

fn data_keys(o: &Value, parts: &[&str], errors: &mut FieldErrors) {
    let mut size = 0;
    for part in parts {
        for (key, value) in o.get(*part).and_then(Value::as_object).into_iter().flatten() {
            let length = value.as_str().map_or(0, str::len);
            size += if *part == "data" && parts.len() == 2 { length } else { length / 4 * 3 };
            let good = !key.is_empty()
                && key.len() <= 253
                && key != "."
                && !key.starts_with("..")
                && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            if !good {
                errors.invalid(&format!("{part}[{key}]"), &key.as_str().into(), "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')");
            }
        }
    }
    if size > MAX_DATA {
        // Upstream names the whole of a config map by an empty path.
        errors.too_long(if parts.len() == 2 { "[]" } else { "data" }, MAX_DATA);
    }
}

pub fn validate_config_map(o: &Value, errors: &mut FieldErrors) {
    data_keys(o, &["data", "binaryData"], errors);
}

pub fn validate_secret(o: &Value, errors: &mut FieldErrors) {
    data_keys(o, &["data"], errors);
    let needs: &[&str] = match o.str_at(&["type"]) {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in needs {
        if o.get("data").and_then(|d| d.get(*key)).is_none() {
            errors.required(&format!("data[{key}]"), "");
        }
    }
    if o.str_at(&["type"]) == "kubernetes.io/service-account-token"
        && o.annotation("kubernetes.io/service-account.name").is_none()
    {
        errors.required("metadata.annotations[kubernetes.io/service-account.name]", "");
    }
}

/// What is marked immutable stays.
pub fn validate_immutable_data(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if old.get("immutable") != Some(&Value::Bool(true)) {
        return;
    }
    if new.get("immutable") != Some(&Value::Bool(true)) {
        errors.forbidden("immutable", "field is immutable when `immutable` is set");
    }
    for key in ["data", "binaryData"] {
        if new.get(key) != old.get(key) {
            errors.forbidden(key, "field is immutable when `immutable` is set");
        }
    }
}

pub fn validate_secret_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    immutable(new, old, &["type"], errors);
    validate_immutable_data(new, old, errors);
}

// --- RBAC

pub fn default_binding(o: &mut Value) {
    if let Some(reference) = o.get_mut("roleRef") {
        empty(reference, "apiGroup", RBAC);
    }
    for subject in each(o, "subjects") {
        match subject.str_at(&["kind"]) {
            "User" | "Group" => empty(subject, "apiGroup", RBAC),
            _ => {}
        }
    }
}

pub fn validate_role(o: &Value, errors: &mut FieldErrors) {
    for (i, rule) in items(o, &["rules"]).iter().enumerate() {
        if items(rule, &["verbs"]).is_empty() {
            errors.required(&format!("rules[{i}].verbs"), "verbs must contain at least one value");
        }
        let urls = !items(rule, &["nonResourceURLs"]).is_empty();
        if urls && !o.namespace().is_empty() {
            errors.invalid(
                &format!("rules[{i}].nonResourceURLs"),
                &rule["nonResourceURLs"],
                "namespaced rules cannot apply to non-resource URLs",
            );
        }
        if !urls {
            for (key, text) in [
                ("apiGroups", "resource rules must supply at least one api group"),
                ("resources", "resource rules must supply at least one resource"),
            ] {
                if items(rule, &[key]).is_empty() {
                    errors.required(&format!("rules[{i}].{key}"), text);
                }
            }
        }
    }
}

pub fn validate_binding(o: &Value, errors: &mut FieldErrors) {
    if o.str_at(&["roleRef", "apiGroup"]) != RBAC {
        errors.not_supported("roleRef.apiGroup", &o.at(&["roleRef", "apiGroup"]).cloned().unwrap_or_default(), &[RBAC]);
    }
    let kinds: &[&str] = if o.str_at(&["kind"]) == "RoleBinding" { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&o.str_at(&["roleRef", "kind"])) {
        errors.not_supported("roleRef.kind", &o.at(&["roleRef", "kind"]).cloned().unwrap_or_default(), kinds);
    }
    if o.str_at(&["roleRef", "name"]).is_empty() {
        errors.required("roleRef.name", "");
    }
    for (i, subject) in items(o, &["subjects"]).iter().enumerate() {
        let kind = subject.str_at(&["kind"]);
        if !["ServiceAccount", "User", "Group"].contains(&kind) {
            errors.not_supported(&format!("subjects[{i}].kind"), &kind.into(), &["Group", "ServiceAccount", "User"]);
        }
        if subject.str_at(&["name"]).is_empty() {
            errors.required(&format!("subjects[{i}].name"), "");
        }
        if kind == "ServiceAccount" && subject.str_at(&["namespace"]).is_empty() {
            errors.required(&format!("subjects[{i}].namespace"), "");
        }
    }
}

pub fn validate_binding_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if new.get("roleRef") != old.get("roleRef") {
        errors.invalid("roleRef", &new["roleRef"], "cannot change roleRef");
    }
}

// --- others

pub fn default_network_policy(o: &mut Value) {
    let spec = object(o, "spec");
    object(spec, "podSelector");
    for direction in ["ingress", "egress"] {
        for rule in each(spec, direction) {
            for port in each(rule, "ports") {
                absent(port, "protocol", "TCP");
            }
        }
    }
    if items(spec, &["policyTypes"]).is_empty() {
        let egress = spec.get("egress").is_some_and(|e| e.as_array().is_some_and(|l| !l.is_empty()));
        spec["policyTypes"] = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    }
}

pub fn validate_ingress(o: &Value, errors: &mut FieldErrors) {
    if items(o, &["spec", "rules"]).is_empty() && o.at(&["spec", "defaultBackend"]).is_none() {
        errors.invalid("spec", &json!([]), "either `defaultBackend` or `rules` must be specified");
    }
    for (i, rule) in items(o, &["spec", "rules"]).iter().enumerate() {
        for (j, path) in items(rule, &["http", "paths"]).iter().enumerate() {
            let at = format!("spec.rules[{i}].http.paths[{j}]");
            if path.str_at(&["pathType"]).is_empty() {
                errors.required(&format!("{at}.pathType"), "pathType must be specified");
            }
        }
    }
}

pub fn validate_lease(o: &Value, errors: &mut FieldErrors) {
    for key in ["leaseDurationSeconds", "leaseTransitions"] {
        let least = i64::from(key == "leaseDurationSeconds");
        if let Some(n) = o.at(&["spec", key]).and_then(Value::as_i64)
            && n < least
        {
            errors.invalid(
                &format!("spec.{key}"),
                &n.into(),
                if least == 1 { "must be greater than 0" } else { "must be greater than or equal to 0" },
            );
        }
    }
}

pub fn validate_budget(o: &Value, errors: &mut FieldErrors) {
    if o.at(&["spec", "minAvailable"]).is_some() && o.at(&["spec", "maxUnavailable"]).is_some() {
        errors.invalid("spec", &o["spec"], "minAvailable and maxUnavailable cannot be both set");
    }
}

pub fn default_priority_class(o: &mut Value) {
    absent(o, "preemptionPolicy", "PreemptLowerPriority");
    absent(o, "value", 0);
}

pub fn validate_priority_class(o: &Value, errors: &mut FieldErrors) {
    let value = o.get("value").and_then(Value::as_i64).unwrap_or(0);
    if o.name().starts_with("system-") {
        let known = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
        if !known.contains(&(o.name(), value)) {
            errors.forbidden("metadata.name", "priority class names with 'system-' prefix are reserved for system use only. error: not a known system priority class");
        }
    } else if value > 1_000_000_000 {
        errors.forbidden("value", "maximum allowed value of a user defined priority is 1000000000");
    }
}

pub fn validate_priority_class_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    for key in ["value", "preemptionPolicy"] {
        if new.get(key) != old.get(key) {
            errors.forbidden(key, &format!("may not be changed in an update. ({key})"));
        }
    }
}

pub fn default_limit_range(o: &mut Value) {
    for item in each(object(o, "spec"), "limits") {
        if item.str_at(&["type"]) != "Container" {
            continue;
        }
        for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
            let Some(amounts) = item.get(from).and_then(Value::as_object).cloned() else { continue };
            for (name, amount) in amounts {
                absent(object(item, to), &name, amount);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn string_data_becomes_data() {
        let mut s = json!({"stringData":{"a":"b"}});
        default_secret(&mut s);
        assert_eq!(s, json!({"type":"Opaque","data":{"a":"Yg=="}}));
    }

    #[test]
    fn immutable_secrets_stay() {
        let old = json!({"type":"Opaque","immutable":true,"data":{"a":"Yg=="}});
        let mut errors = FieldErrors::default();
        validate_secret_update(&json!({"type":"Opaque","immutable":true,"data":{}}), &old, &mut errors);
        assert_eq!(errors.0.len(), 1);
    }
}
