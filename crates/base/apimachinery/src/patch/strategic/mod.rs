//! Strategic merge patch: the rules of `k8s.io/apimachinery/pkg/util/strategicpatch` over the schema's facts.
//!
//! Maps merge by key, null deletes; lists replace unless the field's strategy is merge: then scalars unite and objects
//! merge by their key (`list`). Directives: `$patch: delete|replace|merge`, `$deleteFromPrimitiveList/F`,
//! `$setElementOrder/F`, `$retainKeys`.

mod list;

use serde_json::{Map, Value};

use crate::schema::{Field, Ty, schema};

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
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
    match patch.get(DIRECTIVE).map(|d| d.as_str()) {
        Some(Some("replace")) => {
            target.clear();
            target.extend(patch.iter().filter(|(k, _)| *k != DIRECTIVE).map(|(k, v)| (k.clone(), v.clone())));
            return Ok(());
        }
        Some(Some("delete")) => {
            target.clear();
            return Ok(());
        }
        None | Some(Some("merge")) => {}
        Some(other) => return Err(format!("Unknown patch type found: {}", other.unwrap_or_default())),
    }
    retain_keys(target, patch)?;
    for (key, order) in patch {
        if let Some(name) = key.strip_prefix(ORDER) {
            merge_ordered(target, name, patch.get(name), order, ty)?;
        }
    }
    for (key, value) in patch {
        let done = patch.contains_key(&format!("{ORDER}{key}"));
        if done || key == DIRECTIVE || key == RETAIN || key.starts_with(ORDER) {
            continue;
        }
        match key.strip_prefix(DELETE_FROM) {
            Some(name) => {
                let gone = value.as_array().ok_or("invalid patch format of primitive list")?;
                if let Some(Value::Array(items)) = target.get_mut(name) {
                    items.retain(|item| !gone.contains(item));
                }
            }
            None => merge_field(target, key, value, ty)?,
        }
    }
    Ok(())
}

/// `$retainKeys` names all keys that stay, those that the patch sets among them.
fn retain_keys(target: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), String> {
    let Some(keep) = patch.get(RETAIN) else { return Ok(()) };
    let keep = keep.as_array().ok_or("invalid patch format of retainKeys")?;
    let kept = |key: &str| keep.iter().any(|k| k.as_str() == Some(key));
    let directive =
        |key: &str| key == DIRECTIVE || key == RETAIN || key.starts_with(DELETE_FROM) || key.starts_with(ORDER);
    if patch.iter().any(|(key, value)| !value.is_null() && !directive(key) && !kept(key)) {
        return Err("patch content doesn't match retainKeys list".into());
    }
    target.retain(|key, _| kept(key));
    Ok(())
}

/// A list whose order the patch gives: merged, then in that order.
fn merge_ordered(
    target: &mut Map<String, Value>,
    name: &str,
    patch: Option<&Value>,
    order: &Value,
    ty: Option<usize>,
) -> Result<(), String> {
    let order = order.as_array().ok_or("invalid patch format of setElementOrder list")?;
    let key = field_of(ty, name).and_then(|field| field.merge_key.as_deref());
    if let Some(Value::Array(patch)) = patch {
        list::check_order(name, patch, order, key)?;
    }
    let server = match target.get(name) {
        Some(Value::Array(items)) => items.clone(),
        _ => Vec::new(),
    };
    if let Some(patch) = patch {
        merge_field(target, name, patch, ty)?;
    }
    if let Some(Value::Array(items)) = target.get_mut(name) {
        let merged = std::mem::take(items);
        *items = list::normalized(merged, order, &server, key);
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
            if patch.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") {
                target.shift_remove(key);
                return Ok(());
            }
            let entry = target.entry(key.to_owned()).or_insert_with(|| Value::Object(Map::new()));
            if !entry.is_object() {
                *entry = Value::Object(Map::new());
            }
            if let Value::Object(existing) = entry {
                merge_map(existing, patch, inner)?;
            }
        }
        Value::Array(patch) => match field {
            Some(field) if field.merge => {
                let entry = target.entry(key.to_owned()).or_insert_with(|| Value::Array(Vec::new()));
                if !entry.is_array() {
                    *entry = Value::Array(Vec::new());
                }
                if let Value::Array(items) = entry {
                    list::merge(items, patch, field)?;
                }
            }
            _ => {
                let clean: Vec<Value> = patch.iter().filter(|i| !list::replaces(i)).cloned().collect();
                target.insert(key.to_owned(), Value::Array(clean));
            }
        },
        scalar => {
            target.insert(key.to_owned(), scalar.clone());
        }
    }
    Ok(())
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
        assert_eq!(got, json!({"metadata":{"labels":{"b":"2"},"finalizers":["z","y"]}}));
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

    /// The documented rules (`strategic-merge-patch.md`, `strategicpatch`): (server, patch, result) of a pod's
    /// containers.
    #[test]
    fn the_order_of_keyed_lists() {
        let names = |text: &str| -> Vec<Value> { text.chars().map(|c| json!({"name": c.to_string()})).collect() };
        for (server, patch, order, result) in [
            // New items come before those that only the server has.
            ("ab", "c", None, "cab"),
            ("ab", "cb", None, "cab"),
            ("ab", "bc", None, "abc"),
            ("abc", "ca", None, "bca"),
            ("", "ba", None, "ba"),
            // The given order counts; what only the server has stays before what it was before.
            ("ab", "", Some("ba"), "ba"),
            ("abc", "", Some("ca"), "bca"),
            ("ab", "c", Some("acb"), "acb"),
            ("abx", "c", Some("cba"), "cbax"),
            ("xab", "c", Some("abc"), "xabc"),
            ("axb", "", Some("ab"), "axb"),
        ] {
            let mut spec = json!({"containers": names(patch)});
            if patch.is_empty() {
                spec = json!({});
            }
            if let Some(order) = order {
                spec["$setElementOrder/containers"] = names(order).into();
            }
            let got = apply(("", "v1", "Pod"), json!({"spec": {"containers": names(server)}}), &json!({"spec": spec}));
            assert_eq!(got["spec"]["containers"], json!(names(result)), "{server} + {patch} in {order:?}");
        }
    }

    #[test]
    fn scalars_of_a_patch_come_first_unless_ordered() {
        let server = json!({"metadata": {"finalizers": ["a", "b"]}});
        for (patch, result) in [
            (json!({"finalizers": ["c"]}), json!(["c", "a", "b"])),
            (json!({"finalizers": ["c"], "$setElementOrder/finalizers": ["a", "b", "c"]}), json!(["a", "b", "c"])),
            (json!({"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["b"]}), json!(["b"])),
            (json!({"finalizers": ["b", "b"]}), json!(["a", "b"])),
        ] {
            let got = apply(("", "v1", "Pod"), server.clone(), &json!({"metadata": patch}));
            assert_eq!(got["metadata"]["finalizers"], result, "{patch}");
        }
    }

    #[test]
    fn nulls_empties_and_replacements() {
        let server =
            json!({"spec": {"nodeSelector": {"a": "b"}, "containers": [{"name": "a"}], "tolerations": [{"key": "k"}]}});
        for (patch, result) in [
            (json!({"nodeSelector": null}), json!({"containers": [{"name": "a"}], "tolerations": [{"key": "k"}]})),
            (
                json!({"nodeSelector": {"$patch": "delete"}, "tolerations": []}),
                json!({"containers": [{"name": "a"}], "tolerations": []}),
            ),
            (json!({"containers": []}), server["spec"].clone()),
            (
                json!({"containers": [{"$patch": "replace"}, {"name": "z"}], "tolerations": null}),
                json!({"nodeSelector": {"a": "b"}, "containers": [{"name": "z"}]}),
            ),
            (
                json!({"volumes": [{"name": "v", "$patch": "delete"}], "tolerations": null, "nodeSelector": null}),
                json!({"containers": [{"name": "a"}], "volumes": []}),
            ),
        ] {
            assert_eq!(apply(("", "v1", "Pod"), server.clone(), &json!({"spec": patch}))["spec"], result, "{patch}");
        }
    }

    #[test]
    fn spoilt_patches_are_refused() {
        let ty = schema().by_kind("", "v1", "Pod").unwrap();
        for (patch, error) in [
            (json!({"$retainKeys": "x"}), "invalid patch format of retainKeys"),
            (json!({"$retainKeys": ["nodeName"], "hostname": "h"}), "patch content doesn't match retainKeys list"),
            (json!({"$setElementOrder/containers": 5}), "invalid patch format of setElementOrder list"),
            (
                json!({"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}),
                "The order in patch list",
            ),
            (
                json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "a"}, {"name": "b"}]}),
                "The order in patch list",
            ),
            (json!({"containers": [{"image": "x"}]}), "does not contain declared merge key: name"),
            (json!({"containers": [5]}), "expected a map"),
            (json!({"$patch": "turn"}), "Unknown patch type found: turn"),
            (json!({"$deleteFromPrimitiveList/x": {}}), "invalid patch format of primitive list"),
        ] {
            let mut target = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
            let got = strategic(&mut target, &json!({"spec": patch}), ty).unwrap_err();
            assert!(got.contains(error), "{patch}: {got}");
        }
    }
}
