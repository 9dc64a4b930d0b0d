//! ResourceQuotas on a real etcd. The quota controller does not run here: the tests write what it would.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, ResourceQuota, Service, ServiceAccount};
use kinit_test_support::{TestApiServer, kube_client};
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

/// A server whose namespace `default` takes pods.
async fn start() -> (TestApiServer, Client) {
    let server = TestApiServer::start().await.unwrap();
    let client = kube_client(&server.kubeconfig_for("admin", &["system:masters"]).unwrap()).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
    accounts.create(&PostParams::default(), &account).await.unwrap();
    (server, client)
}

/// A quota as the controller leaves it: counted, with nothing used but what `used` says.
async fn quota(client: &Client, name: &str, spec: Value, used: Value) -> Api<ResourceQuota> {
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), "default");
    let object = json!({"metadata": {"name": name}, "spec": spec});
    quotas.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    let mut all: Value = spec["hard"].as_object().unwrap().keys().map(|k| (k.clone(), json!("0"))).collect();
    used.as_object().unwrap().iter().for_each(|(k, v)| all[k] = v.clone());
    let status = json!({"status": {"hard": spec["hard"], "used": all}});
    quotas.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    seen(&quotas).await;
    quotas
}

/// A consistent list: afterwards the server's watch cache has what was written.
async fn seen(quotas: &Api<ResourceQuota>) {
    quotas.list(&ListParams::default()).await.unwrap();
}

async fn used(quotas: &Api<ResourceQuota>, name: &str) -> Value {
    json!(quotas.get(name).await.unwrap().status.unwrap().used)
}

fn pod(name: &str, resources: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name},
        "spec": {"containers": [{"name": "c1", "image": "i:1", "resources": resources}]}}))
    .unwrap()
}

fn text<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> String {
    match result.unwrap_err() {
        kube::Error::Api(status) => format!("{} {} {}", status.code, status.reason, status.message),
        other => panic!("not an API error: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused() {
    let (_server, client) = start().await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let post = PostParams::default();
    let dry = PostParams { dry_run: true, ..PostParams::default() };

    let hard = json!({"hard": {"pods": "2", "limits.memory": "1Gi"}});
    let quotas = quota(&client, "q", hard, json!({})).await;
    let resources = json!({"limits": {"memory": "400Mi"}});
    assert_eq!(
        text(pods.create(&post, &pod("p0", json!({}))).await),
        "403 Forbidden pods \"p0\" is forbidden: failed quota: q: must specify limits.memory for: c1"
    );
    pods.create(&dry, &pod("p1", resources.clone())).await.unwrap();
    assert_eq!(used(&quotas, "q").await, json!({"pods": "0", "limits.memory": "0"}), "a dry run is not charged");
    pods.create(&post, &pod("p1", resources.clone())).await.unwrap();
    pods.create(&post, &pod("p2", resources.clone())).await.unwrap();
    assert_eq!(used(&quotas, "q").await, json!({"pods": "2", "limits.memory": "800Mi"}));
    let refusal = "403 Forbidden pods \"p3\" is forbidden: exceeded quota: q, \
                   requested: limits.memory=400Mi,pods=1, used: limits.memory=800Mi,pods=2, limited: limits.memory=1Gi,pods=2";
    assert_eq!(text(pods.create(&post, &pod("p3", resources.clone())).await), refusal);
    assert_eq!(text(pods.create(&dry, &pod("p3", resources)).await), refusal, "a dry run tells");

    // A pod that grows in place.
    let grown = json!({"spec": {"containers": [{"name": "c1", "resources": {"limits": {"memory": "700Mi"}}}]}});
    let (params, grown) = (PatchParams::default(), Patch::Strategic(grown));
    let resize = pods.patch_subresource("resize", "p1", &params, &grown);
    assert_eq!(
        text(resize.await),
        "403 Forbidden pods \"p1\" is forbidden: exceeded quota: q, requested: limits.memory=300Mi, \
         used: limits.memory=800Mi, limited: limits.memory=1Gi"
    );
    assert_eq!(pods.list(&ListParams::default()).await.unwrap().items.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_a_quota_speaks_of_counts() {
    let (_server, client) = start().await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let post = PostParams::default();
    let best = json!({"hard": {"pods": "1"}, "scopes": ["BestEffort"]});
    let quotas = quota(&client, "best", best, json!({"pods": "1"})).await;
    let ends = json!({"hard": {"pods": "5"}, "scopes": ["NotBestEffort", "Terminating"]});
    quota(&client, "ends", ends, json!({})).await;
    let high = json!({"hard": {"pods": "0"}, "scopeSelector": {"matchExpressions": [
        {"scopeName": "PriorityClass", "operator": "In", "values": ["system-node-critical"]}]}});
    quota(&client, "high", high, json!({})).await;

    assert!(text(pods.create(&post, &pod("plain", json!({}))).await).contains("exceeded quota: best,"));
    let mut asking = pod("asking", json!({"requests": {"cpu": "1"}}));
    pods.create(&post, &asking).await.unwrap();
    assert_eq!(used(&quotas, "ends").await, json!({"pods": "0"}));
    asking.metadata.name = Some("ending".into());
    asking.spec.as_mut().unwrap().active_deadline_seconds = Some(60);
    pods.create(&post, &asking).await.unwrap();
    assert_eq!(used(&quotas, "ends").await, json!({"pods": "1"}));
    asking.metadata.name = Some("critical".into());
    asking.spec.as_mut().unwrap().priority_class_name = Some("system-node-critical".into());
    assert!(text(pods.create(&post, &asking).await).contains("exceeded quota: high,"));

    // Not counted yet by the controller: not enforced yet.
    let unknown = json!({"metadata": {"name": "new"}, "spec": {"hard": {"configmaps": "0"}}});
    quotas.create(&post, &serde_json::from_value(unknown).unwrap()).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let map = |name: &str| serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    maps.create(&post, &map("a")).await.unwrap();
    let counted = json!({"status": {"hard": {"configmaps": "1"}, "used": {"configmaps": "1"}}});
    quotas.patch_status("new", &PatchParams::default(), &Patch::Merge(counted)).await.unwrap();
    seen(&quotas).await;
    assert_eq!(
        text(maps.create(&post, &map("b")).await),
        "403 Forbidden configmaps \"b\" is forbidden: exceeded quota: new, requested: configmaps=1, used: configmaps=1, limited: configmaps=1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn services_claims_and_counts() {
    let (_server, client) = start().await;
    let post = PostParams::default();
    let hard = json!({"hard": {"services": "5", "services.nodeports": "1", "requests.storage": "10Gi", "count/deployments.apps": "0"}});
    let quotas = quota(&client, "q", hard, json!({})).await;

    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let service =
        json!({"metadata": {"name": "s"}, "spec": {"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}]}});
    services.create(&post, &serde_json::from_value(service).unwrap()).await.unwrap();
    let node_port = Patch::Merge(json!({"spec": {"type": "NodePort"}}));
    assert_eq!(
        text(services.patch("s", &PatchParams::default(), &node_port).await),
        "403 Forbidden services \"s\" is forbidden: exceeded quota: q, requested: services.nodeports=2, \
         used: services.nodeports=0, limited: services.nodeports=1"
    );

    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), "default");
    let class = json!({"metadata": {"name": "grows"}, "provisioner": "example.com/p", "allowVolumeExpansion": true});
    let classes: Api<k8s_openapi::api::storage::v1::StorageClass> = Api::all(client.clone());
    classes.create(&post, &serde_json::from_value(class).unwrap()).await.unwrap();
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "grows",
        "resources": {"requests": {"storage": "6Gi"}}}});
    claims.create(&post, &serde_json::from_value(claim).unwrap()).await.unwrap();
    assert_eq!(used(&quotas, "q").await["requests.storage"], "6Gi");
    let bound = Patch::Merge(json!({"status": {"phase": "Bound"}}));
    claims.patch_status("c", &PatchParams::default(), &bound).await.unwrap();
    let grown = Patch::Merge(json!({"spec": {"resources": {"requests": {"storage": "11Gi"}}}}));
    assert!(
        text(claims.patch("c", &PatchParams::default(), &grown).await)
            .contains("requested: requests.storage=5Gi, used: requests.storage=6Gi, limited: requests.storage=10Gi")
    );

    let deployments: Api<Deployment> = Api::namespaced(client, "default");
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    assert!(
        text(deployments.create(&post, &serde_json::from_value(deployment).unwrap()).await)
            .contains("deployments.apps \"d\" is forbidden: exceeded quota: q, requested: count/deployments.apps=1,")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_never_pass_the_limit() {
    let (server, one) = start().await;
    let peer = server.peer().await.unwrap();
    let two =
        kube_client(&server.pki.kubeconfig(&peer.plane.url(), "admin", &["system:masters"]).unwrap()).await.unwrap();
    let quotas = quota(&one, "q", json!({"hard": {"pods": "20"}}), json!({})).await;
    seen(&Api::namespaced(two.clone(), "default")).await;
    let creates = (0..80).map(|i| {
        let pods: Api<Pod> = Api::namespaced(if i % 2 == 0 { one.clone() } else { two.clone() }, "default");
        async move { pods.create(&PostParams::default(), &pod(&format!("p{i}"), json!({}))).await }
    });
    let results = join_all(creates).await;
    let made = results.iter().filter(|r| r.is_ok()).count();
    let refusals: Vec<String> = results.into_iter().filter(Result::is_err).map(text).collect();
    assert!(refusals.iter().all(|r| r.contains("exceeded quota: q,")), "{refusals:?}");
    let pods: Api<Pod> = Api::namespaced(one, "default");
    assert_eq!((made, pods.list(&ListParams::default()).await.unwrap().items.len()), (20, 20));
    assert_eq!(used(&quotas, "q").await, json!({"pods": "20"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_means_nothing_is_refused_and_the_table_tells_the_use() {
    let (_server, client) = start().await;
    let hard = json!({"hard": {"pods": "2", "limits.cpu": "4", "cpu": "2"}});
    let quotas = quota(&client, "q", hard, json!({"cpu": "500m"})).await;
    for spec in [json!({"hard": {"pods": "-1"}}), json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort"]})] {
        let bad = serde_json::from_value(json!({"metadata": {"name": "bad"}, "spec": spec})).unwrap();
        assert!(text(quotas.create(&PostParams::default(), &bad).await).starts_with("422 Invalid"), "{spec}");
    }
    let request = http::Request::get("/api/v1/namespaces/default/resourcequotas")
        .header("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")
        .body(Vec::new())
        .unwrap();
    let table: Value = client.request(request).await.unwrap();
    assert_eq!(
        table["rows"][0]["cells"].as_array().unwrap()[..3],
        json!(["q", "cpu: 500m/2, pods: 0/2", "limits.cpu: 0/4"]).as_array().unwrap()[..]
    );
}
