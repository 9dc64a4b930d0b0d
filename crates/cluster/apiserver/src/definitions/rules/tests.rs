use kinit_apimachinery::status::FieldErrors;
use serde_json::{Value, json};

use super::{Node, check_rules};

fn lines(errors: FieldErrors) -> Vec<String> {
    errors.0.into_iter().map(|c| format!("{} {}: {}", c.reason, c.field, c.message)).collect()
}

fn checked(schema: &Value) -> Vec<String> {
    let mut errors = FieldErrors::default();
    check_rules(schema, "s", &mut errors);
    lines(errors)
}

fn reported(schema: &Value, object: &Value, old: Option<&Value>) -> Vec<String> {
    let mut errors = FieldErrors::default();
    Node::of_version(schema).unwrap().check(object, old, &mut errors);
    lines(errors)
}

/// A schema of `spec` with one rule.
fn with(rule: Value, properties: Value) -> Value {
    json!({"type": "object", "properties": {"spec":
        {"type": "object", "properties": properties, "x-kubernetes-validations": [rule]}}})
}

#[test]
fn bad_rules() {
    const AT: &str = "s.properties[spec].x-kubernetes-validations[0]";
    let fields = json!({"n": {"type": "integer"}, "s": {"type": "string", "maxLength": 10}});
    for (rule, field, message) in [
        (json!({"rule": " "}), "rule", "Required value: rule is not specified"),
        (json!({"rule": "self.none > 1"}), "rule", "undefined field 'none'"),
        (json!({"rule": "self = 42"}), "rule", "Syntax error"),
        (json!({"rule": "self.n"}), "rule", "cel expression must evaluate to a bool"),
        (json!({"rule": "other.n > 1"}), "rule", "undeclared reference to 'other'"),
        (json!({"rule": "true", "message": " "}), "message", "must be non-empty if specified"),
        (json!({"rule": "true", "message": "a\nb"}), "message", "must not contain line breaks"),
        (json!({"rule": "true", "message": "é".repeat(2000)}), "message", "a maximum length of 2048"),
        (json!({"rule": "true\n&& true"}), "message", "Required value: message must be specified if rule contains"),
        (json!({"rule": "true", "messageExpression": "1"}), "messageExpression", "must evaluate to a string"),
        (json!({"rule": "true", "messageExpression": " "}), "messageExpression", "Required value: "),
        (json!({"rule": "true", "fieldPath": ".x"}), "fieldPath", "does not refer to a valid field"),
        (json!({"rule": "true", "fieldPath": "n"}), "fieldPath", "fieldPath must be a valid path: "),
        (
            json!({"rule": "true", "reason": "x"}),
            "reason",
            "Unsupported value: \"x\": supported values: \"FieldValueDuplicate\"",
        ),
        (json!({"rule": "true", "optionalOldSelf": true}), "optionalOldSelf", "unless oldSelf is used"),
    ] {
        let errors = checked(&with(rule.clone(), fields.clone()));
        assert_eq!(errors.len(), 1, "{rule}: {errors:#?}");
        let place = format!(" {AT}.{field}: ");
        assert!(errors[0].contains(&place) && errors[0].contains(message), "{rule}: {errors:#?}");
    }
    let good = json!({"rule": "self.n > 0 && (!oldSelf.hasValue() || oldSelf.value().n <= self.n)", "message": "m",
        "optionalOldSelf": true, "messageExpression": "'n is ' + string(self.n)", "fieldPath": ".n", "reason": "FieldValueForbidden"});
    assert_eq!(checked(&with(good, fields)), [""; 0]);
}

#[test]
fn old_values_are_known_only_where_elements_can_be_told_apart() {
    let list = |kind: Value| {
        let mut list = json!({"type": "array", "maxItems": 5, "items": {"type": "object", "required": ["k"],
            "properties": {"k": {"type": "string"}, "v": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]}}}});
        list.as_object_mut().unwrap().extend(kind.as_object().unwrap().clone());
        json!({"type": "object", "properties": {"l": list}})
    };
    let map = list(json!({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}));
    assert_eq!(checked(&map), [""; 0]);
    let errors = checked(&list(json!({})));
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert!(
        errors[0]
            .ends_with("oldSelf cannot be used on the uncorrelatable portion of the schema within s.properties[l]")
    );
    let old = json!({"l": [{"k": "a", "v": 5}, {"k": "b", "v": 1}]});
    let new = json!({"l": [{"k": "b", "v": 2}, {"k": "c", "v": 0}, {"k": "a", "v": 4}]});
    assert_eq!(
        reported(&map, &new, Some(&old)),
        ["FieldValueInvalid l[2].v: Invalid value: 4: failed rule: self >= oldSelf"]
    );
    assert_eq!(reported(&map, &new, None), [""; 0], "there is nothing to compare with");
}

#[test]
fn costs_are_estimated() {
    let list = |bounds: Value, text: Value, rule: &str| {
        let mut list = json!({"type": "array", "items": {"type": "array", "items": text,
            "x-kubernetes-validations": [{"rule": rule}]}});
        list["items"].as_object_mut().unwrap().extend(bounds.as_object().unwrap().clone());
        list.as_object_mut().unwrap().extend(bounds.as_object().unwrap().clone());
        json!({"type": "object", "properties": {"x": list}})
    };
    let all = "self.all(s, s == 'string constant')";
    let errors = checked(&list(json!({}), json!({"type": "string"}), all));
    assert!(
        errors[0].starts_with("FieldValueForbidden s.properties[x].items.x-kubernetes-validations[0].rule: "),
        "{errors:#?}"
    );
    assert!(errors[0].contains("estimated rule cost exceeds budget by factor of more than 100x (try"), "{errors:#?}");
    assert!(errors[1].contains("total for entire OpenAPIv3 schema exceeds budget"), "{errors:#?}");
    assert_eq!(checked(&list(json!({"maxItems": 10}), json!({"type": "string"}), all)), [""; 0]);
    let nested = "self.all(a, self.all(b, self.all(c, a == b || b == c)))";
    let short = json!({"type": "string", "maxLength": 10});
    assert_eq!(checked(&list(json!({"maxItems": 10}), short.clone(), nested)), [""; 0]);
    assert_eq!(checked(&list(json!({"maxItems": 200}), short, nested)).len(), 2);
}

#[test]
fn messages() {
    let n = json!({"n": {"type": "integer"}, "s": {"type": "string"}});
    let object = json!({"spec": {"n": 7, "s": ""}});
    for (rule, want) in [
        (json!({"rule": "self.n < 5 "}), "FieldValueInvalid spec: Invalid value: failed rule: self.n < 5"),
        (json!({"rule": "self.n < 5", "message": "small"}), "FieldValueInvalid spec: Invalid value: small"),
        (
            json!({"rule": "self.n < 5", "message": "small", "messageExpression": "string(self.n) + ' is large'"}),
            "FieldValueInvalid spec: Invalid value: 7 is large",
        ),
        (
            json!({"rule": "self.n < 5", "message": "small", "messageExpression": "self.s"}),
            "FieldValueInvalid spec: Invalid value: small",
        ),
        (
            json!({"rule": "self.n < 5", "message": "small", "messageExpression": "'a\\nb'"}),
            "FieldValueInvalid spec: Invalid value: small",
        ),
        (
            json!({"rule": "self.n < 5", "message": "m", "fieldPath": ".n", "reason": "FieldValueForbidden"}),
            "FieldValueForbidden spec.n: Forbidden: m",
        ),
        (
            json!({"rule": "self.n < 5", "message": "m", "fieldPath": ".n", "reason": "FieldValueRequired"}),
            "FieldValueRequired spec.n: Required value: m",
        ),
        (json!({"rule": "self.n < 5", "reason": "FieldValueDuplicate"}), "FieldValueDuplicate spec: Duplicate value"),
        (
            json!({"rule": "1 / (self.n - 7) > 0"}),
            "FieldValueInvalid spec: Invalid value: \"object\": division by zero evaluating rule: 1 / (self.n - 7) > 0",
        ),
    ] {
        assert_eq!(reported(&with(rule.clone(), n.clone()), &object, None), [want], "{rule}");
    }
}

#[test]
fn what_did_not_change_is_forgiven() {
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "integer", "x-kubernetes-validations": [{"rule": "self < 5"}]},
        "b": {"type": "integer", "x-kubernetes-validations": [{"rule": "oldSelf.orValue(0) < self", "optionalOldSelf": true}]}}});
    let old = json!({"a": 7, "b": 1});
    assert_eq!(reported(&schema, &json!({"a": 7, "b": 2}), Some(&old)), [""; 0]);
    assert_eq!(
        reported(&schema, &json!({"a": 8, "b": 2}), Some(&old)),
        ["FieldValueInvalid a: Invalid value: 8: failed rule: self < 5"]
    );
    assert_eq!(
        reported(&schema, &json!({"a": 7, "b": 1}), Some(&old)).len(),
        1,
        "it compares, so it holds for what stays"
    );
    assert_eq!(reported(&schema, &json!({"b": 0}), None).len(), 1);
    assert_eq!(reported(&schema, &json!({"a": null, "b": 1}), None), [""; 0]);
}

#[test]
fn places() {
    let over = json!([{"rule": "self.size() > 1"}]);
    let schema = json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.metadata.name != 'bad'", "fieldPath": ".spec"},
            {"rule": "self.kind == 'K' && self.apiVersion == 'g/v1'"}],
        "properties": {"spec": {"type": "object", "properties": {
            "a-b.c": {"type": "string", "x-kubernetes-validations": over},
            "map": {"type": "object", "additionalProperties": {"type": "string", "x-kubernetes-validations": over}},
            "list": {"type": "array", "items": {"type": "string", "x-kubernetes-validations": over}},
            "port": {"x-kubernetes-int-or-string": true, "x-kubernetes-validations": [{"rule": "type(self) == int ? self > 0 : self != ''"}]},
            "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"x": {"type": "integer"}},
                "x-kubernetes-validations": [{"rule": "!has(self.x) || self.x > 0"}]},
            "inner": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true,
                "x-kubernetes-validations": [{"rule": "self.kind == 'Pod' && self.metadata.name != ''"}]}},
            "x-kubernetes-validations": [{"rule": "!has(self.a__dash__b__dot__c) || self.a__dash__b__dot__c != 'xyz'"}]}}});
    let mut errors = FieldErrors::default();
    check_rules(&schema, "s", &mut errors);
    assert!(errors.0.iter().all(|c| c.message.contains("budget")), "{errors:#?}");
    let object = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "bad"}, "spec": {"a-b.c": "xyz", "map": {"k": "x", "l": "xy"},
        "list": ["xy", "x"], "port": 0, "open": {"x": 0, "y": 1}, "inner": {"apiVersion": "v1", "kind": "P", "metadata": {"name": "n"}}}});
    let fields: Vec<String> =
        reported(&schema, &object, None).iter().map(|e| e.split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(fields, ["spec:", "spec:", "spec.map[k]:", "spec.list[1]:", "spec.port:", "spec.open:", "spec.inner:"]);
    let other = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "good"}, "spec": {"port": "http"}});
    assert_eq!(reported(&schema, &other, None), [""; 0]);
}

#[test]
fn budgets_hold() {
    let schema = with(
        json!({"rule": "self.l.all(a, self.l.all(b, self.l.all(c, a + b + c > 0)))"}),
        json!({"l": {"type": "array", "items": {"type": "integer"}}}),
    );
    let object = json!({"spec": {"l": vec![1; 500]}});
    let errors = reported(&schema, &object, None);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert!(
        errors[0]
            .contains("no further validation rules will be run due to call cost exceeds limit for rule: self.l.all"),
        "{errors:#?}"
    );
    // Each is cheap enough, all together are not.
    let item = json!({"type": "array", "items": {"type": "integer"},
        "x-kubernetes-validations": [{"rule": "self.all(a, self.all(b, a + b > 0))"}]});
    let many = json!({"type": "object", "properties": {"x": {"type": "array", "items": item}}});
    let errors = reported(&many, &json!({"x": vec![vec![1; 250]; 200]}), None);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert!(errors[0].contains("running out of cost budget, no further validation rules will be run"), "{errors:#?}");
}

#[test]
fn rules_wait_for_a_valid_object() {
    let mut errors = FieldErrors::default();
    errors.required("spec.x", "");
    let schema = with(json!({"rule": "false"}), json!({}));
    Node::of_version(&schema).unwrap().check(&json!({"spec": {}}), None, &mut errors);
    let errors = lines(errors);
    assert_eq!(errors.len(), 2);
    assert!(
        errors[1].starts_with("FieldValueInvalid <nil>: Invalid value: null: some validation rules were not checked"),
        "{errors:#?}"
    );
}
