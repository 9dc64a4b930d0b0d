//! What a definition says of itself: its group, names, conversion and the versions it may be stored in.

use kinit_apimachinery::meta::{Meta, strings};
use kinit_apimachinery::names::NameRule;
use kinit_apimachinery::status::FieldErrors;
use kinit_apimachinery::structural::Rules;
use serde_json::Value;

use super::versions::check_versions;
use super::{storage_version, webhooks};
use crate::strategy::tools::items;

/// What is asked of a definition, depending on what it was before.
pub(super) struct Asked {
    pub rules: Rules,
    /// Every version has a schema.
    pub schemas: bool,
    /// A conversion webhook speaks a version of reviews that we do.
    pub recognized_reviews: bool,
    /// Its certificates can be read.
    pub good_bundle: bool,
}

pub(super) fn check_name(definition: &Value, errors: &mut FieldErrors) {
    let spec = &definition["spec"];
    let wanted = format!("{}.{}", spec.str_at(&["names", "plural"]), spec.str_at(&["group"]));
    if definition.name() != wanted {
        errors.invalid("metadata.name", &definition.name().into(), "must be spec.names.plural+\".\"+spec.group");
    }
}

pub(super) fn joined(problems: &[String]) -> Option<String> {
    (!problems.is_empty()).then(|| problems.join(","))
}

pub(super) fn check_spec(spec: &Value, asked: &Asked, errors: &mut FieldErrors) {
    let group = spec.str_at(&["group"]);
    match joined(&NameRule::Subdomain.check(group)) {
        _ if group.is_empty() => errors.required("spec.group", ""),
        Some(problem) => errors.invalid("spec.group", &group.into(), &problem),
        None if !group.contains('.') => {
            errors.invalid("spec.group", &group.into(), "should be a domain with at least one dot");
        }
        None => {}
    }
    match spec.str_at(&["scope"]) {
        "" => errors.required("spec.scope", ""),
        "Cluster" | "Namespaced" => {}
        other => errors.not_supported_of("spec.scope", &other.into(), &["Cluster", "Namespaced"]),
    }
    check_versions(spec, asked, errors);
    for key in ["plural", "singular", "kind", "listKind"] {
        if spec.str_at(&["names", key]).is_empty() {
            errors.required(&format!("spec.names.{key}"), "");
        }
    }
    check_names(&spec["names"], "spec.names", errors);
    check_conversion(spec, asked, errors);
}

/// `ValidateCustomResourceDefinitionNames`.
pub(super) fn check_names(names: &Value, at: &str, errors: &mut FieldErrors) {
    for key in ["plural", "singular", "kind", "listKind"] {
        let (text, mixed) = (names.str_at(&[key]), key.to_lowercase().contains("kind"));
        let checked = if mixed { text.to_lowercase() } else { text.to_owned() };
        if let Some(problem) = joined(&NameRule::Dns1035.check(&checked)).filter(|_| !text.is_empty()) {
            let may = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            errors.invalid(&format!("{at}.{key}"), &text.into(), &format!("{may}{problem}"));
        }
    }
    for key in ["shortNames", "categories"] {
        for (i, text) in strings(names.get(key)).iter().enumerate() {
            if let Some(problem) = joined(&NameRule::Dns1035.check(text)) {
                errors.invalid(&format!("{at}.{key}[{i}]"), &text.as_str().into(), &problem);
            }
        }
    }
    let (kind, list) = (names.str_at(&["kind"]), names.str_at(&["listKind"]));
    if !kind.is_empty() && kind == list {
        errors.invalid(&format!("{at}.listKind"), &list.into(), "kind and listKind may not be the same");
    }
}

/// `ValidateCustomResourceDefinitionStoredVersions`.
pub(super) fn check_stored(definition: &Value, errors: &mut FieldErrors) {
    let at = "status.storedVersions";
    let stored = strings(definition.at(&["status", "storedVersions"]));
    if stored.is_empty() {
        return errors.invalid(at, &Value::Array(Vec::new()), "must have at least one stored version");
    }
    if let Some(storage) = storage_version(definition).filter(|s| !stored.iter().any(|v| v == s)) {
        errors.invalid(at, &stored.clone().into(), &format!("must have the storage version {storage}"));
    }
    let names: Vec<&str> = items(definition, &["spec", "versions"]).iter().map(|v| v.str_at(&["name"])).collect();
    for (i, version) in stored.iter().enumerate().filter(|(_, v)| !names.contains(&v.as_str())) {
        let detail = format!(
            "missing from spec.versions; {version} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {version} and removes {version} from status.storedVersions"
        );
        errors.invalid(&format!("{at}[{i}]"), &version.as_str().into(), &detail);
    }
}

pub(super) fn is_review(version: &str) -> bool {
    matches!(version, "v1" | "v1beta1")
}

/// `validateCustomResourceConversion`.
fn check_conversion(spec: &Value, asked: &Asked, errors: &mut FieldErrors) {
    let Some(conversion) = spec.get("conversion").filter(|c| c.is_object()) else { return };
    let (at, strategy) = ("spec.conversion", conversion.str_at(&["strategy"]));
    if strategy != "None" && spec.get("preserveUnknownFields") == Some(&Value::Bool(true)) {
        let detail = "must be None if spec.preserveUnknownFields is true";
        errors.invalid(&format!("{at}.strategy"), &strategy.into(), detail);
    }
    match strategy {
        "" => errors.required(&format!("{at}.strategy"), ""),
        "None" | "Webhook" => {}
        other => errors.not_supported_of(&format!("{at}.strategy"), &other.into(), &["None", "Webhook"]),
    }
    let (client, reviews) =
        (conversion.at(&["webhook", "clientConfig"]), strings(conversion.at(&["webhook", "conversionReviewVersions"])));
    let (at_client, at_reviews) = (format!("{at}.webhookClientConfig"), format!("{at}.conversionReviewVersions"));
    if strategy != "Webhook" {
        for (is_set, field) in [(client.is_some(), at_client), (!reviews.is_empty(), at_reviews)] {
            if is_set {
                errors.forbidden(&field, "should not be set when strategy is not set to Webhook");
            }
        }
        return;
    }
    match client {
        Some(client) => webhooks::check_client(client, &at_client, asked.good_bundle, errors),
        None => errors.required(&at_client, "required when strategy is set to Webhook"),
    }
    if reviews.is_empty() {
        errors.required(&at_reviews, "");
    }
    for (i, version) in reviews.iter().enumerate() {
        let field = format!("{at_reviews}[{i}]");
        if reviews[..i].contains(version) {
            errors.invalid(&field, &version.as_str().into(), "duplicate version");
            continue;
        }
        for problem in NameRule::Dns1035.check(version) {
            errors.invalid(&field, &version.as_str().into(), &problem);
        }
    }
    if asked.recognized_reviews && !reviews.is_empty() && !reviews.iter().any(|v| is_review(v)) {
        errors.invalid(&at_reviews, &reviews.into(), "must include at least one of v1, v1beta1");
    }
}
