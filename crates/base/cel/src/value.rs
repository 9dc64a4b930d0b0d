//! Values. What comes from JSON stays there, and is looked at through its type as far as an expression goes.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use kinit_apimachinery::quantity::Quantity;
use serde_json::Value as Json;

use crate::authority::{Asking, Decision};
use crate::types::{Object, Ty};

/// A value.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// `bool`.
    Bool(bool),
    /// `int`.
    Int(i64),
    /// `uint`.
    Uint(u64),
    /// `double`.
    Double(f64),
    /// `string`.
    Text(Arc<str>),
    /// `bytes`.
    Bytes(Arc<[u8]>),
    /// `google.protobuf.Timestamp`.
    Time(Timestamp),
    /// `google.protobuf.Duration`.
    Duration(SignedDuration),
    /// A list.
    List(List<'a>),
    /// A map or an object.
    Map(Map<'a>),
    /// `optional_type`.
    Optional(Option<Arc<Value<'a>>>),
    /// A type as a value, by name.
    Type(Cow<'static, str>),
    /// `kubernetes.Quantity`.
    Quantity(Quantity),
    /// `net.IP`.
    Ip(IpAddr),
    /// `net.CIDR`.
    Cidr(IpNet),
    /// `kubernetes.URL`.
    Url(Arc<url::Url>),
    /// `kubernetes.Semver`.
    Semver(Arc<semver::Version>),
    /// `kubernetes.NamedFormat`, by name.
    Format(&'static str),
    /// `kubernetes.authorization.Authorizer` and what follows from it.
    Asking(Asking<'a>),
    /// `kubernetes.authorization.Decision`.
    Decision(Arc<Decision>),
}

/// A list.
#[derive(Debug, Clone)]
pub enum List<'a> {
    /// In JSON, with the type of its elements.
    Json(&'a [Json], &'a Ty),
    /// Made by an expression.
    Own(Arc<Vec<Value<'a>>>),
}

/// A map or an object.
#[derive(Debug, Clone)]
pub enum Map<'a> {
    /// In JSON, with the type of its values.
    Json(&'a serde_json::Map<String, Json>, &'a Ty),
    /// In JSON, with declared fields.
    Object(&'a serde_json::Map<String, Json>, &'a Object),
    /// Made by an expression.
    Own(Arc<BTreeMap<Key, (Value<'a>, Value<'a>)>>),
    /// Variables by name, the values of `variables.x`.
    Fields(Arc<BTreeMap<String, Value<'a>>>),
    /// An object that an expression made, `Object.spec{...}`.
    Struct(Arc<Struct<'a>>),
}

/// An object that an expression made.
#[derive(Debug, Clone)]
pub struct Struct<'a> {
    /// The name of its type.
    pub name: String,
    /// Its fields.
    pub fields: BTreeMap<String, Value<'a>>,
}

/// A key of a map: equal numbers are equal keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// `bool`.
    Bool(bool),
    /// `int`, and `uint` as far as it is one.
    Int(i64),
    /// `uint` beyond.
    Uint(u64),
    /// `string`.
    Text(Arc<str>),
}

static DYN: Ty = Ty::Dyn;

impl<'a> Value<'a> {
    /// A string.
    pub fn text(text: impl AsRef<str>) -> Self {
        Self::Text(text.as_ref().into())
    }

    /// A list that an expression made.
    pub fn list(items: Vec<Value<'a>>) -> Self {
        Self::List(List::Own(Arc::new(items)))
    }

    /// `optional.of`.
    pub fn some(value: Value<'a>) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    /// `optional.none`.
    pub const NONE: Self = Self::Optional(None);

    /// JSON without a type: whole numbers are ints.
    pub fn json(json: &'a Json) -> Self {
        Self::typed(json, &DYN)
    }

    /// JSON of a type.
    pub fn typed(json: &'a Json, ty: &'a Ty) -> Self {
        match (json, ty) {
            (Json::Null, _) => Self::Null,
            (Json::Bool(b), _) => Self::Bool(*b),
            (Json::Number(n), Ty::Double) => Self::Double(n.as_f64().unwrap_or_default()),
            (Json::Number(n), _) => match (n.as_i64(), n.as_u64()) {
                (Some(n), _) => Self::Int(n),
                (None, Some(n)) => Self::Uint(n),
                _ => Self::Double(n.as_f64().unwrap_or_default()),
            },
            (Json::String(text), ty) => Self::formatted(text, ty),
            (Json::Array(items), Ty::List(of)) => Self::List(List::Json(items, of)),
            (Json::Array(items), _) => Self::List(List::Json(items, &DYN)),
            (Json::Object(map), Ty::Object(object)) => Self::Map(Map::Object(map, object)),
            (Json::Object(map), Ty::Map(_, of)) => Self::Map(Map::Json(map, of)),
            (Json::Object(map), _) => Self::Map(Map::Json(map, &DYN)),
        }
    }

    /// What does not hold to its format stays text: that it does not is for the schema's validation to say.
    fn formatted(text: &str, ty: &Ty) -> Self {
        let known = match ty {
            Ty::Bytes => base64::engine::general_purpose::STANDARD.decode(text).ok().map(|b| Self::Bytes(b.into())),
            Ty::Time => timestamp(text).or_else(|| timestamp(&format!("{text}T00:00:00Z"))).map(Self::Time),
            Ty::Duration => kinit_apimachinery::duration::parse(text).map(Self::Duration),
            _ => None,
        };
        known.unwrap_or_else(|| Self::text(text))
    }

    /// What `type()` says of it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::Text(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Time(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Ip(_) => "net.IP",
            Self::Cidr(_) => "net.CIDR",
            Self::Url(_) => "kubernetes.URL",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Asking(asking) => asking.stage.type_name(),
            Self::Decision(_) => "kubernetes.authorization.Decision",
        }
    }

    /// Whether the value is of a type, as far as its outside shows.
    pub(crate) fn is(&self, ty: &Ty) -> bool {
        match (ty, self) {
            (Ty::Dyn | Ty::Param(_), _)
            | (Ty::Null, Self::Null)
            | (Ty::Bool, Self::Bool(_))
            | (Ty::Int, Self::Int(_))
            | (Ty::Uint, Self::Uint(_))
            | (Ty::Double, Self::Double(_))
            | (Ty::Text, Self::Text(_))
            | (Ty::Bytes, Self::Bytes(_))
            | (Ty::Time, Self::Time(_))
            | (Ty::Duration, Self::Duration(_))
            | (Ty::List(_), Self::List(_))
            | (Ty::Map(..) | Ty::Object(_), Self::Map(_))
            | (Ty::Optional(_), Self::Optional(_))
            | (Ty::Type, Self::Type(_)) => true,
            (Ty::Opaque(name), value) => value.type_name() == *name,
            _ => false,
        }
    }

    /// Equality, which is false for values of different kinds, but numbers are numbers.
    pub fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Time(a), Self::Time(b)) => a == b,
            (Self::Duration(a), Self::Duration(b)) => a == b,
            (Self::Type(a), Self::Type(b)) => a == b,
            (Self::Quantity(a), Self::Quantity(b)) => a == b,
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a), Self::Cidr(b)) => a == b,
            (Self::Url(a), Self::Url(b)) => a == b,
            (Self::Semver(a), Self::Semver(b)) => a.cmp_precedence(b) == Ordering::Equal,
            (Self::Format(a), Self::Format(b)) => a == b,
            (Self::Optional(a), Self::Optional(b)) => match (a, b) {
                (None, None) => true,
                (Some(a), Some(b)) => a.equals(b),
                _ => false,
            },
            (Self::List(a), Self::List(b)) => a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.equals(&b)),
            (Self::Map(a), Self::Map(b)) => {
                a.len() == b.len() && a.iter().all(|(key, value)| b.get(&key).is_some_and(|other| value.equals(&other)))
            }
            _ => self.compare_numbers(other) == Some(Ordering::Equal),
        }
    }

    /// The order of two numbers of any kind; `None` for what is no number.
    pub(crate) fn compare_numbers(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Uint(a), Self::Uint(b)) => Some(a.cmp(b)),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::Int(a), Self::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Uint(a), Self::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Double(a), Self::Int(b)) => with_whole(*a, i128::from(*b)),
            (Self::Double(a), Self::Uint(b)) => with_whole(*a, i128::from(*b)),
            (Self::Int(a), Self::Double(b)) => with_whole(*b, i128::from(*a)).map(Ordering::reverse),
            (Self::Uint(a), Self::Double(b)) => with_whole(*b, i128::from(*a)).map(Ordering::reverse),
            _ => None,
        }
    }

    /// The order of two values that have one.
    pub(crate) fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            (Self::Time(a), Self::Time(b)) => Some(a.cmp(b)),
            (Self::Duration(a), Self::Duration(b)) => Some(a.cmp(b)),
            _ => self.compare_numbers(other),
        }
    }

    /// As a key of a map.
    pub(crate) fn key(&self) -> Option<Key> {
        Some(match self {
            Self::Bool(b) => Key::Bool(*b),
            Self::Int(n) => Key::Int(*n),
            Self::Uint(n) => i64::try_from(*n).map_or(Key::Uint(*n), Key::Int),
            Self::Double(n) if n.fract() == 0.0 && n.abs() < 9.0e18 => Key::Int(*n as i64),
            Self::Text(text) => Key::Text(text.clone()),
            _ => return None,
        })
    }

    /// How much there is of it, for what it costs to look at all: characters, elements.
    pub(crate) fn size(&self) -> u64 {
        let size = match self {
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::List(list) => list.len(),
            Self::Map(map) => map.len(),
            _ => 1,
        };
        size as u64
    }

    /// As JSON; `None` for what JSON has no form of.
    pub fn to_json(&self) -> Option<Json> {
        Some(match self {
            Self::Null => Json::Null,
            Self::Bool(b) => (*b).into(),
            Self::Int(n) => (*n).into(),
            Self::Uint(n) => (*n).into(),
            Self::Double(n) => serde_json::Number::from_f64(*n)?.into(),
            Self::Text(text) => Json::String(text.to_string()),
            Self::Bytes(bytes) => base64::engine::general_purpose::STANDARD.encode(bytes).into(),
            Self::Time(time) => time.to_string().into(),
            Self::Duration(duration) => format_duration(duration).into(),
            Self::List(list) => Json::Array(list.iter().map(|v| v.to_json()).collect::<Option<_>>()?),
            Self::Map(map) => {
                let entry = |(key, value): (Value<'a>, Value<'a>)| match key {
                    Value::Text(key) => Some((key.to_string(), value.to_json()?)),
                    _ => None,
                };
                Json::Object(map.iter().map(entry).collect::<Option<_>>()?)
            }
            Self::Quantity(quantity) => quantity.to_string().into(),
            _ => return None,
        })
    }
}

fn with_whole(double: f64, whole: i128) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    // Beyond these every double is whole and further out than any integer.
    if double >= 1.0e20 {
        return Some(Ordering::Greater);
    }
    if double <= -1.0e20 {
        return Some(Ordering::Less);
    }
    let floor = double.floor();
    let order = (floor as i128).cmp(&whole);
    Some(if order == Ordering::Equal && double > floor { Ordering::Greater } else { order })
}

impl<'a> List<'a> {
    /// How many elements there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(items, _) => items.len(),
            Self::Own(items) => items.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An element.
    pub fn get(&self, at: usize) -> Option<Value<'a>> {
        match self {
            Self::Json(items, ty) => items.get(at).map(|json| Value::typed(json, ty)),
            Self::Own(items) => items.get(at).cloned(),
        }
    }

    /// All elements.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + '_ {
        (0..self.len()).filter_map(|at| self.get(at))
    }
}

impl<'a> Map<'a> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(map, _) => map.len(),
            Self::Object(map, object) => map.keys().filter(|key| object.named(key).is_some()).count(),
            Self::Own(map) => map.len(),
            Self::Fields(map) => map.len(),
            Self::Struct(made) => made.fields.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key.
    pub fn get(&self, key: &Value<'_>) -> Option<Value<'a>> {
        match (self, key) {
            (Self::Json(map, ty), Value::Text(key)) => map.get(&**key).map(|json| Value::typed(json, ty)),
            (Self::Object(..) | Self::Fields(_) | Self::Struct(_), Value::Text(key)) => self.field(key),
            (Self::Own(map), key) => map.get(&key.key()?).map(|(_, value)| value.clone()),
            _ => None,
        }
    }

    /// A field by its name in an expression.
    pub fn field(&self, name: &str) -> Option<Value<'a>> {
        match self {
            Self::Json(map, ty) => map.get(name).map(|json| Value::typed(json, ty)),
            Self::Object(map, object) => {
                let (json, ty) = object.field(name)?;
                map.get(json).map(|json| Value::typed(json, ty))
            }
            Self::Own(map) => map.get(&Key::Text(name.into())).map(|(_, value)| value.clone()),
            Self::Fields(map) => map.get(name).cloned(),
            Self::Struct(made) => made.fields.get(name).cloned(),
        }
    }

    /// All entries.
    pub fn iter(&self) -> Box<dyn Iterator<Item = (Value<'a>, Value<'a>)> + '_> {
        match self {
            Self::Json(map, ty) => Box::new(map.iter().map(|(k, v)| (Value::text(k), Value::typed(v, ty)))),
            Self::Object(map, object) => {
                Box::new(map.iter().filter_map(|(k, v)| {
                    Some((Value::text(crate::types::escape(k)?), Value::typed(v, object.named(k)?)))
                }))
            }
            Self::Own(map) => Box::new(map.values().cloned()),
            Self::Fields(map) => Box::new(map.iter().map(|(k, v)| (Value::text(k), v.clone()))),
            Self::Struct(made) => Box::new(made.fields.iter().map(|(k, v)| (Value::text(k), v.clone()))),
        }
    }
}

/// Reads RFC 3339, within the years 1 to 9999.
pub(crate) fn timestamp(text: &str) -> Option<Timestamp> {
    kinit_apimachinery::time::is_rfc3339(text).then(|| kinit_apimachinery::time::parse(text)).flatten()
}

/// A duration as `string()` writes it: seconds.
pub(crate) fn format_duration(duration: &SignedDuration) -> String {
    let nanos = duration.as_nanos();
    let (sign, nanos) = if nanos < 0 { ("-", -nanos) } else { ("", nanos) };
    let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    if rest == 0 {
        return format!("{sign}{seconds}s");
    }
    format!("{sign}{seconds}.{}s", format!("{rest:09}").trim_end_matches('0'))
}
