//! The three patches that need no field ownership: JSON patch, merge patch, strategic merge patch.

mod strategic;

use serde_json::Value;

pub use strategic::strategic;

/// RFC 6902. The error is upstream's kind of text, for a 422 or 400.
pub fn json(target: &mut Value, patch: &Value) -> Result<(), String> {
    let patch: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|e| format!("error decoding patch: {e}"))?;
    if patch.0.len() > 10_000 {
        return Err("The allowed maximum operations in a JSON patch is 10000".into());
    }
    json_patch::patch(target, &patch).map_err(|e| e.to_string())
}

/// RFC 7386.
pub fn merge(target: &mut Value, patch: &Value) {
    json_patch::merge(target, patch);
}
