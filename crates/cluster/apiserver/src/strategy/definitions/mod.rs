//! Definitions of custom resources (`pkg/apis/apiextensions/validation`, `registry/customresourcedefinition`).

mod spec;
mod versions;

use kinit_apimachinery::meta::{Meta, strings};
use kinit_apimachinery::status::FieldErrors;
use kinit_apimachinery::structural::Rules;
use kinit_apimachinery::time;
use serde_json::{Value, json};

use self::spec::{Asked, check_name, check_names, check_spec, check_stored, is_review};
use super::tools::{absent, empty, items, object};
use super::{Hooks, PLAIN, webhooks};
use crate::definitions::{APPROVAL, FINALIZER, approval_problem};

/// The hooks of definitions.
pub(super) const HOOKS: Hooks = Hooks {
    default,
    prepare_create,
    prepare_update,
    prepare_delete,
    validate_create,
    validate_update,
    validate_sub,
    ..PLAIN
};

/// `SetDefaults_CustomResourceDefinitionSpec`.
fn default(definition: &mut Value) {
    let spec = object(definition, "spec");
    let kind = spec.str_at(&["names", "kind"]).to_owned();
    if spec.get("names").is_some_and(Value::is_object) && !kind.is_empty() {
        empty(&mut spec["names"], "singular", kind.to_lowercase());
        empty(&mut spec["names"], "listKind", format!("{kind}List"));
    }
    absent(spec, "conversion", json!({"strategy": "None"}));
    if let Some(service) = spec.pointer_mut("/conversion/webhook/clientConfig/service").filter(|s| s.is_object()) {
        absent(service, "port", 443);
    }
}

fn storage_version(definition: &Value) -> Option<&str> {
    let stored = |v: &&Value| v.get("storage") == Some(&Value::Bool(true));
    items(definition, &["spec", "versions"]).iter().find(stored).map(|v| v.str_at(&["name"]))
}

/// A new definition has the status that follows from it.
fn prepare_create(definition: &mut Value) {
    let stored: Vec<String> = storage_version(definition).map(str::to_owned).into_iter().collect();
    definition["status"] = json!({"storedVersions": stored});
}

/// The version that objects are stored in from now on is one that they may be stored in.
fn prepare_update(new: &mut Value, _old: &Value) {
    let Some(stored) = storage_version(new).map(str::to_owned) else { return };
    let status = object(new, "status");
    let mut versions = strings(status.get("storedVersions"));
    if !versions.contains(&stored) {
        versions.push(stored);
        status["storedVersions"] = versions.into();
    }
}

/// Its objects go first.
fn prepare_delete(definition: &mut Value) {
    let mut finalizers = definition.finalizers();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        finalizers.push(FINALIZER.into());
        definition["metadata"]["finalizers"] = finalizers.into();
    }
    let status = object(definition, "status");
    absent(status, "conditions", json!([]));
    let Some(list) = status["conditions"].as_array_mut() else { return };
    list.retain(|c| c.str_at(&["type"]) != "Terminating");
    list.push(json!({"lastTransitionTime": time::format(jiff::Timestamp::now()),
        "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
        "reason": "InstanceDeletionPending", "status": "True", "type": "Terminating"}));
}

/// `ValidateCustomResourceDefinition`.
fn validate_create(definition: &Value, errors: &mut FieldErrors) {
    let spec = &definition["spec"];
    check_name(definition, errors);
    let asked = Asked { rules: Rules::ALL, schemas: true, recognized_reviews: true, good_bundle: false };
    check_spec(spec, &asked, errors);
    check_names(&definition["status"]["acceptedNames"], "status.acceptedNames", errors);
    check_stored(definition, errors);
    if let Some(problem) = approval_problem(spec.str_at(&["group"]), definition.annotation(APPROVAL)) {
        approval_error(definition, problem, errors);
    }
    preserve(spec, None, errors);
}

/// `ValidateCustomResourceDefinitionUpdate`: what was wrong before does not keep the rest from being changed.
fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (spec, before) = (&new["spec"], &old["spec"]);
    let old_versions = items(old, &["spec", "versions"]);
    let schemas: Vec<&Value> = old_versions.iter().filter_map(|v| v.at(&["schema", "openAPIV3Schema"])).collect();
    let reviews = strings(before.at(&["conversion", "webhook", "conversionReviewVersions"]));
    let established = is_established(old);
    let asked = Asked {
        rules: Rules::kept_by(&schemas),
        schemas: schemas.len() == old_versions.len(),
        recognized_reviews: reviews.is_empty() || reviews.iter().any(|v| is_review(v)),
        good_bundle: established && webhooks::is_bundle(before.at(&["conversion", "webhook", "clientConfig"])),
    };
    check_spec(spec, &asked, errors);
    let mut fixed = vec![&["group"][..], &["names", "plural"]];
    if established {
        fixed.extend([&["scope"][..], &["names", "kind"]]);
    }
    for path in fixed.into_iter().filter(|path| spec.at(path) != before.at(path)) {
        let value = spec.at(path).cloned().unwrap_or_default();
        errors.invalid(&format!("spec.{}", path.join(".")), &value, "field is immutable");
    }
    check_names(&new["status"]["acceptedNames"], "status.acceptedNames", errors);
    check_stored(new, errors);
    let problem = |o: &Value| approval_problem(o.str_at(&["spec", "group"]), o.annotation(APPROVAL));
    if let Some(text) = problem(new).filter(|_| new.annotation(APPROVAL) != old.annotation(APPROVAL)) {
        approval_error(new, text, errors);
    }
    preserve(spec, Some(before), errors);
}

/// `ValidateUpdateCustomResourceDefinitionStatus`.
fn validate_sub(_sub: &str, new: &Value, _old: &Value, errors: &mut FieldErrors) {
    check_names(&new["status"]["acceptedNames"], "status.acceptedNames", errors);
}

fn is_established(definition: &Value) -> bool {
    let on = |c: &Value| c.str_at(&["type"]) == "Established" && c.str_at(&["status"]) == "True";
    items(definition, &["status", "conditions"]).iter().any(on)
}

fn approval_error(definition: &Value, problem: &str, errors: &mut FieldErrors) {
    let field = format!("metadata.annotations[{APPROVAL}]");
    match definition.annotation(APPROVAL).filter(|text| !text.is_empty()) {
        Some(text) => errors.invalid(&field, &text.into(), problem),
        None => errors.required(&field, problem),
    }
}

fn preserve(spec: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let on = |spec: &Value| spec.get("preserveUnknownFields") == Some(&Value::Bool(true));
    if on(spec) && !old.is_some_and(on) {
        let detail =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.invalid("spec.preserveUnknownFields", &true.into(), detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Value {
        let mut o = json!({"metadata": {"name": "widgets.example.com"}, "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"spec": {"type": "object", "properties": {"color": {"type": "string"},
                    "size": {"type": "number"}}}}}}}]}});
        default(&mut o);
        prepare_create(&mut o);
        o
    }

    fn reported(o: &Value) -> Vec<String> {
        let mut errors = FieldErrors::default();
        validate_create(o, &mut errors);
        errors.0.into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    }

    #[test]
    fn defaults() {
        let o = good();
        assert_eq!(
            (&o["spec"]["names"]["singular"], &o["spec"]["names"]["listKind"]),
            (&json!("widget"), &json!("WidgetList"))
        );
        assert_eq!(
            (&o["spec"]["conversion"], &o["status"]["storedVersions"]),
            (&json!({"strategy": "None"}), &json!(["v1"]))
        );
        assert_eq!(reported(&o), [""; 0]);
    }

    fn all<const N: usize>(table: [(&str, Value, &str); N]) {
        for (path, value, want) in table {
            let mut o = good();
            let (parent, key) = path.rsplit_once('/').unwrap();
            o.pointer_mut(parent).unwrap()[key] = value;
            let errors = reported(&o);
            assert!(errors.iter().any(|e| e.starts_with(want)), "{path} {want}: {errors:#?}");
        }
    }

    #[test]
    fn mistakes_in_names() {
        all([
            (
                "/metadata/name",
                json!("x"),
                "metadata.name: Invalid value: \"x\": must be spec.names.plural+\".\"+spec.group",
            ),
            ("/spec/group", json!(""), "spec.group: Required value"),
            (
                "/spec/group",
                json!("example"),
                "spec.group: Invalid value: \"example\": should be a domain with at least one dot",
            ),
            (
                "/spec/group",
                json!("x.k8s.io"),
                "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation",
            ),
            (
                "/spec/scope",
                json!("All"),
                "spec.scope: Unsupported value: \"All\": supported values: \"Cluster\", \"Namespaced\"",
            ),
            ("/spec/names/kind", json!("wid_get"), "spec.names.kind: Invalid value: \"wid_get\": may have mixed case"),
            (
                "/spec/names/listKind",
                json!("Widget"),
                "spec.names.listKind: Invalid value: \"Widget\": kind and listKind may not be the same",
            ),
            ("/spec/names/shortNames", json!(["A"]), "spec.names.shortNames[0]: Invalid value: \"A\""),
            ("/spec/versions/0/name", json!("1"), "spec.versions[0].name: Invalid value: \"1\""),
        ]);
    }

    #[test]
    fn mistakes_in_versions() {
        all([
            ("/spec/versions/0/storage", json!(false), "spec.versions: Invalid value: "),
            (
                "/spec/versions/0/schema",
                json!({}),
                "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required",
            ),
            (
                "/spec/versions/0/schema/openAPIV3Schema/type",
                json!("x"),
                "spec.versions[0].schema.openAPIV3Schema.type: ",
            ),
            (
                "/spec/versions/0/schema/openAPIV3Schema/x-kubernetes-validations",
                json!([{"rule": "self.spec.weight > 0"}]),
                "spec.versions[0].schema.openAPIV3Schema.x-kubernetes-validations[0].rule: Invalid value: ",
            ),
            (
                "/spec/versions/0/deprecationWarning",
                json!("x"),
                "spec.versions[0].deprecationWarning: Invalid value: \"x\": can only be set",
            ),
            (
                "/spec/versions/0/subresources",
                json!({"scale": {"specReplicasPath": ".x", "statusReplicasPath": ".status.n"}}),
                "spec.versions[0].subresources.scale.specReplicasPath: Invalid value: \".x\": should be a json path under .spec",
            ),
            (
                "/spec/versions/0/additionalPrinterColumns",
                json!([{"name": "a", "type": "x", "jsonPath": "a"}]),
                "spec.versions[0].additionalPrinterColumns[0].type: Invalid value: \"x\": must be one of boolean,date,integer,number,string",
            ),
        ]);
    }

    #[test]
    fn mistakes_in_columns_and_fields() {
        all([
            (
                "/spec/versions/0/selectableFields",
                json!([{"jsonPath": ".spec.none"}]),
                "spec.versions[0].selectableFields[0].jsonPath: Invalid value: \".spec.none\": is an invalid path",
            ),
            (
                "/spec/versions/0/selectableFields",
                json!([{"jsonPath": ".spec.size"}]),
                "spec.versions[0].selectableFields[0].jsonPath: Invalid value: \".spec.size\": must point to a field of type",
            ),
            (
                "/spec/versions/0/selectableFields",
                json!([{"jsonPath": ".metadata.name"}]),
                "spec.versions[0].selectableFields[0].jsonPath: Invalid value: \".metadata.name\": must not point",
            ),
            (
                "/spec/versions/0/selectableFields",
                json!([{"jsonPath": ".spec.color"}, {"jsonPath": ".spec.color"}]),
                "spec.versions[0].selectableFields[1].jsonPath: Duplicate value",
            ),
            (
                "/spec/conversion",
                json!({"strategy": "x"}),
                "spec.conversion.strategy: Unsupported value: \"x\": supported values: \"None\", \"Webhook\"",
            ),
        ]);
    }

    #[test]
    fn mistakes_in_conversions() {
        all([
            (
                "/spec/conversion",
                json!({"strategy": "Webhook"}),
                "spec.conversion.webhookClientConfig: Required value: required when",
            ),
            (
                "/spec/conversion",
                json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v9"], "clientConfig": {"url": "http://x"}}}),
                "spec.conversion.webhookClientConfig.url: Invalid value: \"http\"",
            ),
            (
                "/spec/conversion",
                json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v9"], "clientConfig": {"url": "https://x"}}}),
                "spec.conversion.conversionReviewVersions: Invalid value: [\"v9\"]: must include at least one of v1, v1beta1",
            ),
            (
                "/spec/conversion",
                json!({"strategy": "None", "webhook": {"conversionReviewVersions": ["v1"]}}),
                "spec.conversion.conversionReviewVersions: Forbidden: should not be set",
            ),
            (
                "/spec/preserveUnknownFields",
                json!(true),
                "spec.preserveUnknownFields: Invalid value: true: cannot set to true",
            ),
            (
                "/status/storedVersions",
                json!(["v0", "v1"]),
                "status.storedVersions[0]: Invalid value: \"v0\": missing from spec.versions",
            ),
        ]);
    }

    #[test]
    fn what_may_not_change_and_what_may_stay_wrong() {
        let mut old = good();
        old["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
        old["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["odd"] = json!({});
        let mut new = old.clone();
        let reported = |new: &Value| {
            let mut errors = FieldErrors::default();
            validate_update(new, &old, &mut errors);
            errors.0.into_iter().map(|c| c.field).collect::<Vec<_>>()
        };
        assert_eq!(reported(&new), [""; 0], "it was not structural before");
        new["spec"]["scope"] = "Cluster".into();
        new["spec"]["names"]["kind"] = "Other".into();
        assert_eq!(reported(&new), ["spec.scope", "spec.names.kind"]);
        let mut moved = old.clone();
        moved["spec"]["versions"][0]["name"] = "v2".into();
        prepare_update(&mut moved, &old);
        assert_eq!(moved["status"]["storedVersions"], json!(["v1", "v2"]));
        assert_eq!(reported(&moved), ["status.storedVersions[0]"], "objects may still be stored as v1");
    }
}
