//! The Node's status: computed often, sent when it changed and now and then (`tryUpdateNodeStatus`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kinit_component_base::{Shutdown, version};
use kinit_cri::v1::{ListImagesRequest, StatusRequest, VersionRequest};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::capacity;
use super::conditions::{Measured, conditions};
use super::facts::Machine;
use super::held::Held;
use crate::drift::differences;
use crate::evict::rank::Signal;
use crate::kubelet::Kubelet;
use crate::pace::Repairs;

/// No answer within this is no answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Keeps the status up to date for ever; `posted` is cancelled once the API knows it.
pub async fn run(kubelet: Arc<Kubelet>, machine: Machine, port: u16, posted: CancellationToken, shutdown: Shutdown) {
    let Some(client) = kubelet.client.clone() else { return };
    let held = kubelet.node.clone();
    held.follow(client.clone(), &kubelet.node_name, shutdown.clone());
    let mut changes = held.changes();
    let api: Api<Node> = Api::all(client);
    let mut reporter = Reporter { kubelet: kubelet.clone(), machine, port, held, sent: None, excused: BTreeSet::new() };
    let mut repairs = Repairs::default();
    let every = kubelet.config.node_status_update_frequency;
    let soon = Duration::from_secs(1).min(every);
    loop {
        let pause = match tokio::time::timeout(PATIENCE, reporter.once(&api)).await {
            Ok(Ok(ready)) => {
                posted.cancel();
                // Until the node is ready its state is watched closely.
                if ready { every } else { soon }
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "update the node's status");
                soon
            }
            Err(_) => {
                tracing::warn!("update the node's status: no answer");
                soon
            }
        };
        let mut next = Instant::now() + pause;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep_until(next) => break,
                // The sender lives in the reporter.
                Ok(()) = changes.changed() => if reporter.drifted() {
                    next = next.min(repairs.next(Instant::now()));
                },
            }
        }
    }
}

struct Reporter {
    kubelet: Arc<Kubelet>,
    machine: Machine,
    port: u16,
    held: Held,
    sent: Option<(NodeStatus, Instant)>,
    /// What the API shows otherwise than it was last told: to say it again would change nothing.
    excused: BTreeSet<String>,
}

impl Reporter {
    async fn once(&mut self, api: &Api<Node>) -> Result<bool, kube::Error> {
        let known = match self.held.newest() {
            Some(node) => node,
            None => Arc::new(api.get(&self.kubelet.node_name).await?),
        };
        let known = known.status.clone().unwrap_or_default();
        let mut status = self.compute(&known).await;
        let now = Time(Timestamp::now());
        // What the API knows says since when conditions are as they are.
        for condition in status.conditions.iter_mut().flatten() {
            let old =
                known.conditions.iter().flatten().find(|c| c.type_ == condition.type_ && c.status == condition.status);
            condition.last_transition_time =
                Some(old.and_then(|o| o.last_transition_time.clone()).unwrap_or_else(|| now.clone()));
        }
        let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        let changed = match &self.sent {
            Some((sent, at)) => {
                without_times(sent) != without_times(&status)
                    || at.elapsed() >= self.kubelet.config.node_status_report_frequency
            }
            None => true,
        };
        if !changed && !self.differs(&known, &status) {
            return Ok(ready);
        }
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = Some(now.clone());
        }
        let body = patch(&status);
        self.tell(&known, ready);
        let change = Patch::Strategic(json!({"status": body}));
        let answer = api.patch_status(&self.kubelet.node_name, &PatchParams::default(), &change).await?;
        self.excused = differences(&json!(answer.status), &body);
        self.sent = Some((status, Instant::now()));
        self.held.note(answer);
        Ok(ready)
    }

    /// Whether what the API holds is not what it was last told (`nodeStatusHasChanged`).
    fn drifted(&self) -> bool {
        let (Some((sent, _)), Some(node)) = (&self.sent, self.held.newest()) else { return false };
        node.status.as_ref().is_none_or(|known| self.differs(known, sent))
    }

    fn differs(&self, known: &NodeStatus, status: &NodeStatus) -> bool {
        !differences(&json!(known), &patch(status)).is_subset(&self.excused)
    }

    /// An event when the node becomes ready or stops being so.
    fn tell(&self, known: &NodeStatus, ready: bool) {
        let was = known.conditions.iter().flatten().find(|c| c.type_ == "Ready").map(|c| c.status == "True");
        if was == Some(ready) {
            return;
        }
        let name = &self.kubelet.node_name;
        let reason = if ready { "NodeReady" } else { "NodeNotReady" };
        self.kubelet.events.node(name, false, reason, format!("Node {name} status is now: {reason}"));
    }

    async fn compute(&self, known: &NodeStatus) -> NodeStatus {
        let kubelet = &self.kubelet;
        let measured = measure(kubelet).await;
        let conditions = conditions(&measured, &kubelet.config.eviction_hard)
            .into_iter()
            .map(|(type_, yes, reason, message)| NodeCondition {
                type_: type_.to_owned(),
                status: if yes { "True" } else { "False" }.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                ..Default::default()
            })
            .collect();
        let disk = measured.levels.get(&Signal::NodeFs).and_then(|l| u64::try_from(l.total).ok()).unwrap_or(0);
        let config = &kubelet.config;
        let capacity = capacity::capacity(config, &self.machine, disk);
        let mut allocatable = capacity::allocatable(config, &capacity);
        // They are in the API's capacity by somebody else's word, and stay there: a patch takes nothing away.
        allocatable.extend(capacity::extended(known, &capacity));
        let mut addresses: Vec<NodeAddress> =
            kubelet.host_ips.iter().map(|ip| NodeAddress { type_: "InternalIP".into(), address: ip.clone() }).collect();
        addresses.push(NodeAddress { type_: "Hostname".into(), address: kubelet.node_name.clone() });
        NodeStatus {
            addresses: Some(addresses),
            allocatable: Some(allocatable),
            capacity: Some(capacity),
            conditions: Some(conditions),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(self.port) }),
            }),
            node_info: Some(self.info().await),
            images: Some(images(kubelet).await),
            ..Default::default()
        }
    }

    async fn info(&self) -> NodeSystemInfo {
        let m = &self.machine;
        let runtime = match self.kubelet.runtime.version(VersionRequest::default()).await {
            Ok(v) => format!("{}://{}", v.runtime_name, v.runtime_version),
            Err(_) => "containerd://Unknown".to_owned(),
        };
        NodeSystemInfo {
            architecture: m.architecture.clone(),
            boot_id: m.boot_id.clone(),
            container_runtime_version: runtime,
            kernel_version: m.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: version::GIT_VERSION.to_owned(),
            machine_id: m.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: m.os_image.clone(),
            system_uuid: m.system_uuid.clone(),
            swap: None,
        }
    }
}

fn without_times(status: &NodeStatus) -> NodeStatus {
    let mut status = status.clone();
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None;
        condition.last_transition_time = None;
    }
    status
}

/// Addresses are replaced as a whole: an address the node no longer has must go.
fn patch(status: &NodeStatus) -> Value {
    let mut value = serde_json::to_value(status).unwrap_or_else(|_| json!({}));
    if let Some(Value::Array(list)) = value.get_mut("addresses") {
        list.insert(0, json!({"$patch": "replace"}));
    }
    value
}

async fn images(kubelet: &Kubelet) -> Vec<ContainerImage> {
    const MOST: usize = 50;
    let Ok(answer) = kubelet.runtime.list_images(ListImagesRequest::default()).await else { return Vec::new() };
    let mut images: Vec<ContainerImage> = answer
        .images
        .into_iter()
        .map(|i| ContainerImage {
            names: Some(i.repo_digests.into_iter().chain(i.repo_tags).take(5).collect()),
            size_bytes: i64::try_from(i.size).ok(),
        })
        .collect();
    images.sort_by_key(|i| (std::cmp::Reverse(i.size_bytes), i.names.clone()));
    images.truncate(MOST);
    images
}

/// Asks the runtime and the kernel.
async fn measure(kubelet: &Kubelet) -> Measured {
    let lasting = kubelet.pressure.conditions(kubelet.config.eviction_pressure_transition_period);
    let mut out = Measured { levels: crate::evict::measure::levels(kubelet).await, lasting, ..Measured::default() };
    match kubelet.runtime.status(StatusRequest { verbose: false }).await {
        Ok(answer) => {
            for condition in answer.status.into_iter().flat_map(|s| s.conditions).filter(|c| !c.status) {
                let problem = format!(
                    "container runtime {} reason:{} message:{}",
                    condition.r#type, condition.reason, condition.message
                );
                match condition.r#type.as_str() {
                    "RuntimeReady" => out.runtime_problem = Some(problem),
                    "NetworkReady" => out.network_problem = Some(problem),
                    _ => {}
                }
            }
        }
        Err(error) => out.runtime_problem = Some(format!("container runtime is down: {error}")),
    }
    out
}
