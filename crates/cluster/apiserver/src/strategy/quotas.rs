//! ResourceQuota (`ValidateResourceQuotaSpec`).

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::quantity::Quantity;
use kinit_apimachinery::status::FieldErrors;
use kinit_component_helpers::quota::SCOPES;
use serde_json::Value;

use super::tools::items;

/// What is counted in whole objects.
const COUNTS: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

/// What pods ask for, in CPU and memory.
const COMPUTE: &[&str] = &["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

const STORAGE: &[&str] =
    &["ephemeral-storage", "limits.ephemeral-storage", "requests.ephemeral-storage", "requests.storage"];

/// Scopes that hold or do not, without names to choose from.
const PLAIN: &[&str] = &["BestEffort", "NotBestEffort", "Terminating", "NotTerminating", "CrossNamespacePodAffinity"];

pub fn validate(o: &Value, errors: &mut FieldErrors) {
    for (name, amount) in o.at(&["spec", "hard"]).and_then(Value::as_object).into_iter().flatten() {
        limit("spec.hard", name, amount, errors);
    }
    let scopes: Vec<&str> = items(o, &["spec", "scopes"]).iter().filter_map(Value::as_str).collect();
    let shown = o.at(&["spec", "scopes"]).cloned().unwrap_or_default();
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            errors.invalid("spec.scopes", &shown, "unsupported scope");
        } else if !fits(o, scope) {
            errors.invalid("spec.scopes", &shown, "unsupported scope applied to resource");
        }
    }
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| scopes.contains(scope)) {
            errors.invalid("spec.scopes", &shown, "conflicting scopes");
        }
    }
    for requirement in items(o, &["spec", "scopeSelector", "matchExpressions"]) {
        selector(o, requirement, errors);
    }
}

pub fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let sorted = |o: &Value| {
        let mut names = kinit_apimachinery::meta::strings(o.at(&["spec", "scopes"]));
        names.sort_unstable();
        names.dedup();
        names
    };
    if sorted(new) != sorted(old) {
        errors.invalid("spec.scopes", &new.at(&["spec", "scopes"]).cloned().unwrap_or_default(), "field is immutable");
    }
}

/// `ValidateResourceQuotaResourceName`, `ValidateResourceQuantityValue`.
pub fn limit(path: &str, name: &str, amount: &Value, errors: &mut FieldErrors) {
    let field = format!("{path}[{name}]");
    let pages = name.strip_prefix("requests.").unwrap_or(name).starts_with("hugepages-");
    let standard = [COUNTS, COMPUTE, STORAGE].iter().any(|names| names.contains(&name)) || pages;
    if !name.contains('/') && !standard {
        errors.invalid(&field, &name.into(), "must be a standard resource for quota");
    }
    let Some(quantity) = amount.as_str().and_then(|text| text.parse::<Quantity>().ok()) else {
        errors.invalid(&field, amount, "must be a quantity");
        return;
    };
    if quantity.is_negative() {
        errors.invalid(&field, amount, "must be greater than or equal to 0");
    }
    if COUNTS.contains(&name) && quantity != quantity.rounded_up() {
        errors.invalid(&field, amount, "must be an integer");
    }
}

/// Whether the limits are of what the scope is about (`IsResourceQuotaScopeValidForResource`); names that are not
/// standard are.
fn fits(o: &Value, scope: &str) -> bool {
    let hard = o.at(&["spec", "hard"]).and_then(Value::as_object);
    hard.into_iter().flatten().all(|(name, _)| {
        let name = name.as_str();
        let standard = [COUNTS, COMPUTE, STORAGE].iter().any(|names| names.contains(&name));
        !standard
            || match scope {
                "BestEffort" => name == "pods",
                "VolumeAttributesClass" => matches!(name, "persistentvolumeclaims" | "requests.storage"),
                _ => name == "pods" || COMPUTE.contains(&name),
            }
    })
}

/// `validateScopedResourceSelectorRequirement`.
fn selector(o: &Value, requirement: &Value, errors: &mut FieldErrors) {
    const FIELD: &str = "spec.scopeSelector.matchExpressions";
    let (scope, operator) = (requirement.str_at(&["scopeName"]), requirement.str_at(&["operator"]));
    if !SCOPES.contains(&scope) {
        errors.invalid(&format!("{FIELD}.scopeName"), &scope.into(), "unsupported scope");
    } else if !fits(o, scope) {
        errors.invalid(FIELD, requirement, "unsupported scope applied to resource");
    }
    if PLAIN.contains(&scope) && operator != "Exists" {
        let detail = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, \
                      ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
        errors.invalid(&format!("{FIELD}.operator"), &operator.into(), detail);
    }
    let values = requirement.get("values").and_then(Value::as_array).filter(|values| !values.is_empty());
    match (operator, values) {
        ("In" | "NotIn", None) => errors.required(
            &format!("{FIELD}.values"),
            "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
        ),
        ("Exists" | "DoesNotExist", Some(values)) => errors.invalid(
            &format!("{FIELD}.values"),
            &values.clone().into(),
            "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
        ),
        ("In" | "NotIn" | "Exists" | "DoesNotExist", _) => {}
        _ => errors.invalid(&format!("{FIELD}.operator"), &operator.into(), "not a valid selector operator"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn specs() {
        let class = |scope: &str, operator: &str, values: Value| {
            json!({"hard": {"pods": "1"}, "scopeSelector": {"matchExpressions": [
            {"scopeName": scope, "operator": operator, "values": values}]}})
        };
        for (spec, fields) in [
            (json!({}), vec![]),
            (
                json!({"hard": {"pods": "2", "requests.storage": "1Gi", "count/jobs.batch": "1", "requests.hugepages-2Mi": "1",
                    "requests.example.com/gpu": "1", "gold.storageclass.storage.k8s.io/requests.storage": "1"}}),
                vec![],
            ),
            (json!({"hard": {"nonsense": "2"}}), vec!["spec.hard[nonsense]"]),
            (json!({"hard": {"pods": "-1"}}), vec!["spec.hard[pods]"]),
            (json!({"hard": {"pods": "1500m"}}), vec!["spec.hard[pods]"]),
            (json!({"hard": {"cpu": "much"}}), vec!["spec.hard[cpu]"]),
            (json!({"hard": {"pods": "1"}, "scopes": ["BestEffort"]}), vec![]),
            (json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort"]}), vec!["spec.scopes"]),
            (json!({"hard": {"services": "1"}, "scopes": ["Terminating"]}), vec!["spec.scopes"]),
            (json!({"scopes": ["Sometimes"]}), vec!["spec.scopes"]),
            (json!({"scopes": ["Terminating", "NotTerminating"]}), vec!["spec.scopes"]),
            (class("PriorityClass", "In", json!(["high"])), vec![]),
            (class("PriorityClass", "In", json!([])), vec!["spec.scopeSelector.matchExpressions.values"]),
            (class("PriorityClass", "Exists", json!(["high"])), vec!["spec.scopeSelector.matchExpressions.values"]),
            (class("PriorityClass", "Like", json!([])), vec!["spec.scopeSelector.matchExpressions.operator"]),
            (class("BestEffort", "DoesNotExist", json!([])), vec!["spec.scopeSelector.matchExpressions.operator"]),
            (class("Sometimes", "Exists", json!([])), vec!["spec.scopeSelector.matchExpressions.scopeName"]),
        ] {
            let mut errors = FieldErrors::default();
            validate(&json!({"spec": spec}), &mut errors);
            let got: Vec<&str> = errors.0.iter().map(|c| c.field.as_str()).collect();
            assert_eq!(got, fields, "{spec}");
        }
    }

    #[test]
    fn scopes_stay() {
        for (new, ok) in
            [(json!(["A", "B"]), true), (json!(["B", "A"]), true), (json!(["A"]), false), (json!(null), false)]
        {
            let mut errors = FieldErrors::default();
            validate_update(&json!({"spec": {"scopes": new}}), &json!({"spec": {"scopes": ["A", "B"]}}), &mut errors);
            assert_eq!(errors.0.is_empty(), ok, "{new}");
        }
    }
}
