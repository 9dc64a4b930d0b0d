//! The parameters that a binding names.

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::selector::LabelSelector;
use serde_json::Value;

use super::parsed::{Binding, Policy};
use crate::registry::{Request, cached};

/// The parameters; `None` for a policy without, and where their absence is allowed. The inner error is one of
/// configuration, which the failure policy is for.
pub async fn find(
    request: &Request,
    policy: &Policy,
    binding: &Binding,
    namespace: &str,
) -> Result<Result<Option<Vec<Value>>, String>, ApiError> {
    let (Some((api_version, kind)), Some(reference)) = (&policy.param, &binding.param) else { return Ok(Ok(None)) };
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let found = request
        .server
        .registry
        .all()
        .into_iter()
        .find(|d| d.group == group && d.version == version && d.kind == *kind && !d.prefix.is_empty());
    let Some(desc) = found else {
        return Ok(Err(format!("failed to find resource referenced by paramKind: '{api_version}, Kind={kind}'")));
    };
    let own = reference.str_at(&["namespace"]);
    let within = match (desc.namespaced, own) {
        (true, "") if namespace.is_empty() => {
            return Ok(Err(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into()
            ));
        }
        (true, "") => namespace,
        (true, own) => own,
        (false, "") => "",
        (false, _) => {
            return Ok(Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into()));
        }
    };
    let name = reference.str_at(&["name"]);
    let stored: Vec<Value> = if name.is_empty() {
        let wanted = LabelSelector::from_object(reference.get("selector")).unwrap_or_default();
        let prefix = if within.is_empty() { String::new() } else { format!("{within}/") };
        let entries = cached::all(&request.server, &desc.prefix, &prefix)?;
        entries.iter().filter(|e| wanted.matches(|key| e.label(key))).map(|entry| entry.value()).collect()
    } else {
        let key = desc.key(within, name);
        let entry = request.server.store.get(&desc.prefix, &key).await.map_err(|e| request.storage_error(e))?;
        entry.map(|entry| entry.value()).into_iter().collect()
    };
    let params = desc.all_shown(stored).await?;
    Ok(match (params.is_empty(), reference.str_at(&["parameterNotFoundAction"])) {
        (false, _) => Ok(Some(params)),
        // Allowed: there is nothing to hold the request against.
        (true, "Allow") => Ok(Some(Vec::new())),
        (true, _) => Err("no params found for policy binding with `Deny` parameterNotFoundAction".into()),
    })
}
