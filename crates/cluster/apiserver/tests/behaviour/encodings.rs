//! Forms of an answer: protobuf, compressed, over a WebSocket.

use std::io::Read;
use std::time::Duration;

use futures::StreamExt;
use kinit_apimachinery::{proto, schema::schema};
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::{Api, JSON};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const METADATA: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

async fn get(api: &Api, path: &str, accept: &str) -> Response {
    api.request(Method::GET, path).header(ACCEPT, accept).send().await.unwrap()
}

fn is(response: &Response, code: u16, media_type: &str) {
    assert_eq!((response.status().as_u16(), response.headers()[CONTENT_TYPE].to_str().unwrap()), (code, media_type));
}

/// What a Go client makes of it.
fn decoded(bytes: &[u8]) -> (String, Value) {
    let envelope = proto::open(bytes).unwrap();
    let (group, version) = envelope.api_version.rsplit_once('/').unwrap_or(("", &envelope.api_version));
    let own = schema().by_kind(group, version, &envelope.kind);
    let ty = own.or_else(|| schema().by_kind("meta.k8s.io", version, &envelope.kind)).unwrap();
    (envelope.kind.clone(), proto::decode(ty, envelope.raw).unwrap())
}

/// The object in a `WatchEvent`: field 2 is a RawExtension, whose field 1 is an envelope.
fn event(message: &[u8]) -> (String, String, Value) {
    let length = usize::from(message[1]);
    let kind = String::from_utf8(message[2..2 + length].to_vec()).unwrap();
    let start = message.windows(4).position(|w| w == b"k8s\0").unwrap();
    let (object, value) = decoded(&message[start..]);
    (kind, object, value)
}

#[tokio::test(flavor = "multi_thread")]
async fn built_in_kinds_have_a_protobuf_form() {
    let api = Api::start().await;
    let created = api.create(MAPS, json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "data": {"k": "v"}})).await;
    api.create(MAPS, json!({"metadata": {"name": "b"}})).await;

    let first = format!("{PROTOBUF},application/json");
    let response = get(&api, &format!("{MAPS}/a"), &first).await;
    is(&response, 200, PROTOBUF);
    let body = response.bytes().await.unwrap();
    let (kind, object) = decoded(&body);
    assert_eq!((kind.as_str(), &object["data"]), ("ConfigMap", &json!({"k": "v"})));
    assert_eq!(object["metadata"]["managedFields"], created["metadata"]["managedFields"]);

    // What was read is a body, too.
    let put = api.request(Method::PUT, &format!("{MAPS}/a")).header(CONTENT_TYPE, PROTOBUF).header(ACCEPT, PROTOBUF);
    let response = put.body(body).send().await.unwrap();
    is(&response, 200, PROTOBUF);
    assert_eq!(decoded(&response.bytes().await.unwrap()).1["metadata"]["uid"], created["metadata"]["uid"]);

    let response = get(&api, MAPS, PROTOBUF).await;
    is(&response, 200, PROTOBUF);
    let (kind, list) = decoded(&response.bytes().await.unwrap());
    let names: Vec<&str> =
        list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(kind, "ConfigMapList");
    assert!(names.contains(&"a") && names.contains(&"b"), "{names:?}");

    let response = get(&api, &format!("{MAPS}/a"), METADATA).await;
    is(&response, 200, PROTOBUF);
    let (kind, object) = decoded(&response.bytes().await.unwrap());
    assert_eq!((kind.as_str(), &object["metadata"]["labels"]), ("PartialObjectMetadata", &json!({"x": "y"})));
    assert_eq!(object.get("data"), None);

    for (path, reason) in [(format!("{MAPS}/none"), "NotFound"), (format!("{MAPS}?labelSelector=%21%21"), "BadRequest")]
    {
        let response = get(&api, &path, PROTOBUF).await;
        assert_eq!(response.headers()[CONTENT_TYPE], PROTOBUF, "{path}");
        let (kind, status) = decoded(&response.bytes().await.unwrap());
        assert_eq!((kind.as_str(), &status["reason"]), ("Status", &json!(reason)));
    }
    let table = format!("{PROTOBUF};as=Table;v=v1;g=meta.k8s.io");
    assert_eq!(get(&api, MAPS, &table).await.status().as_u16(), 406, "a Table has no such form");
}

/// One object of every kind that a fresh server has, and every list.
#[tokio::test(flavor = "multi_thread")]
async fn lists_of_every_kind_say_the_same_in_both_forms() {
    let api = Api::start().await;
    let mut seen = 0;
    let mut groups = vec!["/api/v1".to_owned()];
    let (_, known) = api.get("/apis").await;
    groups.extend(
        known["groups"]
            .as_array()
            .unwrap()
            .iter()
            .map(|g| format!("/apis/{}", g["preferredVersion"]["groupVersion"].as_str().unwrap())),
    );
    for group in groups {
        let (_, resources) = api.get(&group).await;
        for resource in resources["resources"].as_array().unwrap() {
            let name = resource["name"].as_str().unwrap();
            if name.contains('/')
                || !resource["verbs"].as_array().unwrap().contains(&json!("list"))
                || name == "componentstatuses"
            {
                continue;
            }
            let path = format!("{group}/{name}?resourceVersion=0");
            let (_, plain) = api.get(&path).await;
            let response = get(&api, &path, PROTOBUF).await;
            is(&response, 200, PROTOBUF);
            let (_, list) = decoded(&response.bytes().await.unwrap());
            let (want, got) =
                (plain["items"].as_array().unwrap(), list["items"].as_array().cloned().unwrap_or_default());
            assert_eq!(want.len(), got.len(), "{path}");
            for (want, got) in want.iter().zip(&got) {
                for field in ["uid", "name", "labels", "annotations", "managedFields", "creationTimestamp"] {
                    assert_eq!(want["metadata"].get(field), got["metadata"].get(field), "{path}");
                }
                // The decoder gives no zeros that Go writes: what it gives has to be what JSON says.
                within(&format!("{path} {}", want["metadata"]["name"]), got, want);
                seen += 1;
            }
        }
    }
    assert!(seen > 100, "only {seen} objects were compared");
}

/// Whatever `part` has, `whole` has.
fn within(path: &str, part: &Value, whole: &Value) {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => {
            part.iter().for_each(|(k, v)| within(&format!("{path}.{k}"), v, whole.get(k).unwrap_or(&Value::Null)));
        }
        (Value::Array(part), Value::Array(whole)) if part.len() == whole.len() => {
            part.iter().zip(whole).enumerate().for_each(|(i, (p, w))| within(&format!("{path}[{i}]"), p, w));
        }
        _ => assert_eq!(part, whole, "{path}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_in_protobuf_and_over_a_websocket() {
    let api = Api::start().await;
    api.create(MAPS, json!({"metadata": {"name": "w"}, "data": {"k": "v"}})).await;
    let path = format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Dw");

    let response = get(&api, &path, PROTOBUF).await;
    is(&response, 200, "application/vnd.kubernetes.protobuf;stream=watch");
    let mut frames = response.bytes_stream();
    let frame = frames.next().await.unwrap().unwrap();
    assert_eq!(u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize, frame.len() - 4);
    let (kind, object, value) = event(&frame[4..]);
    assert_eq!((kind.as_str(), object.as_str(), &value["data"]), ("ADDED", "ConfigMap", &json!({"k": "v"})));

    let mut etcd = api.etcd().await;
    let good = etcd.get("/registry/configmaps/default/w", None).await.unwrap().kvs()[0].value().to_vec();
    etcd.put("/registry/configmaps/default/w", "garbage", None).await.unwrap();
    let frame = frames.next().await.unwrap().unwrap();
    let (kind, object, status) = event(&frame[4..]);
    assert_eq!((kind.as_str(), object.as_str(), &status["code"]), ("ERROR", "Status", &json!(500)));
    etcd.put("/registry/configmaps/default/w", good, None).await.unwrap();

    for accept in [JSON, PROTOBUF] {
        let client = api.server.admin().unwrap().http1_only().build().unwrap();
        let request = client.get(format!("{}{path}", api.server.plane.url())).header(ACCEPT, accept);
        let request = request
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13");
        let response = request.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==").send().await.unwrap();
        assert_eq!(response.status().as_u16(), 101, "{accept}");
        let socket = response.upgrade().await.unwrap();
        let mut socket = WebSocketStream::from_raw_socket(socket, Role::Client, None).await;
        let first = loop {
            let next = tokio::time::timeout(Duration::from_secs(10), socket.next()).await.expect("a message");
            match next.unwrap().unwrap() {
                Message::Ping(_) => {}
                other => break other,
            }
        };
        let (kind, name) = match first {
            Message::Text(text) if accept == JSON => {
                let value: Value = serde_json::from_str(&text).unwrap();
                (value["type"].clone(), value["object"]["metadata"]["name"].clone())
            }
            Message::Binary(bytes) if accept == PROTOBUF => {
                let (kind, _, value) = event(&bytes);
                (kind.into(), value["metadata"]["name"].clone())
            }
            other => panic!("{accept}: {other:?}"),
        };
        assert_eq!((kind, name), (json!("ADDED"), json!("w")), "{accept}");
    }
    let client = api.server.admin().unwrap().http1_only().build().unwrap();
    let request = client
        .get(format!("{}{path}", api.server.plane.url()))
        .header("connection", "Upgrade")
        .header("upgrade", "websocket");
    assert_eq!(request.send().await.unwrap().status().as_u16(), 400, "a handshake without a key");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_are_compressed_for_those_who_can_read_it() {
    let api = Api::start().await;
    for i in 0..4 {
        let object = json!({"metadata": {"name": format!("large-{i}")}, "data": {"k": "some text. ".repeat(4_000)}});
        api.create(MAPS, object).await;
    }
    let plain = get(&api, MAPS, JSON).await;
    assert!(!plain.headers().contains_key(CONTENT_ENCODING));
    let length: usize = plain.headers()[CONTENT_LENGTH].to_str().unwrap().parse().unwrap();
    let plain = plain.bytes().await.unwrap();
    assert_eq!(plain.len(), length);
    for accept in [JSON, PROTOBUF] {
        let request = api.request(Method::GET, MAPS).header(ACCEPT, accept).header(ACCEPT_ENCODING, "gzip");
        let response = request.send().await.unwrap();
        is(&response, 200, accept);
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip", "{accept}");
        let zipped = response.bytes().await.unwrap();
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(zipped.as_ref()).read_to_end(&mut text).unwrap();
        assert!(zipped.len() * 10 < text.len(), "{} of {}", zipped.len(), text.len());
        if accept == JSON {
            // The version of the list is not the same.
            let items = |text: &[u8]| serde_json::from_slice::<Value>(text).unwrap()["items"].take();
            assert!(items(&text) == items(&plain), "the objects differ");
        } else {
            assert_eq!(decoded(&text).0, "ConfigMapList");
        }
    }
    let small =
        api.request(Method::GET, &format!("{MAPS}/large-0")).header(ACCEPT_ENCODING, "gzip").send().await.unwrap();
    assert!(!small.headers().contains_key(CONTENT_ENCODING), "less than 128 KiB");
}
