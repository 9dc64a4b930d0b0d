//! Priority and fairness: who waits, who does not, and how it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::Api;

const FLOW: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

async fn as_user(api: &Api, user: &str, groups: &[&str], method: Method, path: &str) -> Response {
    let mut request = api.request(method, path).header("impersonate-user", user);
    for group in groups {
        request = request.header("impersonate-group", *group);
    }
    request.send().await.unwrap()
}

fn header(response: &Response, name: &str) -> String {
    response.headers().get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default()
}

async fn uid(api: &Api, plural: &str, name: &str) -> String {
    let (code, object) = api.get(&format!("{FLOW}/{plural}/{name}")).await;
    assert_eq!(code, 200, "{plural} {name}");
    object["metadata"]["uid"].as_str().unwrap().to_owned()
}

/// A request of `user` is told that it belongs to a schema and a level, soon.
async fn belongs(api: &Api, user: &str, groups: &[&str], path: &str, schema: &str, level: &str) {
    let expected = (uid(api, "flowschemas", schema).await, uid(api, "prioritylevelconfigurations", level).await);
    let started = Instant::now();
    loop {
        let response = as_user(api, user, groups, Method::GET, path).await;
        let reported = (
            header(&response, "x-kubernetes-pf-flowschema-uid"),
            header(&response, "x-kubernetes-pf-prioritylevel-uid"),
        );
        if reported == expected {
            return;
        }
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{user} {path}: {reported:?}, not those of {schema}, {level}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_told_where_they_belong() {
    let api = Api::start().await;
    let nodes = ["system:nodes", "system:authenticated"];
    belongs(&api, "someone", &["system:masters"], MAPS, "exempt", "exempt").await;
    belongs(&api, "system:node:a", &nodes, "/api/v1/nodes/a", "system-node-high", "node-high").await;
    belongs(&api, "system:node:a", &nodes, "/version", "system-nodes", "system").await;
    // Those that are answered with an error too.
    let forbidden = "/api/v1/namespaces/default/configmaps/none";
    belongs(&api, "someone", &["system:masters"], forbidden, "exempt", "exempt").await;

    // An object of a person's own, as soon as it is there.
    let level = json!({"metadata": {"name": "own"}, "spec": {"type": "Limited",
        "limited": {"nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}}});
    let schema = json!({"metadata": {"name": "own"}, "spec": {"matchingPrecedence": 900,
        "priorityLevelConfiguration": {"name": "own"}, "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": [{"kind": "User", "user": {"name": "ann"}}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}});
    api.create(&format!("{FLOW}/flowschemas"), schema).await;
    let dangling = async |status: &str| {
        let started = Instant::now();
        loop {
            let (_, object) = api.get(&format!("{FLOW}/flowschemas/own")).await;
            let condition = &object["status"]["conditions"][0];
            if condition["type"] == "Dangling" && condition["status"] == status {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "{object}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    dangling("True").await;
    belongs(&api, "ann", &["system:authenticated"], "/version", "global-default", "global-default").await;
    api.create(&format!("{FLOW}/prioritylevelconfigurations"), level).await;
    dangling("False").await;
    belongs(&api, "ann", &["system:authenticated"], "/version", "own", "own").await;
    let (_, dump) = api.text("/debug/api_priority_and_fairness/dump_priority_levels").await;
    assert!(dump.contains("\nown, 0, true, false, 0, 0, 0, "), "{dump}");
    let (_, metrics) = api.text("/metrics").await;
    assert!(metrics.contains("apiserver_flowcontrol_nominal_limit_seats{priority_level=\"own\"} "), "{metrics}");
    assert!(
        metrics
            .contains("apiserver_flowcontrol_dispatched_requests_total{priority_level=\"own\",flow_schema=\"own\"} ")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mandatory_objects_cannot_be_changed_and_come_back() {
    let api = Api::start().await;
    let path = format!("{FLOW}/prioritylevelconfigurations/catch-all");
    let (code, mut object) = api.get(&path).await;
    assert_eq!(code, 200);
    object["spec"]["limited"]["nominalConcurrencyShares"] = json!(1000);
    let response = api.request(Method::PUT, &path).json(&object).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 422);
    let reported: Value = response.json().await.unwrap();
    assert!(
        reported["message"].as_str().unwrap().contains("spec of 'catch-all' must equal the fixed value"),
        "{reported}"
    );
    // Without it requests belong to it all the same.
    api.request(Method::DELETE, &path).send().await.unwrap();
    api.request(Method::DELETE, &format!("{FLOW}/flowschemas/global-default")).send().await.unwrap();
    let last = uid(&api, "flowschemas", "catch-all").await;
    let started = Instant::now();
    loop {
        let response = as_user(&api, "bob", &["system:authenticated"], Method::GET, "/version").await;
        if header(&response, "x-kubernetes-pf-flowschema-uid") == last {
            assert_eq!(response.status().as_u16(), 200);
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Many users who list all they can do not keep a node's lease waiting, and are told to come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flood_keeps_no_node_waiting() {
    let api = Arc::new(Api::start_with(&["--max-requests-inflight=2", "--max-mutating-requests-inflight=2"]).await);
    let role = json!({"metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    api.create(&format!("{rbac}/clusterroles"), role).await;
    let binding = json!({"metadata": {"name": "reader"}, "roleRef": {"kind": "ClusterRole", "name": "reader"},
        "subjects": [{"kind": "Group", "name": "system:authenticated"}]});
    api.create(&format!("{rbac}/clusterrolebindings"), binding).await;
    for n in 0..20 {
        api.create(MAPS, json!({"metadata": {"name": format!("m{n}")}, "data": {"a": "x".repeat(200_000)}})).await;
    }
    api.create(LEASES, json!({"metadata": {"name": "a"}, "spec": {"holderIdentity": "a"}})).await;
    let nodes = ["system:nodes", "system:authenticated"];
    belongs(&api, "system:node:a", &nodes, "/api/v1/nodes/a", "system-node-high", "node-high").await;

    let (stop, refused, listed) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut flood = Vec::new();
    for n in 0..120 {
        let (api, stop, refused, listed) = (api.clone(), stop.clone(), refused.clone(), listed.clone());
        flood.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let user = format!("user{}", n % 3);
                let response = as_user(&api, &user, &["system:authenticated"], Method::GET, MAPS).await;
                match response.status().as_u16() {
                    429 => {
                        assert_eq!(header(&response, "retry-after"), "1");
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                    200 => {
                        response.bytes().await.unwrap();
                        listed.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        }));
    }
    let started = Instant::now();
    let mut waited = false;
    let mut renewed = 0;
    while started.elapsed() < Duration::from_secs(4) || !waited {
        let response = as_user(&api, "system:node:a", &nodes, Method::GET, &format!("{LEASES}/a")).await;
        assert_eq!(response.status().as_u16(), 200, "a node is never refused for what others do");
        renewed += 1;
        let (_, dump) = api.text("/debug/api_priority_and_fairness/dump_priority_levels").await;
        let line = dump.lines().find(|line| line.starts_with("global-default,")).unwrap();
        waited |= line.split(", ").nth(4).unwrap().parse::<usize>().unwrap() > 0;
        assert!(started.elapsed() < Duration::from_secs(60), "nobody had to wait: {dump}");
    }
    stop.store(true, Ordering::Relaxed);
    for task in flood {
        task.await.unwrap();
    }
    assert!(
        listed.load(Ordering::Relaxed) > 0 && renewed > 10,
        "{renewed} renewals, {listed:?} lists, {refused:?} refused"
    );
    let (_, metrics) = api.text("/metrics").await;
    let idle = "apiserver_flowcontrol_current_inqueue_requests{priority_level=\"global-default\",flow_schema=\"global-default\"} 0";
    assert!(metrics.contains(idle), "all have left");
}

/// Without it there are only the two limits.
#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_turned_off() {
    let api = Api::start_with(&["--enable-priority-and-fairness=false"]).await;
    let response = as_user(&api, "bob", &["system:authenticated"], Method::GET, "/version").await;
    assert_eq!((response.status().as_u16(), header(&response, "x-kubernetes-pf-flowschema-uid").as_str()), (200, ""));
    assert_eq!(api.text("/debug/api_priority_and_fairness/dump_priority_levels").await.0, 404);
}
