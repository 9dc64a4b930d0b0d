//! OpenAPI v2 (Swagger): the definitions of all kinds, as JSON and as gnostic's protobuf, made from those of v3; no
//! paths.
//!
//! kubectl asks for it, in protobuf, when v3 does not know a kind: from its absence there it concludes that the kind
//! does not exist, and says so. Helm and older clients validate with it. `google/gnostic`'s `openapiv2/OpenAPIv2.proto`
//! has the numbers.

use hyper::HeaderMap;
use hyper::header::ACCEPT;
use kinit_apimachinery::ApiError;
use kinit_component_base::version::GIT_VERSION;
use prost::Message;
use serde_json::{Map, Value, json};

use super::{INT_OR_STRING, QUANTITY, built_in_schemas, custom, group_versions};
use crate::aggregation::documents;
use crate::http::ApiResponse;
use crate::server::Server;

/// What upstream calls gnostic's encoding in answers; clients ask for it with an `@` before the version, or a dot.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Answers `/openapi/v2`.
pub(crate) fn handle(server: &Server, headers: &HeaderMap) -> Result<ApiResponse, ApiError> {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    // Made anew when the document of an extension server is another.
    let remote = server.aggregator.documents_by_group_version();
    let marks: Vec<&str> = remote.iter().map(|(.., document)| document.hash.as_str()).collect();
    let name = |form: &str| format!("{form} {}", marks.join(" "));
    server.documents.retain(|known| !known.starts_with("v2") || [name("v2"), name("v2.pb")].iter().any(|n| n == known));
    if accept.replace('@', ".").contains(PROTOBUF) {
        let document = server.documents.get(server.registry.all(), &name("v2.pb"), || encode(&definitions(server)))?;
        return document.answer(PROTOBUF, headers);
    }
    let document = server.documents.get(server.registry.all(), &name("v2"), || {
        let info = json!({"title": "Kubernetes", "version": GIT_VERSION});
        let document = json!({"swagger": "2.0", "info": info, "paths": {}, "definitions": definitions(server)});
        document.to_string().into_bytes()
    })?;
    document.answer("application/json", headers)
}

fn definitions(server: &Server) -> Map<String, Value> {
    let mut all = Map::new();
    let served = server.registry.all();
    for (group, version) in group_versions(server) {
        let of: Vec<_> = served.iter().filter(|d| d.group == group && d.version == version).cloned().collect();
        if of.iter().any(|d| d.custom.is_none()) {
            let schemas = built_in_schemas(&of, &group, &version);
            all.extend(schemas.into_iter().map(|(name, schema)| (name.clone(), definition(&name, schema))));
        }
    }
    all.extend(served.iter().flat_map(|desc| custom::schemas(desc, custom::Form::V2)));
    // What is known already stays as it is: an extension server has no say in it.
    for (group, version, document) in server.aggregator.documents_by_group_version() {
        for (name, schema) in documents::schemas(&document, &group, &version) {
            all.entry(name).or_insert_with(|| downgrade(schema));
        }
    }
    all.sort_keys();
    all
}

fn definition(name: &str, schema: Value) -> Value {
    match name {
        QUANTITY => json!({"type": "string"}),
        INT_OR_STRING => json!({"type": "string", "format": "int-or-string"}),
        _ => downgrade(schema),
    }
}

/// A schema of v3 in the words of v2, which has no `allOf` around references, and no defaults here.
fn downgrade(schema: Value) -> Value {
    let Value::Object(fields) = schema else { return schema };
    let mut out = Map::new();
    for (key, value) in fields {
        match (key.as_str(), value) {
            ("default", _) => {}
            ("$ref", Value::String(path)) => {
                out.insert(key, path.replace("#/components/schemas/", "#/definitions/").into());
            }
            ("allOf", Value::Array(of)) => {
                out.extend(of.into_iter().map(downgrade).filter_map(|s| s.as_object().cloned()).flatten());
            }
            ("items" | "additionalProperties", inner) => {
                out.insert(key, downgrade(inner));
            }
            ("properties", Value::Object(properties)) => {
                out.insert(key, properties.into_iter().map(|(name, s)| (name, downgrade(s))).collect());
            }
            (_, value) => {
                out.insert(key, value);
            }
        }
    }
    Value::Object(out)
}

fn encode(definitions: &Map<String, Value>) -> Vec<u8> {
    let document = Document {
        swagger: "2.0".into(),
        info: Some(Info { title: "Kubernetes".into(), version: GIT_VERSION.into() }),
        paths: Some(Paths {}),
        definitions: Some(named(definitions)),
    };
    document.encode_to_vec()
}

fn named(schemas: &Map<String, Value>) -> Schemas {
    let one = |(name, schema): (&String, &Value)| NamedSchema { name: name.clone(), value: Some(message(schema)) };
    Schemas { additional_properties: schemas.iter().map(one).collect() }
}

fn message(schema: &Value) -> Schema {
    let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let texts = |key: &str| -> Vec<String> {
        schema
            .get(key)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(Into::into)
            .collect()
    };
    let extensions = schema.as_object().into_iter().flatten().filter(|(key, _)| key.starts_with("x-"));
    Schema {
        reference: text("$ref"),
        format: text("format"),
        description: text("description"),
        required: texts("required"),
        additional_properties: schema
            .get("additionalProperties")
            .map(|inner| Box::new(AdditionalProperties { schema: Some(Box::new(message(inner))) })),
        types: Some(Types { value: vec![text("type")] }).filter(|t| t.value != [""]),
        items: schema.get("items").map(|inner| Items { schema: vec![message(inner)] }),
        properties: schema.get("properties").and_then(Value::as_object).map(named),
        // JSON is YAML.
        extensions: extensions
            .map(|(name, value)| NamedAny { name: name.clone(), value: Some(Any { yaml: value.to_string() }) })
            .collect(),
    }
}

#[derive(Message)]
struct Document {
    #[prost(string, tag = "1")]
    swagger: String,
    #[prost(message, optional, tag = "2")]
    info: Option<Info>,
    #[prost(message, optional, tag = "8")]
    paths: Option<Paths>,
    #[prost(message, optional, tag = "9")]
    definitions: Option<Schemas>,
}

#[derive(Message)]
struct Info {
    #[prost(string, tag = "1")]
    title: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Message)]
struct Paths {}

/// `Definitions` and `Properties`, which are alike.
#[derive(Message)]
struct Schemas {
    #[prost(message, repeated, tag = "1")]
    additional_properties: Vec<NamedSchema>,
}

#[derive(Message)]
struct NamedSchema {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Schema>,
}

#[derive(Message)]
struct Schema {
    #[prost(string, tag = "1")]
    reference: String,
    #[prost(string, tag = "2")]
    format: String,
    #[prost(string, tag = "4")]
    description: String,
    #[prost(string, repeated, tag = "19")]
    required: Vec<String>,
    #[prost(message, optional, boxed, tag = "21")]
    additional_properties: Option<Box<AdditionalProperties>>,
    #[prost(message, optional, tag = "22")]
    types: Option<Types>,
    #[prost(message, optional, tag = "23")]
    items: Option<Items>,
    #[prost(message, optional, tag = "25")]
    properties: Option<Schemas>,
    #[prost(message, repeated, tag = "31")]
    extensions: Vec<NamedAny>,
}

#[derive(Message)]
struct AdditionalProperties {
    #[prost(message, optional, boxed, tag = "1")]
    schema: Option<Box<Schema>>,
}

#[derive(Message)]
struct Types {
    #[prost(string, repeated, tag = "1")]
    value: Vec<String>,
}

#[derive(Message)]
struct Items {
    #[prost(message, repeated, tag = "1")]
    schema: Vec<Schema>,
}

#[derive(Message)]
struct NamedAny {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Any>,
}

#[derive(Message)]
struct Any {
    #[prost(string, tag = "2")]
    yaml: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_in_the_words_of_v2() {
        let reference = json!({"$ref": "#/components/schemas/a.B"});
        for (v3, v2) in [
            (json!({"type": "string", "default": ""}), json!({"type": "string"})),
            (json!({"allOf": [reference], "default": {}}), json!({"$ref": "#/definitions/a.B"})),
            (
                json!({"type": "array", "items": {"allOf": [reference]}, "x-kubernetes-list-type": "atomic"}),
                json!({"type": "array", "items": {"$ref": "#/definitions/a.B"}, "x-kubernetes-list-type": "atomic"}),
            ),
            (
                json!({"type": "object", "properties": {"default": {"type": "string", "default": "x"}}}),
                json!({"type": "object", "properties": {"default": {"type": "string"}}}),
            ),
        ] {
            assert_eq!(downgrade(v3.clone()), v2, "{v3}");
        }
    }

    #[test]
    fn protobuf_holds_what_json_does() {
        let json = json!({"a.B": {"type": "object", "required": ["c"], "x-kubernetes-group-version-kind": [{"kind": "B"}],
            "properties": {"c": {"type": "object", "additionalProperties": {"$ref": "#/definitions/a.D"}}}}});
        let document = Document::decode(encode(json.as_object().unwrap()).as_slice()).unwrap();
        let b = &document.definitions.unwrap().additional_properties[0];
        let schema = b.value.as_ref().unwrap();
        let c = &schema.properties.as_ref().unwrap().additional_properties[0];
        let values = c.value.as_ref().unwrap().additional_properties.as_ref().unwrap().schema.as_ref().unwrap();
        assert_eq!((b.name.as_str(), c.name.as_str(), values.reference.as_str()), ("a.B", "c", "#/definitions/a.D"));
        assert_eq!(schema.required, ["c"]);
        assert_eq!(schema.extensions[0].value.as_ref().unwrap().yaml, r#"[{"kind":"B"}]"#);
    }
}
