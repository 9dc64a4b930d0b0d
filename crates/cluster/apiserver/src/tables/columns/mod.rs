//! Which columns a kind has.

mod access;
mod autoscaling;
mod core;
mod flow;
mod network;
mod storage;
mod workloads;

use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::Column;
use super::values::{age, joined, list, name, selector};

const fn col(name: &'static str, cell: fn(&Value) -> Value) -> Column {
    Column { name, ty: "string", priority: 0, cell }
}
const fn num(name: &'static str, cell: fn(&Value) -> Value) -> Column {
    Column { name, ty: "integer", priority: 0, cell }
}
const fn wide(name: &'static str, cell: fn(&Value) -> Value) -> Column {
    Column { name, ty: "string", priority: 1, cell }
}

const NAME: Column = col("Name", name);
const AGE: Column = col("Age", age);
static GENERIC: &[Column] = &[NAME, AGE];

/// A kind's columns; name and age for kinds without their own.
pub(super) fn of(group: &str, kind: &str) -> &'static [Column] {
    match (group, kind) {
        ("", "Pod") => core::POD,
        ("", "Node") => core::NODE,
        ("", "Service") => core::SERVICE,
        ("", "Namespace") => core::NAMESPACE,
        ("", "Endpoints") => core::ENDPOINTS,
        ("", "ConfigMap") => core::CONFIG_MAP,
        ("", "Secret") => core::SECRET,
        ("", "ServiceAccount") => &[NAME, AGE],
        ("", "Event") => core::EVENT,
        ("events.k8s.io", "Event") => core::EVENT_NEW,
        ("", "PersistentVolume") => storage::PV,
        ("", "PersistentVolumeClaim") => storage::PVC,
        ("", "ReplicationController") => workloads::RC,
        ("", "ResourceQuota") => core::QUOTA,
        ("apps", "Deployment") => workloads::DEPLOYMENT,
        ("apps", "ReplicaSet") => workloads::REPLICA_SET,
        ("apps", "StatefulSet") => workloads::STATEFUL_SET,
        ("apps", "DaemonSet") => workloads::DAEMON_SET,
        ("apps", "ControllerRevision") => workloads::REVISION,
        ("batch", "Job") => workloads::JOB,
        ("batch", "CronJob") => workloads::CRON_JOB,
        ("autoscaling", "HorizontalPodAutoscaler") => workloads::HPA,
        ("policy", "PodDisruptionBudget") => workloads::PDB,
        ("discovery.k8s.io", "EndpointSlice") => network::SLICE,
        ("coordination.k8s.io", "Lease") => access::LEASE,
        ("certificates.k8s.io", "CertificateSigningRequest") => access::CSR,
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => access::ROLE,
        ("rbac.authorization.k8s.io", _) => access::BINDING,
        ("networking.k8s.io", "Ingress") => network::INGRESS,
        ("networking.k8s.io", "IngressClass") => network::INGRESS_CLASS,
        ("networking.k8s.io", "NetworkPolicy") => network::NETPOL,
        ("networking.k8s.io", "IPAddress") => network::IP_ADDRESS,
        ("networking.k8s.io", "ServiceCIDR") => network::SERVICE_CIDR,
        ("scheduling.k8s.io", "PriorityClass") => network::PRIORITY,
        ("storage.k8s.io", "StorageClass") => storage::STORAGE_CLASS,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => access::CRD,
        ("apiregistration.k8s.io", "APIService") => access::API_SERVICE,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => flow::SCHEMA,
        ("flowcontrol.apiserver.k8s.io", _) => flow::LEVEL,
        _ => GENERIC,
    }
}

fn containers(o: &Value) -> Value {
    joined(list(o, &["spec", "template", "spec", "containers"]), |c| c.str_at(&["name"])).into()
}
fn images(o: &Value) -> Value {
    joined(list(o, &["spec", "template", "spec", "containers"]), |c| c.str_at(&["image"])).into()
}
fn workload_selector(o: &Value) -> Value {
    selector(o.at(&["spec", "selector"])).into()
}
const CONTAINERS: Column = wide("Containers", containers);
const IMAGES: Column = wide("Images", images);
const SELECTOR: Column = wide("Selector", workload_selector);

fn ratio(ready: i64, wanted: i64) -> Value {
    format!("{ready}/{wanted}").into()
}
fn replicas(o: &Value) -> i64 {
    o.at(&["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(1)
}
