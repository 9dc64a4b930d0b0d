//! Fields that Go writes even when they are empty, zero or null.
//!
//! `encoding/json` leaves a field out only when its tag says `omitempty` and its type has an empty value: a struct has
//! none, so `resources: {}` and `lastTimestamp: null` are written in spite of the tag. Typed clients rely on it: a
//! DaemonSet whose status has no `numberReady` cannot be decoded by some. Which fields these are follows from the
//! types' declarations.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::schema::{Field, Ty, schema};

/// What is written for each type, whatever its value.
static ALWAYS: LazyLock<Vec<Vec<(&'static str, Value)>>> =
    LazyLock::new(|| schema().types().map(|(index, _)| always(index)).collect());

/// Adds to an object of type `ty`, and to all within it, the fields that Go always writes and that are absent.
pub fn complete(value: &mut Value, ty: usize) {
    let Value::Object(map) = value else { return };
    for (key, child) in map.iter_mut() {
        if let Some(field) = schema().field(ty, key) {
            inside(child, &field.ty);
        }
    }
    for (name, zero) in ALWAYS.get(ty).into_iter().flatten() {
        if !map.contains_key(*name) {
            map.insert((*name).to_owned(), zero.clone());
        }
    }
}

fn inside(value: &mut Value, ty: &Ty) {
    match (ty, value) {
        (Ty::Message(inner), value) => complete(value, *inner),
        (Ty::List(inner), Value::Array(items)) => items.iter_mut().for_each(|item| inside(item, inner)),
        (Ty::Or(inner, _), Value::Array(items)) => items.iter_mut().for_each(|item| inside(item, inner)),
        (Ty::Or(inner, _), value) => inside(value, inner),
        (Ty::Map(inner), Value::Object(map)) => map.values_mut().for_each(|item| inside(item, inner)),
        _ => {}
    }
}

fn always(index: usize) -> Vec<(&'static str, Value)> {
    schema().json_fields(index).into_iter().filter_map(|field| Some((field.name.as_str(), zero(field)?))).collect()
}

/// What Go writes for a field without a value; `None` where it leaves the field out.
fn zero(field: &Field) -> Option<Value> {
    let structure = !field.pointer
        && matches!(
            field.ty,
            Ty::Message(_)
                | Ty::Time
                | Ty::MicroTime
                | Ty::Quantity
                | Ty::IntOrString
                | Ty::Duration
                | Ty::Raw
                | Ty::Fields
        );
    if field.omitzero || (field.omitempty && !structure) {
        return None;
    }
    if field.pointer {
        return Some(Value::Null);
    }
    Some(match field.ty {
        Ty::Str => "".into(),
        Ty::I32 | Ty::I64 | Ty::F64 | Ty::IntOrString => 0.into(),
        Ty::Bool => false.into(),
        Ty::Quantity => "0".into(),
        Ty::Duration => "0s".into(),
        Ty::Message(inner) => {
            let fields = always(inner).into_iter().map(|(name, zero)| (name.to_owned(), zero));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        Ty::Bytes
        | Ty::Time
        | Ty::MicroTime
        | Ty::Raw
        | Ty::Fields
        | Ty::Strings
        | Ty::List(_)
        | Ty::Map(_)
        | Ty::Or(..) => Value::Null,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn completed(kind: (&str, &str, &str), mut value: Value) -> Value {
        complete(&mut value, schema().by_kind(kind.0, kind.1, kind.2).unwrap());
        value
    }

    #[test]
    fn zeros_of_a_status() {
        let set = completed(("apps", "v1", "DaemonSet"), json!({"metadata": {"name": "a"}}));
        let zeros = json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0});
        assert_eq!(set["status"], zeros);
        assert_eq!(set["metadata"], json!({"name": "a"}), "creationTimestamp has omitzero");
        assert_eq!(set["spec"]["selector"], Value::Null);
        assert_eq!(completed(("", "v1", "ReplicationController"), json!({}))["status"], json!({"replicas": 0}));
    }

    #[test]
    fn nulls_and_empty_structs_within_lists() {
        let event = completed(("", "v1", "Event"), json!({}));
        for field in ["firstTimestamp", "lastTimestamp", "eventTime"] {
            assert_eq!(event.get(field), Some(&Value::Null), "{field}");
        }
        assert_eq!((&event["source"], &event["reportingComponent"]), (&json!({}), &json!("")));
        let pod = completed(
            ("", "v1", "Pod"),
            json!({"spec": {"containers": [{"name": "c"}]}, "status": {"conditions": [{}]}}),
        );
        assert_eq!(pod["spec"]["containers"][0], json!({"name": "c", "resources": {}}));
        assert_eq!(pod["status"]["conditions"][0]["lastProbeTime"], Value::Null);
        let reference = json!({"spec": {"containers": [{"name": "c",
            "env": [{"name": "e", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}]}});
        let pod = completed(("", "v1", "Pod"), reference);
        assert_eq!(pod["spec"]["containers"][0]["env"][0]["valueFrom"]["resourceFieldRef"]["divisor"], "0");
    }

    #[test]
    fn what_is_there_stays() {
        let given = json!({"status": {"replicas": 3}, "spec": {"replicas": 0}});
        let set = completed(("apps", "v1", "ReplicaSet"), given);
        assert_eq!((&set["status"]["replicas"], &set["spec"]["replicas"]), (&json!(3), &json!(0)));
    }

    /// Every kind can be completed, and a second time changes nothing.
    #[test]
    fn all_kinds() {
        for (kind, ty) in schema().kinds() {
            let mut once = json!({});
            complete(&mut once, ty);
            let mut twice = once.clone();
            complete(&mut twice, ty);
            assert_eq!(once, twice, "{kind:?}");
        }
    }
}
