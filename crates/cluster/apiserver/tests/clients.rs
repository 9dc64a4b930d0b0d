//! The server as kube-rs sees it, on a real etcd.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount};
use kinit_test_support::{TestApiServer, kube_client};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::watcher::Event;
use kube::{Client, ResourceExt};
use serde_json::json;

async fn start() -> (TestApiServer, Client) {
    let server = TestApiServer::start().await.unwrap();
    let client = kube_client(&server.kubeconfig_for("admin", &["system:masters"]).unwrap()).await.unwrap();
    (server, client)
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"k": value}})).unwrap()
}

fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("not an API error: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_conflicts_and_watches() {
    let (_server, client) = start().await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let created = maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    assert_eq!(code(&maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap_err()), 409);

    let since = created.resource_version().unwrap();
    let watch = maps.watch(&WatchParams::default().timeout(10), &since).await.unwrap();
    let mut stale = created.clone();
    let patched = maps.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"k": "2"}}))).await.unwrap();
    assert_ne!(patched.resource_version(), created.resource_version());
    stale.data = Some([("k".to_owned(), "3".to_owned())].into());
    assert_eq!(code(&maps.replace("a", &PostParams::default(), &stale).await.unwrap_err()), 409);
    // A write that changes nothing has no event and no new version.
    let same = maps.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"k": "2"}}))).await.unwrap();
    assert_eq!(same.resource_version(), patched.resource_version());
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    let events: Vec<_> = watch.take(2).try_collect().await.unwrap();
    assert!(matches!(&events[0], WatchEvent::Modified(m) if m.resource_version() == patched.resource_version()));
    assert!(matches!(&events[1], WatchEvent::Deleted(m) if m.resource_version() != patched.resource_version()));
    assert_eq!(code(&maps.get("a").await.unwrap_err()), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_consistent_and_paged() {
    let (_server, client) = start().await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    for i in 0..25 {
        maps.create(&PostParams::default(), &config_map(&format!("m{i:02}"), "x")).await.unwrap();
        // What was just written is in the next list, always.
        let listed = maps.list(&ListParams::default()).await.unwrap();
        assert_eq!(listed.items.iter().filter(|m| m.name_any().starts_with('m')).count(), i + 1);
    }
    let (mut seen, mut token) = (Vec::new(), None);
    loop {
        let mut params = ListParams::default().limit(10);
        params.continue_token = token;
        let page = maps.list(&params).await.unwrap();
        seen.extend(page.items.iter().map(ResourceExt::name_any));
        // A change between the pages does not show: they are of one revision.
        let _ = maps.delete("m24", &DeleteParams::default()).await;
        token = page.metadata.continue_.filter(|t| !t.is_empty());
        if token.is_none() {
            break;
        }
    }
    assert!(seen.contains(&"m24".to_owned()) && seen.is_sorted(), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_from_creation_to_its_kubelets_last_delete() {
    let (server, admin) = start().await;
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), "default");
    accounts
        .create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap())
        .await
        .unwrap();
    let kubelet = kube_client(&server.kubeconfig_for("system:node:n1", &["system:nodes"]).unwrap()).await.unwrap();
    let nodes: Api<Node> = Api::all(kubelet.clone());
    nodes
        .create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "n1"}})).unwrap())
        .await
        .unwrap();

    let pods: Api<Pod> = Api::namespaced(admin.clone(), "default");
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    let pod = pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let spec = pod.spec.unwrap();
    assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
    assert!(spec.volumes.unwrap()[0].name.starts_with("kube-api-access-"));
    assert_eq!(pod.status.unwrap().phase.as_deref(), Some("Pending"));

    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}}).to_string();
    let request = kube::core::Request::new("/api/v1/namespaces/default/pods")
        .create_subresource("binding", "p", &PostParams::default(), binding.clone().into_bytes())
        .unwrap();
    admin.request_text(request).await.unwrap();
    assert_eq!(pods.get("p").await.unwrap().spec.unwrap().node_name.as_deref(), Some("n1"));

    let theirs: Api<Pod> = Api::namespaced(kubelet.clone(), "default");
    let status = json!({"status": {"phase": "Running", "podIP": "10.0.0.9"}, "spec": {"nodeName": "elsewhere"}});
    let running = theirs.patch_status("p", &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
    assert_eq!(running.spec.unwrap().node_name.as_deref(), Some("n1"), "status updates leave the spec alone");

    let marked = pods.delete("p", &DeleteParams::default().grace_period(5)).await.unwrap().left().unwrap();
    assert_eq!(marked.metadata.deletion_grace_period_seconds, Some(5));
    theirs.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(code(&pods.get("p").await.unwrap_err()), 404);
    let others = kube_client(&server.kubeconfig_for("system:node:n2", &["system:nodes"]).unwrap()).await.unwrap();
    let stolen = Api::<Node>::all(others)
        .patch("n1", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}})))
        .await;
    assert_eq!(code(&stolen.unwrap_err()), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_go_when_their_controller_lets_them() {
    let (_server, client) = start().await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let made = namespaces
        .create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "t"}})).unwrap())
        .await
        .unwrap();
    assert_eq!(made.spec.unwrap().finalizers, Some(vec!["kubernetes".to_owned()]));
    namespaces.delete("t", &DeleteParams::default()).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "t");
    assert_eq!(code(&maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap_err()), 403);
    let mut going = namespaces.get("t").await.unwrap();
    assert_eq!(going.status.clone().unwrap().phase.as_deref(), Some("Terminating"));
    going.spec = Some(Default::default());
    let request = kube::core::Request::new("/api/v1/namespaces")
        .replace_subresource("finalize", "t", &PostParams::default(), serde_json::to_vec(&going).unwrap())
        .unwrap();
    client.request_text(request).await.unwrap();
    assert_eq!(code(&namespaces.get("t").await.unwrap_err()), 404);
    let maps: Api<ConfigMap> = Api::namespaced(client, "nowhere");
    assert_eq!(code(&maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap_err()), 404);
}

/// Although the server's own watch may not have told it yet.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_in_a_namespace_that_was_deleted_a_moment_ago() {
    let (_server, client) = start().await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for round in 0..60 {
        let name = format!("t{round}");
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        namespaces.create(&PostParams::default(), &namespace).await.unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &name);
        maps.create(&PostParams::default(), &config_map("before", "1")).await.unwrap();
        namespaces.delete(&name, &DeleteParams::default()).await.unwrap();
        let error = maps.create(&PostParams::default(), &config_map("after", "1")).await.unwrap_err();
        assert_eq!(code(&error), 403, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_get_addresses_and_give_them_back() {
    let (server, client) = start().await;
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let wanted = json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 53}]}});
    services.create(&PostParams::default(), &serde_json::from_value(wanted).unwrap()).await.unwrap();
    let again = json!({"metadata": {"name": "t"}, "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 53}]}});
    let again: Service = serde_json::from_value(again).unwrap();
    assert_eq!(code(&services.create(&PostParams::default(), &again).await.unwrap_err()), 422);
    services.delete("s", &DeleteParams::default()).await.unwrap();
    services.create(&PostParams::default(), &again).await.unwrap();
    let exposed = json!({"metadata": {"name": "n"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    let exposed = services.create(&PostParams::default(), &serde_json::from_value(exposed).unwrap()).await.unwrap();
    let port = exposed.spec.unwrap().ports.unwrap()[0].node_port.unwrap();
    assert!((30000..=32767).contains(&port));
    let kubernetes = services.get("kubernetes").await.unwrap();
    assert_eq!(kubernetes.spec.unwrap().cluster_ip.as_deref(), Some("10.96.0.1"));
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reflector_follows() {
    let (_server, client) = start().await;
    let deployments: Api<Deployment> = Api::namespaced(client, "default");
    let mut stream = std::pin::pin!(kube::runtime::watcher(
        deployments.clone(),
        kube::runtime::watcher::Config::default().streaming_lists()
    ));
    let first = tokio::time::timeout(Duration::from_secs(5), stream.try_next()).await.unwrap().unwrap();
    assert!(matches!(first, Some(Event::Init)));
    let done = tokio::time::timeout(Duration::from_secs(5), stream.try_next()).await.unwrap().unwrap();
    assert!(matches!(done, Some(Event::InitDone)));
    let d = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    deployments.create(&PostParams::default(), &serde_json::from_value(d).unwrap()).await.unwrap();
    let applied = tokio::time::timeout(Duration::from_secs(5), stream.try_next()).await.unwrap().unwrap();
    assert!(matches!(applied, Some(Event::Apply(d)) if d.spec.as_ref().unwrap().replicas == Some(1)));
}
