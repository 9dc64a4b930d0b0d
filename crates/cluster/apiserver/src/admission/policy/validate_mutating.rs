//! What a MutatingAdmissionPolicy and its binding must be (`pkg/apis/admissionregistration/validation`).

use kinit_apimachinery::meta::{Meta, strings};
use kinit_apimachinery::status::FieldErrors;
use serde_json::Value;

use super::parsed::{Names, PatchType, list};
use super::validate::{conditions_and_variables, param_reference};

/// Defaults of policies and bindings.
pub fn default(o: &mut Value) {
    super::validate::default(o);
    if o.str_at(&["kind"]) == "MutatingAdmissionPolicy"
        && let Some(spec) = o.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.entry("reinvocationPolicy").or_insert_with(|| "Never".into());
    }
}

/// Checks a policy, its expressions included.
pub fn policy(o: &Value, errors: &mut FieldErrors) {
    let mut names = Names::of(o);
    let rules = list(o, &["spec", "matchConstraints", "resourceRules"]);
    if o.at(&["spec", "matchConstraints"]).is_none_or(Value::is_null) {
        errors.required("spec.matchConstraints", "");
    } else if rules.is_empty() {
        errors.required("spec.matchConstraints.resourceRules", "");
    }
    for (i, rule) in rules.iter().enumerate() {
        for (j, operation) in strings(rule.get("operations")).iter().enumerate() {
            if !matches!(operation.as_str(), "CREATE" | "UPDATE") {
                let at = format!("spec.matchConstraints.resourceRules[{i}].operations[{j}]");
                errors.not_supported(&at, &operation.as_str().into(), &["CREATE", "UPDATE"]);
            }
        }
    }
    match o.str_at(&["spec", "failurePolicy"]) {
        "Fail" | "Ignore" => {}
        other => errors.not_supported("spec.failurePolicy", &other.into(), &["Fail", "Ignore"]),
    }
    match o.str_at(&["spec", "reinvocationPolicy"]) {
        "Never" | "IfNeeded" => {}
        other => errors.not_supported("spec.reinvocationPolicy", &other.into(), &["IfNeeded", "Never"]),
    }
    conditions_and_variables(o, &mut names, errors);
    let mutations = list(o, &["spec", "mutations"]);
    if mutations.is_empty() {
        errors.required("spec.mutations", "mutations must contain at least one item");
    }
    for (i, mutation) in mutations.iter().enumerate() {
        check(mutation, &format!("spec.mutations[{i}]"), &names, errors);
    }
}

fn check(mutation: &Value, at: &str, names: &Names, errors: &mut FieldErrors) {
    let kind = mutation.str_at(&["patchType"]);
    let (patch, own, other) = match kind {
        "ApplyConfiguration" => (PatchType::ApplyConfiguration, "applyConfiguration", "jsonPatch"),
        "JSONPatch" => (PatchType::JsonPatch, "jsonPatch", "applyConfiguration"),
        "" => return errors.required(&format!("{at}.patchType"), ""),
        other => {
            let known = ["ApplyConfiguration", "JSONPatch"];
            return errors.not_supported(&format!("{at}.patchType"), &other.into(), &known);
        }
    };
    if mutation.get(other).is_some_and(|v| !v.is_null()) {
        errors.forbidden(&format!("{at}.{other}"), &format!("must not specify {other} when patchType is {kind}"));
    }
    let Some(given) = mutation.get(own).filter(|v| !v.is_null()) else {
        return errors.required(&format!("{at}.{own}"), &format!("must specify {own} when patchType is {kind}"));
    };
    let expression = given.str_at(&["expression"]);
    let at = format!("{at}.{own}.expression");
    if expression.trim().is_empty() {
        errors.required(&at, "expression is not specified");
    } else if let Err(problem) = names.mutation(patch, expression) {
        errors.invalid(&at, &expression.into(), &problem);
    }
}

/// Checks a binding.
pub fn binding(o: &Value, errors: &mut FieldErrors) {
    if o.str_at(&["spec", "policyName"]).is_empty() {
        errors.required("spec.policyName", "");
    }
    param_reference(o, errors);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reported(change: &Value) -> String {
        let mut o = json!({"kind": "MutatingAdmissionPolicy", "metadata": {"name": "p"}, "spec": {
            "matchConstraints": {"resourceRules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["pods"]}]},
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'remove', path: '/a'}]"}}]}});
        change.as_object().unwrap().iter().for_each(|(key, value)| o["spec"][key] = value.clone());
        default(&mut o);
        let mut errors = FieldErrors::default();
        policy(&o, &mut errors);
        errors.into_result("", "X", "x").err().map_or_else(String::new, |e| e.message)
    }

    #[test]
    fn upstreams_words() {
        assert_eq!(reported(&json!({})), "");
        for (change, part) in [
            (json!({"mutations": []}), "spec.mutations: Required value: mutations must contain at least one item"),
            (json!({"mutations": [{}]}), "spec.mutations[0].patchType: Required value"),
            (json!({"mutations": [{"patchType": "Merge"}]}), "supported values: \"ApplyConfiguration\", \"JSONPatch\""),
            (json!({"mutations": [{"patchType": "JSONPatch"}]}), "must specify jsonPatch when patchType is JSONPatch"),
            (
                json!({"mutations": [{"patchType": "ApplyConfiguration", "jsonPatch": {}}]}),
                "spec.mutations[0].jsonPatch: Forbidden: must not specify jsonPatch when patchType is ApplyConfiguration",
            ),
            (
                json!({"mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "object.a"}}]}),
                "",
            ),
            (
                json!({"mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{a: }"}}]}),
                "compilation failed: ERROR: <input>:1:11",
            ),
            (
                json!({"mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "1"}}]}),
                "spec.mutations[0].applyConfiguration.expression: Invalid value: \"1\": must evaluate to Object",
            ),
            (json!({"reinvocationPolicy": "Always"}), "spec.reinvocationPolicy: Unsupported value: \"Always\""),
            (json!({"matchConstraints": null}), "spec.matchConstraints: Required value"),
            (
                json!({"matchConstraints": {"resourceRules": [{"operations": ["DELETE"]}]}}),
                "operations[0]: Unsupported value: \"DELETE\": supported values: \"CREATE\", \"UPDATE\"",
            ),
            (json!({"variables": [{"name": "a", "expression": "nope"}]}), "undeclared reference to 'nope'"),
        ] {
            let text = reported(&change);
            assert!(text.contains(part) && part.is_empty() == text.is_empty(), "{part}: {text}");
        }
    }
}
