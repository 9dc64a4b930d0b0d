//! What becomes of a Job's pods.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod, ReplicationController, ServiceAccount};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, EvictParams, PostParams};
use serde_json::{Value, json};

use crate::harness::{Cluster, Says, eventually, template};

const FINALIZER: &str = "batch.kubernetes.io/job-tracking";

fn job(name: &str, more: Value) -> Value {
    let mut template = template(name);
    template["spec"]["restartPolicy"] = "Never".into();
    template["spec"]["nodeName"] = "n1".into();
    let mut spec = json!({"parallelism": 2, "completions": 2, "template": template});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

fn is_tracked(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|f| f == FINALIZER)
}

async fn running(cluster: &Cluster, app: &str) -> Vec<Pod> {
    eventually("two running pods", async || {
        let pods = cluster.pods(app).await;
        let running = |p: &Pod| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running") && is_tracked(p);
        (pods.len() == 2 && pods.iter().all(running)).then_some(pods)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_deleted_job_go_away() {
    let cluster = Cluster::start("job-controller,garbage-collector-controller").await;
    let _node = cluster.node("n1", |_| Says::Ready).await;
    cluster.create::<Job>(job("a", json!({}))).await;
    running(&cluster, "a").await;
    cluster.api::<Job>().delete("a", &DeleteParams::background()).await.unwrap();
    eventually("no pods", async || cluster.pods("a").await.is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_without_options_leaves_the_pods() {
    let cluster = Cluster::start("job-controller,garbage-collector-controller").await;
    let _node = cluster.node("n1", |_| Says::Ready).await;
    cluster.create::<Job>(job("a", json!({}))).await;
    let before = running(&cluster, "a").await;
    let url = format!("{}/apis/batch/v1/namespaces/default/jobs/a", cluster.server.plane.url());
    let response = cluster.server.admin().unwrap().build().unwrap().delete(url).send().await.unwrap();
    let warning = response.headers().get("warning").unwrap().to_str().unwrap().to_owned();
    assert!(warning.contains("child pods are preserved by default when jobs are deleted"), "{warning}");
    eventually("pods without finalizer and owner", async || {
        let pods = cluster.pods("a").await;
        pods.iter().all(|p| !is_tracked(p) && p.owner_references().is_empty()).then_some(())
    })
    .await;
    assert_eq!(cluster.api::<Job>().get_opt("a").await.unwrap(), None);
    let uids = |pods: &[Pod]| pods.iter().map(ResourceExt::uid).collect::<Vec<_>>();
    assert_eq!(uids(&cluster.pods("a").await), uids(&before));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_pod_is_a_disruption_to_the_failure_policy() {
    let cluster = Cluster::start("job-controller").await;
    let _node = cluster.node("n1", |_| Says::Ready).await;
    let policy = json!({"backoffLimit": 0, "podFailurePolicy": {"rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]}});
    cluster.create::<Job>(job("a", policy)).await;
    let pods = running(&cluster, "a").await;
    let api: Api<Pod> = cluster.api();
    api.evict(&pods[0].name_any(), &EvictParams::default()).await.unwrap();
    eventually("another pod in its place", async || {
        let now = cluster.pods("a").await;
        (now.len() == 2 && now.iter().all(|p| p.uid() != pods[0].uid())).then_some(())
    })
    .await;
    // With a back-off limit of 0 one failure that counts is the end of the Job.
    eventually("two active pods, and no failure", async || {
        let status = cluster.api::<Job>().get("a").await.unwrap().status.unwrap();
        assert_eq!(status.failed.unwrap_or(0), 0, "{status:?}");
        (status.active == Some(2)).then_some(())
    })
    .await;
}

/// The other kind of old whose delete lets its pods go when it says nothing (`rest.GarbageCollectionDeleteStrategy`).
#[tokio::test(flavor = "multi_thread")]
async fn a_replication_controller_leaves_its_pods() {
    let cluster = Cluster::start("replicationcontroller-controller,garbage-collector-controller").await;
    let spec = json!({"replicas": 2, "selector": {"app": "rc"}, "template": template("rc")});
    cluster.create::<ReplicationController>(json!({"metadata": {"name": "rc"}, "spec": spec})).await;
    let before = eventually("two pods", async || {
        let pods = cluster.pods("rc").await;
        (pods.len() == 2).then_some(pods)
    })
    .await;
    cluster.api::<ReplicationController>().delete("rc", &DeleteParams::default()).await.unwrap();
    eventually("no controller", async || {
        cluster.api::<ReplicationController>().get_opt("rc").await.unwrap().is_none().then_some(())
    })
    .await;
    let after = cluster.pods("rc").await;
    let uids = |pods: &[Pod]| pods.iter().map(ResourceExt::uid).collect::<Vec<_>>();
    assert_eq!(uids(&after), uids(&before));
    assert!(after.iter().all(|pod| pod.owner_references().is_empty()), "{after:?}");
}

/// The pods of a job are held by a finalizer, and its controller takes that off although nothing new may be made.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_with_a_job_goes() {
    let cluster = Cluster::start("namespace-controller,job-controller,garbage-collector-controller").await;
    let _node = cluster.node("n1", |_| Says::Ready).await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let object = serde_json::from_value(json!({"metadata": {"name": "work"}})).unwrap();
    namespaces.create(&PostParams::default(), &object).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "work");
    eventually("the service account", async || accounts.get_opt("default").await.unwrap()).await;
    let (jobs, pods): (Api<Job>, Api<Pod>) =
        (Api::namespaced(cluster.client.clone(), "work"), Api::namespaced(cluster.client.clone(), "work"));
    jobs.create(&PostParams::default(), &serde_json::from_value(job("a", json!({}))).unwrap()).await.unwrap();
    eventually("two tracked pods", async || {
        let all = pods.list(&Default::default()).await.unwrap().items;
        (all.len() == 2 && all.iter().all(is_tracked)).then_some(())
    })
    .await;
    namespaces.delete("work", &DeleteParams::default()).await.unwrap();
    eventually("no namespace", async || namespaces.get_opt("work").await.unwrap().is_none().then_some(())).await;
}
