//! The objects of a request and of its answer, as the log shows them.

use http_body_util::BodyExt;
use hyper::body::Body as HttpBody;
use hyper::header::CONTENT_TYPE;
use kinit_apimachinery::schema::schema;
use serde_json::Value;

use crate::http::{ApiResponse, body, respond};
use crate::registry::Request;
use crate::registry::decode::Wanted;

/// The document in a request's body, whatever it is written in; none where there is none.
pub fn of_request(request: &Request, raw: &[u8]) -> Option<Value> {
    if raw.is_empty() {
        return None;
    }
    match request.media_type.as_str() {
        media if media.ends_with("-patch+json") => serde_json::from_slice(raw).ok(),
        media if media.ends_with("-patch+yaml") => body::yaml(raw).ok(),
        media => {
            let wanted = Wanted::of(request);
            let kind_of = |group: &str, version: &str, kind: &str| match kind {
                "DeleteOptions" => schema().by_name("meta.v1.DeleteOptions"),
                _ => schema().by_kind(group, version, kind),
            };
            let expected = (wanted.group, wanted.version, wanted.kind);
            body::decode_document(media, raw, expected, kind_of).ok().map(|d| d.value)
        }
    }
}

/// The document in a complete answer, and the answer again. Streams have none.
pub(super) async fn of_response(response: ApiResponse) -> (ApiResponse, Option<Value>) {
    let media = body::media_type(response.headers().get(CONTENT_TYPE));
    let yaml = media == "application/yaml";
    if response.body().size_hint().exact().is_none() || !(yaml || media == "application/json") {
        return (response, None);
    }
    let (parts, body) = response.into_parts();
    // Nothing can go wrong with a body that is in memory.
    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let object = if yaml { body::yaml(&bytes).ok() } else { serde_json::from_slice(&bytes).ok() };
    (ApiResponse::from_parts(parts, respond::full(bytes)), object)
}

/// Takes `metadata.managedFields` off an object and off the items of a list (`omitManagedFields`).
pub(super) fn without_managed_fields(object: &mut Value) {
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.shift_remove("managedFields");
    }
    for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        without_managed_fields(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn an_answer_is_read_and_given_back() {
        let (response, object) = of_response(respond::json(201, &json!({"a": 1}))).await;
        assert_eq!((response.status().as_u16(), object), (201, Some(json!({"a": 1}))));
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "{\"a\":1}\n");
        let (response, object) = of_response(respond::document(200, &json!({"a": [1]}), true)).await;
        assert_eq!(object, Some(json!({"a": [1]})));
        assert!(!response.into_body().collect().await.unwrap().to_bytes().is_empty());
        assert_eq!(of_response(respond::text(200, "{}")).await.1, None);
    }

    #[test]
    fn managed_fields_go_from_lists_too() {
        let mut list = json!({"metadata": {}, "items": [{"metadata": {"name": "a", "managedFields": [{}]}}]});
        without_managed_fields(&mut list);
        assert_eq!(list["items"], json!([{"metadata": {"name": "a"}}]));
    }
}
