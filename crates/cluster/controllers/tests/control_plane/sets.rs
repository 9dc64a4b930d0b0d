//! StatefulSets and DaemonSets with pods that come to harm, and Deployments.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, StatefulSet};
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::harness::{Cluster, Says, eventually, template};

const HASH: &str = "controller-revision-hash";

fn set(name: &str, replicas: i32) -> Value {
    let mut template = template(name);
    template["spec"]["nodeName"] = "n1".into();
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "serviceName": "s", "template": template,
        "selector": {"matchLabels": {"app": name}}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_pod_of_a_stateful_set_is_made_anew() {
    let cluster = Cluster::start("statefulset-controller").await;
    let refuses = Arc::new(AtomicBool::new(true));
    let says = refuses.clone();
    let _node =
        cluster.node("n1", move |_| if says.load(Ordering::Relaxed) { Says::Refused } else { Says::Ready }).await;
    cluster.create::<StatefulSet>(set("web", 1)).await;
    let first = eventually("a pod", async || cluster.pods("web").await.into_iter().next()).await;
    eventually("another pod of that name", async || {
        let pod = cluster.pods("web").await.into_iter().next()?;
        (pod.name_any() == first.name_any() && pod.uid() != first.uid()).then_some(())
    })
    .await;
    refuses.store(false, Ordering::Relaxed);
    let status = eventually("a ready set", async || {
        let status = cluster.api::<StatefulSet>().get("web").await.unwrap().status?;
        (status.ready_replicas == Some(1)).then_some(status)
    })
    .await;
    let pods = cluster.pods("web").await;
    assert_eq!(pods[0].labels().get(HASH), status.update_revision.as_ref(), "the label is the revision's name");
    let revisions = cluster.api::<ControllerRevision>().list(&ListParams::default()).await.unwrap().items;
    assert_eq!(revisions.len(), 1);
    assert_eq!(Some(revisions[0].name_any()), status.update_revision);
    assert_eq!(format!("web-{}", revisions[0].labels()["controller.kubernetes.io/hash"]), revisions[0].name_any());
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_down_in_order_waits_for_a_pod_that_is_not_well() {
    let cluster = Cluster::start("statefulset-controller").await;
    let ill = Arc::new(AtomicBool::new(false));
    let says = ill.clone();
    let _node = cluster
        .node("n1", move |pod| {
            let middle = pod.name_any() == "web-1" && pod.metadata.deletion_timestamp.is_none();
            if middle && says.load(Ordering::Relaxed) { Says::Unready } else { Says::Ready }
        })
        .await;
    cluster.create::<StatefulSet>(set("web", 3)).await;
    let all_ready = async || {
        let status = cluster.api::<StatefulSet>().get("web").await.unwrap().status?;
        (status.ready_replicas == Some(3)).then_some(())
    };
    eventually("three ready pods", all_ready).await;
    ill.store(true, Ordering::Relaxed);
    let touch = Patch::Merge(json!({"metadata": {"annotations": {"touched": "1"}}}));
    cluster.api::<k8s_openapi::api::core::v1::Pod>().patch("web-1", &PatchParams::default(), &touch).await.unwrap();
    eventually("one of them is not ready", async || {
        let status = cluster.api::<StatefulSet>().get("web").await.unwrap().status?;
        (status.ready_replicas == Some(2)).then_some(())
    })
    .await;
    // In order, nothing below web-1 moves while it is not ready; with one replica wanted, web-2 and then web-1 itself
    // go, web-0 is wanted.
    let scale = Patch::Merge(json!({"spec": {"replicas": 0}}));
    cluster.api::<StatefulSet>().patch("web", &PatchParams::default(), &scale).await.unwrap();
    eventually("all gone in the end", async || {
        let names: Vec<String> = cluster.pods("web").await.iter().map(ResourceExt::name_any).collect();
        // web-1 is the lowest that is not well: it may go, but not before web-2.
        assert!(names.contains(&"web-1".to_owned()) || !names.contains(&"web-2".to_owned()), "{names:?}");
        names.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_pod_of_a_daemon_set_is_made_anew_with_back_off() {
    let cluster = Cluster::start("daemonset-controller").await.with_scheduler();
    let refuses = Arc::new(AtomicBool::new(true));
    let says = refuses.clone();
    let _node =
        cluster.node("n1", move |_| if says.load(Ordering::Relaxed) { Says::Refused } else { Says::Ready }).await;
    let object = json!({"metadata": {"name": "agent"}, "spec": {"template": template("agent"),
        "selector": {"matchLabels": {"app": "agent"}}}});
    cluster.create::<DaemonSet>(object).await;
    let mut seen = std::collections::BTreeSet::new();
    eventually("a third pod", async || {
        seen.extend(cluster.pods("agent").await.iter().map(ResourceExt::name_any));
        (seen.len() >= 3).then_some(())
    })
    .await;
    refuses.store(false, Ordering::Relaxed);
    eventually("a ready pod", async || {
        let status = cluster.api::<DaemonSet>().get("agent").await.unwrap().status?;
        (status.number_ready == 1).then_some(())
    })
    .await;
    assert!(seen.len() < 8, "it was tried again and again without a pause: {seen:?}");
    let revisions = cluster.api::<ControllerRevision>().list(&ListParams::default()).await.unwrap().items;
    let hash = &revisions[0].labels()[HASH];
    assert_eq!(cluster.pods("agent").await[0].labels().get(HASH), Some(hash));
    assert_eq!(revisions[0].name_any(), format!("agent-{hash}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_conflicts_with_nothing() {
    let cluster = Cluster::start("deployment-controller,replicaset-controller").await;
    let _node = cluster.node("n1", |_| Says::Ready).await;
    let mut object = set("web", 2);
    object["spec"].as_object_mut().unwrap().remove("serviceName");
    cluster.create::<Deployment>(object).await;
    let rolled = async |image: &str| {
        eventually("a rollout", async || {
            let deployment = cluster.api::<Deployment>().get("web").await.unwrap();
            let status = deployment.status?;
            let done = status.updated_replicas == Some(2)
                && status.available_replicas == Some(2)
                && status.replicas == Some(2);
            let pods = cluster.pods("web").await;
            let new = pods.iter().all(|p| p.spec.as_ref().unwrap().containers[0].image.as_deref() == Some(image));
            (done && new && status.observed_generation == deployment.metadata.generation).then_some(())
        })
        .await;
    };
    rolled("i:1").await;
    for image in ["i:2", "i:3"] {
        let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
        cluster.api::<Deployment>().patch("web", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
        rolled(image).await;
    }
    let requests = cluster.requests("deployment-controller");
    assert!(requests.iter().any(|r| r["verb"] == "update" && r["objectRef"]["subresource"] == "status"));
    let conflicts: Vec<&Value> = requests
        .iter()
        .filter(|r| r["responseStatus"]["code"] == 409 && r["objectRef"]["resource"] == "deployments")
        .collect();
    assert!(conflicts.is_empty(), "{conflicts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_are_byte_for_byte_upstreams() {
    let cluster = Cluster::start("statefulset-controller,daemonset-controller").await;
    let mut object = set("web", 1);
    object["spec"]["template"]["spec"]["containers"][0]["command"] = json!(["sh", "-c", "a && b > c"]);
    cluster.create::<StatefulSet>(object.clone()).await;
    let spec = object["spec"].as_object_mut().unwrap();
    spec.remove("serviceName");
    spec.remove("replicas");
    cluster.create::<DaemonSet>(object).await;
    let all = eventually("both revisions", async || {
        let all = cluster.api::<ControllerRevision>().list(&ListParams::default()).await.unwrap().items;
        (all.len() == 2).then_some(all)
    })
    .await;
    let data = r#""data":{"spec":{"template":{"$patch":"replace","metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"command":["sh","-c","a \u0026\u0026 b \u003e c"],"image":"i:1","imagePullPolicy":"IfNotPresent","name":"c","resources":{},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}],"dnsPolicy":"ClusterFirst","nodeName":"n1","restartPolicy":"Always","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":1}}}}"#;
    let client = cluster.server.admin().unwrap().build().unwrap();
    let url = format!("{}/apis/apps/v1/namespaces/default/controllerrevisions", cluster.server.plane.url());
    let text = client.get(&url).send().await.unwrap().text().await.unwrap();
    assert_eq!(text.matches(data).count(), 2, "{text}");
    for revision in all {
        let text = client.get(format!("{url}/{}", revision.name_any())).send().await.unwrap().text().await.unwrap();
        assert!(text.contains(data), "{text}");
    }
}
