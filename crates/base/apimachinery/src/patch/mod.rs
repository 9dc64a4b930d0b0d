//! The three patches that need no field ownership: JSON patch, merge patch, strategic merge patch.

mod json;
mod strategic;

use serde_json::Value;

pub use json::{JsonProblem, json};
pub use strategic::strategic;

/// RFC 7386.
pub fn merge(target: &mut Value, patch: &Value) {
    json_patch::merge(target, patch);
}
