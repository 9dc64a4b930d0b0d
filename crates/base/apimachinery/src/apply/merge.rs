//! Merging an applied document into the live object (`typed.TypedValue.Merge`), and taking out of it what its applier
//! no longer wants (`merge.Updater.prune`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Map, Value};

use super::compare::{element, step};
use super::fields::Fields;
use super::path::Elem;
use super::shape::{Shape, TypeRef};

/// The live value with everything that the document says.
pub(super) fn merge(live: Value, document: &Value, ty: TypeRef<'_>) -> Value {
    match (ty.shape(), live, document) {
        (Shape::Struct { .. } | Shape::Map(_) | Shape::Deduced, Value::Object(mut map), Value::Object(wanted)) => {
            for (name, value) in wanted {
                let merged = match map.get_mut(name) {
                    Some(existing) => merge(existing.take(), value, ty.child(name).ty),
                    None => value.clone(),
                };
                map.insert(name.clone(), merged);
            }
            Value::Object(map)
        }
        (Shape::Set | Shape::Keyed { .. }, Value::Array(items), Value::Array(wanted)) => {
            Value::Array(lists(items, wanted, ty))
        }
        // Null in the place of parts says nothing of them.
        (Shape::Struct { .. } | Shape::Map(_), live @ Value::Object(_), Value::Null)
        | (Shape::Set | Shape::Keyed { .. }, live @ Value::Array(_), Value::Null) => live,
        (_, _, wanted) => wanted.clone(),
    }
}

/// Two lists as one. Elements of both take the order of the document; what only the live list has stays where it is
/// between them.
fn lists(live: Vec<Value>, wanted: &[Value], ty: TypeRef<'_>) -> Vec<Value> {
    let named = |item: &Value| step(item, ty).and_then(Result::ok);
    let right: Vec<(Elem, &Value)> = wanted.iter().filter_map(|item| Some((named(item)?, item))).collect();
    let left: Vec<Option<Elem>> = live.iter().map(named).collect();
    let wants: BTreeSet<&Elem> = right.iter().map(|(elem, _)| elem).collect();
    let shared = |at: usize| left.get(at)?.as_ref().filter(|elem| wants.contains(elem));
    let mut live: Vec<Option<Value>> = live.into_iter().map(Some).collect();
    let places = places(&left);
    let mut turns: VecDeque<&Elem> = right.iter().map(|(e, _)| e).filter(|e| places.contains_key(e)).collect();
    let (mut out, mut done) = (Vec::with_capacity(live.len() + right.len()), BTreeSet::new());
    let (mut l, mut r) = (0, 0);
    while l < live.len() || r < right.len() {
        if l < live.len() {
            match shared(l) {
                None => {
                    out.extend(live[l].take());
                    l += 1;
                    continue;
                }
                // It stands in the list already, or its turn comes later.
                Some(elem) if done.contains(elem) || turns.front().is_some_and(|turn| *turn != elem) => {
                    l += 1;
                    continue;
                }
                Some(_) => {}
            }
        }
        let Some((elem, value)) = right.get(r) else { break };
        let existing = places.get(elem).and_then(|place| live.get_mut((*place)?)?.take());
        out.push(match existing {
            Some(existing) => merge(existing, value, element(ty)),
            None => (*value).clone(),
        });
        done.insert(elem);
        r += 1;
        if turns.front() == Some(&elem) {
            turns.pop_front();
        }
    }
    out
}

/// Where each element stands; `None` for several of one key.
fn places(left: &[Option<Elem>]) -> BTreeMap<&Elem, Option<usize>> {
    let mut out = BTreeMap::new();
    for (at, elem) in left.iter().enumerate() {
        if let Some(elem) = elem {
            out.entry(elem).and_modify(|place| *place = None).or_insert(Some(at));
        }
    }
    out
}

/// The value without what is in `last` and not in `kept`, each with all that is below. Containers that become empty
/// go, too.
pub(super) fn prune(value: Value, last: &Fields, kept: &Fields, ty: TypeRef<'_>) -> Value {
    if last.is_empty() {
        return value;
    }
    match (ty.shape(), value) {
        (Shape::Struct { .. } | Shape::Map(_) | Shape::Deduced, Value::Object(map)) => {
            let mut out = Map::with_capacity(map.len());
            for (name, value) in map {
                let child = ty.child(&name);
                match fate(&Elem::field(&name), last, kept, child.declared) {
                    Fate::Stays => _ = out.insert(name, value),
                    Fate::Goes => {}
                    Fate::Within(last, kept) => {
                        let rest = prune(value, last, kept, child.ty);
                        if !is_empty(&rest) {
                            out.insert(name, rest);
                        }
                    }
                }
            }
            Value::Object(out)
        }
        (Shape::Set | Shape::Keyed { .. }, Value::Array(items)) => {
            let rest = items.into_iter().filter_map(|item| {
                let Some(Ok(elem)) = step(&item, ty) else { return Some(item) };
                match fate(&elem, last, kept, false) {
                    Fate::Stays => Some(item),
                    Fate::Goes => None,
                    Fate::Within(last, kept) => Some(prune(item, last, kept, element(ty))),
                }
            });
            Value::Array(rest.collect())
        }
        (_, value) => value,
    }
}

enum Fate<'a> {
    Stays,
    Goes,
    Within(&'a Fields, &'a Fields),
}

static NONE: Fields = Fields::new();

/// A declared field counts as a member by what is in it (`EnsureNamedFieldsAreMembers`).
fn fate<'a>(elem: &Elem, last: &'a Fields, kept: &'a Fields, declared: bool) -> Fate<'a> {
    let Some(was) = last.get(elem) else { return Fate::Stays };
    let stays = kept.get(elem);
    let gone = was.member || (declared && !was.below.is_empty());
    if gone && !stays.is_some_and(|node| node.member || (declared && !node.below.is_empty())) {
        return Fate::Goes;
    }
    Fate::Within(&was.below, stays.map_or(&NONE, |node| &node.below))
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}
