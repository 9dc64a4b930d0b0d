//! Seeing that the cluster works, by watching it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
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
        names.iter().filter(|name| !nodes.get(*name).is_some_and(is_ready)).cloned().collect()
    };
    watch_until(api, watcher::Config::default(), deadline, "nodes to be Ready", missing).await
}

/// Waits until all these nodes exist, Ready or not.
pub async fn for_nodes_to_exist(client: &Client, names: Vec<String>, deadline: Duration) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let missing = |nodes: &BTreeMap<String, Node>| -> Vec<String> {
        names.iter().filter(|n| !nodes.contains_key(*n)).cloned().collect()
    };
    watch_until(api, watcher::Config::default(), deadline, "nodes to register", missing).await
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
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
    watch_until(api, config, deadline, "an endpoint of kube-dns to be ready", missing).await
}

/// Follows a watch until nothing is missing any more.
async fn watch_until<K>(
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
