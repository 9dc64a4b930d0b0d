//! Seeing that the cluster works, by watching it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};

/// Waits until the API says it is ready, asked through the endpoint.
pub async fn for_api(client: &Client, deadline: Duration) -> Result<()> {
    let ask = async {
        loop {
            let request = http_get("/readyz")?;
            match client.request_text(request).await {
                Ok(_) => return Ok(()),
                // The balancer needs two good checks; nothing tells when they were.
                Err(error) => tracing::debug!(%error, "the API is not ready"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(deadline, ask)
        .await
        .map_err(|_| anyhow!("the API did not become ready within {} s", deadline.as_secs()))?
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>> {
    http::Request::get(path).body(Vec::new()).context("build a request")
}

/// Waits until all these nodes are Ready.
pub async fn for_nodes(client: &Client, names: Vec<String>, deadline: Duration) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let missing = |nodes: &BTreeMap<String, Node>| -> Vec<String> {
        names.iter().filter_map(|name| not_ready(name, nodes.get(name))).collect()
    };
    watch_until(api, watcher::Config::default(), deadline, "nodes to be Ready", missing).await
}

/// Waits until one node is Ready, with the rights of that node.
pub async fn for_own_node(client: &Client, name: &str, deadline: Duration) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let missing = |nodes: &BTreeMap<String, Node>| not_ready(name, nodes.get(name)).into_iter().collect();
    watch_until(api, config, deadline, "the node to be Ready", missing).await
}

/// Waits until all these nodes exist, Ready or not.
pub async fn for_nodes_to_exist(client: &Client, names: Vec<String>, deadline: Duration) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let missing = |nodes: &BTreeMap<String, Node>| -> Vec<String> {
        names.iter().filter(|n| !nodes.contains_key(*n)).cloned().collect()
    };
    watch_until(api, watcher::Config::default(), deadline, "nodes to register", missing).await
}

/// Why a node is not Ready, in the kubelet's words.
fn not_ready(name: &str, node: Option<&Node>) -> Option<String> {
    let Some(node) = node else {
        return Some(format!("{name} (it has not registered; `journalctl -u kubelet` on it tells why)"));
    };
    let mut conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    match conditions.find(|c| c.type_ == "Ready") {
        Some(condition) if condition.status == "True" => None,
        Some(condition) => Some(format!("{name} ({})", condition.message.as_deref().unwrap_or("no reason given"))),
        None => Some(format!("{name} (its kubelet has said nothing yet)")),
    }
}

/// Waits until DNS has an endpoint that is ready.
pub async fn for_dns(client: &Client, deadline: Duration) -> Result<()> {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), "kube-system");
    let config = watcher::Config::default().labels("kubernetes.io/service-name=kube-dns");
    let missing = |slices: &BTreeMap<String, EndpointSlice>| -> Vec<String> {
        let mut endpoints = slices.values().flat_map(|s| s.endpoints.iter().flatten());
        let ready = endpoints.any(|e| e.conditions.as_ref().and_then(|c| c.ready) != Some(false));
        if ready { Vec::new() } else { vec!["kube-dns".to_owned()] }
    };
    match watch_until(api, config, deadline, "an endpoint of kube-dns to be ready", missing).await {
        Ok(()) => Ok(()),
        Err(error) => Err(error.context(troubles_of_dns(client).await)),
    }
}

/// What its pods say, for the error that their users will see.
async fn troubles_of_dns(client: &Client) -> String {
    let api: Api<Pod> = Api::namespaced(client.clone(), "kube-system");
    match api.list(&ListParams::default().labels("k8s-app=kube-dns")).await {
        Ok(pods) if pods.items.is_empty() => "kube-dns has no pods".to_owned(),
        Ok(pods) => pods.items.iter().map(trouble).collect::<Vec<_>>().join("; "),
        Err(error) => format!("kube-dns: list its pods: {error}"),
    }
}

fn trouble(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let waiting = status.iter().flat_map(|s| s.container_statuses.iter().flatten()).find_map(|c| {
        let waiting = c.state.as_ref()?.waiting.as_ref()?;
        Some(
            [waiting.reason.as_deref(), waiting.message.as_deref()]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(": "),
        )
    });
    let condition = status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .find(|c| c.status == "False")
        .and_then(|c| c.message.clone());
    let why = waiting.or(condition).unwrap_or_else(|| "no reason given".to_owned());
    format!("pod {} is not ready: {why}", pod.metadata.name.as_deref().unwrap_or("?"))
}

/// Follows a watch until nothing is missing any more.
pub async fn watch_until<K>(
    api: Api<K>,
    config: watcher::Config,
    deadline: Duration,
    what: &str,
    missing: impl Fn(&BTreeMap<String, K>) -> Vec<String>,
) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + for<'a> serde::Deserialize<'a> + Send + 'static,
{
    let mut known = BTreeMap::new();
    let mut last_error = None;
    let follow = async {
        let mut events = std::pin::pin!(watcher(api, config));
        while let Some(event) = events.next().await {
            let name = |object: &K| object.meta().name.clone().unwrap_or_default();
            match event {
                Ok(Event::Apply(object) | Event::InitApply(object)) => drop(known.insert(name(&object), object)),
                Ok(Event::Delete(object)) => drop(known.remove(&name(&object))),
                Ok(Event::Init) => known.clear(),
                Ok(Event::InitDone) => {}
                Err(error) => last_error = Some(error.to_string()),
            }
            if missing(&known).is_empty() {
                return Ok(());
            }
        }
        bail!("the watch ended")
    };
    let result = tokio::time::timeout(deadline, follow).await;
    result.unwrap_or_else(|_| {
        let cause = last_error.map(|e| format!(" (last error of the watch: {e})")).unwrap_or_default();
        Err(anyhow!("waited {} s for {what}; missing: {}{cause}", deadline.as_secs(), missing(&known).join(", ")))
    })
}
