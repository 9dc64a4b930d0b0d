//! FlowSchemas and PriorityLevelConfigurations (`pkg/apis/flowcontrol/{v1/defaults,validation}`).

use kinit_apimachinery::meta::{Meta, strings};
use kinit_apimachinery::status::FieldErrors;
use serde_json::{Value, json};

use super::tools::{absent, empty, items, object};
use crate::flow::defaults::{self, is_mandatory};

pub fn default_schema(o: &mut Value) {
    empty(object(o, "spec"), "matchingPrecedence", 1000);
}

pub fn default_level(o: &mut Value) {
    let spec = object(o, "spec");
    if spec.str_at(&["type"]) == "Exempt" {
        let exempt = object(spec, "exempt");
        absent(exempt, "nominalConcurrencyShares", 0);
        absent(exempt, "lendablePercent", 0);
        return;
    }
    let Some(limited) = spec.get_mut("limited").filter(|l| l.is_object()) else { return };
    absent(limited, "nominalConcurrencyShares", 30);
    absent(limited, "lendablePercent", 0);
    if let Some(queuing) = limited.get_mut("limitResponse").and_then(|r| r.get_mut("queuing")).filter(|q| q.is_object())
    {
        empty(queuing, "queues", 64);
        empty(queuing, "handSize", 8);
        empty(queuing, "queueLengthLimit", 50);
    }
}

/// An object that the API cannot do without has the spec that it has.
fn is_as_it_must_be(o: &Value, wanted: &[Value], errors: &mut FieldErrors) {
    let name = o.name();
    if is_mandatory(name)
        && let Some(own) = wanted.iter().find(|w| w.name() == name)
        && own.get("spec") != o.get("spec")
    {
        errors.invalid("spec", &o["spec"], &format!("spec of '{name}' must equal the fixed value"));
    }
}

pub fn validate_schema(o: &Value, errors: &mut FieldErrors) {
    is_as_it_must_be(o, &defaults::schemas(), errors);
    let precedence = o.at(&["spec", "matchingPrecedence"]).and_then(Value::as_i64).unwrap_or_default();
    if precedence < 1 {
        errors.invalid("spec.matchingPrecedence", &precedence.into(), "must be a positive value");
    } else if precedence > 10_000 {
        errors.invalid("spec.matchingPrecedence", &precedence.into(), "must not be greater than 10000");
    } else if precedence == 1 && o.name() != "exempt" {
        errors.invalid(
            "spec.matchingPrecedence",
            &1.into(),
            "only the schema named 'exempt' may have matchingPrecedence 1",
        );
    }
    if o.str_at(&["spec", "priorityLevelConfiguration", "name"]).is_empty() {
        errors.required("spec.priorityLevelConfiguration.name", "must reference a priority level");
    }
    let method = o.at(&["spec", "distinguisherMethod"]).filter(|m| m.is_object());
    if let Some(kind) = method.map(|m| m.str_at(&["type"]))
        && !matches!(kind, "ByUser" | "ByNamespace")
    {
        errors.not_supported("spec.distinguisherMethod.type", &kind.into(), &["ByNamespace", "ByUser"]);
    }
    for (i, rule) in items(o, &["spec", "rules"]).iter().enumerate() {
        validate_rule(rule, &format!("spec.rules[{i}]"), errors);
    }
}

fn validate_rule(rule: &Value, at: &str, errors: &mut FieldErrors) {
    let subjects = items(rule, &["subjects"]);
    if subjects.is_empty() {
        errors.required(&format!("{at}.subjects"), "subjects must contain at least one value");
    }
    for (i, subject) in subjects.iter().enumerate() {
        validate_subject(subject, &format!("{at}.subjects[{i}]"), errors);
    }
    let (resources, paths) = (items(rule, &["resourceRules"]), items(rule, &["nonResourceRules"]));
    if resources.is_empty() && paths.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.required(at, detail);
    }
    for (i, resource) in resources.iter().enumerate() {
        let at = format!("{at}.resourceRules[{i}]");
        for key in ["verbs", "apiGroups", "resources"] {
            validate_list(resource, key, &at, errors);
        }
        let cluster = resource.get("clusterScope").and_then(Value::as_bool).unwrap_or_default();
        let namespaces = strings(resource.get("namespaces"));
        if namespaces.is_empty() && !cluster {
            let detail = "resource rules that are not cluster scoped must supply at least one namespace";
            errors.required(&format!("{at}.namespaces"), detail);
        }
        if namespaces.len() > 1 && namespaces.iter().any(|n| n == "*") {
            let detail = "'*' must not be mixed with other values";
            errors.invalid(&format!("{at}.namespaces"), &json!(namespaces), detail);
        }
    }
    for (i, path) in paths.iter().enumerate() {
        let at = format!("{at}.nonResourceRules[{i}]");
        validate_list(path, "verbs", &at, errors);
        validate_list(path, "nonResourceURLs", &at, errors);
        for (j, url) in strings(path.get("nonResourceURLs")).iter().enumerate().filter(|(_, url)| *url != "*") {
            let field = format!("{at}.nonResourceURLs[{j}]");
            if !url.starts_with('/') {
                errors.invalid(&field, &json!(url), "must start with slash");
            } else if url.trim_end_matches("/*").contains(['*', ' ']) {
                errors.invalid(&field, &json!(url), "wildcard can only do suffix matching");
            }
        }
    }
}

fn validate_list(rule: &Value, key: &str, at: &str, errors: &mut FieldErrors) {
    let list = strings(rule.get(key));
    if list.is_empty() {
        errors.required(&format!("{at}.{key}"), &format!("{key} must contain at least one value"));
    } else if list.len() > 1 && list.iter().any(|v| v == "*") {
        errors.invalid(&format!("{at}.{key}"), &json!(list), "if '*' is present, must not specify other values");
    }
}

fn validate_subject(subject: &Value, at: &str, errors: &mut FieldErrors) {
    let kind = subject.str_at(&["kind"]);
    let (key, fields): (&str, &[&str]) = match kind {
        "User" => ("user", &["name"]),
        "Group" => ("group", &["name"]),
        "ServiceAccount" => ("serviceAccount", &["namespace", "name"]),
        _ => {
            errors.not_supported(&format!("{at}.kind"), &kind.into(), &["Group", "ServiceAccount", "User"]);
            return;
        }
    };
    match subject.get(key).filter(|part| part.is_object()) {
        None => {
            errors.required(&format!("{at}.{key}"), &format!("{key} is required when subject kind is '{kind}'"));
        }
        Some(part) => {
            for field in fields.iter().filter(|field| part.str_at(&[field]).is_empty()) {
                errors.required(&format!("{at}.{key}.{field}"), "");
            }
        }
    }
    for other in ["user", "group", "serviceAccount"].iter().filter(|other| **other != key) {
        if subject.get(*other).is_some_and(Value::is_object) {
            errors
                .forbidden(&format!("{at}.{other}"), &format!("{other} is forbidden when subject kind is not its own"));
        }
    }
}

pub fn validate_level(o: &Value, errors: &mut FieldErrors) {
    is_as_it_must_be(o, &defaults::levels(), errors);
    let has = |key: &str| o.at(&["spec", key]).is_some_and(Value::is_object);
    match o.str_at(&["spec", "type"]) {
        "Exempt" => {
            if has("limited") {
                errors.forbidden("spec.limited", "must be nil if the type is not Limited");
            }
            if o.name() != "exempt" {
                errors.invalid("spec.type", &"Exempt".into(), "must be 'Limited' except for the level named 'exempt'");
            }
        }
        "Limited" => {
            if has("exempt") {
                errors.forbidden("spec.exempt", "must be nil if the type is Limited");
            }
            if has("limited") {
                validate_limited(&o["spec"]["limited"], errors);
            } else {
                errors.required("spec.limited", "must not be empty when type is Limited");
            }
        }
        other => errors.not_supported("spec.type", &other.into(), &["Exempt", "Limited"]),
    }
}

fn validate_limited(limited: &Value, errors: &mut FieldErrors) {
    let number = |path: &[&str]| limited.at(path).and_then(Value::as_i64);
    let shares = number(&["nominalConcurrencyShares"]).unwrap_or_default();
    if shares < 0 {
        errors.invalid("spec.limited.nominalConcurrencyShares", &shares.into(), "must be a non-negative integer");
    }
    let lendable = number(&["lendablePercent"]).unwrap_or_default();
    if !(0..=100).contains(&lendable) {
        errors.invalid("spec.limited.lendablePercent", &lendable.into(), "must be between 0 and 100, inclusive");
    }
    if let Some(percent) = number(&["borrowingLimitPercent"]).filter(|n| *n < 0) {
        errors.invalid(
            "spec.limited.borrowingLimitPercent",
            &percent.into(),
            "if specified, must be a non-negative integer",
        );
    }
    let at = "spec.limited.limitResponse";
    let queuing = limited.at(&["limitResponse", "queuing"]).filter(|q| q.is_object());
    match (limited.str_at(&["limitResponse", "type"]), queuing) {
        ("Reject", None) => {}
        ("Reject", Some(_)) => {
            errors.forbidden(&format!("{at}.queuing"), "must be nil if limited.limitResponse.type is not Limited")
        }
        ("Queue", None) => {
            errors.required(&format!("{at}.queuing"), "must not be empty if limited.limitResponse.type is Limited")
        }
        ("Queue", Some(queuing)) => validate_queuing(queuing, errors),
        (other, _) => errors.not_supported(&format!("{at}.type"), &other.into(), &["Queue", "Reject"]),
    }
}

fn validate_queuing(queuing: &Value, errors: &mut FieldErrors) {
    let at = |key: &str| format!("spec.limited.limitResponse.queuing.{key}");
    let number = |key: &str| queuing.get(key).and_then(Value::as_i64).unwrap_or_default();
    let (queues, hand) = (number("queues"), number("handSize"));
    for key in ["queues", "handSize", "queueLengthLimit"] {
        if number(key) <= 0 {
            errors.invalid(&at(key), &number(key).into(), "must be positive");
        }
    }
    if queues > 10_000_000 {
        errors.invalid(&at("queues"), &queues.into(), "must not be greater than 10000000");
    }
    if hand > queues {
        let detail = format!("should not be greater than queues ({queues})");
        errors.invalid(&at("handSize"), &hand.into(), &detail);
    }
    // The hash that hands are dealt from has 60 bits of entropy to give (`shufflesharding.MaxHashBits`).
    let bits = (0..hand.clamp(0, 64)).map(|i| ((queues - i).max(1) as f64).log2()).sum::<f64>();
    if bits > 60.0 {
        let detail =
            format!("required entropy bits of deckSize {queues} and handSize {hand} should not be greater than 60");
        errors.invalid(&at("handSize"), &hand.into(), &detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(validate: fn(&Value, &mut FieldErrors), object: &Value) -> String {
        let mut errors = FieldErrors::default();
        validate(object, &mut errors);
        errors.into_result("g", "Kind", "n").err().map_or_else(String::new, |e| e.message)
    }

    #[test]
    fn the_servers_own_objects_are_valid_and_complete() {
        for mut object in defaults::levels() {
            let own = object.clone();
            default_level(&mut object);
            assert_eq!((&object, reported(validate_level, &object).as_str()), (&own, ""));
        }
        for mut object in defaults::schemas() {
            let own = object.clone();
            default_schema(&mut object);
            assert_eq!((&object, reported(validate_schema, &object).as_str()), (&own, ""));
        }
    }

    #[test]
    fn mistakes_of_levels_are_told_with_their_path() {
        let level = |spec: Value| json!({"metadata": {"name": "l"}, "spec": spec});
        let queue = |queuing: Value| json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": queuing}}});
        for (spec, expected) in [
            (json!({"type": "Other"}), "spec.type: Unsupported value"),
            (json!({"type": "Exempt"}), "must be 'Limited' except for"),
            (json!({"type": "Limited"}), "spec.limited: Required"),
            (
                json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue"}}}),
                "limitResponse.queuing: Required",
            ),
            (
                queue(json!({"queues": 4, "handSize": 8, "queueLengthLimit": 1})),
                "should not be greater than queues (4)",
            ),
            (
                queue(json!({"queues": 4, "handSize": 1, "queueLengthLimit": 0})),
                "queueLengthLimit: Invalid value: 0: must be positive",
            ),
            (queue(json!({"queues": 1024, "handSize": 10, "queueLengthLimit": 5})), "required entropy bits"),
            (
                json!({"type": "Limited", "limited": {"lendablePercent": 101, "limitResponse": {"type": "Reject"}}}),
                "between 0 and 100",
            ),
        ] {
            let message = reported(validate_level, &level(spec.clone()));
            assert!(message.contains(expected), "{spec}: {message}");
        }
    }

    #[test]
    fn mistakes_of_schemas_are_told_with_their_path() {
        let schema = |spec: Value| json!({"metadata": {"name": "s"}, "spec": spec});
        let whole = |rules: Value| json!({"matchingPrecedence": 5, "priorityLevelConfiguration": {"name": "x"}, "rules": rules});
        for (spec, expected) in [
            (
                json!({"matchingPrecedence": 1, "priorityLevelConfiguration": {"name": "x"}}),
                "only the schema named 'exempt'",
            ),
            (
                json!({"matchingPrecedence": 10001, "priorityLevelConfiguration": {"name": "x"}}),
                "must not be greater than 10000",
            ),
            (json!({"matchingPrecedence": 5}), "priorityLevelConfiguration.name: Required"),
            (whole(json!([{}])), "spec.rules[0].subjects: Required"),
            (
                whole(json!([{"subjects": [{"kind": "User", "group": {"name": "a"}}]}])),
                "user is required when subject kind is 'User'",
            ),
            (
                whole(json!([{"subjects": [{"kind": "Group", "group": {"name": "a"}}],
                "resourceRules": [{"verbs": ["*", "get"], "apiGroups": ["*"], "resources": ["*"]}]}])),
                "must supply at least one namespace",
            ),
            (
                whole(json!([{"subjects": [{"kind": "Group", "group": {"name": "a"}}],
                "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/a*b"]}]}])),
                "wildcard can only do suffix matching",
            ),
        ] {
            let message = reported(validate_schema, &schema(spec.clone()));
            assert!(message.contains(expected), "{spec}: {message}");
        }
        let mut exempt = defaults::levels().remove(0);
        exempt["spec"]["exempt"]["lendablePercent"] = json!(5);
        assert!(reported(validate_level, &exempt).contains("must equal the fixed value"));
    }
}
