//! Objects and lists in the form the client asked for.

use bytes::Bytes;
use kinit_apimachinery::complete::complete;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::schema::schema;
use serde_json::{Map, Value, json};

use super::Request;
use crate::http::{ApiResponse, View, respond};
use crate::tables;

/// One object.
pub fn object(request: &Request, status: u16, mut object: Value) -> ApiResponse {
    // Reviews, tokens and scales are made here and never stored: they get the fields that Go always writes now.
    if request.desc.prefix.is_empty() || object.str_at(&["kind"]) != request.desc.kind {
        complete_unstored(&mut object);
    }
    match request.accepted.view {
        View::Object => respond::document(status, &object, request.accepted.is_yaml()),
        View::Metadata => respond::document(status, &metadata_of(&object), request.accepted.is_yaml()),
        View::Table => {
            let version = object.resource_version().to_owned();
            let table = tables::table(&request.desc, &[object], &version, include_object(request), true);
            respond::document(status, &table, request.accepted.is_yaml())
        }
    }
}

fn complete_unstored(object: &mut Value) {
    let api_version = object.str_at(&["apiVersion"]);
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    if let Some(ty) = schema().by_kind(group, version, object.str_at(&["kind"])) {
        complete(object, ty);
    }
}

/// One object whose bytes are at hand.
pub fn bytes(request: &Request, encoded: Bytes, parsed: impl FnOnce() -> Value) -> ApiResponse {
    if request.accepted.view == View::Object && !request.accepted.is_yaml() {
        return respond::bytes(200, "application/json", encoded);
    }
    object(request, 200, parsed())
}

/// How much of each object a table carries.
pub fn include_object(request: &Request) -> tables::Include {
    match request.param("includeObject") {
        Some("None") => tables::Include::None,
        Some("Object") => tables::Include::Object,
        _ => tables::Include::Metadata,
    }
}

/// `PartialObjectMetadata` of an object.
pub fn metadata_of(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| Value::Object(Map::new()))})
}
