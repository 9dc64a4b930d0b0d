//! What an APIService must be (`pkg/apis/apiregistration/validation` of kube-aggregator), and its defaults.

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::names::NameRule;
use kinit_apimachinery::status::{FieldErrors, quoted};
use serde_json::Value;

use super::catalog::priority;
use crate::resources::descriptor::api_version;
use crate::strategy::tools::{absent, items, one_of, port};

/// The Service's port.
pub fn default(o: &mut Value) {
    if let Some(service) = o.get_mut("spec").and_then(|spec| spec.get_mut("service")).filter(|s| s.is_object()) {
        absent(service, "port", 443);
    }
}

/// A new APIService is not available yet, whatever it says of itself.
pub fn prepare_create(o: &mut Value) {
    if let Some(map) = o.as_object_mut() {
        map.insert("status".into(), Value::Object(Default::default()));
    }
}

/// Checks the object.
pub fn validate(o: &Value, errors: &mut FieldErrors) {
    let text = |key: &str| o.str_at(&["spec", key]);
    let (group, version) = (text("group"), text("version"));
    let wanted = format!("{version}.{group}");
    if o.name() != wanted {
        let detail = format!("must be `spec.version+\".\"+spec.group`: {}", quoted(&wanted));
        errors.invalid("metadata.name", &o.name().into(), &detail);
    }
    if group.is_empty() && version != "v1" {
        errors.required("spec.group", "only v1 may have an empty group and it better be legacy kube");
    }
    if !group.is_empty() {
        NameRule::Subdomain.check(group).iter().for_each(|p| errors.invalid("spec.group", &group.into(), p));
    }
    NameRule::Dns1035.check(version).iter().for_each(|p| errors.invalid("spec.version", &version.into(), p));
    for (key, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let value = o.at(&["spec", key]).and_then(Value::as_i64).unwrap_or_default();
        if !(1..=most).contains(&value) {
            errors.invalid(&format!("spec.{key}"), &value.into(), &format!("must be positive and less than {most}"));
        }
    }
    let bundle = text("caBundle");
    let open = o.at(&["spec", "insecureSkipTLSVerify"]) == Some(&Value::Bool(true));
    let Some(service) = o.at(&["spec", "service"]).filter(|s| s.is_object()) else {
        if !bundle.is_empty() {
            let size = format!("{} bytes", bundle.len() / 4 * 3);
            errors.invalid("spec.caBundle", &size.into(), "local APIServices may not have a caBundle");
        }
        if open {
            let text = "local APIServices may not have insecureSkipTLSVerify";
            errors.invalid("spec.insecureSkipTLSVerify", &true.into(), text);
        }
        return;
    };
    for key in ["namespace", "name"] {
        if service.str_at(&[key]).is_empty() {
            errors.required(&format!("spec.service.{key}"), "");
        }
    }
    port(service.get("port"), "spec.service.port", errors);
    if open && !bundle.is_empty() {
        errors.invalid("spec.insecureSkipTLSVerify", &true.into(), "may not be true if caBundle is present");
    }
    // Upstream passes these on, and the cluster with them: its components would lose the API that they work with.
    if priority(group, version).is_some() {
        let text =
            format!("{} is served by this API server and cannot be given to another", api_version(group, version));
        errors.forbidden("spec.service", &text);
    }
}

/// Checks a status that is written.
pub fn validate_status(_: &str, new: &Value, _: &Value, errors: &mut FieldErrors) {
    for (i, condition) in items(new, &["status", "conditions"]).iter().enumerate() {
        let at = format!("status.conditions[{i}].status");
        one_of(&condition["status"], &at, &["True", "False", "Unknown"], errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reported(spec: Value, name: &str) -> String {
        let mut errors = FieldErrors::default();
        validate(&json!({"metadata": {"name": name}, "spec": spec}), &mut errors);
        errors.into_result("", "X", "x").err().map_or_else(String::new, |e| e.message)
    }

    #[test]
    fn upstreams_words() {
        let good = json!({"group": "a.b", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1,
            "service": {"namespace": "n", "name": "s", "port": 443}});
        assert_eq!(reported(good.clone(), "v1.a.b"), "");
        for (change, name, part) in [
            (json!({}), "v2.a.b", "must be `spec.version+\".\"+spec.group`: \"v1.a.b\""),
            (json!({"group": "", "version": "v2"}), "v2.", "only v1 may have an empty group"),
            (json!({"version": "V1"}), "V1.a.b", "spec.version: Invalid value: \"V1\""),
            (json!({"groupPriorityMinimum": 20001}), "v1.a.b", "must be positive and less than 20000"),
            (json!({"versionPriority": 0}), "v1.a.b", "must be positive and less than 1000"),
            (
                json!({"service": null, "caBundle": "YWJj"}),
                "v1.a.b",
                "\"3 bytes\": local APIServices may not have a caBundle",
            ),
            (
                json!({"service": null, "insecureSkipTLSVerify": true}),
                "v1.a.b",
                "local APIServices may not have insecure",
            ),
            (json!({"insecureSkipTLSVerify": true, "caBundle": "YWJj"}), "v1.a.b", "may not be true if caBundle"),
            (json!({"service": {"port": 0}}), "v1.a.b", "spec.service.namespace: Required value"),
            (json!({"service": {"namespace": "n", "name": "s", "port": 0}}), "v1.a.b", "must be between 1 and 65535"),
            (json!({"group": "apps"}), "v1.apps", "spec.service: Forbidden: apps/v1 is served by this API server"),
            (json!({"group": "", "version": "v1"}), "v1.", "spec.service: Forbidden: v1 is served"),
        ] {
            let mut spec = good.clone();
            change.as_object().unwrap().iter().for_each(|(key, value)| spec[key] = value.clone());
            let text = reported(spec, name);
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
