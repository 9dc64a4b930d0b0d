//! From (verb, subresource) to what does it.

use bytes::Bytes;
use kinit_apimachinery::ApiError;

use crate::authz::reviews;
use crate::http::ApiResponse;
use crate::pods;
use crate::registry::{Request, create, delete, list, patch, scale, update, watch};
use crate::{component_status, tokens};

/// Handles a request for a resource whose verb the descriptor allows.
pub async fn handle(request: &Request, body: Bytes) -> Result<ApiResponse, ApiError> {
    let (verb, sub) = (request.info.verb, request.info.subresource.as_str());
    match (request.desc.group.as_str(), request.desc.plural.as_str(), sub) {
        ("authentication.k8s.io" | "authorization.k8s.io", _, "") => return reviews::handle(request, body).await,
        ("", "serviceaccounts", "token") => return tokens::handle(request, body).await,
        ("", "pods", "binding") | ("", "bindings", "") => return pods::bind(request, body).await,
        ("", "pods", "eviction") => return pods::evict(request, body).await,
        ("", "componentstatuses", _) => return component_status::handle(request),
        _ => {}
    }
    if sub == "scale" {
        match verb {
            "get" => return scale::get(request).await,
            "update" => return scale::put(request, body).await,
            _ => {}
        }
    }
    match verb {
        "get" => list::get(request).await,
        "list" => list::list(request).await,
        "watch" => watch::handle(request).await,
        "create" if !request.info.name.is_empty() => Err(ApiError::method_not_allowed()),
        "create" => create::handle(request, body).await,
        "update" => update::handle(request, body).await,
        "patch" => patch::handle(request, body).await,
        "delete" => delete::handle(request, body).await,
        "deletecollection" => delete::collection(request, body).await,
        _ => Err(ApiError::method_not_supported(&request.desc.group, &request.desc.plural, verb)),
    }
}
