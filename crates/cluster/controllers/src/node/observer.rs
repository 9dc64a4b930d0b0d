//! Signs of life, noted from the start of the process and not only while it leads: a new leader knows for how long a
//! node has been silent and need not wait another grace period. (Upstream's begins anew.)

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kinit_client::informer::{Store, spawn};
use kinit_component_base::Shutdown;
use kube::api::{Api, ListParams};
use kube::runtime::watcher::Config;
use kube::{Client, ResourceExt};
use parking_lot::Mutex;

use super::health::Watcher;

const NAMESPACE: &str = "kube-node-lease";

/// See the module.
pub struct Observer {
    nodes: Arc<Store<Node>>,
    leases: Arc<Store<Lease>>,
    api: Api<Lease>,
    watcher: Arc<Mutex<Watcher>>,
}

impl Observer {
    /// Begins. `client` may list and watch all leases.
    pub fn start(client: Client, nodes: Arc<Store<Node>>, shutdown: &Shutdown) -> Arc<Self> {
        let api = Api::<Lease>::namespaced(client, NAMESPACE);
        let leases = spawn(api.clone(), Config::default(), shutdown);
        let watcher = Arc::new(Mutex::new(Watcher::default()));
        let (on_node, its_leases) = (watcher.clone(), leases.clone());
        nodes.on_change(move |change| {
            let node = change.object();
            let lease = its_leases.get(&key(&node.name_any()));
            on_node.lock().silence(node, lease.as_deref(), Instant::now());
        });
        let (on_lease, its_nodes) = (watcher.clone(), nodes.clone());
        leases.on_change(move |change| {
            let lease = change.object();
            if let Some(node) = its_nodes.get(&lease.name_any()) {
                on_lease.lock().silence(&node, Some(lease), Instant::now());
            }
        });
        Arc::new(Self { nodes, leases, api, watcher })
    }

    /// Waits for the first lists.
    pub async fn synced(&self) {
        self.nodes.synced().await;
        self.leases.synced().await;
    }

    /// For how long the node has been silent.
    pub fn silence(&self, node: &Node) -> Duration {
        let lease = self.leases.get(&key(&node.name_any()));
        self.watcher.lock().silence(node, lease.as_deref(), Instant::now())
    }

    /// Forgets nodes that are gone.
    pub fn forget_absent(&self) {
        self.watcher.lock().keep(|name| self.nodes.get(name).is_some());
    }

    /// Asks the API server whether the node's lease is the one that was last seen here. It is not when our own watch
    /// fell behind: then the silence was ours.
    pub async fn is_confirmed(&self, node: &Node) -> Result<bool> {
        let name = node.name_any();
        let params = ListParams::default().fields(&format!("metadata.name={name}"));
        let fresh = self.api.list(&params).await.with_context(|| format!("read the lease of node {name}"))?;
        let renewed = |lease: &Lease| lease.spec.as_ref().and_then(|s| s.renew_time.clone());
        let seen = self.leases.get(&key(&name));
        if fresh.items.first().and_then(renewed) == seen.as_deref().and_then(renewed) {
            return Ok(true);
        }
        self.watcher.lock().silence(node, fresh.items.first(), Instant::now());
        Ok(false)
    }
}

fn key(node: &str) -> String {
    format!("{NAMESPACE}/{node}")
}
