//! Kinds that are kept but not acted on by this version: who writes one is told.

use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use crate::registry::Request;

/// (group, kind, what does not happen).
const KINDS: &[(&str, &str, &str)] = &[
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy", "no request is checked against it"),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding", "no request is checked against its policy"),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy", "no request is changed by it"),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding", "no request is changed by its policy"),
    ("apiextensions.k8s.io", "CustomResourceDefinition", "the resource it defines is not served"),
    ("apiregistration.k8s.io", "APIService", "requests for its group are not passed on"),
    ("networking.k8s.io", "NetworkPolicy", "no traffic is restricted by it"),
];

/// Warns the writer of an object that nothing comes of.
pub fn warn(request: &Request, object: &Value) {
    if let Some(text) = warning(&request.desc.group, &request.desc.kind, object) {
        request.warn(text);
    }
}

fn warning(group: &str, kind: &str, object: &Value) -> Option<String> {
    let (.., what) = KINDS.iter().find(|(g, k, _)| *g == group && *k == kind)?;
    // An APIService without a service is of this server itself.
    if kind == "APIService" && object.at(&["spec", "service"]).is_none_or(Value::is_null) {
        return None;
    }
    Some(format!("this version stores {kind} objects but does not act on them: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_not_acted_on_is_warned_about() {
        let remote = json!({"spec": {"service": {"name": "s"}}});
        for (group, kind, object, warned) in [
            ("networking.k8s.io", "NetworkPolicy", json!({}), true),
            ("networking.k8s.io", "Ingress", json!({}), false),
            ("apiregistration.k8s.io", "APIService", json!({"spec": {"service": null}}), false),
            ("apiregistration.k8s.io", "APIService", remote, true),
            ("", "APIService", json!({"spec": {"service": {}}}), false),
        ] {
            assert_eq!(warning(group, kind, &object).is_some(), warned, "{group} {kind} {object}");
        }
    }

    #[test]
    fn the_table_names_kinds_that_are_served() {
        let served = crate::resources::Registry::builtin();
        for (group, kind, _) in KINDS {
            assert!(served.find_kind(group, kind).is_some(), "{group} {kind}");
        }
    }
}
