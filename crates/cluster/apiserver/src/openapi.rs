//! OpenAPI v3: an index, and one document per group version, made from the schema and the descriptors.
//!
//! Enough for `kubectl apply`, client-side validation and `kubectl explain`: paths with their query parameters, schemas
//! with types, list markers, group-version-kinds and descriptions.

mod custom;
mod descriptions;
pub mod published;
pub(crate) mod v2;

use std::collections::BTreeSet;
use std::sync::Arc;

use hyper::HeaderMap;
use kinit_apimachinery::ApiError;
use kinit_apimachinery::schema::{Field, ListKind, Ty, schema};
use kinit_apimachinery::typed::Typed;
use serde_json::{Map, Value, json};

use self::published::Published;
use crate::aggregation::catalog;
use crate::http::info::query_value;
use crate::http::{ApiResponse, respond};
use crate::resources::Descriptor;
use crate::server::Server;

/// Answers `/openapi/v3` and what is below it.
pub fn handle(server: &Server, rest: &str, query: &str, headers: &HeaderMap) -> Result<ApiResponse, ApiError> {
    if rest.is_empty() {
        return index(server)?.answer("application/json", headers);
    }
    let document = one(server, rest)?.ok_or_else(ApiError::no_such_path)?;
    match query_value(query, "hash") {
        None => document.answer("application/json", headers),
        Some(hash) if hash == document.hash => {
            let mut response = document.answer("application/json", headers)?;
            respond::set_header(&mut response, "cache-control", "public, immutable");
            Ok(response)
        }
        // The client's index is of another time.
        Some(_) => {
            let mut response = respond::text(301, "");
            respond::set_header(&mut response, "location", &url_of(rest, &document));
            Ok(response)
        }
    }
}

/// The index, which follows from what is served here and from the documents of extension servers.
fn index(server: &Server) -> Result<Arc<Published>, ApiError> {
    server.documents.index(server.registry.all(), server.aggregator.document_marks(), || {
        let mut paths = Map::new();
        for (at, document) in all(server)? {
            let url = url_of(&at, &document);
            paths.insert(at, json!({"serverRelativeURL": url}));
        }
        server.documents.retain(|name| name.strip_prefix("v3/").is_none_or(|path| paths.contains_key(path)));
        Ok(json!({"paths": paths}).to_string().into_bytes())
    })
}

/// The document at a path; that of an extension server as it was last read.
fn one(server: &Server, path: &str) -> Result<Option<Arc<Published>>, ApiError> {
    let (group, version) = match path.split('/').collect::<Vec<_>>()[..] {
        ["api", version] => ("", version),
        ["apis", group, version] => (group, version),
        _ => return Ok(None),
    };
    // What is built in is never another's.
    if !group.is_empty()
        && catalog::priority(group, version).is_none()
        && let Some(remote) = server.aggregator.remote(group, version)
    {
        return Ok(server.aggregator.document(&remote));
    }
    let served =
        server.registry.groups().iter().any(|(g, versions)| g == group && versions.iter().any(|v| v == version));
    if served { published(server, group, version).map(Some) } else { Ok(None) }
}

/// The documents of all group versions, those of extension servers as they were last read; by path.
fn all(server: &Server) -> Result<Vec<(String, Arc<Published>)>, ApiError> {
    let mut out = Vec::new();
    for group in catalog::of(&server.registry, &server.aggregator) {
        for version in &group.versions {
            let document = match &version.remote {
                Some(remote) => server.aggregator.document(remote),
                None => Some(published(server, &group.name, &version.name)?),
            };
            out.extend(document.map(|document| (path_of(&group.name, &version.name), document)));
        }
    }
    Ok(out)
}

fn published(server: &Server, group: &str, version: &str) -> Result<Arc<Published>, ApiError> {
    let of: Vec<_> = server.registry.all().into_iter().filter(|d| d.group == group && d.version == version).collect();
    let make = || document(&of, group, version).to_string().into_bytes();
    server.documents.get(of.clone(), &format!("v3/{}", path_of(group, version)), make)
}

fn url_of(path: &str, document: &Published) -> String {
    format!("/openapi/v3/{path}?hash={}", document.hash)
}

fn group_versions(server: &Server) -> Vec<(String, String)> {
    let groups = server.registry.groups();
    groups.into_iter().flat_map(|(g, versions)| versions.into_iter().map(move |v| (g.clone(), v))).collect()
}

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn document(of: &[Arc<Descriptor>], group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    of.iter().for_each(|desc| add_paths(&mut paths, desc));
    let mut schemas = built_in_schemas(of, group, version);
    for desc in of {
        schemas.extend(custom::schemas(desc, custom::Form::V3));
    }
    schemas.sort_keys();
    json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": kinit_component_base::version::GIT_VERSION},
        "paths": paths, "components": {"schemas": schemas,
            "securitySchemes": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header"}}}})
}

/// The built-in types of a group version, and what they are made of.
fn built_in_schemas(of: &[Arc<Descriptor>], group: &str, version: &str) -> Map<String, Value> {
    let mut open = BTreeSet::new();
    for desc in of {
        open.extend(desc.ty.built_in());
        open.extend(schema().by_kind(group, version, &format!("{}List", desc.kind)));
        for sub in &desc.subresources {
            open.extend(sub.gvk.and_then(|(g, v, k)| schema().by_kind(g, v, k)));
        }
    }
    for name in ["DeleteOptions", "ListMeta", "ObjectMeta", "Status"] {
        open.extend(schema().by_name(&format!("meta.v1.{name}")));
    }
    let mut schemas = Map::new();
    let mut todo: Vec<usize> = open.into_iter().collect();
    while let Some(ty) = todo.pop() {
        let name = component(ty);
        if schemas.contains_key(&name) {
            continue;
        }
        let mut refs = Vec::new();
        schemas.insert(name, type_schema(ty, &mut refs));
        todo.extend(refs);
    }
    add_common(&mut schemas);
    schemas
}

/// `io.k8s.api.core.v1.Pod`.
fn component(ty: usize) -> String {
    let name = &schema().get(ty).name;
    match name.strip_prefix("meta.") {
        Some(rest) => format!("io.k8s.apimachinery.pkg.apis.meta.{rest}"),
        None if name.starts_with("apiextensions.") => format!("io.k8s.apiextensions-apiserver.pkg.apis.{name}"),
        None if name.starts_with("apiregistration.") => format!("io.k8s.kube-aggregator.pkg.apis.{name}"),
        None => format!("io.k8s.api.{name}"),
    }
}

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const RAW: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";
const FIELDS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1";

fn add_common(schemas: &mut Map<String, Value>) {
    for (name, value) in [
        (QUANTITY, json!({"oneOf": [{"type": "string"}, {"type": "number"}]})),
        (INT_OR_STRING, json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})),
        (TIME, json!({"type": "string", "format": "date-time"})),
        (MICRO_TIME, json!({"type": "string", "format": "date-time"})),
        (RAW, json!({"type": "object"})),
        (FIELDS, json!({"type": "object"})),
    ] {
        let text = descriptions::of(name).and_then(|d| d.own());
        schemas.insert(name.into(), described(value, text));
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn ty_schema(ty: &Ty, refs: &mut Vec<usize>) -> Value {
    match ty {
        Ty::Str | Ty::Duration => json!({"type": "string"}),
        Ty::I32 => json!({"type": "integer", "format": "int32"}),
        Ty::I64 => json!({"type": "integer", "format": "int64"}),
        Ty::Bool => json!({"type": "boolean"}),
        Ty::F64 => json!({"type": "number", "format": "double"}),
        Ty::Bytes => json!({"type": "string", "format": "byte"}),
        Ty::Quantity => reference(QUANTITY),
        Ty::IntOrString => reference(INT_OR_STRING),
        Ty::Time => reference(TIME),
        Ty::MicroTime => reference(MICRO_TIME),
        Ty::Raw => reference(RAW),
        // A schema, or something else: no type says that.
        Ty::Or(..) => json!({}),
        Ty::Fields => reference(FIELDS),
        Ty::Strings => json!({"type": "array", "items": {"type": "string", "default": ""}}),
        Ty::Message(inner) => {
            refs.push(*inner);
            reference(&component(*inner))
        }
        Ty::List(inner) => json!({"type": "array", "items": wrapped(inner, refs)}),
        Ty::Map(inner) => json!({"type": "object", "additionalProperties": wrapped(inner, refs)}),
    }
}

/// A reference beside a default is wrapped in allOf, as upstream does.
fn wrapped(ty: &Ty, refs: &mut Vec<usize>) -> Value {
    let inner = ty_schema(ty, refs);
    if inner.get("$ref").is_some() { json!({"allOf": [inner], "default": {}}) } else { inner }
}

fn field_schema(field: &Field, refs: &mut Vec<usize>) -> Value {
    let mut out = ty_schema(&field.ty, refs);
    if out.get("$ref").is_some() {
        out = json!({"allOf": [out]});
    }
    match &field.list {
        Some(ListKind::Atomic) if matches!(field.ty, Ty::Map(_)) => out["x-kubernetes-map-type"] = "atomic".into(),
        Some(ListKind::Atomic) => out["x-kubernetes-list-type"] = "atomic".into(),
        Some(ListKind::Set) => out["x-kubernetes-list-type"] = "set".into(),
        Some(ListKind::Map(keys)) => {
            out["x-kubernetes-list-type"] = "map".into();
            out["x-kubernetes-list-map-keys"] = keys.iter().cloned().collect();
        }
        None => {}
    }
    if let Some(key) = &field.merge_key {
        out["x-kubernetes-patch-merge-key"] = key.clone().into();
    }
    let strategy = match (field.merge, field.retain_keys) {
        (true, true) => "merge,retainKeys",
        (true, false) => "merge",
        (false, true) => "retainKeys",
        (false, false) => "",
    };
    if !strategy.is_empty() {
        out["x-kubernetes-patch-strategy"] = strategy.into();
    }
    if let Some(default) = &field.default {
        out["default"] = default.clone();
    }
    out
}

fn type_schema(ty: usize, refs: &mut Vec<usize>) -> Value {
    let s = schema();
    let mut properties = Map::new();
    let mut required = Vec::new();
    let kinds = kinds_of(ty);
    if !kinds.is_empty() {
        // Of all kinds the same is said.
        let options = descriptions::of("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions");
        for name in ["apiVersion", "kind"] {
            let text = options.as_ref().and_then(|d| d.field(name));
            properties.insert(name.into(), described(json!({"type": "string"}), text));
        }
    }
    let descriptions = descriptions::of(&component(ty));
    for field in s.json_fields(ty) {
        let text = descriptions.as_ref().and_then(|d| d.field(&field.name));
        properties.insert(field.name.clone(), described(field_schema(field, refs), text));
        if field.required {
            required.push(Value::from(field.name.clone()));
        }
    }
    let mut out = described(json!({"type": "object"}), descriptions.and_then(|d| d.own()));
    out["properties"] = properties.into();
    if !required.is_empty() {
        out["required"] = required.into();
    }
    if !kinds.is_empty() {
        out["x-kubernetes-group-version-kind"] = kinds.into();
    }
    out
}

fn described(mut schema: Value, description: Option<Value>) -> Value {
    if let (Some(object), Some(description)) = (schema.as_object_mut(), description) {
        object.shift_insert(0, "description".to_owned(), description);
    }
    schema
}

fn kinds_of(ty: usize) -> Vec<Value> {
    schema()
        .kinds()
        .filter(|(_, t)| *t == ty)
        .map(|((g, v, k), _)| json!({"group": if g == "meta.k8s.io" { "" } else { g }, "version": v, "kind": k}))
        .collect()
}

fn parameter(name: &str, ty: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": ty, "uniqueItems": true}})
}

fn add_paths(paths: &mut Map<String, Value>, desc: &Descriptor) {
    let root = format!("/{}", path_of(&desc.group, &desc.version));
    let base = if desc.namespaced {
        format!("{root}/namespaces/{{namespace}}/{}", desc.plural)
    } else {
        format!("{root}/{}", desc.plural)
    };
    let operations = |verbs: &[&str], collection: bool| -> Map<String, Value> {
        let mut out = Map::new();
        for verb in verbs {
            let (method, action) = match (*verb, collection) {
                ("list", true) => ("get", "list"),
                ("create", true) => ("post", "post"),
                ("deletecollection", true) => ("delete", "deletecollection"),
                ("get", false) => ("get", "get"),
                ("update", false) => ("put", "put"),
                ("patch", false) => ("patch", "patch"),
                ("delete", false) => ("delete", "delete"),
                _ => continue,
            };
            out.insert(method.into(), operation(desc, action));
        }
        out
    };
    let path_parameters = |named: bool| {
        let mut out = Vec::new();
        let one = |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}});
        if named {
            out.push(one("name"));
        }
        if desc.namespaced {
            out.push(one("namespace"));
        }
        out.push(parameter("pretty", "string"));
        out
    };
    let mut collection = operations(&desc.verbs, true);
    collection.insert("parameters".into(), path_parameters(false).into());
    paths.insert(base.clone(), collection.into());
    let mut named = operations(&desc.verbs, false);
    if !named.is_empty() {
        named.insert("parameters".into(), path_parameters(true).into());
        paths.insert(format!("{base}/{{name}}"), named.into());
    }
    for sub in &desc.subresources {
        let mut operations = operations(sub.verbs, false);
        if operations.is_empty() {
            continue;
        }
        operations.insert("parameters".into(), path_parameters(true).into());
        paths.insert(format!("{base}/{{name}}/{}", sub.name), operations.into());
    }
}

fn operation(desc: &Descriptor, action: &str) -> Value {
    let mut parameters = Vec::new();
    if matches!(action, "post" | "put" | "patch") {
        parameters.push(parameter("dryRun", "string"));
        parameters.push(parameter("fieldManager", "string"));
        parameters.push(parameter("fieldValidation", "string"));
    }
    if action == "patch" {
        parameters.push(parameter("force", "boolean"));
    }
    if action == "delete" {
        parameters.push(parameter("dryRun", "string"));
        parameters.push(parameter("gracePeriodSeconds", "integer"));
        parameters.push(parameter("propagationPolicy", "string"));
    }
    let kind = json!({"group": desc.group, "version": desc.version, "kind": desc.kind});
    let body = match (&desc.ty, &desc.custom) {
        (Typed::BuiltIn(ty), _) => reference(&component(*ty)),
        (_, Some(_)) => reference(&custom::name(desc, &desc.kind)),
        _ => json!({"type": "object"}),
    };
    let mut out = json!({"parameters": parameters,
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": body}}},
            "401": {"description": "Unauthorized"}},
        "x-kubernetes-action": action, "x-kubernetes-group-version-kind": kind});
    if matches!(action, "post" | "put") {
        out["requestBody"] = json!({"content": {"*/*": {"schema": body}}, "required": true});
    }
    if action == "patch" {
        let patch = json!({"schema": {"type": "object"}});
        let mut content = json!({"application/apply-patch+yaml": patch, "application/json-patch+json": patch,
            "application/merge-patch+json": patch});
        if desc.custom.is_none() {
            content["application/strategic-merge-patch+json"] = patch;
        }
        out["requestBody"] = json!({"required": true, "content": content});
    }
    out
}
