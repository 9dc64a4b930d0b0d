//! Bodies that are no objects, or not those of the path.

use serde_json::json;

use crate::client::{Api, MAPS, PROTOBUF, ask, post};

const UNRECOGNIZED: &str = "the object provided is unrecognized (must be of type ConfigMap): ";

fn raw(body: impl AsRef<[u8]>) -> crate::client::TestRequest {
    ask("POST", MAPS).bytes("application/json", body)
}

fn proto_envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let field = |number: u8, body: &[u8]| {
        let mut out = vec![number << 3 | 2, u8::try_from(body.len()).unwrap()];
        out.extend_from_slice(body);
        out
    };
    let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), field(1, &meta), field(2, raw)].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_do_not_parse() {
    let api = Api::start().await;
    let bad = |message: &'static str| (400, "BadRequest", message);
    let yaml = |text: &str| ask("POST", MAPS).bytes("application/yaml", text);
    let proto = |bytes: &[u8]| ask("POST", MAPS).bytes(PROTOBUF, bytes);
    let json_error = "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: ";
    let deep = |open: &str, close: &str, n: usize| {
        format!("{{\"metadata\":{{\"name\":\"d\"}},\"x\":{}{}}}", open.repeat(n), close.repeat(n))
    };
    api.check(vec![
        ("nothing", raw(""), bad("the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)")),
        ("cut off", raw(r#"{"kind":"ConfigMap","metadata""#), bad(json_error)),
        ("not JSON", raw("hello"), bad(json_error)),
        ("two documents", raw("{} {}"), bad(json_error)),
        ("a list", raw("[]"), bad("the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct")),
        ("a number as kind", raw(r#"{"kind":5}"#), bad("the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: json: cannot unmarshal number into Go struct field .kind of type string")),
        ("a list as apiVersion", raw(r#"{"apiVersion":[]}"#), bad("the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: json: cannot unmarshal array into Go struct field .apiVersion of type string")),
        ("NaN", raw(r#"{"metadata":{"name":"a"},"data":NaN}"#), bad(json_error)),
        ("deep lists", raw(deep("[", "]", 20_000)), bad(json_error)),
        ("deep objects", raw(deep("{\"a\":", "1}", 20_000).replace("1}1}", "}}")), bad(json_error)),
        ("deep YAML", yaml(&deep("[", "]", 20_000)), bad(UNRECOGNIZED)),
        ("YAML that is not", yaml("a: [b\n c: }"), bad("the object provided is unrecognized (must be of type ConfigMap): error converting YAML to JSON: ")),
        ("YAML of invalid UTF-8", ask("POST", MAPS).bytes("application/yaml", b"a: \xff\xfe"), bad("the object provided is unrecognized (must be of type ConfigMap): error converting YAML to JSON: ")),
        ("an alias bomb", yaml(&bomb()), bad(UNRECOGNIZED)),
        ("protobuf without its mark", proto(b"garbage"), bad("the object provided is unrecognized (must be of type ConfigMap): provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")),
        ("a protobuf envelope cut off", proto(b"k8s\0\x0a\x7f\x01"), bad(UNRECOGNIZED)),
        ("a protobuf message cut off", proto(&proto_envelope("v1", "ConfigMap", b"\x0a\x7fab")), bad("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: ")),
        ("a group's end in protobuf", proto(&proto_envelope("v1", "ConfigMap", b"\x0c")), bad("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: ")),
        ("invalid UTF-8 in protobuf", proto(&proto_envelope("v1", "ConfigMap", b"\x0a\x04\x0a\x02\xff\xfe")), bad("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: ")),
        ("another kind in protobuf", proto(&proto_envelope("v1", "Secret", b"")), bad("Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion")),
        ("no such kind in protobuf", proto(&proto_envelope("v1", "Nothing", b"")), bad("Nothing in version \"v1\" cannot be handled as a ConfigMap: no kind \"Nothing\" is registered for version \"v1\"")),
        ("a media type nobody knows", ask("POST", MAPS).bytes("text/html", "{}"), (415, "UnsupportedMediaType", "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf")),
    ])
    .await;
}

fn bomb() -> String {
    let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        let refs = vec![format!("*a{}", i - 1); 9].join(",");
        text.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_another_kind_or_shape() {
    let api = Api::start().await;
    let bad = |message: &'static str| (400, "BadRequest", message);
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let hpas = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let map = |extra: serde_json::Value| {
        let mut map = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "shape"}});
        map.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        post(MAPS, &map)
    };
    api.check(vec![
        ("another kind", map(json!({"kind": "Pod"})), bad("Pod in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Pod) to (core.ConfigMap): unknown conversion")),
        ("another group's kind", post(deployments, &json!({"kind": "Job", "apiVersion": "batch/v1"})), bad("Job in version \"v1\" cannot be handled as a Deployment: converting (v1.Job) to (apps.Deployment): unknown conversion")),
        ("no such kind", map(json!({"kind": "Mop"})), bad("Mop in version \"v1\" cannot be handled as a ConfigMap: no kind \"Mop\" is registered for version \"v1\" in scheme")),
        ("no such version", map(json!({"apiVersion": "v9"})), bad("ConfigMap in version \"v9\" cannot be handled as a ConfigMap: no kind \"ConfigMap\" is registered for version \"v9\" in scheme")),
        ("a version of too many parts", map(json!({"apiVersion": "a/b/c"})), bad("the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; unexpected GroupVersion string: a/b/c")),
        ("another version of the kind", post(hpas, &json!({"kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v1", "metadata": {"name": "h"}})), bad("the API version in the data (autoscaling/v1) does not match the expected API version (autoscaling/v2)")),
        ("a string for metadata", map(json!({"metadata": "x"})), bad("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal string into Go struct field ConfigMap.metadata of type")),
        ("numbers for strings", map(json!({"data": {"a": 1}})), bad("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type string")),
        ("data that is no base64", map(json!({"binaryData": {"a": "!"}})), bad("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: illegal base64 data at input byte 0")),
        ("a huge number", ask("POST", deployments).bytes("application/json", r#"{"metadata":{"name":"d"},"spec":{"replicas":99999999999999999999999}}"#), bad("Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal number 1e+23 into Go struct field DeploymentSpec.spec.replicas of type int32")),
        ("a number beyond float", ask("POST", deployments).bytes("application/json", r#"{"metadata":{"name":"d"},"spec":{"replicas":1e999}}"#), bad("")),
        ("a number beyond int32", post(deployments, &json!({"metadata": {"name": "d"}, "spec": {"replicas": 3_000_000_000_u32}})), bad("Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32")),
        ("a fraction for an integer", post(deployments, &json!({"metadata": {"name": "d"}, "spec": {"replicas": 1.5}})), bad("Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32")),
        ("a time that is none", map(json!({"metadata": {"name": "t", "creationTimestamp": "yesterday"}})), bad("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: parsing time \"yesterday\"")),
        ("a quantity that is none", post("/api/v1/namespaces/default/persistentvolumeclaims", &json!({"metadata": {"name": "q"}, "spec": {"resources": {"requests": {"storage": "many"}}}})), bad("PersistentVolumeClaim in version \"v1\" cannot be handled as a PersistentVolumeClaim: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")),
        ("an unknown field, strictly", ask("POST", format!("{MAPS}?fieldValidation=Strict")).json(&json!({"metadata": {"name": "s"}, "dada": {}})), bad("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"dada\"")),
        ("a field twice, strictly", ask("POST", format!("{MAPS}?fieldValidation=Strict")).bytes("application/json", r#"{"metadata":{"name":"s","name":"t"}}"#), bad("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: duplicate field \"metadata.name\"")),
        ("a version on a new object", map(json!({"metadata": {"name": "rv", "resourceVersion": "1"}})), bad("resourceVersion should not be set on objects to be created")),
        ("another namespace", map(json!({"metadata": {"name": "n", "namespace": "other"}})), bad("the namespace of the provided object does not match the namespace sent on the request")),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_utf8_is_replaced_as_go_does() {
    let api = Api::start().await;
    let answer = api.send(&raw(b"{\"metadata\":{\"name\":\"utf\"},\"data\":{\"k\":\"a\xffb\"}}")).await;
    assert_eq!((answer.code, &answer.body["data"]["k"]), (201, &json!("a\u{fffd}b")), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_beyond_the_limit() {
    let api = Api::start().await;
    let big = |size: usize| json!({"metadata": {"name": "big"}, "data": {"k": "x".repeat(size)}});
    let too_large = (413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728");
    api.check(vec![
        ("3 MiB and a little", post(MAPS, &big(3 * 1024 * 1024)), too_large),
        ("30 MiB", post(MAPS, &big(20 * 1024 * 1024)), too_large),
        // What fits the request limit may still be too much for the kind, or for etcd.
        (
            "a config map of 2 MiB",
            post(MAPS, &big(2 * 1024 * 1024)),
            (422, "Invalid", "ConfigMap \"big\" is invalid: []: Too long: may not be more than 1048576 bytes"),
        ),
        (
            "annotations of 300 KiB",
            post(MAPS, &json!({"metadata": {"name": "big", "annotations": {"a": "x".repeat(300 * 1024)}}})),
            (
                422,
                "Invalid",
                "ConfigMap \"big\" is invalid: metadata.annotations: Too long: may not be more than 262144 bytes",
            ),
        ),
        (
            "an object etcd does not take",
            post(
                "/apis/apps/v1/namespaces/default/controllerrevisions",
                &json!({"metadata": {"name": "big"}, "revision": 1, "data": {"k": "x".repeat(2 * 1024 * 1024)}}),
            ),
            (413, "RequestEntityTooLarge", ""),
        ),
    ])
    .await;
}
