//! Apply configurations of mutating admission policies: merged, and owned by nobody
//! (`plugin/policy/mutating/patch.ApplyStructuredMergeDiff`).

use serde_json::Value;

use super::merge::merge;
use super::shape::{Shape, TypeRef};
use super::typed::check;

/// Merges a document into an object of the same kind; the error is in upstream's words. What is owned as a whole cannot
/// be said in part, and so not at all: the rest of it would be lost.
pub fn merged(live: &Value, document: &Value, ty: TypeRef<'_>) -> Result<Value, String> {
    check(document, ty).map_err(|e| format!("failed to convert patch object to typed object: {e}"))?;
    let mut atomics = Vec::new();
    find_atomics(document, ty, "", &mut atomics);
    match atomics.is_empty() {
        true => Ok(merge(live.clone(), document, ty)),
        false => Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            atomics.join(", ")
        )),
    }
}

fn find_atomics(value: &Value, ty: TypeRef<'_>, path: &str, found: &mut Vec<String>) {
    match (ty.shape(), value) {
        (Shape::Whole, Value::Object(_) | Value::Array(_)) | (Shape::Deduced, Value::Array(_)) => {
            found.push(path.to_owned());
        }
        (Shape::Struct { .. } | Shape::Deduced, Value::Object(map)) => {
            for (name, value) in map {
                if let Some(child) = ty.field(name) {
                    find_atomics(value, child.ty, &format!("{path}.{name}"), found);
                }
            }
        }
        (Shape::Keyed { element, .. }, Value::Array(items)) => {
            let items = items.iter().enumerate();
            items.for_each(|(i, item)| find_atomics(item, ty.at(*element), &format!("{path}[{i}]"), found));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::schema;

    fn deployment(live: Value, document: Value) -> Result<Value, String> {
        merged(&live, &document, TypeRef::builtin(schema().by_kind("apps", "v1", "Deployment").unwrap()))
    }

    #[test]
    fn documents_are_merged_by_their_type() {
        let live = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"replicas": 1, "template": {"spec": {"containers": [
            {"name": "a", "image": "i"}, {"name": "b", "image": "j"}]}}}});
        let document = json!({"metadata": {"labels": {"b": "2"}}, "spec": {"replicas": 3, "template": {"spec": {"containers": [
            {"name": "b", "image": "k"}, {"name": "c", "image": "l"}]}}}});
        let new = deployment(live, document).unwrap();
        assert_eq!(new["metadata"]["labels"], json!({"a": "1", "b": "2"}));
        assert_eq!(new["spec"]["replicas"], 3);
        let containers = new["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        let images: Vec<&str> = containers.iter().map(|c| c["image"].as_str().unwrap()).collect();
        assert_eq!(images, ["i", "k", "l"]);
    }

    #[test]
    fn what_is_owned_as_a_whole_is_refused() {
        for (document, problem) in [
            (
                json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "args": ["x"]}]}}}}),
                "may not mutate atomic arrays, maps or structs: .spec.template.spec.containers[0].args",
            ),
            (json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}}), ": .spec.selector"),
            (
                json!({"spec": {"nope": 1}}),
                "failed to convert patch object to typed object: .spec.nope: field not declared",
            ),
        ] {
            let reported = deployment(json!({}), document).unwrap_err();
            assert!(reported.contains(problem), "{reported}");
        }
    }
}
