//! Sets of field paths, and their `FieldsV1` form: `f:name`, `k:{...}` (a list's element by keys), `v:...` (by value),
//! `.`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::schema::{Field, ListKind, Ty, schema};

/// A set of paths, as a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    /// Whether the path that leads here is itself in the set.
    here: bool,
    below: BTreeMap<String, Fields>,
}

/// How a value is taken apart.
pub(super) enum Parts<'a> {
    /// Not at all.
    Atom,
    /// By field: name, value, type below.
    Fields(Vec<(String, &'a Value, Shape)>),
    /// By element of a keyed list or a set.
    Elements(Vec<(String, &'a Value, Shape)>),
}

/// What is known of a value's type.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// A type of the schema.
    Type(usize),
    /// A field's value.
    Field(&'static Field),
    /// An element of a map or list of this type.
    Inner(&'static Ty),
    /// Nothing: objects by field, lists as a whole.
    Unknown,
}

/// The path element of a list's element.
pub(super) fn element(kind: &ListKind, item: &Value) -> Option<String> {
    match kind {
        ListKind::Atomic => None,
        ListKind::Set => Some(format!("v:{item}")),
        ListKind::Map(keys) => {
            let mut out: Map<String, Value> = Map::new();
            let mut sorted = keys.clone();
            sorted.sort();
            for key in sorted {
                // A key that is left out counts with its default.
                let value = item.get(&key).cloned().or_else(|| (key == "protocol").then(|| "TCP".into()));
                out.insert(key, value.unwrap_or(Value::Null));
            }
            Some(format!("k:{}", Value::Object(out)))
        }
    }
}

pub(super) fn parts(value: &Value, shape: Shape) -> Parts<'_> {
    let ty = match shape {
        Shape::Type(ty) => return by_field(value, Some(ty)),
        Shape::Unknown => return if value.is_object() { by_field(value, None) } else { Parts::Atom },
        Shape::Field(field) => {
            match (&field.ty, &field.list, value) {
                (Ty::Map(_) | Ty::List(_), Some(ListKind::Atomic), _) => return Parts::Atom,
                (Ty::List(inner), Some(kind), Value::Array(items)) => {
                    let list = items.iter().filter_map(|i| Some((element(kind, i)?, i, Shape::Inner(inner)))).collect();
                    return Parts::Elements(list);
                }
                _ => {}
            }
            &field.ty
        }
        Shape::Inner(ty) => ty,
    };
    match (ty, value) {
        (Ty::Message(ty), _)
            if schema().get(*ty).name.ends_with("LabelSelector")
                || schema().get(*ty).name.ends_with("ObjectReference") =>
        {
            // Selectors and references are replaced as a whole.
            Parts::Atom
        }
        (Ty::Message(ty), _) => by_field(value, Some(*ty)),
        (Ty::Map(inner), Value::Object(map)) => {
            Parts::Fields(map.iter().map(|(k, v)| (k.clone(), v, Shape::Inner(inner))).collect())
        }
        _ => Parts::Atom,
    }
}

fn by_field(value: &Value, ty: Option<usize>) -> Parts<'_> {
    let Value::Object(map) = value else { return Parts::Atom };
    Parts::Fields(
        map.iter()
            .map(|(key, value)| {
                let shape = ty.and_then(|ty| schema().field(ty, key)).map_or(Shape::Unknown, Shape::Field);
                (key.clone(), value, shape)
            })
            .collect(),
    )
}

impl Fields {
    /// All fields of a value.
    pub fn of(value: &Value, ty: Option<usize>) -> Self {
        Self::collect(value, ty.map_or(Shape::Unknown, Shape::Type))
    }

    fn collect(value: &Value, shape: Shape) -> Self {
        let mut out = Self::default();
        match parts(value, shape) {
            Parts::Atom => out.here = true,
            Parts::Fields(list) => {
                out.here = list.is_empty();
                for (name, value, shape) in list {
                    out.below.insert(format!("f:{name}"), Self::collect(value, shape));
                }
            }
            Parts::Elements(list) => {
                out.here = list.is_empty();
                for (name, value, shape) in list {
                    let mut inner = Self::collect(value, shape);
                    inner.here = true;
                    out.below.insert(name, inner);
                }
            }
        }
        out
    }

    /// The fields of `old` and `new` whose values differ.
    pub fn changed(old: &Value, new: &Value, ty: Option<usize>) -> Self {
        Self::differing(Some(old), Some(new), ty.map_or(Shape::Unknown, Shape::Type))
    }

    fn differing(old: Option<&Value>, new: Option<&Value>, shape: Shape) -> Self {
        if old == new {
            return Self::default();
        }
        let (Some(old), Some(new)) = (old, new) else {
            return old.or(new).map(|v| Self::collect(v, shape)).unwrap_or_default();
        };
        let mut out = Self::default();
        match (parts(old, shape), parts(new, shape)) {
            (Parts::Fields(a), Parts::Fields(b)) => out.pairs(&a, &b, "f:"),
            (Parts::Elements(a), Parts::Elements(b)) => out.pairs(&a, &b, ""),
            _ => out.here = true,
        }
        out
    }

    fn pairs(&mut self, old: &[(String, &Value, Shape)], new: &[(String, &Value, Shape)], mark: &str) {
        let find = |list: &[(String, &Value, Shape)], name: &str| list.iter().position(|(n, _, _)| n == name);
        for (name, value, shape) in new {
            let before = find(old, name).map(|i| old[i].1);
            self.add(format!("{mark}{name}"), Self::differing(before, Some(value), *shape), before.is_none());
        }
        for (name, value, shape) in old.iter().filter(|(n, _, _)| find(new, n).is_none()) {
            self.add(format!("{mark}{name}"), Self::differing(Some(value), None, *shape), true);
        }
    }

    fn add(&mut self, name: String, mut inner: Self, whole: bool) {
        inner.here |= whole && !name.starts_with("f:");
        if !inner.is_empty() {
            self.below.insert(name, inner);
        }
    }

    /// Without what identifies an object: nobody owns that.
    #[must_use]
    pub fn without_identity(mut self) -> Self {
        for key in ["f:apiVersion", "f:kind"] {
            self.below.remove(key);
        }
        if let Some(meta) = self.below.get_mut("f:metadata") {
            for key in [
                "name",
                "namespace",
                "uid",
                "resourceVersion",
                "creationTimestamp",
                "generation",
                "managedFields",
                "selfLink",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
                "generateName",
            ] {
                meta.below.remove(&format!("f:{key}"));
            }
            if meta.is_empty() || meta.below.is_empty() {
                self.below.remove("f:metadata");
            }
        }
        self
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        !self.here && self.below.values().all(Self::is_empty)
    }

    /// What is below a path element.
    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.below.get(name)
    }

    /// Whether the path that leads here is in the set.
    pub(super) fn is_member(&self) -> bool {
        self.here
    }

    /// What both have.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        let below = self
            .below
            .iter()
            .filter_map(|(k, a)| Some((k.clone(), a.intersect(other.below.get(k)?))))
            .filter(|(_, v)| !v.is_empty())
            .collect();
        Self { here: self.here && other.here, below }
    }

    /// What only the first has.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let below = self
            .below
            .iter()
            .map(|(k, a)| (k.clone(), other.below.get(k).map_or_else(|| a.clone(), |b| a.minus(b))))
            .filter(|(_, v)| !v.is_empty())
            .collect();
        Self { here: self.here && !other.here, below }
    }

    /// What either has.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.here |= other.here;
        for (key, inner) in &other.below {
            let merged = out.below.get(key).map_or_else(|| inner.clone(), |mine| mine.union(inner));
            out.below.insert(key.clone(), merged);
        }
        out
    }

    /// The paths, for people: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.write_paths("", &mut out);
        out
    }

    fn write_paths(&self, at: &str, out: &mut Vec<String>) {
        if self.here && self.below.is_empty() {
            out.push(at.to_owned());
        }
        for (name, inner) in &self.below {
            let step = match name.split_once(':') {
                Some(("f", field)) => format!(".{field}"),
                Some(("k", keys)) => match serde_json::from_str::<Map<String, Value>>(keys) {
                    Ok(map) => {
                        format!("[{}]", map.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","))
                    }
                    Err(_) => format!("[{keys}]"),
                },
                Some((_, value)) => format!("[={value}]"),
                None => String::new(),
            };
            inner.write_paths(&format!("{at}{step}"), out);
        }
    }

    /// `FieldsV1`.
    pub fn to_value(&self) -> Value {
        let mut out = Map::new();
        if self.here && !self.below.is_empty() {
            out.insert(".".into(), Value::Object(Map::new()));
        }
        for (name, inner) in &self.below {
            out.insert(name.clone(), inner.to_value());
        }
        Value::Object(out)
    }

    /// From `FieldsV1`.
    pub fn from_value(value: &Value) -> Self {
        let Value::Object(map) = value else { return Self::default() };
        let mut out = Self::default();
        for (name, inner) in map {
            if name == "." {
                out.here = true;
            } else {
                let mut child = Self::from_value(inner);
                child.here |= inner.as_object().is_some_and(Map::is_empty);
                out.below.insert(name.clone(), child);
            }
        }
        out
    }
}
