//! What is known of every built-in API type, read once from `data/schema.json` (made by `cargo xtask schema`) and
//! `data/apiextensions.json` and `data/apiregistration.json` (definitions of custom resources and APIServices, which
//! k8s.io/api does not hold).
//!
//! A field is one string there: `name number type flags... m=KEY s=STRATEGY l=LIST d=DEFAULT`. Types are `s` string,
//! `i` int32, `l` int64, `b` bool, `d` double, `y` bytes, `q` Quantity, `x` IntOrString, `t` Time, `u` MicroTime,
//! `D` Duration, `r` RawExtension, `f` FieldsV1, `S` a list of strings that protobuf wraps in a message, a type's
//! name, `[]T` or `{}T` (a map from strings), `b|T`, `a|T` or `S|T` (a T or a boolean, a list of T, a list of strings).
//! Flags: `p` pointer, `o` omitempty, `r` required, `i` inlined, `z`
//! omitzero. `atomic` lists the types that are owned as a whole.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

static DATA: &str = include_str!("../data/schema.json");
static DEFINITIONS: &str = include_str!("../data/apiextensions.json");
static REGISTRATION: &str = include_str!("../data/apiregistration.json");
static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::parse(&[DATA, DEFINITIONS, REGISTRATION]));

/// The type of a field's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ty {
    /// UTF-8 text.
    Str,
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
    /// Boolean.
    Bool,
    /// Floating point.
    F64,
    /// Base64 text in JSON.
    Bytes,
    /// `resource.Quantity`.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// RFC 3339, seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    /// `metav1.Duration`.
    Duration,
    /// Any JSON object.
    Raw,
    /// `metav1.FieldsV1`: any JSON object.
    Fields,
    /// A list of strings, in protobuf a message with a repeated field 1.
    Strings,
    /// Another type of the schema.
    Message(usize),
    /// A list.
    List(Box<Ty>),
    /// A map from strings.
    Map(Box<Ty>),
    /// A value, or in its place something else; on the wire a message that holds one of them.
    Or(Box<Ty>, Other),
}

/// What may stand in the place of a schema (`JSONSchemaPropsOrBool` and its kin).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Other {
    /// A boolean.
    Bool,
    /// A list of the same.
    List,
    /// A list of strings.
    Strings,
}

/// How a list's elements relate, from `x-kubernetes-list-type`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListKind {
    /// Replaced as a whole.
    Atomic,
    /// Distinct scalars.
    Set,
    /// Objects told apart by these keys.
    Map(Vec<String>),
}

/// One field of a type.
#[derive(Debug, Clone)]
pub struct Field {
    /// Name in JSON.
    pub name: String,
    /// Number in protobuf.
    pub number: u32,
    /// Type.
    pub ty: Ty,
    /// Zero and absent are told apart.
    pub pointer: bool,
    /// Empty values are left out of JSON.
    pub omitempty: bool,
    /// Empty structs are left out of JSON too.
    pub omitzero: bool,
    /// Neither optional nor left out.
    pub required: bool,
    /// Its own fields appear in the parent in JSON.
    pub inline: bool,
    /// `patchMergeKey`.
    pub merge_key: Option<String>,
    /// `patchStrategy` has `merge`.
    pub merge: bool,
    /// `patchStrategy` has `retainKeys`.
    pub retain_keys: bool,
    /// For lists and maps.
    pub list: Option<ListKind>,
    /// Declared default.
    pub default: Option<Value>,
}

/// One type: its fields, also by JSON name with inlined members' fields among them.
#[derive(Debug, Default)]
pub struct Type {
    /// Short name, `core.v1.Pod`.
    pub name: String,
    /// In the order of declaration.
    pub fields: Vec<Field>,
    /// Replaced and owned as a whole (`+structType=atomic`).
    pub atomic: bool,
    json: HashMap<String, (usize, usize)>,
    numbers: HashMap<u32, usize>,
}

/// All types.
#[derive(Debug, Default)]
pub struct Schema {
    types: Vec<Type>,
    names: HashMap<String, usize>,
    kinds: HashMap<(String, String, String), usize>,
}

#[derive(Default, Deserialize)]
struct Data {
    kinds: Vec<(String, String, String, String)>,
    #[serde(default)]
    atomic: HashSet<String>,
    types: serde_json::Map<String, Value>,
}

/// The schema of the built-in types.
pub fn schema() -> &'static Schema {
    &SCHEMA
}

impl Schema {
    fn parse(texts: &[&str]) -> Self {
        // The files are part of the program and checked by this module's tests; a broken one gives no types.
        let mut data = Data::default();
        for part in texts.iter().filter_map(|text| serde_json::from_str::<Data>(text).ok()) {
            data.kinds.extend(part.kinds);
            data.atomic.extend(part.atomic);
            data.types.extend(part.types);
        }
        let names: HashMap<String, usize> = data.types.keys().enumerate().map(|(i, n)| (n.clone(), i)).collect();
        let mut types: Vec<Type> = data.types.iter().map(|(name, fields)| Type::parse(name, fields, &names)).collect();
        let inlined: Vec<HashMap<String, (usize, usize)>> = (0..types.len()).map(|i| flatten(&types, i)).collect();
        for (ty, json) in types.iter_mut().zip(inlined) {
            ty.atomic = data.atomic.contains(&ty.name);
            ty.json = json;
            ty.numbers = ty.fields.iter().enumerate().map(|(i, f)| (f.number, i)).collect();
        }
        let kinds = data.kinds.into_iter().filter_map(|(g, v, k, t)| Some(((g, v, k), *names.get(&t)?))).collect();
        Self { types, names, kinds }
    }

    /// The type behind a [`Ty::Message`].
    pub fn get(&self, index: usize) -> &Type {
        &self.types[index]
    }

    /// A type by its short name.
    pub fn by_name(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// The type of a document.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<usize> {
        self.kinds.get(&(group.to_owned(), version.to_owned(), kind.to_owned())).copied()
    }

    /// All documents: (group, version, kind) and type.
    pub fn kinds(&self) -> impl Iterator<Item = (&(String, String, String), usize)> {
        self.kinds.iter().map(|(k, t)| (k, *t))
    }

    /// All types, in the order of their names.
    pub fn types(&self) -> impl Iterator<Item = (usize, &Type)> {
        self.types.iter().enumerate()
    }

    /// A field by JSON name, looking through inlined members.
    pub fn field(&self, index: usize, name: &str) -> Option<&Field> {
        let (owner, at) = self.types.get(index)?.json.get(name)?;
        self.types.get(*owner)?.fields.get(*at)
    }

    /// All fields as JSON sees them: inlined members' fields in the place of the member.
    pub fn json_fields(&self, index: usize) -> Vec<&Field> {
        let mut out = Vec::new();
        for field in &self.types[index].fields {
            match (&field.ty, field.inline) {
                (Ty::Message(inner), true) => out.extend(self.json_fields(*inner)),
                _ => out.push(field),
            }
        }
        out
    }
}

impl Type {
    fn parse(name: &str, fields: &Value, names: &HashMap<String, usize>) -> Self {
        let fields = fields
            .as_array()
            .map(|list| list.iter().filter_map(Value::as_str).filter_map(|cell| Field::parse(cell, names)).collect())
            .unwrap_or_default();
        Self { name: name.to_owned(), fields, ..Self::default() }
    }

    /// A field by protobuf number.
    pub fn by_number(&self, number: u32) -> Option<&Field> {
        self.numbers.get(&number).and_then(|i| self.fields.get(*i))
    }
}

impl Field {
    fn parse(cell: &str, names: &HashMap<String, usize>) -> Option<Self> {
        let (cell, default) = match cell.split_once(" d=") {
            Some((cell, default)) => (cell, serde_json::from_str(default).ok()),
            None => (cell, None),
        };
        let mut words = cell.split(' ');
        let name = words.next()?.to_owned();
        let number = words.next()?.parse().ok()?;
        let ty = Ty::parse(words.next()?, names)?;
        let mut field = Self {
            name,
            number,
            ty,
            pointer: false,
            omitempty: false,
            omitzero: false,
            required: false,
            inline: false,
            merge_key: None,
            merge: false,
            retain_keys: false,
            list: None,
            default,
        };
        for word in words {
            match word.split_once('=') {
                Some(("m", key)) => field.merge_key = Some(key.to_owned()),
                Some(("s", strategy)) => {
                    field.merge = strategy.split(',').any(|s| s == "merge");
                    field.retain_keys = strategy.split(',').any(|s| s == "retainKeys");
                }
                Some(("l", "atomic")) => field.list = Some(ListKind::Atomic),
                Some(("l", "set")) => field.list = Some(ListKind::Set),
                Some(("l", keys)) => field.list = Some(ListKind::Map(keys.split(',').map(str::to_owned).collect())),
                _ => {
                    field.pointer = word.contains('p');
                    field.omitempty = word.contains('o');
                    field.required = word.contains('r');
                    field.inline = word.contains('i');
                    field.omitzero = word.contains('z');
                }
            }
        }
        Some(field)
    }
}

impl Ty {
    fn parse(word: &str, names: &HashMap<String, usize>) -> Option<Self> {
        if let Some(inner) = word.strip_prefix("[]") {
            return Some(Self::List(Box::new(Self::parse(inner, names)?)));
        }
        if let Some(inner) = word.strip_prefix("{}") {
            return Some(Self::Map(Box::new(Self::parse(inner, names)?)));
        }
        if let Some((other, inner)) = word.split_once('|') {
            let other = match other {
                "b" => Other::Bool,
                "a" => Other::List,
                "S" => Other::Strings,
                _ => return None,
            };
            return Some(Self::Or(Box::new(Self::parse(inner, names)?), other));
        }
        Some(match word {
            "s" => Self::Str,
            "i" => Self::I32,
            "l" => Self::I64,
            "b" => Self::Bool,
            "d" => Self::F64,
            "y" => Self::Bytes,
            "q" => Self::Quantity,
            "x" => Self::IntOrString,
            "t" => Self::Time,
            "u" => Self::MicroTime,
            "D" => Self::Duration,
            "r" => Self::Raw,
            "f" => Self::Fields,
            "S" => Self::Strings,
            name => Self::Message(*names.get(name)?),
        })
    }
}

fn flatten(types: &[Type], index: usize) -> HashMap<String, (usize, usize)> {
    let mut out = HashMap::new();
    for (at, field) in types[index].fields.iter().enumerate() {
        match (&field.ty, field.inline) {
            (Ty::Message(inner), true) => out.extend(flatten(types, *inner)),
            _ => {
                out.insert(field.name.clone(), (index, at));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_the_data_is_understood() {
        let mut data: Data = serde_json::from_str(DATA).unwrap();
        data.types.extend(serde_json::from_str::<Data>(DEFINITIONS).unwrap().types);
        let names: HashMap<String, usize> = data.types.keys().enumerate().map(|(i, n)| (n.clone(), i)).collect();
        for (name, fields) in &data.types {
            for cell in fields.as_array().unwrap() {
                assert!(Field::parse(cell.as_str().unwrap(), &names).is_some(), "{name}: {cell}");
            }
        }
    }

    #[test]
    fn facts_of_well_known_fields() {
        let s = schema();
        let pod = s.by_kind("", "v1", "Pod").unwrap();
        assert_eq!(s.get(pod).name, "core.v1.Pod");
        let container = s.by_name("core.v1.Container").unwrap();
        let ports = s.field(container, "ports").unwrap();
        assert_eq!(ports.list, Some(ListKind::Map(vec!["containerPort".into(), "protocol".into()])));
        assert_eq!(ports.merge_key.as_deref(), Some("containerPort"));
        // An inlined member's fields belong to the parent in JSON.
        let volume = s.by_name("core.v1.Volume").unwrap();
        assert!(s.field(volume, "emptyDir").is_some() && s.field(volume, "volumeSource").is_none());
    }
}
