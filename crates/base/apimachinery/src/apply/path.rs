//! Elements of field paths, in memory and as `FieldsV1` writes them: `f:name`, `k:{...}`, `v:...`, `i:0`
//! (`fieldpath.PathElement`).

use std::cmp::Ordering;
use std::fmt::{self, Display, Write as _};

use serde_json::{Map, Number, Value};

use super::shape::Key;

/// A scalar that tells list elements apart. What is no scalar can stand in a `FieldsV1` of a client.
#[derive(Debug, Clone)]
pub enum Atom {
    /// Integers and floats compare as numbers.
    Number(Number),
    /// Text.
    Text(Box<str>),
    /// Boolean.
    Bool(bool),
    /// Anything else.
    Other(Value),
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Elem {
    /// A field of a struct, a key of a map.
    Field(Box<str>),
    /// An element of a keyed list, its keys in the order of their names.
    Keys(Box<[(Box<str>, Atom)]>),
    /// An element of a set.
    Value(Atom),
    /// An element of a list by its place.
    Index(i64),
}

impl Atom {
    /// From JSON.
    pub fn of(value: &Value) -> Self {
        match value {
            Value::Number(n) => Self::Number(n.clone()),
            Value::String(s) => Self::Text(s.as_str().into()),
            Value::Bool(b) => Self::Bool(*b),
            other => Self::Other(other.clone()),
        }
    }

    fn to_value(&self) -> Value {
        match self {
            Self::Number(n) => Value::Number(n.clone()),
            Self::Text(s) => Value::String(s.as_ref().to_owned()),
            Self::Bool(b) => Value::Bool(*b),
            Self::Other(v) => v.clone(),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Number(_) => 0,
            Self::Text(_) => 1,
            Self::Bool(_) => 2,
            Self::Other(Value::Array(_)) => 3,
            Self::Other(Value::Object(_)) => 4,
            Self::Other(_) => 5,
        }
    }
}

impl Ord for Atom {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => match (a.as_i64(), b.as_i64()) {
                (Some(a), Some(b)) => a.cmp(&b),
                _ => a.as_f64().unwrap_or_default().total_cmp(&b.as_f64().unwrap_or_default()),
            },
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Other(a), Self::Other(b)) if self.rank() == other.rank() => a.to_string().cmp(&b.to_string()),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Atom {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Atom {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Atom {}

impl Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => n.fmt(f),
            Self::Text(s) => f.write_str(&crate::status::quoted(s)),
            Self::Bool(b) => b.fmt(f),
            Self::Other(v) => v.fmt(f),
        }
    }
}

/// As upstream's messages write a path: `.name`, `[name="a"]`, `[="a"]`, `[0]`.
impl Display for Elem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Keys(keys) => {
                for (i, (name, value)) in keys.iter().enumerate() {
                    write!(f, "{}{name}={value}", if i == 0 { '[' } else { ',' })?;
                }
                f.write_char(']')
            }
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(at) => write!(f, "[{at}]"),
        }
    }
}

impl Elem {
    /// A field.
    pub fn field(name: &str) -> Self {
        Self::Field(name.into())
    }

    /// The element of a set that a value is (`setItemToPathElement`).
    pub(super) fn of_value(value: &Value) -> Result<Self, &'static str> {
        match value {
            Value::Object(_) => Err("associative list without keys has an element that's a map type"),
            Value::Array(_) => Err("not supported: associative list with lists as elements"),
            Value::Null => Err("associative list without keys has an element that's an explicit null"),
            scalar => Ok(Self::Value(Atom::of(scalar))),
        }
    }

    /// The element of a keyed list that a value is (`keyedAssociativeListItemToPathElement`).
    pub(super) fn of_keys(value: &Value, keys: &[Key]) -> Result<Self, String> {
        let map = match value {
            Value::Object(map) => map,
            Value::Null => return Err("associative list with keys may not have a null element".into()),
            _ => return Err("associative list with keys may not have non-map elements".into()),
        };
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            match map.get(&key.name) {
                Some(value) => found.push((key.name.as_str().into(), Atom::of(value))),
                None => found.extend(key.default.clone().map(|default| (key.name.as_str().into(), default))),
            }
        }
        if found.is_empty() {
            let names: Vec<&str> = keys.iter().map(|k| k.name.as_str()).collect();
            return Err(format!(
                "associative list with keys has an element that omits all key fields {names:?} (and doesn't have \
                 default values for any key fields)"
            ));
        }
        Ok(Self::Keys(found.into()))
    }

    /// From `FieldsV1`; `None` for a kind of element that is not known, which counts as absent.
    pub(super) fn parse(text: &str) -> Result<Option<Self>, String> {
        let Some((mark, rest)) = text.split_once(':').filter(|(mark, _)| mark.len() == 1) else {
            return Err(format!("key must be 2 characters long: {text:.64}"));
        };
        let json = |rest: &str| serde_json::from_str::<Value>(rest).map_err(|e| format!("parse {text:.64}: {e}"));
        Ok(Some(match mark {
            "f" => Self::field(rest),
            "v" => Self::Value(Atom::of(&json(rest)?)),
            "i" => Self::Index(rest.parse().map_err(|_| format!("parse {text:.64}: not an index"))?),
            "k" => {
                let Value::Object(map) = json(rest)? else { return Err(format!("parse {text:.64}: not an object")) };
                let mut keys: Vec<_> = map.iter().map(|(k, v)| (k.as_str().into(), Atom::of(v))).collect();
                keys.sort();
                Self::Keys(keys.into())
            }
            _ => return Ok(None),
        }))
    }

    /// For `FieldsV1`.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Keys(keys) => {
                let map: Map<String, Value> = keys.iter().map(|(k, v)| (k.as_ref().to_owned(), v.to_value())).collect();
                format!("k:{}", Value::Object(map))
            }
            Self::Value(value) => format!("v:{}", value.to_value()),
            Self::Index(at) => format!("i:{at}"),
        }
    }
}
