//! `componentstatuses`: deprecated upstream, here empty rather than wrong.

use kinit_apimachinery::ApiError;
use serde_json::json;

use crate::http::{ApiResponse, respond};
use crate::registry::Request;

/// Lists nothing, finds nothing.
pub fn handle(request: &Request) -> Result<ApiResponse, ApiError> {
    request.warn("v1 ComponentStatus is deprecated in v1.19+");
    if request.info.verb == "get" {
        return Err(request.not_found());
    }
    Ok(respond::json(
        200,
        &json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {"resourceVersion": ""}, "items": []}),
    ))
}
