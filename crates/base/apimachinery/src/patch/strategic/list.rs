//! Lists that merge, and the order of what comes out (`mergeSlice`, `normalizeElementOrder`).

use serde_json::{Map, Value};

use super::{DIRECTIVE, inner_type, merge_map};
use crate::schema::Field;

/// Whether an item says that the patch's list takes the place of the server's.
pub fn replaces(item: &Value) -> bool {
    item.get(DIRECTIVE).is_some_and(|d| d == "replace") && item.as_object().is_some_and(|m| m.len() == 1)
}

/// Merges the patch's items into the server's. New ones come first, the others where the server has them.
pub fn merge(items: &mut Vec<Value>, patch: &[Value], field: &Field) -> Result<(), String> {
    let Some(key) = field.merge_key.as_deref() else {
        let server = items.clone();
        for item in patch {
            if !items.contains(item) {
                items.push(item.clone());
            }
        }
        *items = normalized(std::mem::take(items), patch, &server, None);
        return Ok(());
    };
    let replaced = patch.iter().any(replaces);
    if replaced {
        items.clear();
    }
    let mut patch = patch.to_vec();
    patch.retain(|item| !replaces(item));
    for item in &patch {
        if item.get(DIRECTIVE).is_some_and(|d| d == "delete") {
            let gone = key_of(item, key, field)?.clone();
            items.retain(|existing| existing.get(key) != Some(&gone));
        }
    }
    patch.retain(|item| item.get(DIRECTIVE).is_none_or(|d| d != "delete"));
    let server = items.clone();
    for item in &patch {
        merge_item(items, item, key, field)?;
    }
    if !replaced {
        *items = normalized(std::mem::take(items), &patch, &server, Some(key));
    }
    Ok(())
}

/// The value of an item's merge key.
fn key_of<'a>(item: &'a Value, key: &str, field: &Field) -> Result<&'a Value, String> {
    if !item.is_object() {
        return Err(format!("expected a map in list {:?} of a strategic merge patch", field.name));
    }
    item.get(key).ok_or_else(|| format!("map: {item} does not contain declared merge key: {key}"))
}

fn merge_item(items: &mut Vec<Value>, item: &Value, key: &str, field: &Field) -> Result<(), String> {
    let wanted = key_of(item, key, field)?;
    let Value::Object(patch) = item else { return Ok(()) };
    let inner = inner_type(&field.ty);
    match items.iter_mut().find(|existing| existing.get(key) == Some(wanted)) {
        Some(Value::Object(existing)) => merge_map(existing, patch, inner),
        _ => {
            let mut fresh = Map::new();
            merge_map(&mut fresh, patch, inner)?;
            items.push(Value::Object(fresh));
            Ok(())
        }
    }
}

/// Where an item stands in a list, by its key or by itself.
fn place(list: &[Value], item: &Value, key: Option<&str>) -> Option<usize> {
    list.iter().position(|other| match key {
        Some(key) => other.get(key).is_some() && other.get(key) == item.get(key),
        None => other == item,
    })
}

/// Items of the patch in the patch's order, those of the server alone in the server's; the latter go in front of the
/// first of the former that the server had behind them.
pub fn normalized(items: Vec<Value>, order: &[Value], server: &[Value], key: Option<&str>) -> Vec<Value> {
    let (mut ours, mut others): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| place(order, item, key).is_some());
    ours.sort_by_key(|item| place(order, item, key));
    others.sort_by_key(|item| place(server, item, key).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(ours.len() + others.len());
    let mut others = others.into_iter().peekable();
    for item in ours {
        let at = place(server, &item, key);
        while let Some(other) = others.next_if(|other| at.is_some_and(|at| place(server, other, key) < Some(at))) {
            out.push(other);
        }
        out.push(item);
    }
    out.extend(others);
    out
}

/// The items that a patch changes or adds stand in `$setElementOrder` too, in the same order.
pub fn check_order(name: &str, patch: &[Value], order: &[Value], key: Option<&str>) -> Result<(), String> {
    let mut rest = order;
    for item in patch.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        match place(rest, item, key) {
            Some(at) => rest = &rest[at + 1..],
            None => {
                return Err(format!(
                    "The order in patch list:\n{}\n doesn't match $setElementOrder/{name} list:\n{}\n",
                    Value::from(patch.to_vec()),
                    Value::from(order.to_vec())
                ));
            }
        }
    }
    Ok(())
}
