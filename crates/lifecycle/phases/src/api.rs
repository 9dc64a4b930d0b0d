//! API objects: looking at them and bringing them about, through the endpoint that users use.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use kinit_planner::ObjectId;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;

/// Whether the API answers at all, quickly.
pub async fn answers(client: &Client) -> bool {
    let request = client.apiserver_version();
    matches!(tokio::time::timeout(Duration::from_secs(3), request).await, Ok(Ok(_)))
}

/// An object's identity.
pub fn id(object: &Value) -> ObjectId {
    let field = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    ObjectId { kind: field("/kind"), namespace: field("/metadata/namespace"), name: field("/metadata/name") }
}

/// What of an object is in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// All of it.
    Same,
    /// It differs.
    Differs,
    /// There is none.
    Missing,
}

/// Compares an object with the API's; what it does not mention does not matter.
pub async fn look(client: &Client, object: &Value) -> Result<Presence> {
    let (api, name) = api_for(client, object)?;
    let found = match api.get_opt(&name).await {
        // The rights that an older kinit gave itself do not cover kinds that it did not make; the role comes first.
        Err(kube::Error::Api(status)) if status.code == 403 => return Ok(Presence::Missing),
        result => result.with_context(|| format!("get {}", id(object)))?,
    };
    Ok(match found {
        None => Presence::Missing,
        Some(actual) => {
            let actual = serde_json::to_value(actual).context("encode an API object")?;
            if covers(&actual, object) { Presence::Same } else { Presence::Differs }
        }
    })
}

/// The object as the API has it; `None` too where an older kinit gave itself no right to see it.
pub async fn read(client: &Client, object: &Value) -> Result<Option<Value>> {
    let (api, name) = api_for(client, object)?;
    let found = match api.get_opt(&name).await {
        Err(kube::Error::Api(status)) if status.code == 403 => None,
        result => result.with_context(|| format!("get {}", id(object)))?,
    };
    found.map(|found| serde_json::to_value(found).context("encode an API object")).transpose()
}

/// Deletes the object; one that is gone is no failure.
pub async fn delete(client: &Client, object: &Value) -> Result<()> {
    let (api, name) = api_for(client, object)?;
    match api.delete(&name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error).with_context(|| format!("delete {}", id(object))),
    }
}

/// Creates the object, or changes what differs of it.
pub async fn apply(client: &Client, object: &Value) -> Result<()> {
    let (api, name) = api_for(client, object)?;
    let key = id(object);
    if api.get_opt(&name).await.with_context(|| format!("get {key}"))?.is_some() {
        api.patch(&name, &PatchParams::default(), &Patch::Merge(object))
            .await
            .with_context(|| format!("change {key}"))?;
        return Ok(());
    }
    let dynamic: DynamicObject = serde_json::from_value(object.clone()).context("decode an API object")?;
    match api.create(&PostParams::default(), &dynamic).await {
        Ok(_) => Ok(()),
        // Somebody was faster; what matters is that it is as wanted.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            api.patch(&name, &PatchParams::default(), &Patch::Merge(object))
                .await
                .with_context(|| format!("change {key}"))?;
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("create {key}")),
    }
}

fn api_for(client: &Client, object: &Value) -> Result<(Api<DynamicObject>, String)> {
    let field = |path: &str| object.pointer(path).and_then(Value::as_str).map(str::to_owned);
    let (version, kind) = (
        field("/apiVersion").context("an object without apiVersion")?,
        field("/kind").context("an object without kind")?,
    );
    let (group, version) =
        version.split_once('/').map_or((String::new(), version.clone()), |(g, v)| (g.to_owned(), v.to_owned()));
    let resource =
        ApiResource::from_gvk_with_plural(&GroupVersionKind { group, version, kind: kind.clone() }, plural(&kind)?);
    let api = match field("/metadata/namespace") {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    Ok((api, field("/metadata/name").context("an object without a name")?))
}

/// The kinds that kinit itself makes.
fn plural(kind: &str) -> Result<&'static str> {
    Ok(match kind {
        "APIService" => "apiservices",
        "ClusterRole" => "clusterroles",
        "ClusterRoleBinding" => "clusterrolebindings",
        "ConfigMap" => "configmaps",
        "Deployment" => "deployments",
        "Namespace" => "namespaces",
        "Node" => "nodes",
        "Role" => "roles",
        "RoleBinding" => "rolebindings",
        "Secret" => "secrets",
        "Service" => "services",
        "ServiceAccount" => "serviceaccounts",
        "StorageClass" => "storageclasses",
        other => bail!("kinit does not make objects of kind {other}"),
    })
}

/// Whether `actual` has everything that `wanted` mentions. Lists must have the same length.
fn covers(actual: &Value, wanted: &Value) -> bool {
    match (actual, wanted) {
        (Value::Object(actual), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, wanted)| wanted.is_null() || actual.get(key).is_some_and(|actual| covers(actual, wanted))),
        (Value::Array(actual), Value::Array(wanted)) => {
            actual.len() == wanted.len() && actual.iter().zip(wanted).all(|(actual, wanted)| covers(actual, wanted))
        }
        _ => actual == wanted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_that_the_server_filled_in_are_no_difference() {
        let wanted = json!({ "spec": { "ports": [{ "port": 53 }] } });
        assert!(covers(&json!({ "spec": { "ports": [{ "port": 53, "protocol": "UDP" }], "x": 1 } }), &wanted));
        assert!(!covers(&json!({ "spec": { "ports": [{ "port": 54 }] } }), &wanted));
        assert!(!covers(&json!({ "spec": { "ports": [{ "port": 53 }, { "port": 54 }] } }), &wanted));
        let role = json!({ "kind": "Role", "metadata": { "name": "a:b", "namespace": "n" } });
        assert_eq!(id(&role).to_string(), "Role n/a:b");
    }
}
