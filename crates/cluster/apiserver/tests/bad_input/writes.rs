//! Names, versions, preconditions and what may not change.

use serde_json::{Value, json};

use crate::client::{Api, MAPS, TestRequest, ask, post};

fn put(path: &str, object: Value) -> TestRequest {
    ask("PUT", path).json(&object)
}

#[tokio::test(flavor = "multi_thread")]
async fn names() {
    let api = Api::start().await;
    let services = "/api/v1/namespaces/default/services";
    let invalid = |message: &'static str| (422, "Invalid", message);
    let map = |meta: Value| post(MAPS, &json!({"metadata": meta}));
    api.check(vec![
        ("none", map(json!({})), invalid("ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required")),
        ("no metadata", post(MAPS, &json!({})), invalid("ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required")),
        ("upper case", map(json!({"name": "UPPER"})), invalid("ConfigMap \"UPPER\" is invalid: metadata.name: Invalid value: \"UPPER\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'")),
        ("a slash", map(json!({"name": "a/b"})), invalid("ConfigMap \"a/b\" is invalid: metadata.name: Invalid value: \"a/b\": ")),
        ("dots", map(json!({"name": ".."})), invalid("ConfigMap \"..\" is invalid: metadata.name: Invalid value: \"..\": ")),
        ("too long", map(json!({"name": "a".repeat(254)})), invalid("ConfigMap \"aaa")),
        ("a zero byte", map(json!({"name": "a\u{0}b"})), invalid("ConfigMap \"a\\x00b\" is invalid: metadata.name: Invalid value: \"a\\x00b\": ")),
        ("a bad prefix", map(json!({"generateName": "BAD_"})), invalid("ConfigMap \"BAD_")),
        ("a bad prefix beside a name", map(json!({"name": "good", "generateName": "BAD_"})), invalid("ConfigMap \"good\" is invalid: metadata.generateName: Invalid value: \"BAD_\": a lowercase RFC 1123 subdomain must consist of")),
        ("a service of digits", post(services, &json!({"metadata": {"name": "9a"}, "spec": {"ports": [{"port": 1}]}})), invalid("Service \"9a\" is invalid: metadata.name: Invalid value: \"9a\": a DNS-1035 label must consist of")),
        ("a namespace with a dot", post("/api/v1/namespaces", &json!({"metadata": {"name": "a.b"}})), invalid("Namespace \"a.b\" is invalid: metadata.name: Invalid value: \"a.b\": a lowercase RFC 1123 label must consist of")),
        ("a role with a slash", post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &json!({"metadata": {"name": "a/b"}, "rules": []})), invalid("ClusterRole.rbac.authorization.k8s.io \"a/b\" is invalid: metadata.name: Invalid value: \"a/b\": may not contain '/'")),
        ("a bad label", map(json!({"name": "l", "labels": {"a b": "c"}})), invalid("ConfigMap \"l\" is invalid: metadata.labels: Invalid value: \"a b\": name part must consist of")),
        ("a bad label value", map(json!({"name": "l", "labels": {"a": "b c"}})), invalid("ConfigMap \"l\" is invalid: metadata.labels: Invalid value: \"b c\": a valid label must be an empty string")),
        ("a bad annotation", map(json!({"name": "l", "annotations": {"a b": "c"}})), invalid("ConfigMap \"l\" is invalid: metadata.annotations: Invalid value: \"a b\": name part must consist of")),
        ("a bad finalizer", map(json!({"name": "l", "finalizers": ["a b"]})), invalid("ConfigMap \"l\" is invalid: metadata.finalizers: Invalid value: \"a b\": name part must consist of")),
        ("an owner of nothing", map(json!({"name": "l", "ownerReferences": [{}]})), invalid("ConfigMap \"l\" is invalid: [metadata.ownerReferences")),
        ("a key of a config map", post(MAPS, &json!({"metadata": {"name": "l"}, "data": {"a b": ""}})), invalid("ConfigMap \"l\" is invalid: data[a b]: Invalid value: \"a b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.'")),
        ("no such namespace", post("/api/v1/namespaces/nowhere/configmaps", &json!({"metadata": {"name": "l"}})), (404, "NotFound", "namespaces \"nowhere\" not found")),
    ])
    .await;
    let cut = api.send(&map(json!({"generateName": "g".repeat(200)}))).await;
    assert_eq!((cut.code, cut.body["metadata"]["name"].as_str().unwrap().len()), (201, 63));
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_preconditions() {
    let api = Api::start().await;
    let made = api.create(MAPS, json!({"metadata": {"name": "m"}, "data": {"k": "1"}})).await;
    let (uid, version) =
        (made["metadata"]["uid"].as_str().unwrap(), made["metadata"]["resourceVersion"].as_str().unwrap());
    let path = format!("{MAPS}/m");
    assert_eq!(api.send(&put(&path, json!({"metadata": {"name": "m"}, "data": {"k": "2"}}))).await.code, 200);
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    api.create(leases, json!({"metadata": {"name": "l"}, "spec": {}})).await;
    let conflict = |message: &'static str| (409, "Conflict", message);
    let bad = |message: &'static str| (400, "BadRequest", message);
    let delete = |preconditions: Value| ask("DELETE", path.clone()).json(&json!({"preconditions": preconditions}));
    let by_uid = format!(
        "Operation cannot be fulfilled on ConfigMap \"m\": the UID in the precondition (other) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
    );
    let by_version = format!(
        "Operation cannot be fulfilled on ConfigMap \"m\": the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ("
    );
    let wrong_uid = format!(
        "Operation cannot be fulfilled on configmaps \"m\": StorageError: invalid object, Code: 4, Key: /registry/configmaps/default/m, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: other, UID in object meta: {uid}"
    );
    api.check(vec![
        ("an old version", put(&path, json!({"metadata": {"name": "m", "resourceVersion": version}})), conflict("Operation cannot be fulfilled on configmaps \"m\": the object has been modified; please apply your changes to the latest version and try again")),
        ("another uid", put(&path, json!({"metadata": {"name": "m", "uid": "other"}})), (409, "Conflict", &wrong_uid)),
        ("not a version", put(&path, json!({"metadata": {"name": "m", "resourceVersion": "x"}})), (422, "Invalid", "ConfigMap \"m\" is invalid: metadata.resourceVersion: Invalid value: \"x\": ")),
        ("no name", put(&path, json!({})), bad("the name of the object (m based on URL) was undeterminable: name must be provided")),
        ("another name", put(&path, json!({"metadata": {"name": "n"}})), bad("the name of the object (n) does not match the name on the URL (m)")),
        ("another namespace", put(&path, json!({"metadata": {"name": "m", "namespace": "n"}})), bad("the namespace of the object (n) does not match the namespace on the request (default)")),
        ("no such object", put(&format!("{MAPS}/none"), json!({"metadata": {"name": "none"}})), (404, "NotFound", "configmaps \"none\" not found")),
        ("a lease without a version", put(&format!("{leases}/l"), json!({"metadata": {"name": "l"}, "spec": {}})), (422, "Invalid", "leases.coordination.k8s.io \"l\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update")),
        ("delete another uid", delete(json!({"uid": "other"})), (409, "Conflict", &by_uid)),
        ("delete another version", delete(json!({"resourceVersion": version})), (409, "Conflict", &by_version)),
        ("there already", post(MAPS, &json!({"metadata": {"name": "m"}})), (409, "AlreadyExists", "configmaps \"m\" already exists")),
    ])
    .await;
    let stale = api.send(&put(&path, json!({"metadata": {"name": "m", "resourceVersion": version}}))).await;
    assert_eq!(stale.body["details"], json!({"name": "m", "kind": "configmaps"}));
    let done = api.send(&delete(json!({"uid": uid}))).await;
    assert_eq!(done.code, 200, "{}", done.text);
    assert_eq!(done.body["details"], json!({"name": "m", "kind": "configmaps", "uid": uid}));
}

const NS: &str = "/api/v1/namespaces/default";

/// One object, and changes of it that are refused with the beginnings of these messages.
async fn fixed(api: &Api, path: &str, object: Value, changes: &[(&str, &str)]) {
    let made = api.create(path, object).await;
    let name = made["metadata"]["name"].as_str().unwrap().to_owned();
    for (change, message) in changes {
        let ask = crate::client::patch(&format!("{path}/{name}"), "merge", change);
        let answer = api.send(&ask).await;
        let said = answer.body["message"].as_str().unwrap_or_default();
        assert_eq!(
            (answer.code, answer.body["reason"].as_str()),
            (422, Some("Invalid")),
            "{path} {change}: {}",
            answer.text
        );
        assert!(said.contains(message), "{path} {change}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_change() {
    let api = Api::start().await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let workload = |extra: Value| {
        let mut spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"metadata": {"name": "x"}, "spec": spec})
    };
    let relabel = r#"{"spec":{"selector":{"matchLabels":{"a":"c"}},"template":{"metadata":{"labels":{"a":"c"}}}}}"#;
    let selector = "spec.selector: Invalid value: ";
    api.create(&format!("{NS}/serviceaccounts"), json!({"metadata": {"name": "default"}})).await;
    fixed(&api, "/apis/apps/v1/namespaces/default/daemonsets", workload(json!({})), &[(relabel, selector)]).await;
    fixed(&api, "/apis/apps/v1/namespaces/default/replicasets", workload(json!({})), &[(relabel, selector)]).await;
    fixed(&api, "/apis/apps/v1/namespaces/default/statefulsets", workload(json!({"serviceName": "s"})), &[
        (r#"{"spec":{"serviceName":"t"}}"#, "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"),
    ]).await;
    let job = json!({"metadata": {"name": "x"}, "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    fixed(
        &api,
        "/apis/batch/v1/namespaces/default/jobs",
        job,
        &[
            (r#"{"spec":{"completions":5}}"#, "spec.completions: Invalid value: "),
            (r#"{"spec":{"template":{"spec":{"restartPolicy":"OnFailure"}}}}"#, "spec.template: Invalid value: "),
        ],
    )
    .await;
    fixed(
        &api,
        &format!("{NS}/pods"),
        json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
        &[
            (r#"{"spec":{"restartPolicy":"Never"}}"#, "spec: Forbidden: pod updates may not change fields other than"),
            (r#"{"spec":{"containers":[]}}"#, "spec.containers: "),
        ],
    )
    .await;
    fixed(
        &api,
        &format!("{NS}/services"),
        json!({"metadata": {"name": "x"}, "spec": {"ports": [{"port": 1}]}}),
        &[(
            r#"{"spec":{"clusterIP":"10.96.77.77","clusterIPs":["10.96.77.77"]}}"#,
            "spec.clusterIPs[0]: Invalid value: ",
        )],
    )
    .await;
    fixed(
        &api,
        &format!("{NS}/secrets"),
        json!({"metadata": {"name": "x"}, "type": "Opaque", "immutable": true}),
        &[
            (r#"{"type":"other"}"#, "type: Invalid value: \"other\": field is immutable"),
            (r#"{"data":{"a":"Yg=="}}"#, "data: Forbidden: field is immutable when `immutable` is set"),
            (r#"{"immutable":false}"#, "immutable: Forbidden: field is immutable when `immutable` is set"),
        ],
    )
    .await;
    fixed(&api, &format!("{NS}/persistentvolumeclaims"), json!({"metadata": {"name": "x"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}), &[
        (r#"{"spec":{"accessModes":["ReadOnlyMany"]}}"#, "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"),
    ]).await;
    let binding = json!({"metadata": {"name": "x"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}});
    fixed(
        &api,
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        binding,
        &[(r#"{"roleRef":{"name":"edit"}}"#, "roleRef: Invalid value: ")],
    )
    .await;
    fixed(
        &api,
        "/apis/scheduling.k8s.io/v1/priorityclasses",
        json!({"metadata": {"name": "x"}, "value": 1}),
        &[(r#"{"value":2}"#, "value: Forbidden: may not be changed in an update.")],
    )
    .await;
    fixed(
        &api,
        "/apis/storage.k8s.io/v1/storageclasses",
        json!({"metadata": {"name": "x"}, "provisioner": "p"}),
        &[(r#"{"provisioner":"q"}"#, "provisioner: Forbidden: updates to provisioner are forbidden.")],
    )
    .await;
    let slice = json!({"metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": []});
    fixed(
        &api,
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        slice,
        &[(r#"{"addressType":"IPv6"}"#, "addressType: Invalid value: \"IPv6\": field is immutable")],
    )
    .await;
}
