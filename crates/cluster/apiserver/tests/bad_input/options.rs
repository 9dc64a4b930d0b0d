//! Query parameters, selectors and list options.

use kinit_test_support::etcd;
use serde_json::json;

use crate::client::{Api, MAPS, TestRequest, ask, get, patch, post};

fn list(query: &str) -> TestRequest {
    get(format!("{MAPS}?{query}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn lists() {
    let api = Api::start().await;
    let bad = |message: &'static str| (400, "BadRequest", message);
    let invalid = |message: &'static str| (422, "Invalid", message);
    let token = |text: &str| {
        use base64::Engine;
        list(&format!("limit=1&continue={}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)))
    };
    api.check(vec![
        ("limit", list("limit=many"), bad("strconv.ParseInt: parsing \"many\": invalid syntax")),
        ("limit out of range", list("limit=99999999999999999999"), bad("strconv.ParseInt: parsing \"99999999999999999999\": value out of range")),
        ("timeout", list("timeoutSeconds=soon"), bad("strconv.ParseInt: parsing \"soon\": invalid syntax")),
        ("watch timeout", list("watch=1&timeoutSeconds=1.5"), bad("strconv.ParseInt: parsing \"1.5\": invalid syntax")),
        ("resource version", list("resourceVersion=new"), bad("resourceVersion: Invalid value: \"new\": strconv.ParseUint: parsing \"new\": invalid syntax")),
        ("negative resource version", list("resourceVersion=-1"), bad("resourceVersion: Invalid value: \"-1\": strconv.ParseUint: parsing \"-1\": invalid syntax")),
        ("watch from a bad version", list("watch=1&resourceVersion=x"), bad("resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax")),
        ("get at a bad version", get(format!("{MAPS}/a?resourceVersion=x")), bad("resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax")),
        ("a match without a version", list("resourceVersionMatch=Exact"), invalid("ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided")),
        ("an unknown match", list("resourceVersion=1&resourceVersionMatch=Best"), invalid("ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Unsupported value: \"Best\": supported values: \"Exact\", \"NotOlderThan\", \"\"")),
        ("exactly any", list("resourceVersion=0&resourceVersionMatch=Exact"), invalid("ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"")),
        ("a match and a continue", list("resourceVersion=1&resourceVersionMatch=Exact&continue=x"), invalid("ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided")),
        ("initial events of a list", list("sendInitialEvents=true"), invalid("ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list")),
        ("initial events without a match", list("watch=1&sendInitialEvents=true"), invalid("ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")),
        ("a match of a plain watch", list("watch=1&resourceVersionMatch=NotOlderThan"), invalid("ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")),
        ("a broken continue", list("limit=1&continue=!!"), bad("invalid continue token: ")),
        ("a continue that is no JSON", token("hello"), bad("invalid continue token: ")),
        ("a continue of another format", token(r#"{"v":"meta.k8s.io/v9","rv":1,"start":"a"}"#), bad("invalid continue token: ")),
        ("a continue that starts nowhere", token(r#"{"v":"meta.k8s.io/v1","rv":1,"start":""}"#), bad("invalid continue token: ")),
        ("a continue at no version", token(r#"{"v":"meta.k8s.io/v1","rv":0,"start":"a\u0000"}"#), bad("invalid continue token: ")),
        ("a continue in another namespace", token(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"a-first/"}"#), bad("invalid continue token: ")),
        ("a continue out of the collection", token(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../secrets/"}"#), bad("invalid continue token: ")),
        ("a continue and a version", get(format!("{}&resourceVersion=5", token(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"default/a"}"#).path())), bad("specifying resource version is not allowed when using continue")),
        ("a version of the future", list("resourceVersion=999999999999"), (504, "Timeout", "Timeout: Too large resource version: 999999999999, current: ")),
        ("a page of the future", list("resourceVersion=999999999999&resourceVersionMatch=Exact"), (504, "Timeout", "Timeout: Too large resource version: 999999999999, current: ")),
        ("a Table of something else", list("includeObject=Some").header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io"), bad("")),
        ("a negative limit is none", list("limit=-5"), (200, "", "{\"kind\":\"ConfigMapList\"")),
        ("an empty limit", list("limit="), bad("strconv.ParseInt: parsing \"\": invalid syntax")),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors() {
    let api = Api::start().await;
    let labels = |text: &str| list(&format!("labelSelector={text}"));
    let fields = |text: &str| list(&format!("fieldSelector={text}"));
    let bad = |message: &'static str| (400, "BadRequest", message);
    api.check(vec![
        ("three words", labels("a%20b%20c"), bad("unable to parse requirement: found 'b', expected: ")),
        ("a comma too many", labels("a,"), bad("found '', expected: identifier after ','")),
        ("a comma first", labels(",a"), bad("found ',', expected: !, identifier, or 'end of string'")),
        ("an open list", labels("a%20in%20(b"), bad("unable to parse requirement: found '', expected: ',' or ')'")),
        ("no list", labels("a%20in%20b"), bad("unable to parse requirement: found 'b' expected: '('")),
        ("a number to compare with", labels("a>b"), bad("unable to parse requirement: ")),
        ("a bad key", labels("-a=b"), bad("unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist of alphanumeric characters")),
        ("a bad value", labels("a=b@c"), bad("unable to parse requirement: values[0][a]: Invalid value: \"b@c\": a valid label must be an empty string or consist of alphanumeric characters")),
        ("a value of 64", labels(&format!("a={}", "b".repeat(64))), bad("unable to parse requirement: values[0][a]: Invalid value: \"")),
        ("an equals too many", labels("a===b"), bad("unable to parse requirement: found '=', expected: identifier")),
        ("an empty list", labels("a%20in%20()"), (200, "", "{\"kind\":\"ConfigMapList\"")),
        ("words as values", labels("a%20in%20(in,notin)"), (200, "", "{\"kind\":\"ConfigMapList\"")),
        ("a field without a value", fields("metadata.name"), bad("invalid selector: 'metadata.name'; can't understand 'metadata.name'")),
        ("an unknown field", fields("data.k=1"), bad("\"data.k\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")),
        ("an unknown field of pods", get("/api/v1/pods?fieldSelector=spec.foo%3Dx"), bad("field label not supported: spec.foo")),
        ("a bad escape", fields("metadata.name=a%5Cb"), bad("invalid field selector: invalid escape sequence: \\b")),
        ("a watch of an unknown field", list("watch=1&fieldSelector=data.k%3D1"), bad("\"data.k\" is not a known field selector")),
        ("a delete of an unknown field", ask("DELETE", format!("{MAPS}?fieldSelector=data.k%3D1")), bad("\"data.k\" is not a known field selector")),
        ("a delete by a broken selector", ask("DELETE", format!("{MAPS}?labelSelector=a%20b%20c")), bad("unable to parse requirement: ")),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn write_options() {
    let api = Api::start().await;
    api.create(MAPS, json!({"metadata": {"name": "w"}})).await;
    let invalid = |message: &'static str| (422, "Invalid", message);
    let bad = |message: &'static str| (400, "BadRequest", message);
    let create = |query: &str| ask("POST", format!("{MAPS}?{query}")).json(&json!({"metadata": {"name": "o"}}));
    let update = |query: &str| ask("PUT", format!("{MAPS}/w?{query}")).json(&json!({"metadata": {"name": "w"}}));
    let merge = |query: &str| patch(&format!("{MAPS}/w?{query}"), "merge", "{}");
    let delete = |query: &str| ask("DELETE", format!("{MAPS}/w?{query}"));
    let delete_with = |body: serde_json::Value| ask("DELETE", format!("{MAPS}/w")).json(&body);
    let long = format!("fieldManager={}", "m".repeat(129));
    api.check(vec![
        ("dryRun of a create", create("dryRun=Some"), invalid("CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"")),
        ("dryRun of an update", update("dryRun=Some"), invalid("UpdateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"")),
        ("dryRun of a patch", merge("dryRun=Some"), invalid("PatchOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"")),
        ("dryRun of a delete", delete("dryRun=Some"), invalid("DeleteOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"")),
        ("dryRun in a delete's body", delete_with(json!({"dryRun": ["Some"]})), invalid("DeleteOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"")),
        ("fieldValidation", create("fieldValidation=Loose"), invalid("CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"Loose\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"")),
        ("a long manager", create(&long), invalid("CreateOptions.meta.k8s.io \"\" is invalid: fieldManager: Too long: may not be more than 128 bytes")),
        ("an unprintable manager", update("fieldManager=a%07b"), invalid("UpdateOptions.meta.k8s.io \"\" is invalid: fieldManager: Invalid value: \"a\\ab\": invalid character U+0007 (at position 1)")),
        ("force without apply", merge("force=true"), invalid("PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch")),
        ("apply without a manager", patch(&format!("{MAPS}/w"), "apply", "apiVersion: v1\nkind: ConfigMap\n"), invalid("PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch")),
        ("a policy", delete("propagationPolicy=Sometimes"), invalid("DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Sometimes\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"")),
        ("a policy in the body", delete_with(json!({"propagationPolicy": "Sometimes"})), invalid("DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Sometimes\"")),
        ("a policy and orphans", delete_with(json!({"propagationPolicy": "Orphan", "orphanDependents": true})), invalid("DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Invalid value: \"Orphan\": orphanDependents and deletionPropagation cannot be both set")),
        ("a grace", delete("gracePeriodSeconds=long"), bad("strconv.ParseInt: parsing \"long\": invalid syntax")),
        ("a grace in the body", delete_with(json!({"gracePeriodSeconds": "long"})), bad("DeleteOptions in version \"v1\" cannot be handled as a DeleteOptions: json: cannot unmarshal string into Go struct field DeleteOptions.gracePeriodSeconds of type int64")),
        ("a body of another kind", delete_with(json!({"kind": "Pod", "apiVersion": "v1"})), bad("")),
        ("a body that is none", ask("DELETE", format!("{MAPS}/w")).bytes("application/json", "{"), bad("")),
        ("a body that is a list", ask("DELETE", format!("{MAPS}/w")).bytes("application/json", "[]"), bad("")),
        ("a delete of a collection with a bad policy", ask("DELETE", format!("{MAPS}?propagationPolicy=No")), invalid("DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"No\"")),
        ("still there", get(format!("{MAPS}/w")), (200, "", "")),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_are_gone() {
    let api = Api::start().await;
    for i in 0..4 {
        api.create(MAPS, json!({"metadata": {"name": format!("p{i}")}})).await;
    }
    let first = api.send(&list("limit=2&labelSelector=!none")).await;
    let token = first.body["metadata"]["continue"].as_str().unwrap().to_owned();
    let revision = first.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    for value in ["1", "2"] {
        let body = json!({"data": {"k": value}}).to_string();
        assert_eq!(api.send(&patch(&format!("{MAPS}/p0"), "merge", body)).await.code, 200);
    }
    let now = api.send(&list("limit=1")).await.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    etcd::compact(api.server.etcd_endpoint(), now.parse().unwrap()).await.unwrap();

    let exact = format!("limit=1&resourceVersion={revision}&resourceVersionMatch=Exact");
    let expired = (410, "Expired", "The resourceVersion for the provided list is too old.");
    let inconsistent = (
        410,
        "Expired",
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response",
    );
    let next = list(&format!("limit=2&continue={token}"));
    api.check(vec![("an exact list", list(&exact), expired), ("a page", next.clone(), inconsistent)]).await;

    // The answer carries a token that goes on with what there is now.
    let answer = api.send(&next).await;
    let token = answer.body["metadata"]["continue"].as_str().unwrap_or_else(|| panic!("{}", answer.text)).to_owned();
    let rest = api.send(&list(&format!("limit=5&continue={token}"))).await;
    let names: Vec<&str> =
        rest.body["items"].as_array().unwrap().iter().map(|m| m["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(rest.code, 200, "{}", rest.text);
    assert!(names.ends_with(&["p2", "p3"]) || names == ["p1", "p2", "p3"], "{names:?}");

    // More happens than the server remembers: what an object was before each change is in the history alone.
    for i in 0..70 {
        let body = json!({"data": {"k": format!("{i}{}", "x".repeat(1_000_000))}}).to_string();
        assert_eq!(api.send(&patch(&format!("{MAPS}/p0"), "merge", body)).await.code, 200);
    }
    // A watch that starts before what is remembered says so in the stream, as upstream's does.
    let watch = api.send(&list("watch=1&resourceVersion=1&timeoutSeconds=2")).await;
    assert_eq!(watch.code, 200, "{}", watch.text);
    let event: serde_json::Value = serde_json::from_str(watch.text.lines().next().unwrap_or_default()).unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["code"], &event["object"]["reason"]),
        (&json!("ERROR"), &json!(410), &json!("Expired"))
    );
    assert!(event["object"]["message"].as_str().unwrap().starts_with("too old resource version: 1 ("), "{event}");

    // A watch of the future waits for it.
    let future = api.send(&list("watch=1&resourceVersion=999999999&timeoutSeconds=1")).await;
    assert_eq!((future.code, future.text.as_str()), (200, ""));
    assert_eq!(api.send(&post(MAPS, &json!({"metadata": {"name": "after"}}))).await.code, 201);
}
