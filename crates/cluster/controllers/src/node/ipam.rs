//! `nodeipam`: `spec.podCIDR` and `spec.podCIDRs` of nodes, out of --cluster-cidr.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kinit_client::events::Recorder;
use kinit_client::informer::{Change, Store};
use kinit_client::queue::Queue;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;

use super::ACCOUNT;
use super::cidrs::Blocks;
use crate::context::Context;

/// Runs the controller; without --allocate-node-cidrs there is nothing to do.
pub async fn run(ctx: Context) -> Result<()> {
    let args = ctx.args();
    let (true, Some(cidr)) = (args.allocate_node_cidrs, args.cluster_cidr) else { return Ok(()) };
    let blocks = Blocks::new(cidr, args.node_cidr_mask_size, args.service_cluster_ip_range);
    let client = ctx.client(ACCOUNT).await?;
    let nodes = ctx.store::<Node>();
    // What exists is taken before anything is given.
    nodes.synced().await;
    let state = Arc::new(Mutex::new(State { blocks, held: HashMap::new() }));
    for node in nodes.list() {
        state.lock().learn(&node);
    }
    let queue = Queue::new();
    let (handler, on_change) = (queue.clone(), state.clone());
    nodes.on_change(move |change| match change {
        Change::Deleted(node) => on_change.lock().forget(&node.name_any()),
        _ => handler.add(change.object().name_any()),
    });
    let recorder = ctx.recorder(client.clone(), ACCOUNT);
    let work = Arc::new(Ipam { api: Api::all(client), nodes, state, recorder });
    // One worker: an allocation is decided by one at a time.
    queue.run("nodeipam", 1, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

struct State {
    blocks: Blocks,
    held: HashMap<String, Vec<IpNet>>,
}

impl State {
    fn learn(&mut self, node: &Node) {
        let cidrs = pod_cidrs(node);
        cidrs.iter().for_each(|cidr| self.blocks.occupy(*cidr));
        if !cidrs.is_empty() {
            self.held.insert(node.name_any(), cidrs);
        }
    }

    fn forget(&mut self, name: &str) {
        for cidr in self.held.remove(name).unwrap_or_default() {
            self.blocks.release(cidr);
        }
    }

    /// The block reserved for this node, kept until it is deleted so that a retry asks for the same.
    fn reserve(&mut self, name: &str) -> Option<IpNet> {
        if let Some(cidr) = self.held.get(name).and_then(|c| c.first()) {
            return Some(*cidr);
        }
        let cidr = self.blocks.allocate()?;
        self.held.insert(name.to_owned(), vec![cidr]);
        Some(cidr)
    }
}

fn pod_cidrs(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let single = spec.pod_cidr.iter();
    let mut cidrs: Vec<IpNet> = spec.pod_cidrs.iter().flatten().chain(single).filter_map(|c| c.parse().ok()).collect();
    cidrs.sort();
    cidrs.dedup();
    cidrs
}

struct Ipam {
    api: Api<Node>,
    nodes: Arc<Store<Node>>,
    state: Arc<Mutex<State>>,
    recorder: Recorder,
}

impl Ipam {
    async fn sync(self: Arc<Self>, name: String) -> Result<Option<Duration>> {
        let Some(node) = self.nodes.get(&name) else {
            self.state.lock().forget(&name);
            return Ok(None);
        };
        if !pod_cidrs(&node).is_empty() {
            self.state.lock().learn(&node);
            return Ok(None);
        }
        let reserved = self.state.lock().reserve(&name);
        let Some(cidr) = reserved else {
            self.recorder.normal(&*node, "CIDRNotAvailable", format!("Node {name} status is now: CIDRNotAvailable"));
            bail!("no pod CIDR is left for node {name}");
        };
        let patch = json!({
            "metadata": {"uid": node.uid()},
            "spec": {"podCIDR": cidr.to_string(), "podCIDRs": [cidr.to_string()]}
        });
        match self.api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => tracing::info!(node = name, %cidr, "gave a pod CIDR"),
            Err(error) => {
                self.recorder.warning(
                    &*node,
                    "CIDRAssignmentFailed",
                    format!("Node {name} status is now: CIDRAssignmentFailed"),
                );
                return Err(error).with_context(|| format!("give {cidr} to node {name}"));
            }
        }
        Ok(None)
    }
}
