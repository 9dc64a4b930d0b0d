//! Whether `openAPIV3Schema` may be the schema of a definition
//! (`apiextensions/validation.validateCustomResourceDefinitionValidation`).

use serde_json::Value;

use super::{TYPE_META, defaults, invariants};
use crate::meta::{Meta, strings};
use crate::status::FieldErrors;

/// What is asked of a schema. A definition that was stored before a rule came, or that has always broken it, may be
/// updated without keeping it.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// It is structural.
    pub structural: bool,
    /// Its defaults have no unknown fields.
    pub pruned_defaults: bool,
    /// Elements of sets are atomic.
    pub atomic_sets: bool,
    /// Keys of list maps are required or have defaults.
    pub map_keys: bool,
    /// Types are those of OpenAPI v3.
    pub types: bool,
}

impl Rules {
    /// All of them.
    pub const ALL: Self =
        Self { structural: true, pruned_defaults: true, atomic_sets: true, map_keys: true, types: true };

    /// Those that the schemas of an older definition keep.
    pub fn kept_by(schemas: &[&Value]) -> Self {
        let keeps = |rules: Self| {
            schemas.iter().all(|schema| {
                let (mut with, mut without) = (FieldErrors::default(), FieldErrors::default());
                check_schema(schema, "", false, rules, &mut with);
                check_schema(schema, "", false, Self::NONE, &mut without);
                with.0.len() == without.0.len()
            })
        };
        Self {
            structural: keeps(Self { structural: true, ..Self::NONE }),
            pruned_defaults: keeps(Self { structural: true, pruned_defaults: true, ..Self::NONE }),
            atomic_sets: keeps(Self { atomic_sets: true, ..Self::NONE }),
            map_keys: keeps(Self { map_keys: true, ..Self::NONE }),
            types: keeps(Self { types: true, ..Self::NONE }),
        }
    }

    const NONE: Self =
        Self { structural: false, pruned_defaults: false, atomic_sets: false, map_keys: false, types: false };
}

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// Whether a schema has rules in CEL (`x-kubernetes-validations`).
pub fn has_rules(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => map.iter().any(|(key, value)| match key.as_str() {
            "x-kubernetes-validations" => value.as_array().is_some_and(|rules| !rules.is_empty()),
            // Values, not schemas.
            "default" | "enum" | "example" => false,
            _ => has_rules(value),
        }),
        Value::Array(items) => items.iter().any(has_rules),
        _ => false,
    }
}

/// Adds what keeps a schema from being structural.
pub fn violations(schema: &Value, path: &str, errors: &mut FieldErrors) {
    invariants::check(schema, path, errors);
}

/// Adds what is wrong with a schema at `path`; `status` tells whether status is a subresource.
pub fn check_schema(schema: &Value, path: &str, status: bool, rules: Rules, errors: &mut FieldErrors) {
    if status {
        root(schema, path, errors);
    }
    if on(schema, "nullable") {
        errors.forbidden(&format!("{path}.nullable"), "nullable cannot be true at the root");
    }
    if rules.structural {
        let mut found = FieldErrors::default();
        invariants::check(schema, path, &mut found);
        if found.0.is_empty() {
            let mut whole = schema.clone();
            if let Some(map) = whole.as_object_mut() {
                map.insert("x-kubernetes-embedded-resource".into(), true.into());
            }
            defaults::check(&whole, false, rules.pruned_defaults, path, &mut found);
        }
        errors.0.extend(found.0);
    }
    let place = Place { rules, root: true, ..Place::default() };
    node(schema, path, &place, errors);
}

#[derive(Clone, Default)]
struct Place {
    rules: Rules,
    root: bool,
    in_meta: bool,
    no_default: Option<String>,
}

impl Default for Rules {
    fn default() -> Self {
        Self::ALL
    }
}

fn on(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool) == Some(true)
}

/// Where status is a subresource, what the root says must hold of its fields alone.
fn root(schema: &Value, path: &str, errors: &mut FieldErrors) {
    const ALLOWED: &str = "[Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations]";
    const OTHERS: [&str; 21] = [
        "id",
        "$schema",
        "$ref",
        "default",
        "enum",
        "maxProperties",
        "minProperties",
        "allOf",
        "oneOf",
        "anyOf",
        "not",
        "additionalProperties",
        "patternProperties",
        "dependencies",
        "additionalItems",
        "definitions",
        "nullable",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-int-or-string",
        "x-kubernetes-list-type",
        "x-kubernetes-map-type",
    ];
    let ty = schema.str_at(&["type"]);
    if !ty.is_empty() && ty != "object" {
        let detail =
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        errors.invalid(&format!("{path}.type"), &ty.into(), detail);
    } else if OTHERS.iter().any(|key| schema.get(key).is_some_and(|v| !v.is_null() && *v != Value::Bool(false))) {
        let detail =
            format!("only {ALLOWED} fields are allowed at the root of the schema if the status subresource is enabled");
        errors.invalid(path, schema, &detail);
    }
}

fn node(s: &Value, path: &str, place: &Place, errors: &mut FieldErrors) {
    unsupported(s, path, place, errors);
    if on(s, "uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(&format!("{path}.uniqueItems"), detail);
    }
    let inner = Place { root: false, ..place.clone() };
    let properties = s.get("properties").and_then(Value::as_object).filter(|p| !p.is_empty());
    if let Some(additional) = s.get("additionalProperties").filter(|a| !a.is_null()) {
        if properties.is_some() && *additional != Value::Bool(true) {
            let detail = "additionalProperties and properties are mutual exclusive";
            errors.forbidden(&format!("{path}.additionalProperties"), detail);
        }
        if additional.is_object() {
            let reason = "inside additionalProperties applying to object metadata";
            let no_default = if place.in_meta { Some(reason.into()) } else { place.no_default.clone() };
            node(additional, &format!("{path}.additionalProperties"), &Place { no_default, ..inner.clone() }, errors);
        }
    }
    for (name, field) in properties.into_iter().flatten() {
        let mut inner = inner.clone();
        if (place.root || on(s, "x-kubernetes-embedded-resource")) && TYPE_META.contains(&name.as_str()) {
            inner.in_meta = true;
            if place.root {
                inner.no_default = Some(format!("in top-level {name}"));
            }
        }
        node(field, &format!("{path}.properties[{name}]"), &inner, errors);
    }
    if let Some(not) = s.get("not").filter(|n| n.is_object()) {
        node(not, &format!("{path}.not"), &inner, errors);
    }
    for key in ["allOf", "oneOf", "anyOf"] {
        for (i, of) in s.get(key).and_then(Value::as_array).into_iter().flatten().enumerate() {
            node(of, &format!("{path}.{key}[{i}]"), &inner, errors);
        }
    }
    if let Some(items) = s.get("items").filter(|i| i.is_object()) {
        node(items, &format!("{path}.items"), &inner, errors);
    }
    extensions(s, path, place.rules, errors);
}

/// `specStandardValidatorV3`.
fn unsupported(s: &Value, path: &str, place: &Place, errors: &mut FieldErrors) {
    let ty = s.str_at(&["type"]);
    if place.rules.types && !ty.is_empty() && !TYPES.contains(&ty) {
        errors.not_supported(&format!("{path}.type"), &ty.into(), &TYPES);
    }
    if let Some(reason) = place.no_default.as_ref().filter(|_| s.get("default").is_some_and(|d| !d.is_null())) {
        errors.forbidden(&format!("{path}.default"), &format!("must not be set {reason}"));
    }
    for key in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        let is_set = |v: &Value| match v {
            Value::String(text) => !text.is_empty(),
            Value::Object(map) => !map.is_empty() || key == "additionalItems",
            Value::Null => false,
            _ => true,
        };
        if s.get(key).is_some_and(is_set) {
            errors.forbidden(&format!("{path}.{key}"), &format!("{key} is not supported"));
        }
    }
    if ty == "null" {
        errors.forbidden(&format!("{path}.type"), "type cannot be set to null, use nullable as an alternative");
    }
    if s.get("items").is_some_and(Value::is_array) {
        errors.forbidden(&format!("{path}.items"), "items must be a schema object and not an array");
    }
    if place.in_meta && on(s, "x-kubernetes-embedded-resource") {
        let detail = "must not be used inside of resource meta";
        errors.forbidden(&format!("{path}.x-kubernetes-embedded-resource"), detail);
    }
}

fn extensions(s: &Value, path: &str, rules: Rules, errors: &mut FieldErrors) {
    if s.get("x-kubernetes-preserve-unknown-fields").and_then(Value::as_bool) == Some(false) {
        let at = format!("{path}.x-kubernetes-preserve-unknown-fields");
        errors.invalid(&at, &false.into(), "must be true or undefined");
    }
    let ty = s.str_at(&["type"]);
    for (key, wanted, allowed) in [
        ("x-kubernetes-map-type", "object", &["atomic", "granular"][..]),
        ("x-kubernetes-list-type", "array", &["atomic", "set", "map"]),
    ] {
        let Some(given) = s.get(key).filter(|v| !v.is_null()) else { continue };
        if ty != wanted {
            let (at, detail) = (format!("{path}.type"), format!("must be {wanted} if {key} is specified"));
            if ty.is_empty() { errors.required(&at, &detail) } else { errors.invalid(&at, &ty.into(), &detail) }
        }
        if !allowed.iter().any(|a| given == a) {
            errors.not_supported_of(&format!("{path}.{key}"), given, allowed);
        }
    }
    let items = s.get("items").filter(|i| i.is_object());
    if let Some(items) = items.filter(|_| rules.atomic_sets && s.str_at(&["x-kubernetes-list-type"]) == "set") {
        set_items(items, path, errors);
    }
    list_map(s, items, path, errors);
    if let Some(items) = items.filter(|_| rules.map_keys) {
        map_keys(s, items, path, errors);
    }
}

fn set_items(items: &Value, path: &str, errors: &mut FieldErrors) {
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let (list, map) = (items.str_at(&["x-kubernetes-list-type"]), items.str_at(&["x-kubernetes-map-type"]));
    match items.str_at(&["type"]) {
        "array" if !matches!(list, "" | "atomic") => {
            errors.invalid(&format!("{path}.items.x-kubernetes-list-type"), &list.into(), detail);
        }
        "object" if map != "atomic" => {
            errors.invalid(&format!("{path}.items.x-kubernetes-map-type"), &items["x-kubernetes-map-type"], detail);
        }
        _ => {}
    }
}

fn list_map(s: &Value, items: Option<&Value>, path: &str, errors: &mut FieldErrors) {
    let (list, keys) = (s.str_at(&["x-kubernetes-list-type"]), strings(s.get("x-kubernetes-list-map-keys")));
    let (at_type, at_keys) = (format!("{path}.x-kubernetes-list-type"), format!("{path}.x-kubernetes-list-map-keys"));
    if !keys.is_empty() && list != "map" {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        if list.is_empty() { errors.required(&at_type, detail) } else { errors.invalid(&at_type, &list.into(), detail) }
    }
    if list != "map" {
        return;
    }
    if keys.is_empty() {
        errors.required(&at_keys, "must not be empty if x-kubernetes-list-type is map");
    }
    let Some(items) = items else {
        return errors.required(&format!("{path}.items"), "must have a schema if x-kubernetes-list-type is map");
    };
    let ty = items.str_at(&["type"]);
    if ty != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        return errors.invalid(&format!("{path}.items.type"), &ty.into(), detail);
    }
    for (i, key) in keys.iter().enumerate() {
        match items.at(&["properties", key]).map(|p| p.str_at(&["type"])) {
            Some("array" | "object") => errors.invalid(
                &format!("{path}.items.properties[{key}].type"),
                &ty.into(),
                "must be a scalar type if parent array's x-kubernetes-list-type is map",
            ),
            Some(_) => {}
            None => errors.invalid(&at_keys, &keys.clone().into(), "entries must all be names of item properties"),
        }
        if keys[..i].contains(key) {
            errors.invalid(&at_keys, &keys.clone().into(), "must not contain duplicate entries");
        }
    }
}

/// `validateMapListKeysMapSet`.
fn map_keys(s: &Value, items: &Value, path: &str, errors: &mut FieldErrors) {
    let list = s.str_at(&["x-kubernetes-list-type"]);
    if !matches!(list, "set" | "map") {
        return;
    }
    if on(items, "nullable") {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {list}");
        errors.forbidden(&format!("{path}.items.nullable"), &detail);
    }
    let required = strings(items.get("required"));
    for key in strings(s.get("x-kubernetes-list-map-keys")).iter().filter(|_| list == "map") {
        let Some(field) = items.at(&["properties", key]) else { continue };
        let at = format!("{path}.items.properties[{key}]");
        if !required.contains(key) && field.get("default").is_none_or(Value::is_null) {
            let detail =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.required(&format!("{at}.default"), detail);
        }
        if on(field, "nullable") {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.forbidden(&format!("{at}.nullable"), detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reported(schema: &Value, status: bool) -> Vec<String> {
        let mut errors = FieldErrors::default();
        check_schema(schema, "s", status, Rules::ALL, &mut errors);
        errors.0.into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    }

    fn within(inner: Value) -> Value {
        json!({"type": "object", "properties": {"x": inner}})
    }

    #[test]
    fn good_schemas() {
        for schema in [
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
            within(json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]})),
            within(
                json!({"x-kubernetes-int-or-string": true, "allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"pattern": "a"}]}),
            ),
            within(json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}}}})),
            within(json!({"type": "object", "default": {"a": 1}, "properties": {"a": {"type": "integer"}}})),
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}}},
                "kind": {"type": "string"}}}),
            within(
                json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}),
            ),
        ] {
            assert_eq!(reported(&schema, true), [""; 0], "{schema}");
        }
    }

    fn all<const N: usize>(table: [(Value, &str); N]) {
        for (schema, want) in table {
            let errors = reported(&schema, true);
            assert!(errors.iter().any(|e| e.starts_with(want)), "{schema}: {want}: {errors:#?}");
        }
    }

    #[test]
    fn mistakes_in_types() {
        all([
            (json!({}), "s.type: Required value: must not be empty at the root"),
            (json!({"type": "string"}), "s.type: Invalid value: \"string\": must be object at the root"),
            (json!({"type": "object", "nullable": true}), "s.nullable: Forbidden: nullable cannot be true at the root"),
            (
                json!({"type": "object", "additionalProperties": {"type": "string"}}),
                "s.additionalProperties: Forbidden: must not be used at the root",
            ),
            (within(json!({})), "s.properties[x].type: Required value: must not be empty for specified object fields"),
            (within(json!({"type": "array"})), "s.properties[x].items: Required value: must be specified"),
            (
                within(json!({"type": "array", "items": {}})),
                "s.properties[x].items.type: Required value: must not be empty for specified array items",
            ),
            (
                within(json!({"type": "strin"})),
                "s.properties[x].type: Unsupported value: \"strin\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
            ),
            (
                within(json!({"type": "string", "pattern": "("})),
                "s.properties[x].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't",
            ),
            (
                within(json!({"type": "string", "anyOf": [{"type": "string"}]})),
                "s.properties[x].anyOf[0].type: Forbidden: must be empty to be structural",
            ),
            (
                json!({"type": "object", "not": {"properties": {"a": {"maxLength": 1}}}}),
                "s.properties[a]: Required value: because it is defined in s.not.properties[a]",
            ),
            (
                within(json!({"type": "string", "allOf": [{"description": "d"}]})),
                "s.properties[x].allOf[0].description: Forbidden: must be empty to be structural",
            ),
        ]);
    }

    #[test]
    fn mistakes_in_lists_and_fields() {
        all([
            (
                within(json!({"type": "array", "uniqueItems": true, "items": {"type": "string"}})),
                "s.properties[x].uniqueItems: Forbidden",
            ),
            (
                within(
                    json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
                ),
                "s.properties[x].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
            ),
            (
                within(json!({"type": "string", "$ref": "#/a"})),
                "s.properties[x].$ref: Forbidden: $ref is not supported",
            ),
            (
                within(json!({"type": "array", "items": [{"type": "string"}]})),
                "s.properties[x].items: Forbidden: items must be a schema object and not an array",
            ),
            (
                within(json!({"type": "string", "x-kubernetes-list-type": "set"})),
                "s.properties[x].type: Invalid value: \"string\": must be array if x-kubernetes-list-type is specified",
            ),
            (
                within(json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}})),
                "s.properties[x].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
            ),
            (
                within(
                    json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "properties": {"k": {"type": "string"}}}}),
                ),
                "s.properties[x].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys",
            ),
        ]);
    }

    #[test]
    fn mistakes_in_defaults_and_roots() {
        all([
            (
                within(json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}})),
                "s.properties[x].items.x-kubernetes-map-type: Invalid value: null: must be atomic",
            ),
            (
                within(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": false})),
                "s.properties[x].x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined",
            ),
            (
                within(json!({"type": "object", "x-kubernetes-embedded-resource": true})),
                "s.properties[x].properties: Required value: must not be empty if",
            ),
            (
                within(json!({"type": "integer", "default": "a"})),
                "s.properties[x].default: Invalid value: \"string\": s.properties[x].default in body must be of type integer",
            ),
            (
                within(json!({"type": "object", "default": {"a": 1}})),
                "s.properties[x].default: Invalid value: {\"a\":1}: must not have unknown fields",
            ),
            (
                json!({"type": "object", "properties": {"kind": {"type": "string", "default": "X"}}}),
                "s.properties[kind].default: Forbidden: must not be set in top-level kind",
            ),
            (
                json!({"type": "object", "properties": {"metadata": {"type": "object", "description": "d"}}}),
                "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName",
            ),
            (
                json!({"type": "object", "minProperties": 1}),
                "s: Invalid value: {\"type\":\"object\",\"minProperties\":1}: only [Description Type",
            ),
        ]);
    }

    #[test]
    fn an_old_mistake_may_stay() {
        let old = within(json!({}));
        assert!(!Rules::kept_by(&[&old]).structural && Rules::kept_by(&[&old]).types);
        assert!(Rules::kept_by(&[&within(json!({"type": "string"}))]).structural);
        assert!(has_rules(&within(json!({"type": "string", "x-kubernetes-validations": [{"rule": "true"}]}))));
        assert!(!has_rules(&within(json!({"type": "object", "default": {"x-kubernetes-validations": [1]}}))));
    }
}
