//! Which columns a kind has.

use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::values::{age, condition, human, int, joined, labels, list, name, selector, since, size, text};
use super::{Column, pod};

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
        ("", "Pod") => POD,
        ("", "Node") => NODE,
        ("", "Service") => SERVICE,
        ("", "Namespace") => NAMESPACE,
        ("", "Endpoints") => ENDPOINTS,
        ("", "ConfigMap") => CONFIG_MAP,
        ("", "Secret") => SECRET,
        ("", "ServiceAccount") => &[NAME, AGE],
        ("", "Event") => EVENT,
        ("events.k8s.io", "Event") => EVENT_NEW,
        ("", "PersistentVolume") => PV,
        ("", "PersistentVolumeClaim") => PVC,
        ("", "ReplicationController") => RC,
        ("", "ResourceQuota") => &[NAME, AGE],
        ("apps", "Deployment") => DEPLOYMENT,
        ("apps", "ReplicaSet") => REPLICA_SET,
        ("apps", "StatefulSet") => STATEFUL_SET,
        ("apps", "DaemonSet") => DAEMON_SET,
        ("apps", "ControllerRevision") => REVISION,
        ("batch", "Job") => JOB,
        ("batch", "CronJob") => CRON_JOB,
        ("autoscaling", "HorizontalPodAutoscaler") => HPA,
        ("policy", "PodDisruptionBudget") => PDB,
        ("discovery.k8s.io", "EndpointSlice") => SLICE,
        ("coordination.k8s.io", "Lease") => LEASE,
        ("certificates.k8s.io", "CertificateSigningRequest") => CSR,
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => ROLE,
        ("rbac.authorization.k8s.io", _) => BINDING,
        ("networking.k8s.io", "Ingress") => INGRESS,
        ("networking.k8s.io", "IngressClass") => INGRESS_CLASS,
        ("networking.k8s.io", "NetworkPolicy") => NETPOL,
        ("networking.k8s.io", "IPAddress") => IP_ADDRESS,
        ("networking.k8s.io", "ServiceCIDR") => SERVICE_CIDR,
        ("scheduling.k8s.io", "PriorityClass") => PRIORITY,
        ("storage.k8s.io", "StorageClass") => STORAGE_CLASS,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => CRD,
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

static POD: &[Column] = &[
    NAME,
    col("Ready", pod::ready),
    col("Status", pod::status),
    col("Restarts", pod::restarts),
    AGE,
    wide("IP", |o| text(o, &["status", "podIP"], "<none>")),
    wide("Node", |o| text(o, &["spec", "nodeName"], "<none>")),
    wide("Nominated Node", |o| text(o, &["status", "nominatedNodeName"], "<none>")),
    wide("Readiness Gates", pod::gates),
];

fn node_address(o: &Value, kind: &str) -> Value {
    list(o, &["status", "addresses"])
        .iter()
        .find(|a| a.str_at(&["type"]) == kind)
        .map_or("<none>", |a| a.str_at(&["address"]))
        .into()
}
fn node_status(o: &Value) -> Value {
    let mut parts = vec![match condition(o, "Ready").map(|c| c.str_at(&["status"])) {
        Some("True") => "Ready",
        Some("False") => "NotReady",
        Some(_) => "NotReady",
        None => "Unknown",
    }];
    if o.at(&["spec", "unschedulable"]) == Some(&Value::Bool(true)) {
        parts.push("SchedulingDisabled");
    }
    parts.join(",").into()
}
fn node_roles(o: &Value) -> Value {
    let mut roles: Vec<&str> = o
        .at(&["metadata", "labels"])
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| match k.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role),
            _ if k == "kubernetes.io/role" => v.as_str().filter(|r| !r.is_empty()),
            _ => None,
        })
        .collect();
    roles.sort_unstable();
    if roles.is_empty() { "<none>".into() } else { roles.join(",").into() }
}
static NODE: &[Column] = &[
    NAME,
    col("Status", node_status),
    col("Roles", node_roles),
    AGE,
    col("Version", |o| text(o, &["status", "nodeInfo", "kubeletVersion"], "")),
    wide("Internal-IP", |o| node_address(o, "InternalIP")),
    wide("External-IP", |o| node_address(o, "ExternalIP")),
    wide("OS-Image", |o| text(o, &["status", "nodeInfo", "osImage"], "<unknown>")),
    wide("Kernel-Version", |o| text(o, &["status", "nodeInfo", "kernelVersion"], "<unknown>")),
    wide("Container-Runtime", |o| text(o, &["status", "nodeInfo", "containerRuntimeVersion"], "<unknown>")),
];

fn external_ip(o: &Value) -> Value {
    let fixed = kinit_apimachinery::meta::strings(o.at(&["spec", "externalIPs"])).join(",");
    match o.str_at(&["spec", "type"]) {
        "LoadBalancer" => {
            let given = joined(list(o, &["status", "loadBalancer", "ingress"]), |i| match i.str_at(&["ip"]) {
                "" => i.str_at(&["hostname"]),
                ip => ip,
            });
            match (given.is_empty(), fixed.is_empty()) {
                (false, true) => given.into(),
                (false, false) => format!("{given},{fixed}").into(),
                (true, false) => fixed.into(),
                (true, true) => "<pending>".into(),
            }
        }
        "ExternalName" => text(o, &["spec", "externalName"], "<none>"),
        _ if fixed.is_empty() => "<none>".into(),
        _ => fixed.into(),
    }
}
fn service_ports(o: &Value) -> Value {
    let ports: Vec<String> = list(o, &["spec", "ports"])
        .iter()
        .map(|p| {
            let node = int(p, &["nodePort"]);
            let node = if node > 0 { format!(":{node}") } else { String::new() };
            format!("{}{node}/{}", int(p, &["port"]), p.str_at(&["protocol"]))
        })
        .collect();
    if ports.is_empty() { "<none>".into() } else { ports.join(",").into() }
}
static SERVICE: &[Column] = &[
    NAME,
    col("Type", |o| text(o, &["spec", "type"], "")),
    col("Cluster-IP", |o| text(o, &["spec", "clusterIP"], "<none>")),
    col("External-IP", external_ip),
    col("Port(s)", service_ports),
    AGE,
    wide("Selector", |o| labels(o.at(&["spec", "selector"])).into()),
];
static NAMESPACE: &[Column] = &[NAME, col("Status", |o| text(o, &["status", "phase"], "")), AGE];

fn endpoints(o: &Value) -> Value {
    let mut out = Vec::new();
    let mut more = 0;
    for subset in list(o, &["subsets"]) {
        for address in list(subset, &["addresses"]) {
            let ip = address.str_at(&["ip"]);
            let ports = list(subset, &["ports"]);
            let shown: Vec<String> = if ports.is_empty() {
                vec![ip.to_owned()]
            } else {
                ports.iter().map(|p| format!("{ip}:{}", int(p, &["port"]))).collect()
            };
            for one in shown {
                if out.len() < 3 { out.push(one) } else { more += 1 }
            }
        }
    }
    match (out.is_empty(), more) {
        (true, _) => "<none>".into(),
        (false, 0) => out.join(",").into(),
        (false, more) => format!("{} + {more} more...", out.join(",")).into(),
    }
}
static ENDPOINTS: &[Column] = &[NAME, col("Endpoints", endpoints), AGE];
static CONFIG_MAP: &[Column] = &[NAME, num("Data", |o| (size(o, &["data"]) + size(o, &["binaryData"])).into()), AGE];
static SECRET: &[Column] =
    &[NAME, col("Type", |o| text(o, &["type"], "Opaque")), num("Data", |o| size(o, &["data"]).into()), AGE];

fn event_seen(o: &Value) -> Value {
    for path in [&["series", "lastObservedTime"][..], &["lastTimestamp"], &["deprecatedLastTimestamp"], &["eventTime"]]
    {
        let at = o.str_at(path);
        if !at.is_empty() {
            return since(at).into();
        }
    }
    age(o)
}
fn object_of(o: &Value, key: &str) -> Value {
    let (kind, name) = (o.str_at(&[key, "kind"]), o.str_at(&[key, "name"]));
    let path = o.str_at(&[key, "fieldPath"]);
    let _ = path;
    format!("{}/{name}", kind.to_lowercase()).into()
}
static EVENT: &[Column] = &[
    col("Last Seen", event_seen),
    col("Type", |o| text(o, &["type"], "")),
    col("Reason", |o| text(o, &["reason"], "")),
    col("Object", |o| object_of(o, "involvedObject")),
    wide("Subobject", |o| text(o, &["involvedObject", "fieldPath"], "")),
    wide("Source", |o| match o.str_at(&["source", "component"]) {
        "" => text(o, &["reportingComponent"], ""),
        component => match o.str_at(&["source", "host"]) {
            "" => component.into(),
            host => format!("{component}, {host}").into(),
        },
    }),
    col("Message", |o| o.str_at(&["message"]).trim().into()),
    wide("First Seen", |o| match o.str_at(&["firstTimestamp"]) {
        "" => event_seen(o),
        at => since(at).into(),
    }),
    wide("Count", |o| int(o, &["count"]).max(1).to_string().into()),
    wide("Name", name),
];
static EVENT_NEW: &[Column] = &[
    col("Last Seen", event_seen),
    col("Type", |o| text(o, &["type"], "")),
    col("Reason", |o| text(o, &["reason"], "")),
    col("Object", |o| object_of(o, "regarding")),
    col("Message", |o| o.str_at(&["note"]).trim().into()),
    wide("Name", name),
];

fn modes(o: &Value, path: &[&str]) -> String {
    kinit_apimachinery::meta::strings(o.at(path))
        .iter()
        .map(|m| match m.as_str() {
            "ReadWriteOnce" => "RWO",
            "ReadOnlyMany" => "ROX",
            "ReadWriteMany" => "RWX",
            "ReadWriteOncePod" => "RWOP",
            other => other,
        })
        .collect::<Vec<_>>()
        .join(",")
}
static PV: &[Column] = &[
    NAME,
    col("Capacity", |o| text(o, &["spec", "capacity", "storage"], "")),
    col("Access Modes", |o| modes(o, &["spec", "accessModes"]).into()),
    col("Reclaim Policy", |o| text(o, &["spec", "persistentVolumeReclaimPolicy"], "")),
    col("Status", |o| if o.is_deleting() { "Terminating".into() } else { text(o, &["status", "phase"], "") }),
    col("Claim", |o| match o.str_at(&["spec", "claimRef", "name"]) {
        "" => "".into(),
        claim => format!("{}/{claim}", o.str_at(&["spec", "claimRef", "namespace"])).into(),
    }),
    col("StorageClass", |o| text(o, &["spec", "storageClassName"], "")),
    col("VolumeAttributesClass", |o| text(o, &["spec", "volumeAttributesClassName"], "<unset>")),
    col("Reason", |o| text(o, &["status", "reason"], "")),
    AGE,
    wide("VolumeMode", |o| text(o, &["spec", "volumeMode"], "Filesystem")),
];
static PVC: &[Column] = &[
    NAME,
    col("Status", |o| if o.is_deleting() { "Terminating".into() } else { text(o, &["status", "phase"], "") }),
    col("Volume", |o| text(o, &["spec", "volumeName"], "")),
    col("Capacity", |o| text(o, &["status", "capacity", "storage"], "")),
    col("Access Modes", |o| modes(o, &["status", "accessModes"]).into()),
    col("StorageClass", |o| text(o, &["spec", "storageClassName"], "")),
    col("VolumeAttributesClass", |o| text(o, &["spec", "volumeAttributesClassName"], "<unset>")),
    AGE,
    wide("VolumeMode", |o| text(o, &["spec", "volumeMode"], "Filesystem")),
];
static RC: &[Column] = &[
    NAME,
    num("Desired", |o| replicas(o).into()),
    num("Current", |o| int(o, &["status", "replicas"]).into()),
    num("Ready", |o| int(o, &["status", "readyReplicas"]).into()),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", |o| labels(o.at(&["spec", "selector"])).into()),
];
static DEPLOYMENT: &[Column] = &[
    NAME,
    col("Ready", |o| ratio(int(o, &["status", "readyReplicas"]), replicas(o))),
    num("Up-to-date", |o| int(o, &["status", "updatedReplicas"]).into()),
    num("Available", |o| int(o, &["status", "availableReplicas"]).into()),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
static REPLICA_SET: &[Column] = &[
    NAME,
    num("Desired", |o| replicas(o).into()),
    num("Current", |o| int(o, &["status", "replicas"]).into()),
    num("Ready", |o| int(o, &["status", "readyReplicas"]).into()),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
static STATEFUL_SET: &[Column] =
    &[NAME, col("Ready", |o| ratio(int(o, &["status", "readyReplicas"]), replicas(o))), AGE, CONTAINERS, IMAGES];
static DAEMON_SET: &[Column] = &[
    NAME,
    num("Desired", |o| int(o, &["status", "desiredNumberScheduled"]).into()),
    num("Current", |o| int(o, &["status", "currentNumberScheduled"]).into()),
    num("Ready", |o| int(o, &["status", "numberReady"]).into()),
    num("Up-to-date", |o| int(o, &["status", "updatedNumberScheduled"]).into()),
    num("Available", |o| int(o, &["status", "numberAvailable"]).into()),
    col("Node Selector", |o| labels(o.at(&["spec", "template", "spec", "nodeSelector"])).into()),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
fn controller(o: &Value) -> Value {
    let owner = list(o, &["metadata", "ownerReferences"])
        .iter()
        .find(|r| r.get("controller").and_then(Value::as_bool) == Some(true));
    match owner {
        Some(owner) => {
            let group = owner.str_at(&["apiVersion"]).split_once('/').map_or("", |(g, _)| g);
            let kind = owner.str_at(&["kind"]).to_lowercase();
            let dot = if group.is_empty() { String::new() } else { format!(".{group}") };
            format!("{kind}{dot}/{}", owner.str_at(&["name"])).into()
        }
        None => "<none>".into(),
    }
}
static REVISION: &[Column] =
    &[NAME, col("Controller", controller), num("Revision", |o| int(o, &["revision"]).into()), AGE];

fn job_status(o: &Value) -> Value {
    let is = |kind: &str| condition(o, kind).is_some_and(|c| c.str_at(&["status"]) == "True");
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if o.is_deleting() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
    .into()
}
fn job_completions(o: &Value) -> Value {
    let done = int(o, &["status", "succeeded"]);
    match o.at(&["spec", "completions"]).and_then(Value::as_i64) {
        Some(n) => ratio(done, n),
        None if int(o, &["spec", "parallelism"]) > 1 => {
            format!("{done}/1 of {}", int(o, &["spec", "parallelism"])).into()
        }
        None => ratio(done, 1),
    }
}
fn job_duration(o: &Value) -> Value {
    use kinit_apimachinery::time::parse;
    let start = parse(o.str_at(&["status", "startTime"]));
    match (start, parse(o.str_at(&["status", "completionTime"]))) {
        (None, _) => "".into(),
        (Some(_), None) => since(o.str_at(&["status", "startTime"])).into(),
        (Some(start), Some(end)) => human(end.as_second() - start.as_second()).into(),
    }
}
static JOB: &[Column] = &[
    NAME,
    col("Status", job_status),
    col("Completions", job_completions),
    col("Duration", job_duration),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
static CRON_JOB: &[Column] = &[
    NAME,
    col("Schedule", |o| text(o, &["spec", "schedule"], "")),
    col("Timezone", |o| text(o, &["spec", "timeZone"], "<none>")),
    col("Suspend", |o| if o.at(&["spec", "suspend"]) == Some(&Value::Bool(true)) { "True" } else { "False" }.into()),
    num("Active", |o| size(o, &["status", "active"]).into()),
    col("Last Schedule", |o| match o.str_at(&["status", "lastScheduleTime"]) {
        "" => "<none>".into(),
        at => since(at).into(),
    }),
    AGE,
    wide("Containers", |o| {
        joined(list(o, &["spec", "jobTemplate", "spec", "template", "spec", "containers"]), |c| c.str_at(&["name"]))
            .into()
    }),
    wide("Images", |o| {
        joined(list(o, &["spec", "jobTemplate", "spec", "template", "spec", "containers"]), |c| c.str_at(&["image"]))
            .into()
    }),
    wide("Selector", |o| selector(o.at(&["spec", "jobTemplate", "spec", "selector"])).into()),
];
static HPA: &[Column] = &[
    NAME,
    col("Reference", |o| {
        format!("{}/{}", o.str_at(&["spec", "scaleTargetRef", "kind"]), o.str_at(&["spec", "scaleTargetRef", "name"]))
            .into()
    }),
    num("MinPods", |o| o.at(&["spec", "minReplicas"]).cloned().unwrap_or_else(|| "<unset>".into())),
    num("MaxPods", |o| int(o, &["spec", "maxReplicas"]).into()),
    num("Replicas", |o| int(o, &["status", "currentReplicas"]).into()),
    AGE,
];
fn int_or_none(o: &Value, path: &[&str]) -> Value {
    match o.at(path) {
        Some(Value::Number(n)) => n.to_string().into(),
        Some(Value::String(s)) => s.clone().into(),
        _ => "N/A".into(),
    }
}
static PDB: &[Column] = &[
    NAME,
    col("Min Available", |o| int_or_none(o, &["spec", "minAvailable"])),
    col("Max Unavailable", |o| int_or_none(o, &["spec", "maxUnavailable"])),
    num("Allowed Disruptions", |o| int(o, &["status", "disruptionsAllowed"]).into()),
    AGE,
];
fn slice_ports(o: &Value) -> Value {
    let ports = joined_numbers(list(o, &["ports"]));
    if ports.is_empty() { "<unset>".into() } else { ports.into() }
}
fn joined_numbers(ports: &[Value]) -> String {
    ports
        .iter()
        .map(|p| p.get("port").and_then(Value::as_i64).map_or("*".to_owned(), |n| n.to_string()))
        .collect::<Vec<_>>()
        .join(",")
}
fn slice_endpoints(o: &Value) -> Value {
    let all: Vec<&str> =
        list(o, &["endpoints"]).iter().flat_map(|e| list(e, &["addresses"]).iter().filter_map(Value::as_str)).collect();
    match all.len() {
        0 => "<unset>".into(),
        1..=3 => all.join(",").into(),
        n => format!("{} + {} more...", all[..3].join(","), n - 3).into(),
    }
}
static SLICE: &[Column] = &[
    NAME,
    col("AddressType", |o| text(o, &["addressType"], "")),
    col("Ports", slice_ports),
    col("Endpoints", slice_endpoints),
    AGE,
];
static LEASE: &[Column] = &[NAME, col("Holder", |o| text(o, &["spec", "holderIdentity"], "")), AGE];
fn csr_condition(o: &Value) -> Value {
    let has = |kind: &str| condition(o, kind).is_some();
    let mut out = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        out.push_str(",Failed");
    }
    if !o.str_at(&["status", "certificate"]).is_empty() {
        out.push_str(",Issued");
    }
    out.into()
}
static CSR: &[Column] = &[
    NAME,
    AGE,
    col("SignerName", |o| text(o, &["spec", "signerName"], "<none>")),
    col("Requestor", |o| text(o, &["spec", "username"], "")),
    col("RequestedDuration", |o| match int(o, &["spec", "expirationSeconds"]) {
        0 => "<none>".into(),
        seconds => human(seconds).into(),
    }),
    col("Condition", csr_condition),
];
static ROLE: &[Column] = &[NAME, col("Created At", |o| text(o, &["metadata", "creationTimestamp"], ""))];
fn subjects(o: &Value, kind: &str) -> Value {
    list(o, &["subjects"])
        .iter()
        .filter(|s| s.str_at(&["kind"]) == kind)
        .map(|s| match kind {
            "ServiceAccount" => format!("{}/{}", s.str_at(&["namespace"]), s.str_at(&["name"])),
            _ => s.str_at(&["name"]).to_owned(),
        })
        .collect::<Vec<_>>()
        .join(", ")
        .into()
}
static BINDING: &[Column] = &[
    NAME,
    col("Role", |o| format!("{}/{}", o.str_at(&["roleRef", "kind"]), o.str_at(&["roleRef", "name"])).into()),
    AGE,
    wide("Users", |o| subjects(o, "User")),
    wide("Groups", |o| subjects(o, "Group")),
    wide("ServiceAccounts", |o| subjects(o, "ServiceAccount")),
];
static INGRESS: &[Column] = &[
    NAME,
    col("Class", |o| text(o, &["spec", "ingressClassName"], "<none>")),
    col("Hosts", |o| {
        let hosts = joined(list(o, &["spec", "rules"]), |r| r.str_at(&["host"]));
        if hosts.is_empty() { "*".into() } else { hosts.into() }
    }),
    col("Address", |o| {
        joined(list(o, &["status", "loadBalancer", "ingress"]), |i| match i.str_at(&["ip"]) {
            "" => i.str_at(&["hostname"]),
            ip => ip,
        })
        .into()
    }),
    col("Ports", |o| if list(o, &["spec", "tls"]).is_empty() { "80" } else { "80, 443" }.into()),
    AGE,
];
static INGRESS_CLASS: &[Column] = &[
    NAME,
    col("Controller", |o| text(o, &["spec", "controller"], "")),
    col("Parameters", |o| match o.str_at(&["spec", "parameters", "name"]) {
        "" => "<none>".into(),
        name => format!("{}/{name}", o.str_at(&["spec", "parameters", "kind"])).into(),
    }),
    AGE,
];
static NETPOL: &[Column] = &[NAME, col("Pod-Selector", |o| selector(o.at(&["spec", "podSelector"])).into()), AGE];
static IP_ADDRESS: &[Column] = &[
    NAME,
    col("ParentRef", |o| {
        let r = |k: &str| o.str_at(&["spec", "parentRef", k]).to_owned();
        [r("resource"), r("namespace"), r("name")]
            .into_iter()
            .filter(|p| !p.is_empty())
            .collect::<Vec<_>>()
            .join("/")
            .into()
    }),
    AGE,
];
static SERVICE_CIDR: &[Column] =
    &[NAME, col("CIDRs", |o| kinit_apimachinery::meta::strings(o.at(&["spec", "cidrs"])).join(",").into()), AGE];
static PRIORITY: &[Column] = &[
    NAME,
    num("Value", |o| int(o, &["value"]).into()),
    col("Global-Default", |o| (o.get("globalDefault") == Some(&Value::Bool(true))).into()),
    AGE,
    col("PreemptionPolicy", |o| text(o, &["preemptionPolicy"], "")),
];
static STORAGE_CLASS: &[Column] = &[
    col("Name", |o| {
        if o.annotation("storageclass.kubernetes.io/is-default-class") == Some("true") {
            format!("{} (default)", o.name()).into()
        } else {
            o.name().into()
        }
    }),
    col("Provisioner", |o| text(o, &["provisioner"], "")),
    col("ReclaimPolicy", |o| text(o, &["reclaimPolicy"], "Delete")),
    col("VolumeBindingMode", |o| text(o, &["volumeBindingMode"], "Immediate")),
    col("AllowVolumeExpansion", |o| (o.get("allowVolumeExpansion") == Some(&Value::Bool(true))).into()),
    AGE,
];
static CRD: &[Column] = &[NAME, col("Created At", |o| text(o, &["metadata", "creationTimestamp"], ""))];
