//! What every part of the kubelet shares.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use kinit_cri::Runtime;
use kube::Client;
use kube::runtime::reflector::Store;

use crate::cgroup::Cgroups;
use crate::config::KubeletConfig;
use crate::dns::Resolver;
use crate::events::Events;
use crate::evict::Pressure;
use crate::image_gc::Collector;
use crate::names::Paths;
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
    /// The node's CPU in thousandths.
    pub node_cpu_milli: i128,
    /// Pod cgroups.
    pub cgroups: Cgroups,
    /// What the node runs short of.
    pub pressure: Pressure,
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
    /// All Services that are known.
    pub fn services(&self) -> Vec<Arc<Service>> {
        self.services.as_ref().map(Store::state).unwrap_or_default()
    }
}
