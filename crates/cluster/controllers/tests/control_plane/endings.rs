//! How namespaces and volumes go.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolume, Pod};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::harness::{Cluster, Says, eventually, template};

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_loses_its_pods_first() {
    let cluster = Cluster::start("namespace-controller").await;
    let _node = cluster.node("n1", |_| Says::Ready).await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let object = serde_json::from_value(json!({"metadata": {"name": "old"}})).unwrap();
    namespaces.create(&PostParams::default(), &object).await.unwrap();
    let (pods, maps): (Api<Pod>, Api<ConfigMap>) =
        (Api::namespaced(cluster.client.clone(), "old"), Api::namespaced(cluster.client.clone(), "old"));
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(cluster.client.clone(), "old");
    eventually("the service account", async || accounts.get_opt("default").await.unwrap()).await;
    let mut pod = template("x");
    pod["metadata"]["name"] = "held".into();
    pod["metadata"]["finalizers"] = json!(["example.com/hold"]);
    pod["spec"]["nodeName"] = "n1".into();
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "kept"}})).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
    namespaces.delete("old", &DeleteParams::default()).await.unwrap();
    eventually("the condition about the pod's finalizer", async || {
        let conditions = namespaces.get("old").await.unwrap().status?.conditions?;
        let remaining = conditions.iter().find(|c| c.type_ == "NamespaceFinalizersRemaining")?;
        let message =
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances";
        (remaining.status == "True" && remaining.message.as_deref() == Some(message)).then_some(())
    })
    .await;
    let asked = || cluster.requests("namespace-controller").len();
    let before = asked();
    assert!(before > 0, "the log has its requests");
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert!(maps.get_opt("kept").await.unwrap().is_some(), "all else waits for the pods");
    assert!(asked() - before < 10, "{} requests in 5 s while nothing happened", asked() - before);
    pods.patch("held", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}})))
        .await
        .unwrap();
    let started = std::time::Instant::now();
    eventually("no namespace", async || namespaces.get_opt("old").await.unwrap().is_none().then_some(())).await;
    assert!(started.elapsed().as_secs() < 5, "it was waited for by watching: {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_goes_when_it_is_not_bound() {
    let cluster = Cluster::start("persistentvolume-protection-controller").await;
    let volumes: Api<PersistentVolume> = Api::all(cluster.client.clone());
    let volume = |name: &str| -> Value {
        json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/x"}}})
    };
    for (name, phase) in [("free", "Available"), ("bound", "Bound")] {
        volumes.create(&PostParams::default(), &serde_json::from_value(volume(name)).unwrap()).await.unwrap();
        let status = Patch::Merge(json!({"status": {"phase": phase}}));
        let stored = volumes.patch_status(name, &PatchParams::default(), &status).await.unwrap();
        assert_eq!(stored.finalizers(), ["kubernetes.io/pv-protection"]);
        volumes.delete(name, &DeleteParams::default()).await.unwrap();
    }
    eventually("the free volume is gone", async || volumes.get_opt("free").await.unwrap().is_none().then_some(()))
        .await;
    assert!(volumes.get("bound").await.unwrap().metadata.deletion_timestamp.is_some());
    let released = Patch::Merge(json!({"status": {"phase": "Released"}}));
    volumes.patch_status("bound", &PatchParams::default(), &released).await.unwrap();
    eventually("the released volume is gone", async || volumes.get_opt("bound").await.unwrap().is_none().then_some(()))
        .await;
}
