//! Structural schemas: what a definition of a custom resource says about its objects
//! (`k8s.io/apiextensions-apiserver/pkg/apiserver/schema`). Pure.
//!
//! ```text
//! JSONSchemaProps ── check     may it be a definition's schema?
//!        │
//!        └─ Structural ──┬─ prune     unknown fields go, and are named
//!                        ├─ default   absent fields come
//!                        ├─ validate  values, with upstream's messages; an old object forgives what did not change
//!                        ├─ lists     sets and maps hold nothing twice
//!                        └─ publish   OpenAPI v2 and v3
//! ```
//! A schema is as deep as a document may be, so walking along one is bounded; what multiplies (defaults in lists,
//! alternatives over large values) has a budget.

mod check;
mod default;
mod defaults;
mod formats;
mod invariants;
mod lists;
mod meta;
mod pattern;
mod prune;
mod publish;
mod validate;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use indexmap::IndexMap;
use regex::Regex;
use serde_json::Value;

pub use check::{Rules, check_schema, has_rules, violations};
pub use default::TooLarge;
pub use meta::{TYPE_META, check_embedded, coerce};
pub use publish::{v2, v3};

use crate::meta::{Meta, strings};

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// Any.
    #[default]
    Any,
    /// `object`.
    Object,
    /// `array`.
    Array,
    /// `string`.
    String,
    /// `integer`.
    Integer,
    /// `number`.
    Number,
    /// `boolean`.
    Boolean,
}

impl Kind {
    fn parse(text: &str) -> Self {
        match text {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => Self::Any,
        }
    }

    /// `object`; "" for any.
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// What is said about fields that `properties` does not name.
#[derive(Debug, Clone, Default)]
pub enum Additional {
    /// Nothing.
    #[default]
    Unsaid,
    /// They may be there, as anything, or may not.
    Allowed(bool),
    /// They are of this form.
    Of(Box<Structural>),
}

/// How the elements of a list relate (`x-kubernetes-list-type`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ListType {
    /// Not at all.
    #[default]
    Atomic,
    /// None is there twice.
    Set,
    /// None is there twice with the same values of these fields.
    Map(Vec<String>),
}

/// Bounds on values.
#[derive(Debug, Clone, Default)]
pub struct Bounds {
    /// Greatest number, and whether it is excluded.
    pub maximum: Option<(f64, bool)>,
    /// Least number, and whether it is excluded.
    pub minimum: Option<(f64, bool)>,
    /// A factor of numbers.
    pub multiple_of: Option<f64>,
    /// Characters at most.
    pub max_length: Option<u64>,
    /// Characters at least.
    pub min_length: Option<u64>,
    /// A regular expression as written, and compiled where it could be.
    pub pattern: Option<(String, Option<Regex>)>,
    /// Elements at most.
    pub max_items: Option<u64>,
    /// Elements at least.
    pub min_items: Option<u64>,
    /// Whether no element is there twice.
    pub unique: bool,
    /// Fields at most.
    pub max_properties: Option<u64>,
    /// Fields at least.
    pub min_properties: Option<u64>,
    /// Fields that must be there.
    pub required: Vec<String>,
    /// The values there are, when not all.
    pub values: Option<Vec<Value>>,
    /// `date-time` and so on.
    pub format: String,
    /// All hold.
    pub all_of: Vec<Structural>,
    /// At least one holds.
    pub any_of: Vec<Structural>,
    /// Exactly one holds.
    pub one_of: Vec<Structural>,
    /// Does not hold.
    pub not: Option<Box<Structural>>,
}

/// One node of a schema; also of those within `allOf` and its kin, which restrict values and have no type.
#[derive(Debug, Clone, Default)]
pub struct Structural {
    /// The type.
    pub kind: Kind,
    /// Whether null is a value.
    pub nullable: bool,
    /// What an absent field gets.
    pub default: Option<Value>,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub preserve: bool,
    /// `x-kubernetes-embedded-resource`.
    pub embedded: bool,
    /// `x-kubernetes-int-or-string`.
    pub int_or_string: bool,
    /// `x-kubernetes-list-type`.
    pub list: ListType,
    /// `x-kubernetes-map-type: atomic`.
    pub atomic_map: bool,
    /// Fields, in the order they were written.
    pub properties: IndexMap<String, Structural>,
    /// Other fields.
    pub additional: Additional,
    /// Elements.
    pub items: Option<Box<Structural>>,
    bounds: Option<Box<Bounds>>,
}

static FREE: LazyLock<Bounds> = LazyLock::new(Bounds::default);

impl Structural {
    /// From `JSONSchemaProps`. What is no schema says nothing; [`check_schema`] tells what is wrong with one.
    pub fn parse(schema: &Value) -> Self {
        let flag = |key: &str| schema.get(key).and_then(Value::as_bool).unwrap_or(false);
        let list = match schema.str_at(&["x-kubernetes-list-type"]) {
            "set" => ListType::Set,
            "map" => ListType::Map(strings(schema.get("x-kubernetes-list-map-keys"))),
            _ => ListType::Atomic,
        };
        let additional = match schema.get("additionalProperties") {
            Some(Value::Bool(allowed)) => Additional::Allowed(*allowed),
            Some(of @ Value::Object(_)) => Additional::Of(Box::new(Self::parse(of))),
            _ => Additional::Unsaid,
        };
        let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
        Self {
            kind: Kind::parse(schema.str_at(&["type"])),
            nullable: flag("nullable"),
            default: schema.get("default").filter(|d| !d.is_null()).cloned(),
            preserve: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            list,
            atomic_map: schema.str_at(&["x-kubernetes-map-type"]) == "atomic",
            properties: properties.map(|(name, of)| (name.clone(), Self::parse(of))).collect(),
            additional,
            items: schema.get("items").filter(|i| i.is_object()).map(|i| Box::new(Self::parse(i))),
            bounds: Bounds::parse(schema).map(Box::new),
        }
    }

    /// Restrictions of its values.
    pub fn bounds(&self) -> &Bounds {
        self.bounds.as_deref().unwrap_or(&FREE)
    }

    /// The schema of a whole object: its kind, version and metadata are there without being mentioned.
    pub fn root(schema: &Value) -> Self {
        Self { embedded: true, ..Self::parse(schema) }
    }

    /// The schema of a field's value, if there is one.
    pub fn field(&self, name: &str) -> Option<&Self> {
        match (self.properties.get(name), &self.additional) {
            (Some(of), _) => Some(of),
            (None, Additional::Of(of)) => Some(of),
            (None, _) => None,
        }
    }

    /// The schema at a path of fields.
    pub fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |schema, name| schema.field(name))
    }

    /// Whether any field has a default.
    pub fn has_defaults(&self) -> bool {
        self.default.is_some()
            || self.properties.values().any(Self::has_defaults)
            || self.items.as_deref().is_some_and(Self::has_defaults)
            || matches!(&self.additional, Additional::Of(of) if of.has_defaults())
    }
}

impl Bounds {
    /// Most nodes have none.
    fn parse(schema: &Value) -> Option<Self> {
        let plain = |key: &str| {
            matches!(
                key,
                "type" | "description" | "title" | "properties" | "items" | "additionalProperties" | "default"
            ) || key.starts_with("x-kubernetes-")
        };
        let bounded = schema.as_object().is_some_and(|map| !map.keys().all(|key| plain(key)));
        bounded.then(|| Self::all(schema))
    }

    fn all(schema: &Value) -> Self {
        let number = |key: &str| schema.get(key).and_then(Value::as_f64);
        let count = |key: &str| schema.get(key).and_then(Value::as_i64).map(|n| u64::try_from(n).unwrap_or(0));
        let flag = |key: &str| schema.get(key).and_then(Value::as_bool).unwrap_or(false);
        let list = |key: &str| -> Vec<Structural> {
            schema.get(key).and_then(Value::as_array).into_iter().flatten().map(Structural::parse).collect()
        };
        let pattern = Some(schema.str_at(&["pattern"])).filter(|p| !p.is_empty());
        Self {
            maximum: number("maximum").map(|n| (n, flag("exclusiveMaximum"))),
            minimum: number("minimum").map(|n| (n, flag("exclusiveMinimum"))),
            multiple_of: number("multipleOf"),
            max_length: count("maxLength"),
            min_length: count("minLength"),
            pattern: pattern.map(|text| (text.to_owned(), pattern::compile(text).ok())),
            max_items: count("maxItems"),
            min_items: count("minItems"),
            unique: flag("uniqueItems"),
            max_properties: count("maxProperties"),
            min_properties: count("minProperties"),
            required: strings(schema.get("required")),
            values: schema.get("enum").and_then(Value::as_array).filter(|v| !v.is_empty()).cloned(),
            format: schema.str_at(&["format"]).to_owned(),
            all_of: list("allOf"),
            any_of: list("anyOf"),
            one_of: list("oneOf"),
            not: schema.get("not").filter(|n| n.is_object()).map(|n| Box::new(Structural::parse(n))),
        }
    }
}

/// A path in errors: `spec.list[0].name`.
pub(crate) fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// A list's elements by what tells them apart; `None` for elements that lack it.
pub(crate) fn by_keys<'a>(items: &'a [Value], keys: &[String]) -> BTreeMap<String, &'a Value> {
    items.iter().filter_map(|item| Some((key_of(item, keys)?, item))).collect()
}

pub(crate) fn key_of(item: &Value, keys: &[String]) -> Option<String> {
    let map = item.as_object()?;
    Some(keys.iter().map(|key| map.get(key).map_or_else(String::new, Value::to_string)).collect::<Vec<_>>().join("\0"))
}
