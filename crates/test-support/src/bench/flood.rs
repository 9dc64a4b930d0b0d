//! A node renews its lease while another user floods the server: what priority and fairness are for.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::http::Http;
use super::setup::Setup;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const NODE: &str = "flooded";
const FLOODER: &str = "flooder";
/// Clients of the user that floods, each with a connection of its own and always with a request on its way.
const CLIENTS: usize = 100;
const RENEWALS: usize = 100;
/// Between two renewals.
const PAUSE: Duration = Duration::from_millis(20);

/// Prints how long renewals take, without the flood and in it.
pub async fn run(setup: &Setup, admin: &Http, path: &str) -> Result<()> {
    let role = json!({"metadata": {"name": FLOODER}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]});
    let binding = json!({"metadata": {"name": FLOODER}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io",
        "name": FLOODER}], "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": FLOODER}});
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    admin.request(Method::POST, &format!("{rbac}/clusterroles"), Some(role.to_string())).await?;
    admin.request(Method::POST, &format!("{rbac}/clusterrolebindings"), Some(binding.to_string())).await?;
    let lease = json!({"metadata": {"name": NODE}, "spec": {"holderIdentity": NODE, "leaseDurationSeconds": 40}});
    admin.request(Method::POST, LEASES, Some(lease.to_string())).await?;

    let node = setup.user(&format!("system:node:{NODE}"), &["system:nodes"])?;
    println!(
        "\n{:<46} {:>7} {:>9} {:>9} {:>9}",
        "milliseconds for a node to renew its lease", "number", "median", "p99", "most"
    );
    row("without a flood", renewals(&node).await?);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let http = setup.user(FLOODER, &[])?;
        let path = format!("{path}?labelSelector=shard%3Dnone");
        clients.spawn(async move {
            loop {
                // Refusals are part of it.
                let _ = http.get(&path).await;
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let flooded = renewals(&node).await;
    clients.abort_all();
    row(&format!("while {CLIENTS} clients of a user list without pause"), flooded?);
    Ok(())
}

/// How long each renewal took, in order.
async fn renewals(node: &Http) -> Result<Vec<Duration>> {
    let path = format!("{LEASES}/{NODE}");
    let mut lease: Value = serde_json::from_slice(&node.get(&path).await?).context("read the lease")?;
    let mut took = Vec::new();
    for i in 0..RENEWALS {
        lease["spec"]["leaseTransitions"] = i.into();
        let started = Instant::now();
        let answer = node.request(Method::PUT, &path, Some(lease.to_string())).await?;
        took.push(started.elapsed());
        lease = serde_json::from_slice(&answer).context("read the lease")?;
        tokio::time::sleep(PAUSE).await;
    }
    took.sort_unstable();
    ensure!(took.len() == RENEWALS, "a renewal is missing");
    Ok(took)
}

fn row(what: &str, took: Vec<Duration>) {
    let at = |part: usize| took.get((took.len() - 1) * part / 100).map_or(0.0, |d| d.as_secs_f64() * 1e3);
    println!("{what:<46} {:>7} {:>9.1} {:>9.1} {:>9.1}", took.len(), at(50), at(99), at(100));
}
