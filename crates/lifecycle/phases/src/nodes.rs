//! Labels and taints that a Node has by its host's roles (kubeadm's phase mark-control-plane).

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

const ROLE: &str = "node-role.kubernetes.io/control-plane";
const NO_BALANCER: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// A node that registers is written by several controllers at once.
const TRIES: u32 = 20;

/// Gives a Node what its roles ask for, and takes away what belonged to roles that it has no more. Labels and taints of
/// others are left alone.
pub async fn mark(client: &Client, name: &str, control_plane: bool, worker: bool) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    for _ in 0..TRIES {
        let node = api.get(name).await.with_context(|| format!("get node {name}"))?;
        let taints = serde_json::to_value(node.spec.and_then(|spec| spec.taints)).context("encode a node's taints")?;
        let mut patch = patch(&taints, control_plane, worker);
        // A list is replaced as a whole: what others write meanwhile must not be lost.
        patch["metadata"]["resourceVersion"] = json!(node.metadata.resource_version);
        match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error).with_context(|| format!("label node {name}")),
        }
    }
    bail!("label node {name}: others changed it {TRIES} times in a row meanwhile")
}

fn patch(taints: &Value, control_plane: bool, worker: bool) -> Value {
    let label = if control_plane { json!("") } else { Value::Null };
    let others = taints.as_array().into_iter().flatten().filter(|taint| taint["key"] != ROLE).cloned();
    let own = (control_plane && !worker).then(|| json!({"key": ROLE, "effect": "NoSchedule"}));
    let taints: Vec<Value> = others.chain(own).collect();
    json!({"metadata": {"labels": {ROLE: label, NO_BALANCER: label}}, "spec": {"taints": taints}})
}

/// Deletes all Nodes but these. Their leases and pods are the controllers' to collect.
pub(crate) async fn delete_others(client: &Client, keep: &[String]) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let list = api.list(&ListParams::default()).await.context("list the nodes")?;
    for name in list.items.into_iter().filter_map(|node| node.metadata.name).filter(|name| !keep.contains(name)) {
        match api.delete(&name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other.with_context(|| format!("delete node {name}"))?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_taints_stay() {
        let before = json!([{"key": "x", "effect": "NoExecute"}, {"key": ROLE, "effect": "NoSchedule"}]);
        let as_worker = patch(&before, false, true);
        assert_eq!(as_worker["spec"]["taints"], json!([{"key": "x", "effect": "NoExecute"}]));
        assert_eq!(as_worker["metadata"]["labels"][ROLE], Value::Null);
        let as_control_plane = patch(&json!(null), true, false);
        assert_eq!(as_control_plane["spec"]["taints"], json!([{"key": ROLE, "effect": "NoSchedule"}]));
        assert_eq!(patch(&json!([]), true, true)["spec"]["taints"], json!([]));
    }
}
