//! Strategic merge patch: `k8s.io/apimachinery/pkg/util/strategicpatch`'s rules over the schema's facts.
//!
//! Maps merge by key, null deletes; lists replace unless the field's strategy is merge: then scalars unite and objects
//! merge by their key. Directives: `$patch: delete|replace|merge`, `$deleteFromPrimitiveList/F`, `$setElementOrder/F`,
//! `$retainKeys`.

use serde_json::{Map, Value};

use crate::schema::{Field, Ty, schema};

const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Applies `patch` to `target`, a document of type `ty`. A wrongly shaped patch is an error for the client.
pub fn strategic(target: &mut Value, patch: &Value, ty: usize) -> Result<(), String> {
    let Value::Object(patch) = patch else { return Err("the patch is not an object".into()) };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(map) = target.as_object_mut() else { return Ok(()) };
    merge_map(map, patch, Some(ty))
}

fn field_of(ty: Option<usize>, key: &str) -> Option<&'static Field> {
    ty.and_then(|ty| schema().field(ty, key))
}

fn inner_type(ty: &Ty) -> Option<usize> {
    match ty {
        Ty::Message(inner) => Some(*inner),
        Ty::List(inner) | Ty::Map(inner) => inner_type(inner),
        _ => None,
    }
}

fn merge_map(target: &mut Map<String, Value>, patch: &Map<String, Value>, ty: Option<usize>) -> Result<(), String> {
    match patch.get("$patch").map(|d| d.as_str()) {
        Some(Some("replace")) => {
            target.clear();
            target.extend(patch.iter().filter(|(k, _)| *k != "$patch").map(|(k, v)| (k.clone(), v.clone())));
            return Ok(());
        }
        Some(Some("delete")) => {
            target.clear();
            return Ok(());
        }
        None | Some(Some("merge")) => {}
        Some(other) => return Err(format!("Unknown patch type found: {}", other.unwrap_or_default())),
    }
    if let Some(keep) = patch.get("$retainKeys") {
        let keep = keep.as_array().ok_or("$retainKeys directive is not a list")?;
        target.retain(|key, _| keep.iter().any(|k| k.as_str() == Some(key)));
    }
    for (key, value) in patch {
        if key == "$patch" || key == "$retainKeys" || key.starts_with(ORDER) {
            continue;
        }
        if let Some(name) = key.strip_prefix(DELETE_FROM) {
            let gone = value.as_array().ok_or("$deleteFromPrimitiveList directive is not a list")?;
            if let Some(Value::Array(items)) = target.get_mut(name) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        merge_field(target, key, value, ty)?;
    }
    // Order is applied last: it speaks of the list as merged.
    for (key, order) in patch {
        let Some(name) = key.strip_prefix(ORDER) else { continue };
        let order = order.as_array().ok_or("$setElementOrder directive is not a list")?;
        if let Some(Value::Array(items)) = target.get_mut(name) {
            let merge_key = field_of(ty, name).and_then(|f| f.merge_key.as_deref());
            reorder(items, order, merge_key);
        }
    }
    Ok(())
}

fn merge_field(target: &mut Map<String, Value>, key: &str, value: &Value, ty: Option<usize>) -> Result<(), String> {
    let field = field_of(ty, key);
    match value {
        Value::Null => {
            target.shift_remove(key);
        }
        Value::Object(patch) => {
            let inner = field.and_then(|f| inner_type(&f.ty));
            match target.get_mut(key) {
                Some(Value::Object(existing)) => {
                    let replaced = matches!(patch.get("$patch").and_then(Value::as_str), Some("delete"));
                    if replaced {
                        target.shift_remove(key);
                    } else {
                        // Union-like members (a deployment's strategy) keep only what the patch names as kept.
                        merge_map(existing, patch, inner)?;
                    }
                }
                _ => {
                    let mut fresh = Map::new();
                    merge_map(&mut fresh, patch, inner)?;
                    target.insert(key.to_owned(), Value::Object(fresh));
                }
            }
        }
        Value::Array(patch) => match field {
            Some(field) if field.merge => {
                let entry = target.entry(key.to_owned()).or_insert_with(|| Value::Array(Vec::new()));
                if !entry.is_array() {
                    *entry = Value::Array(Vec::new());
                }
                if let Value::Array(items) = entry {
                    merge_list(items, patch, field)?;
                }
            }
            _ => {
                let clean: Vec<Value> = patch.iter().filter(|i| !is_directive(i)).cloned().collect();
                target.insert(key.to_owned(), Value::Array(clean));
            }
        },
        scalar => {
            target.insert(key.to_owned(), scalar.clone());
        }
    }
    Ok(())
}

fn is_directive(item: &Value) -> bool {
    item.get("$patch").is_some_and(|d| d == "replace") && item.as_object().is_some_and(|m| m.len() == 1)
}

fn merge_list(items: &mut Vec<Value>, patch: &[Value], field: &Field) -> Result<(), String> {
    let Some(key) = &field.merge_key else {
        for item in patch {
            if !items.contains(item) {
                items.push(item.clone());
            }
        }
        return Ok(());
    };
    if patch.iter().any(is_directive) {
        items.clear();
    }
    let inner = inner_type(&field.ty);
    for item in patch {
        let Value::Object(map) = item else {
            return Err(format!("expected a map in list {:?} of a strategic merge patch", field.name));
        };
        if is_directive(item) {
            continue;
        }
        let directive = map.get("$patch").and_then(Value::as_str);
        let Some(wanted) = map.get(key) else {
            return Err(format!("map: {item} does not contain declared merge key: {key}"));
        };
        let at = items.iter().position(|existing| existing.get(key) == Some(wanted));
        match (directive, at) {
            (Some("delete"), _) => items.retain(|existing| existing.get(key) != Some(wanted)),
            (_, Some(at)) => {
                if let Value::Object(existing) = &mut items[at] {
                    merge_map(existing, map, inner)?;
                }
            }
            (_, None) => {
                let mut fresh = Map::new();
                merge_map(&mut fresh, map, inner)?;
                items.push(Value::Object(fresh));
            }
        }
    }
    Ok(())
}

/// Items named in `order` come in that order; items only the server has keep their place relative to their neighbours.
fn reorder(items: &mut Vec<Value>, order: &[Value], key: Option<&str>) {
    let rank = |item: &Value| {
        order.iter().position(|o| match key {
            Some(key) => o.get(key).is_some() && o.get(key) == item.get(key),
            None => o == item,
        })
    };
    let mut named: Vec<(usize, Value)> = Vec::new();
    let mut others: Vec<(usize, Value)> = Vec::new();
    for (at, item) in std::mem::take(items).into_iter().enumerate() {
        match rank(&item) {
            Some(rank) => named.push((rank, item)),
            None => others.push((at, item)),
        }
    }
    named.sort_by_key(|(rank, _)| *rank);
    items.extend(named.into_iter().map(|(_, item)| item));
    for (at, item) in others {
        items.insert(at.min(items.len()), item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn apply(kind: (&str, &str, &str), mut target: Value, patch: &Value) -> Value {
        let ty = schema().by_kind(kind.0, kind.1, kind.2).unwrap();
        strategic(&mut target, patch, ty).unwrap();
        target
    }

    #[test]
    fn lists_merge_by_key() {
        let pod = json!({"spec":{"containers":[{"name":"a","image":"1"},{"name":"b","image":"1"}]}});
        let patch = json!({"spec":{"containers":[{"name":"b","image":"2"},{"name":"c","image":"3"},{"name":"a","$patch":"delete"}]}});
        let got = apply(("", "v1", "Pod"), pod, &patch);
        assert_eq!(got, json!({"spec":{"containers":[{"name":"b","image":"2"},{"name":"c","image":"3"}]}}));
    }

    #[test]
    fn null_deletes_and_scalars_unite() {
        let pod = json!({"metadata":{"labels":{"a":"1","b":"2"},"finalizers":["x","y"]}});
        let patch =
            json!({"metadata":{"labels":{"a":null},"finalizers":["z"],"$deleteFromPrimitiveList/finalizers":["x"]}});
        let got = apply(("", "v1", "Pod"), pod, &patch);
        assert_eq!(got, json!({"metadata":{"labels":{"b":"2"},"finalizers":["y","z"]}}));
    }

    #[test]
    fn retain_keys_and_replace() {
        let d = json!({"spec":{"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":1}},"template":{"spec":{"nodeSelector":{"a":"b"}}}}});
        let patch = json!({"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate"},
            "template":{"spec":{"nodeSelector":{"$patch":"replace","c":"d"}}}}});
        let got = apply(("apps", "v1", "Deployment"), d, &patch);
        assert_eq!(
            got,
            json!({"spec":{"strategy":{"type":"Recreate"},"template":{"spec":{"nodeSelector":{"c":"d"}}}}})
        );
    }

    #[test]
    fn the_order_directive_orders() {
        let pod = json!({"spec":{"containers":[{"name":"a"},{"name":"b"}]}});
        let patch = json!({"spec":{"$setElementOrder/containers":[{"name":"b"},{"name":"a"}],"containers":[{"name":"b","image":"x"}]}});
        let got = apply(("", "v1", "Pod"), pod, &patch);
        assert_eq!(got, json!({"spec":{"containers":[{"name":"b","image":"x"},{"name":"a"}]}}));
    }
}
