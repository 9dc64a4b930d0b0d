//! Merging an applied document into the live object, and taking fields out of it.

use serde_json::{Map, Value};

use super::fields::{Fields, Parts, Shape, element, parts};
use crate::schema::{Field, ListKind, Ty};

/// The live object with everything the document says.
pub fn merge(live: &Value, document: &Value, ty: Option<usize>) -> Value {
    join(live, document, ty.map_or(Shape::Unknown, Shape::Type))
}

fn join(live: &Value, wanted: &Value, shape: Shape) -> Value {
    match (parts(live, shape), parts(wanted, shape)) {
        (Parts::Fields(_), Parts::Fields(list)) => {
            let mut out = live.as_object().cloned().unwrap_or_default();
            for (name, value, shape) in list {
                let merged = match out.get(&name) {
                    Some(existing) => join(existing, value, shape),
                    None => value.clone(),
                };
                out.insert(name, merged);
            }
            Value::Object(out)
        }
        (Parts::Elements(old), Parts::Elements(new)) => {
            let mut out: Vec<(String, Value)> = old.into_iter().map(|(n, v, _)| (n, v.clone())).collect();
            for (name, value, shape) in new {
                match out.iter_mut().find(|(n, _)| *n == name) {
                    Some((_, existing)) => *existing = join(existing, value, shape),
                    None => out.push((name, value.clone())),
                }
            }
            Value::Array(out.into_iter().map(|(_, v)| v).collect())
        }
        _ => wanted.clone(),
    }
}

/// The object without these fields; containers that become empty by it go, too.
pub fn remove(value: Value, gone: &Fields, ty: Option<usize>) -> Value {
    take(value, gone, ty.map_or(Shape::Unknown, Shape::Type))
}

fn list_of(shape: Shape) -> Option<(&'static ListKind, &'static Ty)> {
    let Shape::Field(Field { ty: Ty::List(inner), list: Some(kind), .. }) = shape else { return None };
    (*kind != ListKind::Atomic).then_some((kind, &**inner))
}

fn take(value: Value, gone: &Fields, shape: Shape) -> Value {
    if gone.is_empty() {
        return value;
    }
    match value {
        Value::Array(items) => {
            let Some((kind, inner)) = list_of(shape) else { return Value::Array(items) };
            let kept = items.into_iter().filter_map(|item| {
                let Some(below) = element(kind, &item).and_then(|name| gone.child(&name).cloned()) else {
                    return Some(item);
                };
                if below.is_member() {
                    return None;
                }
                Some(take(item, &below, Shape::Inner(inner)))
            });
            Value::Array(kept.collect())
        }
        Value::Object(map) => {
            let shapes: Vec<(String, Shape)> = match parts(&Value::Object(map.clone()), shape) {
                Parts::Fields(list) => list.into_iter().map(|(n, _, s)| (n, s)).collect(),
                _ => return Value::Object(map),
            };
            let mut out = Map::new();
            for ((name, value), (_, shape)) in map.into_iter().zip(shapes) {
                let Some(below) = gone.child(&format!("f:{name}")) else {
                    out.insert(name, value);
                    continue;
                };
                if below.is_member() {
                    continue;
                }
                let rest = take(value, below, shape);
                let empty = rest.as_object().is_some_and(Map::is_empty) || rest.as_array().is_some_and(Vec::is_empty);
                if !empty {
                    out.insert(name, rest);
                }
            }
            Value::Object(out)
        }
        other => other,
    }
}
