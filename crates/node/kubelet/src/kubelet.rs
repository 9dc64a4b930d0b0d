//! What every part of the kubelet shares.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use kinit_cri::Runtime;
use kube::Client;
use kube::runtime::reflector::Store;

use crate::cgroup::Cgroups;
use crate::config::KubeletConfig;
use crate::dns::Resolver;
use crate::events::Events;
use crate::evict::Pressure;
use crate::image::Pulls;
use crate::image_gc::Collector;
use crate::metrics::Metrics;
use crate::names::Paths;
use crate::node::facts::Machine;
use crate::node::held::Held;
use crate::objects::Objects;
use crate::pod::ledger::Ledger;
use crate::pod::writer::Writer;

/// The kubelet's parts; made once, shared by all tasks.
pub struct Kubelet {
    /// Name of the node.
    pub node_name: String,
    /// The configuration.
    pub config: KubeletConfig,
    /// Directories.
    pub paths: Paths,
    /// The container runtime.
    pub runtime: Runtime,
    /// The API server, unless the kubelet stands alone.
    pub client: Option<Client>,
    /// Where events go.
    pub events: Events,
    /// ConfigMaps and Secrets.
    pub objects: Objects,
    /// What pods inherit for name resolution.
    pub resolver: Resolver,
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// The node's memory in bytes.
    pub node_memory: i64,
    /// What the machine is.
    pub machine: Machine,
    /// The node's object as the API has it.
    pub node: Held,
    /// The node's object as it is registered: what is known of it without an API server.
    pub initial: Arc<Node>,
    /// Pods are admitted one after the other.
    pub admission: tokio::sync::Mutex<()>,
    /// Pod cgroups.
    pub cgroups: Cgroups,
    /// What the node runs short of.
    pub pressure: Pressure,
    /// What is counted.
    pub metrics: Metrics,
    /// Turns of image pulls.
    pub pulls: Pulls,
    /// What is known of images.
    pub images: Collector,
    /// What pods were granted.
    pub ledger: Ledger,
    /// Where statuses go.
    pub writer: Writer,
    /// The cluster's Services, for environment variables.
    pub services: Option<Store<Service>>,
}

impl Kubelet {
    /// The newest known state of the node's object.
    pub fn node(&self) -> Arc<Node> {
        self.node.newest().unwrap_or_else(|| self.initial.clone())
    }

    /// Size in bytes of the file system that holds the kubelet's directory; 0 when it cannot be told.
    pub fn disk(&self) -> u64 {
        crate::node::facts::disk(&self.paths.root).map_or(0, |(total, ..)| total)
    }

    /// All Services that are known.
    pub fn services(&self) -> Vec<Arc<Service>> {
        self.services.as_ref().map(Store::state).unwrap_or_default()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::resources::Asked;

    /// A kubelet without an API server, whose runtime does not answer: for what is decided and written without them.
    pub fn kubelet(root: &std::path::Path, allocatable: Asked) -> Arc<Kubelet> {
        let config = KubeletConfig::defaults();
        let initial = serde_json::json!({"metadata": {"name": "n1", "labels": {"kubernetes.io/os": "linux"}}});
        Arc::new(Kubelet {
            node_name: "n1".into(),
            paths: Paths {
                root: root.to_owned(),
                pod_logs: root.join("logs"),
                container_logs: root.join("containers"),
                local_path: root.join("local-path-volumes"),
            },
            runtime: Runtime::new("unix:///nonexistent/runtime.sock").unwrap(),
            client: None,
            events: Events::new(None, None),
            objects: Objects::new(None),
            resolver: Resolver { cluster_dns: Vec::new(), cluster_domain: String::new(), host: String::new() },
            host_ips: vec!["192.0.2.1".into()],
            node_memory: 1 << 30,
            machine: Machine { cpus: 2, memory: 1 << 30, ..Machine::default() },
            node: Held::default(),
            initial: Arc::new(serde_json::from_value(initial).unwrap()),
            admission: tokio::sync::Mutex::default(),
            cgroups: Cgroups::new(false, "kinit-test-unused", None),
            pressure: Pressure::default(),
            metrics: Metrics::new("n1"),
            pulls: Pulls::new(&config),
            images: Collector::default(),
            ledger: Ledger::new(allocatable),
            writer: Writer::default(),
            services: None,
            config,
        })
    }
}
