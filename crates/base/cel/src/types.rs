//! Types, from declarations and from OpenAPI schemas.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::sync::Arc;

use serde_json::Value as Json;

/// The type of an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ty {
    /// Anything; what is done with it is checked when it runs.
    Dyn,
    /// `null`.
    Null,
    /// `bool`.
    Bool,
    /// `int`, 64 bits.
    Int,
    /// `uint`, 64 bits.
    Uint,
    /// `double`.
    Double,
    /// `string`.
    Text,
    /// `bytes`.
    Bytes,
    /// `google.protobuf.Timestamp`.
    Time,
    /// `google.protobuf.Duration`.
    Duration,
    /// A list.
    List(Arc<Ty>),
    /// A map.
    Map(Arc<Ty>, Arc<Ty>),
    /// An object with declared fields.
    Object(Arc<Object>),
    /// `optional_type`.
    Optional(Arc<Ty>),
    /// A type as a value.
    Type,
    /// A type of Kubernetes' libraries, by name.
    Opaque(&'static str),
    /// A parameter of a function's signature.
    Param(usize),
}

/// An object with declared fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Object {
    /// What messages call it.
    pub name: String,
    /// Whether it may have any other field, too.
    pub open: bool,
    fields: BTreeMap<String, (String, Ty)>,
}

/// Words that are escaped when they are fields (`escapedKeywords` of upstream's schema library).
const KEYWORDS: [&str; 17] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
];
const MORE_KEYWORDS: [&str; 3] = ["return", "var", "void"];
/// How deep schemas may be nested; what is below counts as anything.
const MAX_SCHEMA_DEPTH: usize = 64;

impl Object {
    /// An object of these fields, by their names in JSON. Those that cannot be written in CEL are escaped, or left out
    /// (`cel.Escape`).
    pub fn new(name: impl Into<String>, fields: impl IntoIterator<Item = (String, Ty)>) -> Self {
        let fields = fields.into_iter().filter_map(|(json, ty)| Some((escape(&json)?, (json, ty)))).collect();
        Self { name: name.into(), open: false, fields }
    }

    /// An object of which only the name is known (`mutation/dynamic`): `Object.spec`.
    pub fn open(name: impl Into<String>) -> Self {
        Self { name: name.into(), open: true, fields: BTreeMap::new() }
    }

    /// A field by its name in CEL: its name in JSON, and its type.
    pub fn field(&self, name: &str) -> Option<(&str, &Ty)> {
        self.fields.get(name).map(|(json, ty)| (json.as_str(), ty))
    }

    /// The name in CEL and the type of a field by its name in JSON.
    pub(crate) fn named(&self, json: &str) -> Option<&Ty> {
        self.fields.get(&escape(json)?).map(|(_, ty)| ty)
    }
}

/// A field's name as CEL writes it; `None` for one that it has no way to write.
pub(crate) fn escape(name: &str) -> Option<String> {
    if KEYWORDS.contains(&name) || MORE_KEYWORDS.contains(&name) {
        return Some(format!("__{name}__"));
    }
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("__") {
            out.push_str("__underscores__");
            rest = &rest[2..];
            continue;
        }
        match c {
            '.' => out.push_str("__dot__"),
            '-' => out.push_str("__dash__"),
            '/' => out.push_str("__slash__"),
            c if c.is_ascii_alphanumeric() || c == '_' => out.push(c),
            _ => return None,
        }
        rest = &rest[c.len_utf8()..];
    }
    Some(out)
}

impl Ty {
    /// A list of this type.
    pub fn list(of: Ty) -> Self {
        Self::List(Arc::new(of))
    }

    /// A map with these values, from strings.
    pub fn map(of: Ty) -> Self {
        Self::Map(Arc::new(Self::Text), Arc::new(of))
    }

    /// The type that an OpenAPI schema of a custom resource describes (`SchemaDeclType`). `root` says whether it is
    /// an object of its own, with `apiVersion`, `kind` and `metadata`.
    pub fn from_schema(schema: &Json, name: &str, root: bool) -> Self {
        of_schema(schema, name, root, 0)
    }

    /// Whether a value of `from` can stand where this type is wanted; parameters are bound on the way.
    pub(crate) fn takes(&self, from: &Self, bound: &mut [Option<Self>; 2]) -> bool {
        match (self, from) {
            (Self::Param(at), from) => {
                let Some(slot) = bound.get(*at).cloned() else { return false };
                match slot {
                    None | Some(Self::Dyn) => {
                        if let Some(slot) = bound.get_mut(*at) {
                            *slot = Some(from.clone());
                        }
                        true
                    }
                    Some(known) => known.takes(from, bound),
                }
            }
            (Self::Dyn, _) | (_, Self::Dyn) => true,
            (Self::Null, other) | (other, Self::Null) => other.nullable(),
            (Self::List(a), Self::List(b)) | (Self::Optional(a), Self::Optional(b)) => a.takes(b, bound),
            (Self::Map(k, v), Self::Map(l, w)) => k.takes(l, bound) && v.takes(w, bound),
            (Self::Object(a), Self::Object(b)) => a.name == b.name,
            (a, b) => a == b,
        }
    }

    fn nullable(&self) -> bool {
        matches!(self, Self::Null | Self::Object(_) | Self::Opaque(_) | Self::Time | Self::Duration)
    }

    /// This type with parameters replaced by what they are bound to.
    pub(crate) fn bind(&self, bound: &[Option<Self>; 2]) -> Self {
        match self {
            Self::Param(at) => bound.get(*at).cloned().flatten().unwrap_or(Self::Dyn),
            Self::List(of) => Self::list(of.bind(bound)),
            Self::Optional(of) => Self::Optional(Arc::new(of.bind(bound))),
            Self::Map(k, v) => Self::Map(Arc::new(k.bind(bound)), Arc::new(v.bind(bound))),
            other => other.clone(),
        }
    }

    /// What both are: the same type, or anything.
    pub(crate) fn join(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Null, b) if b.nullable() => other,
            (a, Self::Null) if a.nullable() => self,
            (Self::List(a), Self::List(b)) => Self::list((**a).clone().join((**b).clone())),
            (a, b) if a == b => self,
            _ => Self::Dyn,
        }
    }
}

/// As cel-go's messages write a type.
impl Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::Text => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Time => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::List(of) => write!(f, "list({of})"),
            Self::Map(k, v) => write!(f, "map({k}, {v})"),
            Self::Object(object) => f.write_str(&object.name),
            Self::Optional(of) => write!(f, "optional_type({of})"),
            Self::Type => f.write_str("type"),
            Self::Opaque(name) => f.write_str(name),
            Self::Param(at) => f.write_str(if *at == 0 { "A" } else { "B" }),
        }
    }
}

fn of_schema(schema: &Json, name: &str, root: bool, depth: usize) -> Ty {
    let flag = |key: &str| schema.get(key).and_then(Json::as_bool) == Some(true);
    if depth > MAX_SCHEMA_DEPTH || flag("x-kubernetes-int-or-string") {
        return Ty::Dyn;
    }
    let text = |key: &str| schema.get(key).and_then(Json::as_str).unwrap_or_default();
    match (text("type"), text("format")) {
        ("boolean", _) => Ty::Bool,
        ("integer", _) => Ty::Int,
        ("number", _) => Ty::Double,
        ("string", "byte") => Ty::Bytes,
        ("string", "duration") => Ty::Duration,
        ("string", "date" | "date-time") => Ty::Time,
        ("string", _) => Ty::Text,
        ("array", _) => {
            let items = schema.get("items").unwrap_or(&Json::Null);
            Ty::list(of_schema(items, &format!("{name}.@idx"), false, depth + 1))
        }
        ("object", _) => object(schema, name, root || flag("x-kubernetes-embedded-resource"), depth),
        _ => Ty::Dyn,
    }
}

fn object(schema: &Json, name: &str, resource: bool, depth: usize) -> Ty {
    if let Some(values) = schema.get("additionalProperties").filter(|v| v.is_object()) {
        return Ty::map(of_schema(values, &format!("{name}.@elem"), false, depth + 1));
    }
    let properties = schema.get("properties").and_then(Json::as_object);
    let mut fields: BTreeMap<String, Ty> = BTreeMap::new();
    for (field, schema) in properties.into_iter().flatten() {
        fields.insert(field.clone(), of_schema(schema, &format!("{name}.{field}"), false, depth + 1));
    }
    if resource {
        fields.insert("apiVersion".into(), Ty::Text);
        fields.insert("kind".into(), Ty::Text);
        let meta = [("name".to_owned(), Ty::Text), ("generateName".to_owned(), Ty::Text)];
        fields.insert("metadata".into(), Ty::Object(Arc::new(Object::new(format!("{name}.metadata"), meta))));
    }
    let open = schema.get("x-kubernetes-preserve-unknown-fields").and_then(Json::as_bool) == Some(true);
    if fields.is_empty() && open {
        return Ty::Dyn;
    }
    Ty::Object(Arc::new(Object::new(name, fields)))
}
