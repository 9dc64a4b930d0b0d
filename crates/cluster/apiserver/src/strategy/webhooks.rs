//! MutatingWebhookConfiguration and ValidatingWebhookConfiguration (`pkg/apis/admissionregistration/validation`).

use std::collections::HashSet;

use kinit_apimachinery::meta::{Meta, strings};
use kinit_apimachinery::names::{self, NameRule};
use kinit_apimachinery::status::FieldErrors;
use reqwest::Url;
use serde_json::{Value, json};

use super::tools::{absent, each, items, one_of};

const FORM: &str = "; desired format: https://host[/path]";

/// Defaults of both kinds.
pub fn default(o: &mut Value) {
    let mutating = o.str_at(&["kind"]) == "MutatingWebhookConfiguration";
    for hook in each(o, "webhooks") {
        absent(hook, "failurePolicy", "Fail");
        absent(hook, "matchPolicy", "Equivalent");
        absent(hook, "namespaceSelector", json!({}));
        absent(hook, "objectSelector", json!({}));
        absent(hook, "timeoutSeconds", 10);
        if mutating {
            absent(hook, "reinvocationPolicy", "Never");
        }
        for rule in each(hook, "rules") {
            absent(rule, "scope", "*");
        }
        if let Some(service) = hook.get_mut("clientConfig").and_then(|c| c.get_mut("service")) {
            absent(service, "port", 443);
        }
    }
}

/// Checks both kinds.
pub fn validate(o: &Value, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (i, hook) in items(o, &["webhooks"]).iter().enumerate() {
        let at = format!("webhooks[{i}]");
        check_name(hook.str_at(&["name"]), &format!("{at}.name"), errors);
        for (j, rule) in items(hook, &["rules"]).iter().enumerate() {
            check_rule(rule, &format!("{at}.rules[{j}]"), errors);
        }
        check_policies(hook, &at, errors);
        for key in ["namespaceSelector", "objectSelector"] {
            if let Some(selector) = hook.get(key).filter(|s| !s.is_null()) {
                check_selector(selector, &format!("{at}.{key}"), errors);
            }
        }
        check_client(&hook["clientConfig"], &format!("{at}.clientConfig"), true, errors);
        let conditions = hook.get("matchConditions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        crate::admission::conditions::validate(conditions, &format!("{at}.matchConditions"), errors);
        check_versions(hook, &format!("{at}.admissionReviewVersions"), errors);
        let name = hook.str_at(&["name"]);
        if !name.is_empty() && !seen.insert(name) {
            errors.duplicate(&format!("{at}.name"), &name.into());
        }
    }
}

/// `IsFullyQualifiedName`.
fn check_name(name: &str, at: &str, errors: &mut FieldErrors) {
    if name.is_empty() {
        return errors.required(at, "");
    }
    let problems = NameRule::Subdomain.check(name);
    if !problems.is_empty() {
        errors.invalid(at, &name.into(), &problems.join(","));
    } else if name.split('.').count() < 3 {
        errors.invalid(at, &name.into(), "should be a domain with at least three segments separated by dots");
    }
}

fn check_policies(hook: &Value, at: &str, errors: &mut FieldErrors) {
    for (key, allowed) in [
        ("failurePolicy", ["Ignore", "Fail"]),
        ("matchPolicy", ["Exact", "Equivalent"]),
        ("reinvocationPolicy", ["Never", "IfNeeded"]),
        ("sideEffects", ["None", "NoneOnDryRun"]),
    ] {
        match hook.get(key).filter(|v| !v.is_null()) {
            Some(value) => one_of(value, &format!("{at}.{key}"), &allowed, errors),
            None if key == "sideEffects" => {
                errors.required(&format!("{at}.{key}"), "must specify one of None, NoneOnDryRun");
            }
            None => {}
        }
    }
    if let Some(seconds) = hook.get("timeoutSeconds").filter(|s| s.as_i64().is_none_or(|s| !(1..=30).contains(&s))) {
        errors.invalid(&format!("{at}.timeoutSeconds"), seconds, "the timeout value must be between 1 and 30 seconds");
    }
}

fn check_rule(rule: &Value, at: &str, errors: &mut FieldErrors) {
    let list = |key: &str| strings(rule.get(key));
    for (key, what) in [("operations", "operations"), ("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let values = list(key);
        if values.is_empty() {
            errors.required(&format!("{at}.{key}"), "");
        }
        if values.len() > 1 && values.iter().any(|v| v == "*") {
            let text = format!("if '*' is present, must not specify other {what}");
            errors.invalid(&format!("{at}.{key}"), &rule[key], &text);
        }
    }
    for (i, operation) in list("operations").iter().enumerate() {
        let allowed = ["*", "CREATE", "UPDATE", "DELETE", "CONNECT"];
        one_of(&operation.as_str().into(), &format!("{at}.operations[{i}]"), &allowed, errors);
    }
    for (i, _) in list("apiVersions").iter().enumerate().filter(|(_, v)| v.is_empty()) {
        errors.required(&format!("{at}.apiVersions[{i}]"), "");
    }
    check_resources(&list("resources"), &format!("{at}.resources"), errors);
    if let Some(scope) = rule.get("scope").filter(|s| !s.is_null()) {
        one_of(scope, &format!("{at}.scope"), &["*", "Cluster", "Namespaced"], errors);
    }
}

/// `validateResources`: a wildcard beside what it covers is a mistake.
fn check_resources(resources: &[String], at: &str, errors: &mut FieldErrors) {
    if resources.is_empty() {
        errors.required(at, "");
    }
    let (mut all_subs, mut all_resources) = (HashSet::new(), HashSet::new());
    for (i, text) in resources.iter().enumerate() {
        let field = format!("{at}[{i}]");
        if text.is_empty() {
            errors.required(&field, "");
        }
        let Some((resource, sub)) = text.split_once('/') else { continue };
        if all_subs.contains(resource) {
            let detail = format!("if '{resource}/*' is present, must not specify {text}");
            errors.invalid(&field, &text.as_str().into(), &detail);
        }
        if all_resources.contains(sub) {
            let detail = format!("if '*/{sub}' is present, must not specify {text}");
            errors.invalid(&field, &text.as_str().into(), &detail);
        }
        if sub == "*" {
            all_subs.insert(resource);
        }
        if resource == "*" {
            all_resources.insert(sub);
        }
    }
    let has = |wanted: &str| resources.iter().any(|r| r == wanted);
    if resources.len() > 1 && has("*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.invalid(at, &resources.to_vec().into(), detail);
    }
    if has("*") && resources.iter().any(|r| r != "*" && !r.contains('/')) {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(at, &resources.to_vec().into(), detail);
    }
}

/// `ValidateLabelSelector`.
pub(super) fn check_selector(selector: &Value, at: &str, errors: &mut FieldErrors) {
    for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        let field = format!("{at}.matchLabels");
        for problem in names::check_qualified_name(key) {
            errors.invalid(&field, &key.as_str().into(), &problem);
        }
        for problem in names::check_label_value(value.as_str().unwrap_or_default()) {
            errors.invalid(&field, value, &problem);
        }
    }
    for (i, term) in items(selector, &["matchExpressions"]).iter().enumerate() {
        let (field, values) = (format!("{at}.matchExpressions[{i}]"), strings(term.get("values")));
        match term.str_at(&["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(&format!("{field}.values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.forbidden(
                &format!("{field}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&format!("{field}.operator"), &other.into(), "not a valid selector operator"),
        }
        let key = term.str_at(&["key"]);
        for problem in names::check_qualified_name(key) {
            errors.invalid(&format!("{field}.key"), &key.into(), &problem);
        }
        for (j, value) in values.iter().enumerate() {
            for problem in names::check_label_value(value) {
                errors.invalid(&format!("{field}.values[{j}]"), &value.as_str().into(), &problem);
            }
        }
    }
}

/// `ValidateWebhookURL`, `ValidateWebhookService` and, where `bundle` asks for it, `ValidateCABundle`, of a
/// `WebhookClientConfig`.
pub(super) fn check_client(config: &Value, at: &str, bundle: bool, errors: &mut FieldErrors) {
    let given = |key: &str| config.get(key).filter(|v| !v.is_null());
    match (given("url"), given("service")) {
        (Some(url), None) => check_url(url.as_str().unwrap_or_default(), &format!("{at}.url"), errors),
        (None, Some(service)) => check_service(service, &format!("{at}.service"), errors),
        _ => errors.required(at, "exactly one of url or service is required"),
    }
    if bundle && !is_bundle(Some(config)) {
        errors.invalid(
            &format!("{at}.caBundle"),
            &config["caBundle"],
            "unable to load root certificates: unable to parse bytes as PEM block",
        );
    }
}

/// Whether the certificates of a `WebhookClientConfig` can be read, if it has some.
pub(super) fn is_bundle(config: Option<&Value>) -> bool {
    use base64::Engine;
    let bundle = config.map(|c| c.str_at(&["caBundle"])).unwrap_or_default();
    let pem = base64::engine::general_purpose::STANDARD.decode(bundle).unwrap_or_default();
    bundle.is_empty() || reqwest::Certificate::from_pem_bundle(&pem).is_ok_and(|certs| !certs.is_empty())
}

/// `ValidateWebhookURL`.
fn check_url(text: &str, at: &str, errors: &mut FieldErrors) {
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) if text.contains("://") => {
            return errors.required(at, &format!("url must be a valid URL: {error}{FORM}"));
        }
        Err(_) => {
            return errors.invalid(at, &"".into(), &format!("'https' is the only allowed URL scheme{FORM}"));
        }
    };
    if url.scheme() != "https" {
        errors.invalid(at, &url.scheme().into(), &format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        errors.invalid(at, &"".into(), &format!("host must be provided{FORM}"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // A password is not repeated, other than upstream does.
        errors.invalid(at, &url.username().into(), "user information is not permitted in the URL");
    }
    if let Some(fragment) = url.fragment().filter(|f| !f.is_empty()) {
        errors.invalid(at, &fragment.into(), "fragments are not permitted in the URL");
    }
    if let Some(query) = url.query().filter(|q| !q.is_empty()) {
        errors.invalid(at, &query.into(), "query parameters are not permitted in the URL");
    }
}

/// `ValidateWebhookService`.
fn check_service(service: &Value, at: &str, errors: &mut FieldErrors) {
    for key in ["name", "namespace"] {
        let text = service.str_at(&[key]);
        if text.is_empty() {
            errors.required(&format!("{at}.{key}"), &format!("service {key} is required"));
        }
    }
    let port = service.get("port").cloned().unwrap_or_default();
    if port.as_i64().is_none_or(|p| !(1..=65535).contains(&p)) {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        errors.invalid(&format!("{at}.port"), &port, detail);
    }
    let path = service.str_at(&["path"]);
    let field = format!("{at}.path");
    match path {
        "" | "/" => return,
        "//" => return errors.invalid(&field, &path.into(), "segment[0] may not be empty"),
        _ => {}
    }
    if !path.starts_with('/') {
        errors.invalid(&field, &path.into(), "must start with a '/'");
    }
    let inner = path.strip_prefix('/').unwrap_or(path);
    for (i, step) in inner.strip_suffix('/').unwrap_or(inner).split('/').enumerate() {
        if step.is_empty() {
            errors.invalid(&field, &path.into(), &format!("segment[{i}] may not be empty"));
            continue;
        }
        for problem in NameRule::Subdomain.check(step) {
            errors.invalid(&field, &path.into(), &format!("segment[{i}]: {problem}"));
        }
    }
}

/// `validateAdmissionReviewVersions`; v1 is the only version that is spoken here.
fn check_versions(hook: &Value, at: &str, errors: &mut FieldErrors) {
    let versions = strings(hook.get("admissionReviewVersions"));
    if versions.is_empty() {
        return errors.required(at, "must specify one of v1, v1beta1");
    }
    let mut seen = HashSet::new();
    for (i, version) in versions.iter().enumerate() {
        let field = format!("{at}[{i}]");
        if !seen.insert(version.as_str()) {
            errors.invalid(&field, &version.as_str().into(), "duplicate version");
            continue;
        }
        for problem in NameRule::Dns1035.check(version) {
            errors.invalid(&field, &version.as_str().into(), &problem);
        }
    }
    if !versions.iter().any(|v| v == "v1") {
        let text = "must include v1: this version sends no other";
        errors.invalid(at, &hook["admissionReviewVersions"], text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Value {
        let mut o = json!({"kind": "MutatingWebhookConfiguration", "webhooks": [{
            "name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"name": "s", "namespace": "n", "path": "/mutate"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods", "pods/status"]}],
        }]});
        default(&mut o);
        o
    }

    #[test]
    fn defaults() {
        let hook = &good()["webhooks"][0];
        for (key, want) in [
            ("failurePolicy", json!("Fail")),
            ("matchPolicy", json!("Equivalent")),
            ("reinvocationPolicy", json!("Never")),
            ("timeoutSeconds", json!(10)),
            ("namespaceSelector", json!({})),
        ] {
            assert_eq!(hook[key], want, "{key}");
        }
        assert_eq!((&hook["clientConfig"]["service"]["port"], &hook["rules"][0]["scope"]), (&json!(443), &json!("*")));
    }

    #[test]
    fn mistakes_are_told_with_their_paths() {
        let mut errors = FieldErrors::default();
        validate(&good(), &mut errors);
        assert_eq!(errors.0, []);
        for (path, value, field, message) in [
            ("name", json!("a.b"), "name", "should be a domain with at least three segments"),
            ("name", json!(""), "name", "Required value"),
            ("name", json!("A.b.c"), "name", "a lowercase RFC 1123 subdomain"),
            (
                "sideEffects",
                json!("Some"),
                "sideEffects",
                "Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
            ),
            ("sideEffects", json!(null), "sideEffects", "must specify one of None, NoneOnDryRun"),
            ("failurePolicy", json!("x"), "failurePolicy", "supported values: \"Fail\", \"Ignore\""),
            ("timeoutSeconds", json!(31), "timeoutSeconds", "between 1 and 30"),
            ("admissionReviewVersions", json!(["v1beta1"]), "admissionReviewVersions", "must include v1"),
            ("admissionReviewVersions", json!([]), "admissionReviewVersions", "must specify one of"),
            ("admissionReviewVersions", json!(["v1", "v1"]), "admissionReviewVersions[1]", "duplicate version"),
            (
                "matchConditions",
                json!([{"name": "x", "expression": "1"}]),
                "matchConditions[0].expression",
                "must evaluate to bool",
            ),
            ("clientConfig", json!({}), "clientConfig", "exactly one of url or service"),
            (
                "clientConfig",
                json!({"url": "http://h/"}),
                "clientConfig.url",
                "Invalid value: \"http\": 'https' is the only",
            ),
            ("clientConfig", json!({"url": "h/p"}), "clientConfig.url", "'https' is the only"),
            (
                "clientConfig",
                json!({"url": "https://u:p@h/"}),
                "clientConfig.url",
                "Invalid value: \"u\": user information",
            ),
            ("clientConfig", json!({"url": "https://h/#f"}), "clientConfig.url", "fragments are not permitted"),
            ("clientConfig", json!({"url": "https://h/?q"}), "clientConfig.url", "query parameters are not"),
            (
                "clientConfig",
                json!({"url": "https://h/", "caBundle": "eA=="}),
                "clientConfig.caBundle",
                "unable to load root",
            ),
            (
                "clientConfig",
                json!({"service": {"name": "s", "namespace": "n", "port": 0}}),
                "clientConfig.service.port",
                "port is not valid",
            ),
            (
                "clientConfig",
                json!({"service": {"name": "s", "namespace": "n", "port": 1, "path": "x"}}),
                "clientConfig.service.path",
                "must start with a '/'",
            ),
            (
                "clientConfig",
                json!({"service": {"name": "s", "namespace": "n", "port": 1, "path": "/a//b"}}),
                "clientConfig.service.path",
                "segment[1] may not be empty",
            ),
            (
                "objectSelector",
                json!({"matchExpressions": [{"key": "a", "operator": "In"}]}),
                "objectSelector.matchExpressions[0].values",
                "must be specified",
            ),
            ("namespaceSelector", json!({"matchLabels": {"a b": "c"}}), "namespaceSelector.matchLabels", "name part"),
        ] {
            let mut o = good();
            o["webhooks"][0][path] = value.clone();
            reported(&o, &format!("webhooks[0].{field}"), message);
        }
        for (key, value, field, message) in [
            ("operations", json!([]), "operations", "Required value"),
            ("operations", json!(["*", "CREATE"]), "operations", "must not specify other operations"),
            ("operations", json!(["create"]), "operations[0]", "Unsupported value"),
            ("apiGroups", json!(["*", ""]), "apiGroups", "must not specify other API groups"),
            ("apiVersions", json!([""]), "apiVersions[0]", "Required value"),
            ("resources", json!(["pods/*", "pods/exec"]), "resources[1]", "if 'pods/*' is present"),
            ("resources", json!(["*/*", "pods"]), "resources", "if '*/*' is present"),
            ("resources", json!(["*", "pods"]), "resources", "if '*' is present"),
            ("scope", json!("x"), "scope", "supported values"),
        ] {
            let mut o = good();
            o["webhooks"][0]["rules"][0][key] = value.clone();
            reported(&o, &format!("webhooks[0].rules[0].{field}"), message);
        }
        let mut twice = good();
        let hook = twice["webhooks"][0].clone();
        twice["webhooks"].as_array_mut().unwrap().push(hook);
        reported(&twice, "webhooks[1].name", "Duplicate value");
    }

    fn reported(o: &Value, field: &str, message: &str) {
        let mut errors = FieldErrors::default();
        validate(o, &mut errors);
        let hit = errors.0.iter().any(|c| c.field == field && c.message.contains(message));
        assert!(hit, "{field} {message}: {:?}", errors.0);
    }
}
