//! The objects that every server keeps (`k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap`): two levels and two schemas
//! that cannot do without, and the suggested ones beside them.

use serde_json::{Value, json};

/// Group and version of the objects.
pub const API_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";
/// Whether a server restores an object's spec (`flowcontrol.AutoUpdateAnnotationKey`).
pub const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// Whether an object is one that the API cannot do without: its spec is always restored.
pub fn is_mandatory(name: &str) -> bool {
    matches!(name, "exempt" | "catch-all")
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name, "generation": 1,
        "annotations": {AUTO_UPDATE: "true"}}, "spec": spec, "status": {}})
}

/// Name, shares, percentage that is lent, queues and hand.
const QUEUED: &[(&str, u32, u32, u32, u32)] = &[
    ("global-default", 20, 50, 128, 6),
    ("leader-election", 10, 0, 16, 4),
    ("node-high", 40, 25, 64, 6),
    ("system", 30, 33, 64, 6),
    ("workload-high", 40, 50, 128, 6),
    ("workload-low", 100, 90, 128, 6),
];

/// All PriorityLevelConfigurations.
pub fn levels() -> Vec<Value> {
    let kind = "PriorityLevelConfiguration";
    let queued = QUEUED.iter().map(|(name, shares, lendable, queues, hand)| {
        let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 50});
        let limited = json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable,
            "limitResponse": {"type": "Queue", "queuing": queuing}});
        object(kind, name, &json!({"type": "Limited", "limited": limited}))
    });
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let last = json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0,
        "limitResponse": {"type": "Reject"}}});
    [object(kind, "exempt", &exempt), object(kind, "catch-all", &last)].into_iter().chain(queued).collect()
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

fn group(name: &str) -> Value {
    json!({"kind": "Group", "group": {"name": name}})
}

fn account(name: &str) -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": name}})
}

fn everybody() -> Vec<Value> {
    vec![group("system:unauthenticated"), group("system:authenticated")]
}

fn everything() -> (Value, Value) {
    (
        json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}]),
        json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]),
    )
}

fn schema(name: &str, level: &str, precedence: u32, by: &str, subjects: &[Value], rules: (Value, Value)) -> Value {
    let mut rule = json!({"subjects": subjects});
    for (key, value) in [("resourceRules", rules.0), ("nonResourceRules", rules.1)] {
        if !value.is_null() {
            rule[key] = value;
        }
    }
    let mut spec = json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence,
        "rules": [rule]});
    if !by.is_empty() {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    object("FlowSchema", name, &spec)
}

fn leases(verbs: &Value, namespace: &str) -> Value {
    json!({"verbs": verbs, "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "namespaces": [namespace]})
}

/// All FlowSchemas.
pub fn schemas() -> Vec<Value> {
    let (manager, scheduler) = ("system:kube-controller-manager", "system:kube-scheduler");
    let election = json!(["get", "create", "update"]);
    let node = json!({"verbs": ["*"], "apiGroups": [""], "resources": ["nodes", "nodes/status"],
        "clusterScope": true, "namespaces": ["*"]});
    let endpoints = json!([{"verbs": ["get", "create", "update"], "apiGroups": [""], "resources": ["endpoints"],
        "namespaces": ["*"]}]);
    let probes = json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]);
    let controllers = [user(manager), account("endpoint-controller"), account("endpointslicemirroring-controller")];
    let none = || Value::Null;
    vec![
        schema("exempt", "exempt", 1, "", &[group("system:masters")], everything()),
        schema("catch-all", "catch-all", 10_000, "ByUser", &everybody(), everything()),
        schema("probes", "exempt", 2, "", &everybody(), (none(), probes)),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            "ByUser",
            &[user(manager), user(scheduler)],
            (json!([leases(&election, "kube-system")]), none()),
        ),
        schema("endpoint-controller", "workload-high", 150, "ByUser", &controllers, (endpoints, none())),
        schema(
            "workload-leader-election",
            "leader-election",
            200,
            "ByUser",
            &[account("*")],
            (json!([leases(&election, "*")]), none()),
        ),
        schema(
            "system-node-high",
            "node-high",
            400,
            "ByUser",
            &[group("system:nodes")],
            (json!([node, leases(&json!(["*"]), "*")]), none()),
        ),
        schema("system-nodes", "system", 500, "ByUser", &[group("system:nodes")], everything()),
        schema("kube-controller-manager", "workload-high", 800, "ByNamespace", &[user(manager)], everything()),
        schema("kube-scheduler", "workload-high", 800, "ByNamespace", &[user(scheduler)], everything()),
        schema("kube-system-service-accounts", "workload-high", 900, "ByNamespace", &[account("*")], everything()),
        schema("service-accounts", "workload-low", 9000, "ByUser", &[group("system:serviceaccounts")], everything()),
        schema("global-default", "global-default", 9900, "ByUser", &everybody(), everything()),
    ]
}
