//! Rules in CEL, of definitions and of objects.

use serde_json::{Value, json};

use crate::{Api, DEFINITIONS, WIDGETS, widget, widgets};

fn ruled() -> Value {
    json!({"type": "object", "properties": {"color": {"type": "string"}, "replicas": {"type": "integer"},
            "least": {"type": "integer"}, "fixed": {"type": "string", "x-kubernetes-validations": [
                {"rule": "self == oldSelf", "message": "fixed cannot change"}]},
            "numbers": {"type": "array", "items": {"type": "integer"}}},
        "x-kubernetes-validations": [
            {"rule": "!has(self.replicas) || !has(self.least) || self.replicas >= self.least", "fieldPath": ".replicas",
                "reason": "FieldValueForbidden", "message": "too few",
                "messageExpression": "'at least %d, not %d'.format([self.least, self.replicas])"},
            {"rule": "!has(self.numbers) || self.numbers.all(a, self.numbers.all(b, a + b > 0))"}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_keep_rules() {
    let api = Api::start().await;
    let mut schema = ruled();
    schema["properties"]["numbers"]["maxItems"] = 1000.into();
    let mut definition = widgets(schema);
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"] = json!({"type": "object",
        "properties": {"ready": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= 0"}]}}});
    api.define(&definition).await;
    api.create(WIDGETS, &widget("a", &json!({"replicas": 3, "least": 2, "fixed": "x"}))).await;
    let (code, answer) = api.post(WIDGETS, &widget("b", &json!({"replicas": 1, "least": 2}))).await;
    let want =
        json!([{"reason": "FieldValueForbidden", "field": "spec.replicas", "message": "Forbidden: at least 2, not 1"}]);
    assert_eq!((code, &answer["details"]["causes"]), (422, &want), "{answer}");
    let path = format!("{WIDGETS}/a");
    // A transition: what was there may not change, what was not may come.
    let (code, answer) = api.merge(&path, &json!({"spec": {"fixed": "y"}})).await;
    let want = json!([{"reason": "FieldValueInvalid", "field": "spec.fixed", "message": "Invalid value: \"y\": fixed cannot change"}]);
    assert_eq!((code, &answer["details"]["causes"]), (422, &want), "{answer}");
    assert_eq!(api.merge(&path, &json!({"spec": {"fixed": null}})).await.0, 200);
    assert_eq!(api.merge(&path, &json!({"spec": {"fixed": "y"}})).await.0, 200);
    let (code, answer) = api.merge(&format!("{path}/status"), &json!({"status": {"ready": -1}})).await;
    assert_eq!((code, &answer["details"]["causes"][0]["field"]), (422, &json!("status.ready")), "{answer}");
    assert_eq!(api.merge(&format!("{path}/status"), &json!({"status": {"ready": 1}})).await.0, 200);
    // What costs too much ends.
    let (code, answer) = api.post(WIDGETS, &widget("c", &json!({"numbers": vec![1; 1000]}))).await;
    assert_eq!(code, 422, "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("call cost exceeds limit for rule"), "{answer}");
    // Where values are not of their types, rules are not asked.
    let (code, answer) = api.post(WIDGETS, &widget("c", &json!({"replicas": "1", "least": 2}))).await;
    assert_eq!(code, 422, "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("some validation rules were not checked"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_come_later_forgive_what_stays() {
    let api = Api::start().await;
    let mut schema = ruled();
    schema.as_object_mut().unwrap().remove("x-kubernetes-validations");
    api.define(&widgets(schema)).await;
    api.create(WIDGETS, &widget("a", &json!({"color": "red", "replicas": 9}))).await;
    let at = format!("{DEFINITIONS}/widgets.example.com");
    let (_, mut definition) = api.get(&at).await;
    let fields =
        &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    fields["replicas"]["x-kubernetes-validations"] = json!([{"rule": "self < 5"}]);
    let (code, answer) = api.put(&at, &definition).await;
    assert_eq!(code, 200, "{answer}");
    let path = format!("{WIDGETS}/a");
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while api.merge(&format!("{path}?dryRun=All"), &json!({"spec": {"replicas": 8}})).await.0 != 422 {
        assert!(tokio::time::Instant::now() < deadline, "the rule is not followed");
    }
    assert_eq!(api.merge(&path, &json!({"spec": {"color": "green"}})).await.0, 200);
    assert_eq!(api.merge(&path, &json!({"spec": {"replicas": 4}})).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_with_bad_rules_are_refused() {
    let api = Api::start().await;
    for (rule, want) in [
        ("self.none > 1", "undefined field"),
        ("self = 42", "Syntax error"),
        ("self.numbers.all(a, self.numbers.all(b, a == b))", "exceeds budget"),
        ("self.color", "must evaluate to a bool"),
    ] {
        let mut schema = ruled();
        schema["x-kubernetes-validations"] = json!([{"rule": rule}]);
        let (code, answer) = api.post(DEFINITIONS, &widgets(schema)).await;
        assert_eq!(code, 422, "{rule}: {answer}");
        let field = answer["details"]["causes"][0]["field"].as_str().unwrap();
        assert_eq!(field, "spec.versions[0].schema.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule");
        assert!(answer["message"].as_str().unwrap().contains(want), "{rule}: {answer}");
    }
}
