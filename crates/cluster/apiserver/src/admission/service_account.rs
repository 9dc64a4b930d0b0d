//! ServiceAccount: every pod runs as one, and gets its token as a projected volume.

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::names;
use serde_json::{Value, json};

use super::{Attributes, Operation};
use crate::references::{self, MIRROR};
use crate::registry::cached;

const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Sets the account and mounts its token.
pub async fn admit(attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), ApiError> {
    if attributes.kind() != ("", "Pod")
        || attributes.operation != Operation::Create
        || !attributes.subresource.is_empty()
    {
        return Ok(());
    }
    let request = attributes.request;
    let pod_name = pod.name().to_owned();
    let forbidden = |cause: &str| ApiError::forbidden("", "pods", &pod_name, cause);
    if pod.annotation(MIRROR).is_some() {
        // Whoever made it: its kubelet runs it without asking the API for anything.
        return match references::first_of(pod) {
            Some(resource) => Err(forbidden(&format!("a mirror pod may not reference {resource}"))),
            None => Ok(()),
        };
    }
    if pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        let old_name = pod.str_at(&["spec", "serviceAccount"]).to_owned();
        let name = if old_name.is_empty() { "default".to_owned() } else { old_name };
        pod["spec"]["serviceAccountName"] = name.into();
    }
    let name = pod.str_at(&["spec", "serviceAccountName"]).to_owned();
    pod["spec"]["serviceAccount"] = name.clone().into();
    let key = format!("{}/{name}", request.info.namespace);
    let store = &request.server.store;
    let account = match cached::one(&request.server, "serviceaccounts/", &key)? {
        Some(entry) => entry.value(),
        None => match store.get("serviceaccounts/", &key).await.map_err(|e| request.storage_error(e))? {
            Some(entry) => entry.value(),
            None => {
                return Err(forbidden(&format!(
                    "error looking up service account {}/{name}: serviceaccount \"{name}\" not found",
                    request.info.namespace
                )));
            }
        },
    };
    if wants_token(pod, &account) {
        mount(pod);
    }
    let none = pod.at(&["spec", "imagePullSecrets"]).and_then(Value::as_array).is_none_or(Vec::is_empty);
    if none
        && let Some(secrets) = account.get("imagePullSecrets").filter(|s| s.as_array().is_some_and(|l| !l.is_empty()))
    {
        pod["spec"]["imagePullSecrets"] = secrets.clone();
    }
    Ok(())
}

fn wants_token(pod: &Value, account: &Value) -> bool {
    let said = |v: Option<&Value>| v.and_then(Value::as_bool);
    said(pod.at(&["spec", "automountServiceAccountToken"]))
        .or_else(|| said(account.get("automountServiceAccountToken")))
        .unwrap_or(true)
}

fn mount(pod: &mut Value) {
    let existing = pod["spec"]["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|v| v.str_at(&["name"]).to_owned())
        .find(|n| n.starts_with("kube-api-access-"));
    let name = existing.clone().unwrap_or_else(|| format!("kube-api-access-{}", names::random_suffix(5)));
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            let mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
            if mounts.iter().any(|m| m.str_at(&["mountPath"]) == MOUNT) {
                continue;
            }
            let mut mounts = mounts;
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT}));
            container["volumeMounts"] = mounts.into();
            mounted = true;
        }
    }
    if mounted && existing.is_none() {
        let mut volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
        volumes.push(token_volume(&name));
        pod["spec"]["volumes"] = volumes.into();
    }
    // Indexing made nulls of lists that are not there.
    if let Some(spec) = pod["spec"].as_object_mut() {
        spec.retain(|_, v| !v.is_null());
    }
}

/// The projected volume: token of 3607 s, the cluster's CA, the namespace.
fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_mounted_once_in_every_container() {
        let mut pod =
            json!({"spec":{"containers":[{"name":"a"},{"name":"b","volumeMounts":[{"name":"x","mountPath":MOUNT}]}]}});
        mount(&mut pod);
        let name = pod["spec"]["volumes"][0]["name"].as_str().unwrap().to_owned();
        assert!(name.starts_with("kube-api-access-") && name.len() == 21);
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["name"], name.as_str());
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        assert!(pod["spec"].get("initContainers").is_none());
    }
}
