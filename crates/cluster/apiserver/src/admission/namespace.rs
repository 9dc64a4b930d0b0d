//! NamespaceLifecycle: nothing new in a namespace that is not there or going; the first namespaces stay.

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;

use super::{Attributes, Operation};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Checks the request's namespace.
pub async fn check(attributes: &Attributes<'_>) -> Result<(), ApiError> {
    let request = attributes.request;
    if request.desc.kind == "Namespace" {
        if attributes.operation == Operation::Delete && IMMORTAL.contains(&request.info.name.as_str()) {
            return Err(ApiError::forbidden("", "namespaces", &request.info.name, "this namespace may not be deleted"));
        }
        return Ok(());
    }
    if !request.desc.namespaced || attributes.operation != Operation::Create {
        return Ok(());
    }
    let name = request.info.namespace.as_str();
    let server = &request.server;
    let cached = server.store.cache("namespaces/").and_then(|c| c.get(name));
    let namespace = match cached {
        Some(entry) if entry.field("status.phase") != Some("Terminating") => return Ok(()),
        // The cache may be behind: a namespace made a moment ago counts.
        _ => server.store.get("namespaces/", name).await.map_err(|e| request.storage_error(e))?,
    };
    let Some(namespace) = namespace else {
        return Err(ApiError::not_found("", "namespaces", name));
    };
    if namespace.value().is_deleting() {
        let cause = format!("unable to create new content in namespace {name} because it is being terminated");
        let mut error = ApiError::forbidden(&request.desc.group, &request.desc.plural, &request.info.name, &cause);
        error.causes.push(kinit_apimachinery::Cause {
            reason: "NamespaceTerminating".into(),
            message: format!("namespace {name} is being terminated"),
            field: "metadata.namespace".into(),
        });
        return Err(error);
    }
    Ok(())
}
