//! RFC 6902, with bounds: copies multiply an object's size and depth, so both are watched.

use json_patch::{Patch, PatchErrorKind, PatchOperation};
use serde_json::Value;

use crate::decode::{MAX_DEPTH, depth};

/// Upstream's `maxJSONPatchOperations`.
const MAX_OPERATIONS: usize = 10_000;
/// How much copies may add, as upstream's `AccumulatedCopySizeLimit` (the limit of a request's body).
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// Why a JSON patch was not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonProblem {
    /// It is no list of operations.
    #[error("{0}")]
    NoPatch(String),
    /// It has too many.
    #[error("The allowed maximum operations in a JSON patch is 10000, got {0}")]
    TooMany(usize),
    /// An operation is malformed, or cannot be done.
    #[error("{0}")]
    Failed(String),
    /// A `test` of it found another value.
    #[error("{0}")]
    TestFailed(String),
}

/// Applies a JSON patch. After an error `target` is of no use.
pub fn json(target: &mut Value, patch: &Value) -> Result<(), JsonProblem> {
    match patch.as_array() {
        None => return Err(JsonProblem::NoPatch("error decoding patch: a JSON patch is a list of operations".into())),
        Some(list) if list.len() > MAX_OPERATIONS => return Err(JsonProblem::TooMany(list.len())),
        Some(list) if list.iter().any(|op| !op.is_object()) => {
            return Err(JsonProblem::NoPatch("error decoding patch: an operation is not an object".into()));
        }
        Some(_) => {}
    }
    let patch: Patch = serde_json::from_value(patch.clone()).map_err(|e| JsonProblem::Failed(e.to_string()))?;
    let mut bounds = Bounds { copied: 0, depth: depth(target) };
    for operation in &patch.0 {
        bounds.check(target, operation)?;
        json_patch::patch_unsafe(target, std::slice::from_ref(operation)).map_err(|e| match e.kind {
            PatchErrorKind::TestFailed => JsonProblem::TestFailed(e.to_string()),
            _ => JsonProblem::Failed(e.to_string()),
        })?;
    }
    Ok(())
}

struct Bounds {
    copied: usize,
    /// No less than the document's depth.
    depth: usize,
}

impl Bounds {
    fn check(&mut self, target: &Value, operation: &PatchOperation) -> Result<(), JsonProblem> {
        let reached = match operation {
            PatchOperation::Add(op) => op.path.count() + depth(&op.value),
            PatchOperation::Replace(op) => op.path.count() + depth(&op.value),
            PatchOperation::Move(op) => op.path.count() + self.depth,
            PatchOperation::Copy(op) => {
                let source = target.pointer(op.from.as_str()).unwrap_or(&Value::Null);
                self.copied += source.to_string().len();
                if self.copied > MAX_COPIED {
                    return Err(JsonProblem::Failed(format!(
                        "Unable to complete the copy, the accumulated size increase of copy is {}, exceeding the limit {MAX_COPIED}",
                        self.copied
                    )));
                }
                op.path.count() + depth(source)
            }
            PatchOperation::Remove(_) | PatchOperation::Test(_) => 0,
        };
        self.depth = self.depth.max(reached);
        if self.depth > 2 * MAX_DEPTH {
            return Err(JsonProblem::Failed("the patched object is nested too deeply".into()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn copies_are_bounded_in_size_and_depth() {
        let grow: Vec<Value> = (0..40).map(|i| json!({"op": "copy", "from": "", "path": format!("/x{i}")})).collect();
        let result = super::json(&mut json!({"a": "b".repeat(100)}), &grow.into());
        assert!(
            matches!(&result, Err(JsonProblem::Failed(text)) if text.starts_with("Unable to complete the copy")),
            "{result:?}"
        );
        let mut leaf = String::new();
        let mut dig = Vec::new();
        for _ in 0..300 {
            dig.push(json!({"op": "add", "path": format!("{leaf}/a"), "value": {}}));
            leaf.push_str("/a");
        }
        let result = super::json(&mut json!({}), &dig.into());
        assert_eq!(result, Err(JsonProblem::Failed("the patched object is nested too deeply".into())));
    }

    #[test]
    fn what_is_no_patch_is_told_from_what_fails() {
        for (patch, want) in [
            (json!({}), "NoPatch"),
            (json!(["x"]), "NoPatch"),
            (json!([{"op": "frob", "path": "/a"}]), "Failed"),
            (json!([{"op": "remove", "path": "/none"}]), "Failed"),
            (json!([{"op": "test", "path": "/a", "value": 2}]), "TestFailed"),
        ] {
            let problem = super::json(&mut json!({"a": 1}), &patch).unwrap_err();
            assert!(format!("{problem:?}").starts_with(want), "{patch}: {problem:?}");
        }
        let many = Value::from(vec![json!({"op": "test", "path": "/a", "value": 1}); MAX_OPERATIONS + 1]);
        assert_eq!(super::json(&mut json!({"a": 1}), &many), Err(JsonProblem::TooMany(MAX_OPERATIONS + 1)));
    }
}
