//! Between versions (`pkg/apiserver/conversion`): `None` changes the version alone, `Webhook` asks somebody.
//!
//! Objects go to a webhook in batches and come back as they are wanted, or not at all: it may change everything but
//! what tells an object from others. One that hangs holds the requests that need it, each for as long as a call may
//! take, and nobody else.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::{Meta, strings};
use kinit_apimachinery::structural::coerce;
use kinit_apimachinery::typed::Typed;
use kinit_storage::Store;
use serde_json::{Map, Value, json};

use super::build::{Version, Versions};
use super::model::Definition;
use crate::admission::webhook::Client;
use crate::resources::convert::{Converter, VersionOf};

/// How long a call may take (upstream's default for conversion webhooks).
const PATIENCE: Duration = Duration::from_secs(30);
/// Objects in a batch.
const BATCH: usize = 500;
/// Bytes in a batch, about.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// How the versions of a definition convert.
pub(super) struct Conversion {
    versions: Arc<Versions>,
    /// The version that is stored.
    storage: String,
    webhook: Option<Webhook>,
    kind: String,
}

struct Webhook {
    client: Client,
    /// `v1` or `v1beta1`; none when it speaks neither.
    review: Option<&'static str>,
}

impl Conversion {
    /// As the definition says.
    pub fn of(definition: &Definition, versions: Arc<Versions>, storage: String, store: &Store) -> Self {
        let conversion = definition.spec.get("conversion").unwrap_or(&Value::Null);
        let webhook = (conversion.str_at(&["strategy"]) == "Webhook").then(|| {
            let spoken = strings(conversion.at(&["webhook", "conversionReviewVersions"]));
            let review = spoken.iter().find_map(|v| ["v1", "v1beta1"].into_iter().find(|known| known == v));
            let config = conversion.at(&["webhook", "clientConfig"]).unwrap_or(&Value::Null);
            Webhook { client: Client::of(config, store), review }
        });
        Self { versions, storage, webhook, kind: definition.accepted.kind.clone() }
    }

    /// Objects in the wanted version, in their order.
    async fn convert(&self, mut objects: Vec<Value>, wanted: &str) -> Result<Vec<Value>, ApiError> {
        let others: Vec<usize> = (0..objects.len()).filter(|i| objects[*i].str_at(&["apiVersion"]) != wanted).collect();
        if others.is_empty() {
            return Ok(objects);
        }
        let given: Vec<Value> = others.iter().map(|i| objects[*i].take()).collect();
        let converted = match &self.webhook {
            None => given.into_iter().map(|object| with_version(object, wanted)).collect(),
            Some(webhook) => webhook.convert(given, wanted, &self.kind).await?,
        };
        for (i, mut object) in others.into_iter().zip(converted) {
            self.fit(&mut object, wanted)?;
            objects[i] = object;
        }
        Ok(objects)
    }

    /// What a conversion made has no fields that the version does not know.
    fn fit(&self, object: &mut Value, wanted: &str) -> Result<(), ApiError> {
        let Some(Typed::Custom(schema)) = self.versions.get(wanted).map(|v| &v.ty) else { return Ok(()) };
        schema.prune(object, &mut Vec::new());
        coerce(object, schema, &mut Vec::new()).map_err(|problem| failed(&self.kind, wanted, &problem))
    }
}

fn with_version(mut object: Value, version: &str) -> Value {
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".into(), version.into());
    }
    object
}

fn failed(kind: &str, version: &str, cause: &str) -> ApiError {
    let text = format!("conversion webhook for {version}, Kind={kind} failed: {cause}");
    ApiError::new(500, "InternalError", text)
}

impl Webhook {
    async fn convert(&self, objects: Vec<Value>, wanted: &str, kind: &str) -> Result<Vec<Value>, ApiError> {
        let from = objects.first().map(|o| o.str_at(&["apiVersion"]).to_owned()).unwrap_or_default();
        let (mut out, mut rest) = (Vec::with_capacity(objects.len()), objects.into_iter().peekable());
        while rest.peek().is_some() {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while batch.len() < BATCH && bytes < BATCH_BYTES {
                let Some(object) = rest.next() else { break };
                bytes += object.to_string().len();
                batch.push(object);
            }
            out.extend(self.ask(batch, wanted).await.map_err(|cause| failed(kind, &from, &cause))?);
        }
        Ok(out)
    }

    async fn ask(&self, objects: Vec<Value>, wanted: &str) -> Result<Vec<Value>, String> {
        let review = self.review.ok_or("it speaks no version of ConversionReview that this server does")?;
        let uid = uuid::Uuid::new_v4().to_string();
        let request = json!({"kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{review}"),
            "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects}});
        let answer = self.client.convert(&request, PATIENCE).await?;
        let converted = verified(answer, review, &uid, objects.len())?;
        let both = objects.into_iter().zip(converted);
        both.map(|(given, converted)| restored(&given, converted, wanted)).collect()
    }
}

/// The objects of an answer (`getConvertedObjectsFromResponse`).
fn verified(mut answer: Value, review: &str, uid: &str, wanted: usize) -> Result<Vec<Value>, String> {
    let (version, kind) = (answer.str_at(&["apiVersion"]), answer.str_at(&["kind"]));
    if (version, kind) != (format!("apiextensions.k8s.io/{review}").as_str(), "ConversionReview") {
        return Err(format!(
            "expected webhook response of apiextensions.k8s.io/{review}, Kind=ConversionReview, got {version}, Kind={kind}"
        ));
    }
    let Some(response) = answer.get_mut("response").filter(|r| r.is_object()) else {
        return Err("no response provided".into());
    };
    let given = response.str_at(&["uid"]);
    if given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    let result = response.get("result").unwrap_or(&Value::Null);
    match (result.str_at(&["status"]), result.str_at(&["message"])) {
        ("Success", _) => {}
        ("Failure", "") => return Err("the webhook did not say why".into()),
        ("Failure", message) => return Err(message.to_owned()),
        ("", _) => return Err("expected response.result.status to be 'Success' or 'Failure', got \"\"".into()),
        (other, _) => {
            return Err(format!("expected response.result.status to be 'Success' or 'Failure', got {other:?}"));
        }
    }
    match response.get_mut("convertedObjects").map(Value::take) {
        Some(Value::Array(objects)) if objects.len() == wanted => Ok(objects),
        Some(Value::Array(objects)) => Err(format!("expected {wanted} converted objects, got {}", objects.len())),
        _ => Err(format!("expected {wanted} converted objects, got 0")),
    }
}

/// A converted object, which must be the given one; of its metadata only labels and annotations count
/// (`validateConvertedObject`, `restoreObjectMeta`).
fn restored(given: &Value, mut converted: Value, wanted: &str) -> Result<Value, String> {
    let name = given.name();
    let bad = |what: String| Err(format!("invalid converted object for {name:?}: {what}"));
    if !converted.is_object() {
        return bad("it is no object".into());
    }
    if converted.str_at(&["apiVersion"]) != wanted {
        let got = converted.str_at(&["apiVersion"]);
        return bad(format!("invalid groupVersion (expected {wanted}, received {got})"));
    }
    for (what, path) in [
        ("kind", &["kind"][..]),
        ("name", &["metadata", "name"]),
        ("namespace", &["metadata", "namespace"]),
        ("UID", &["metadata", "uid"]),
    ] {
        let (is, was) = (converted.str_at(path), given.str_at(path));
        if is != was {
            return bad(format!("must have the same {what}: {is} != {was}"));
        }
    }
    let mut meta = given.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    for key in ["labels", "annotations"] {
        match converted.at(&["metadata", key]).filter(|v| !v.is_null()) {
            Some(Value::Object(map)) => keep_texts(map, key, name).map(|map| meta.insert(key.into(), map))?,
            Some(_) => return bad(format!("metadata.{key} is no map")),
            None => meta.shift_remove(key),
        };
    }
    converted["metadata"] = Value::Object(meta);
    Ok(converted)
}

fn keep_texts(map: &Map<String, Value>, key: &str, name: &str) -> Result<Value, String> {
    match map.values().all(Value::is_string) {
        true => Ok(Value::Object(map.clone())),
        false => Err(format!("invalid converted object for {name:?}: metadata.{key} holds more than texts")),
    }
}

/// The face of one version.
pub(super) struct ToVersion {
    own: String,
    /// How objects begin that are stored in this version.
    beginning: Vec<u8>,
    /// How those begin that are stored now.
    stored: Vec<u8>,
    conversion: Arc<Conversion>,
}

impl ToVersion {
    /// Of the version `own`.
    pub fn new(own: String, conversion: Arc<Conversion>) -> Self {
        let begins = |version: &str| format!("{{\"apiVersion\":\"{version}\",").into_bytes();
        Self { beginning: begins(&own), stored: begins(&conversion.storage), own, conversion }
    }
}

#[async_trait]
impl Converter for ToVersion {
    async fn shown(&self, stored: Vec<Value>) -> Result<Vec<Value>, ApiError> {
        self.conversion.convert(stored, &self.own).await
    }

    async fn stored(&self, object: Value) -> Result<Value, ApiError> {
        let stored = self.conversion.convert(vec![object], &self.conversion.storage).await?;
        stored.into_iter().next().ok_or_else(|| ApiError::internal("a conversion lost the object"))
    }

    fn shows(&self, stored: &[u8]) -> bool {
        stored.starts_with(&self.beginning)
    }

    fn is_current(&self, stored: &[u8]) -> bool {
        stored.starts_with(&self.stored)
    }

    fn version(&self, api_version: &str) -> Option<VersionOf<'_>> {
        self.conversion.versions.get(api_version).map(Version::of_owners)
    }

    async fn in_version(&self, objects: Vec<Value>, api_version: &str) -> Result<Vec<Value>, ApiError> {
        self.conversion.convert(objects, api_version).await
    }

    fn moves_fields(&self) -> bool {
        self.conversion.webhook.is_some() && self.own != self.conversion.storage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(response: Value) -> Value {
        json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response})
    }

    #[test]
    fn answers_that_are_none() {
        let good = json!({"uid": "u", "result": {"status": "Success"}, "convertedObjects": [{}]});
        assert_eq!(verified(answer(good.clone()), "v1", "u", 1), Ok(vec![json!({})]));
        let with = |key: &str, value: Value| {
            let mut response = good.clone();
            response[key] = value;
            answer(response)
        };
        for (given, want) in [
            (json!({}), "expected webhook response of apiextensions.k8s.io/v1"),
            (answer(Value::Null), "no response provided"),
            (with("uid", json!("x")), "expected response.uid=\"u\", got \"x\""),
            (with("result", json!({"status": "Failure", "message": "no"})), "no"),
            (with("result", json!({})), "expected response.result.status"),
            (with("convertedObjects", json!([])), "expected 1 converted objects, got 0"),
            (with("convertedObjects", json!([{}, {}])), "expected 1 converted objects, got 2"),
            (with("convertedObjects", json!("x")), "expected 1 converted objects, got 0"),
        ] {
            let problem = verified(given.clone(), "v1", "u", 1).unwrap_err();
            assert!(problem.starts_with(want), "{given}: {problem}");
        }
    }

    #[test]
    fn an_object_stays_itself() {
        let given = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a", "uid": "u", "generation": 3,
            "labels": {"x": "y"}}, "spec": 1});
        let converted = json!({"apiVersion": "g/v2", "kind": "K", "metadata": {"name": "a", "uid": "u", "generation": 9,
            "annotations": {"b": "c"}}, "spec": 2});
        let out = restored(&given, converted.clone(), "g/v2").unwrap();
        assert_eq!(out["metadata"], json!({"name": "a", "uid": "u", "generation": 3, "annotations": {"b": "c"}}));
        assert_eq!(out["spec"], 2);
        for (path, value, want) in [
            ("/apiVersion", json!("g/v3"), "invalid groupVersion (expected g/v2, received g/v3)"),
            ("/kind", json!("L"), "must have the same kind: L != K"),
            ("/metadata/name", json!("b"), "must have the same name: b != a"),
            ("/metadata/uid", json!("v"), "must have the same UID: v != u"),
            ("/metadata/annotations", json!({"b": 1}), "metadata.annotations holds more than texts"),
            ("/metadata/annotations", json!("b"), "metadata.annotations is no map"),
            ("", json!("b"), "it is no object"),
        ] {
            let mut lie = converted.clone();
            *lie.pointer_mut(path).unwrap() = value;
            let problem = restored(&given, lie, "g/v2").unwrap_err();
            assert!(problem.contains(want), "{path}: {problem}");
        }
    }
}
