//! Autoscalers against a real API server: from metrics to replicas, of built-in and of custom kinds.

use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use serde_json::{Value, json};

use crate::harness::{Cluster, Says, eventually, template};
use crate::measured::Measured;

const CONTROLLERS: &str = "deployment-controller,replicaset-controller,horizontal-pod-autoscaler-controller";
const RESOURCE: (&str, &str) = ("metrics.k8s.io", "v1beta1");

async fn deployment(cluster: &Cluster, name: &str, replicas: i32) {
    let mut template = template(name);
    template["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m", "memory": "64Mi"}});
    let spec = json!({"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template});
    cluster.create::<Deployment>(json!({"metadata": {"name": name}, "spec": spec})).await;
}

async fn autoscaler(cluster: &Cluster, name: &str, target: Value, more: Value) {
    let mut spec = json!({"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 5});
    more.as_object().unwrap().iter().for_each(|(k, v)| spec[k] = v.clone());
    cluster.create::<HorizontalPodAutoscaler>(json!({"metadata": {"name": name}, "spec": spec})).await;
}

fn of_deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": name})
}

fn cpu(percent: i32) -> Value {
    json!({"metrics": [{"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": percent}}}]})
}

async fn ready(cluster: &Cluster, app: &str, count: usize) -> Vec<String> {
    eventually(&format!("{count} ready pods of {app}"), async || {
        let pods = cluster.pods(app).await;
        let is_ready = |p: &Pod| kinit_component_helpers::pod::is_ready(p) && p.metadata.deletion_timestamp.is_none();
        let names: Vec<String> = pods.iter().filter(|p| is_ready(p)).map(ResourceExt::name_any).collect();
        (names.len() == count).then_some(names)
    })
    .await
}

/// Waits for a condition: its status, reason and a part of its message.
async fn condition(cluster: &Cluster, name: &str, type_: &str, status: &str, reason: &str, text: &str) {
    let what = format!("{type_}={status} {reason} {text:?} of {name}");
    eventually(&what, async || {
        let status_now = cluster.api::<HorizontalPodAutoscaler>().get(name).await.unwrap().status?;
        let all = status_now.conditions?;
        let found = all.iter().find(|c| c.type_ == type_)?;
        let reported = found.message.as_deref().unwrap_or("").contains(text);
        (found.status == status && found.reason.as_deref() == Some(reason) && reported).then_some(())
    })
    .await;
}

async fn reported(cluster: &Cluster, name: &str, reason: &str, text: &str) {
    eventually(&format!("event {reason} {text:?} of {name}"), async || {
        let events = cluster.api::<Event>().list(&ListParams::default()).await.unwrap();
        let of = |e: &Event| e.involved_object.name.as_deref() == Some(name) && e.reason.as_deref() == Some(reason);
        events.iter().any(|e| of(e) && e.message.as_deref().is_some_and(|m| m.contains(text))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn up_and_down_with_the_load() {
    let cluster = Cluster::start(CONTROLLERS).await.with_scheduler();
    let _node = cluster.node("n1", |_| Says::Ready).await;
    let metrics = Measured::start(&cluster, &[RESOURCE]).await;
    deployment(&cluster, "web", 1).await;
    let one = ready(&cluster, "web", 1).await;
    metrics.pods(&one, "150m", "10Mi");
    kubectl(
        &cluster,
        &["autoscale", "deployment", "web", "--name=web", "--min=1", "--max=5", "--cpu-percent=50"],
        &["autoscaled"],
    )
    .await;

    // 150 percent of what is requested: three of one.
    let three = ready(&cluster, "web", 3).await;
    reported(
        &cluster,
        "web",
        "SuccessfulRescale",
        "New size: 3; reason: cpu resource utilization (percentage of request) above target",
    )
    .await;
    metrics.pods(&three, "50m", "10Mi");
    condition(
        &cluster,
        "web",
        "ScalingActive",
        "True",
        "ValidMetricFound",
        "cpu resource utilization (percentage of request)",
    )
    .await;
    condition(&cluster, "web", "AbleToScale", "True", "ReadyForNewScale", "recommended size matches current size")
        .await;
    condition(&cluster, "web", "ScalingLimited", "False", "DesiredWithinRange", "").await;
    let status = eventually("the status of three", async || {
        let object = cluster.api::<HorizontalPodAutoscaler>().get("web").await.unwrap();
        object.status.filter(|s| s.current_replicas == Some(3) && s.desired_replicas == 3)
    })
    .await;
    let status = serde_json::to_value(status).unwrap();
    let current = json!({"averageUtilization": 50, "averageValue": "50m"});
    assert_eq!(
        status["currentMetrics"],
        json!([{"type": "Resource", "resource": {"name": "cpu", "current": current}}])
    );
    assert!(status["lastScaleTime"].is_string());
    shown(&cluster).await;

    // Ten percent is within what is tolerated; far more runs into the maximum.
    metrics.pods(&three, "54m", "10Mi");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(ready(&cluster, "web", 3).await, three);
    metrics.pods(&three, "900m", "10Mi");
    let five = ready(&cluster, "web", 5).await;
    metrics.pods(&five, "900m", "10Mi");
    condition(&cluster, "web", "ScalingLimited", "True", "TooManyReplicas", "more than the maximum").await;
    metrics.pods(&five, "1m", "10Mi");
    ready(&cluster, "web", 1).await;
    reported(&cluster, "web", "SuccessfulRescale", "New size: 1; reason: All metrics below target").await;
}

async fn shown(cluster: &Cluster) {
    kubectl(cluster, &["get", "hpa", "web"], &["Deployment/web", "cpu: 50%/50%", "1", "5", "3"]).await;
    kubectl(cluster, &["describe", "hpa", "web"], &["ValidMetricFound", "50% (50m) / 50%", "SuccessfulRescale"]).await;
}

async fn kubectl(cluster: &Cluster, args: &[&str], want: &[&str]) {
    if Command::new("kubectl").arg("version").arg("--client").output().is_err() {
        panic!("no kubectl in PATH");
    }
    eventually(&format!("kubectl {args:?} says {want:?}"), async || {
        let output = tokio::task::block_in_place(|| {
            let mut kubectl = Command::new("kubectl");
            kubectl.arg(format!("--kubeconfig={}", cluster.server.kubeconfig().display()));
            kubectl.arg(format!("--cache-dir={}", cluster.server.plane.dir.join("kubectl").display()));
            kubectl.args(args).output().unwrap()
        });
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        eprintln!("$ kubectl {}\n{text}", args.join(" "));
        want.iter().all(|part| text.contains(part)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_told() {
    let cluster = Cluster::start(CONTROLLERS).await.with_scheduler();
    let _node = cluster.node("n1", |_| Says::Ready).await;
    let metrics = Measured::start(&cluster, &[RESOURCE]).await;
    metrics.pods(&[], "1m", "1Mi");
    deployment(&cluster, "web", 2).await;
    ready(&cluster, "web", 2).await;

    autoscaler(&cluster, "web", of_deployment("web"), cpu(50)).await;
    let why = "failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API";
    condition(
        &cluster,
        "web",
        "ScalingActive",
        "False",
        "FailedGetResourceMetric",
        &format!("the HPA was unable to compute the replica count: {why}"),
    )
    .await;
    condition(
        &cluster,
        "web",
        "AbleToScale",
        "True",
        "SucceededGetScale",
        "was able to get the target's current scale",
    )
    .await;
    reported(&cluster, "web", "FailedGetResourceMetric", why).await;
    reported(
        &cluster,
        "web",
        "FailedComputeMetricsReplicas",
        "invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value",
    )
    .await;

    one_of_two(&cluster, &metrics).await;
    bad_targets(&cluster).await;
    without_metrics(&cluster).await;
}

async fn one_of_two(cluster: &Cluster, metrics: &Measured) {
    // One metric of two is enough to grow, and not enough to shrink.
    let names = ready(cluster, "web", 2).await;
    metrics.pods(&names, "100m", "10Mi");
    let external = json!({"type": "External", "external": {"metric": {"name": "queue"}, "target": {"type": "Value", "value": "1"}}});
    let both = |percent: i32| json!({"spec": {"metrics": [cpu(percent)["metrics"][0], external]}});
    let api = cluster.api::<HorizontalPodAutoscaler>();
    api.patch("web", &PatchParams::default(), &Patch::Merge(both(400))).await.unwrap();
    condition(
        cluster,
        "web",
        "ScalingActive",
        "False",
        "FailedGetExternalMetric",
        "unable to get external metric default/queue/nil",
    )
    .await;
    assert_eq!(ready(cluster, "web", 2).await.len(), 2);
    api.patch("web", &PatchParams::default(), &Patch::Merge(both(50))).await.unwrap();
    ready(cluster, "web", 4).await;
    condition(cluster, "web", "ScalingActive", "True", "ValidMetricFound", "cpu").await;
}

async fn bad_targets(cluster: &Cluster) {
    autoscaler(cluster, "rival", of_deployment("web"), cpu(50)).await;
    condition(
        cluster,
        "rival",
        "ScalingActive",
        "False",
        "AmbiguousSelector",
        "controlled by multiple HPAs: [default/rival default/web]",
    )
    .await;
    autoscaler(cluster, "lost", of_deployment("none"), cpu(50)).await;
    condition(cluster, "lost", "AbleToScale", "False", "FailedGetScale", "\"none\" not found").await;
    reported(cluster, "lost", "FailedGetScale", "not found").await;
    let unknown = json!({"apiVersion": "example.com/v1", "kind": "Nothing", "name": "x"});
    autoscaler(cluster, "unknown", unknown, cpu(50)).await;
    condition(
        cluster,
        "unknown",
        "AbleToScale",
        "False",
        "FailedGetScale",
        "no matches for kind \"Nothing\" in group \"example.com\"",
    )
    .await;
}

async fn without_metrics(cluster: &Cluster) {
    deployment(cluster, "off", 0).await;
    autoscaler(cluster, "off", of_deployment("off"), cpu(50)).await;
    condition(cluster, "off", "ScalingActive", "False", "ScalingDisabled", "replica count of the target is zero").await;
    deployment(cluster, "many", 4).await;
    autoscaler(cluster, "many", of_deployment("many"), json!({"maxReplicas": 2, "metrics": cpu(50)["metrics"]})).await;
    ready(cluster, "many", 2).await;
    reported(
        cluster,
        "many",
        "SuccessfulRescale",
        "New size: 2; reason: Current number of replicas above Spec.MaxReplicas",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_kinds_and_custom_metrics() {
    let cluster = Cluster::start(CONTROLLERS).await;
    let groups = [("custom.metrics.k8s.io", "v1beta2"), ("external.metrics.k8s.io", "v1beta1")];
    let metrics = Measured::start(&cluster, &groups).await;
    define(&cluster).await;
    let resource = ApiResource {
        group: "example.com".into(),
        version: "v1".into(),
        api_version: "example.com/v1".into(),
        kind: "Farm".into(),
        plural: "farms".into(),
    };
    let farms: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), "default", &resource);
    plant(&cluster, &farms).await;
    harvest(&metrics);
    let farm_ref = |name: &str| json!({"apiVersion": "example.com/v1", "kind": "Farm", "name": name});
    let object = |reference: Value, metric: &str, target: Value| json!({"type": "Object", "object": {"describedObject": reference, "metric": {"name": metric}, "target": target}});
    let average = |value: &str| json!({"type": "AverageValue", "averageValue": value});
    let selector = json!({"matchLabels": {"path": "/"}});
    autoscaler(
        &cluster,
        "a",
        farm_ref("a"),
        json!({"maxReplicas": 9, "metrics": [
            {"type": "Pods", "pods": {"metric": {"name": "qps", "selector": selector}, "target": average("10")}},
            object(farm_ref("a"), "hay", json!({"type": "Value", "value": "10"})),
            object(json!({"kind": "Namespace", "name": "kube-system", "apiVersion": "v1"}), "rain", average("500m")),
        ]}),
    )
    .await;
    autoscaler(
        &cluster,
        "b",
        farm_ref("b"),
        json!({"maxReplicas": 9,
        "behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}},
        "metrics": [{"type": "External", "external": {"metric": {"name": "queue"}, "target": average("5")}}]}),
    )
    .await;

    // qps asks for 20/10 of two, rain for 1500/500: the most counts.
    let replicas = async |name: &str| farms.get(name).await.unwrap().data["spec"]["replicas"].as_i64();
    eventually("four of a", async || (replicas("a").await == Some(4)).then_some(())).await;
    reported(&cluster, "a", "SuccessfulRescale", "New size: 4; reason: pods metric qps above target").await;
    // Thirty for five each are six; one a minute is allowed.
    eventually("three of b", async || (replicas("b").await == Some(3)).then_some(())).await;
    condition(&cluster, "b", "ScalingLimited", "True", "ScaleUpLimit", "increasing faster than the maximum scale rate")
        .await;
    reported(&cluster, "b", "SuccessfulRescale", "New size: 3; reason: external metric queue(nil) above target").await;
    assert!(metrics.was_asked(&["/pods/*/qps?", "labelSelector=app%3Da", "metricLabelSelector=path%3D%2F"]));
    let status = serde_json::to_value(cluster.api::<HorizontalPodAutoscaler>().get("b").await.unwrap().status).unwrap();
    assert_eq!(status["currentMetrics"][0]["external"]["current"], json!({"averageValue": "15"}));
}

async fn plant(cluster: &Cluster, farms: &Api<DynamicObject>) {
    let farm = |name: &str| json!({"apiVersion": "example.com/v1", "kind": "Farm", "metadata": {"name": name}, "spec": {"replicas": 2}});
    // Pods that run somewhere; a farm of the test is nobody's but the autoscaler's.
    for name in ["a", "b"] {
        let object: DynamicObject = serde_json::from_value(farm(name)).unwrap();
        farms.create(&PostParams::default(), &object).await.unwrap();
        let status = json!({"status": {"replicas": 2, "selector": format!("app={name}")}});
        farms.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        for n in 0..2 {
            let mut pod = template(name);
            pod["metadata"]["name"] = format!("{name}{n}").into();
            cluster.create::<Pod>(pod).await;
            let now = jiff::Timestamp::now().to_string();
            let status = json!({"status": {"phase": "Running", "startTime": now, "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}]}});
            cluster
                .api::<Pod>()
                .patch_status(&format!("{name}{n}"), &PatchParams::default(), &Patch::Strategic(status))
                .await
                .unwrap();
        }
    }
}

fn harvest(metrics: &Measured) {
    let list = |items: Value| json!({"kind": "MetricValueList", "items": items});
    let of = |name: &str, value: &str| json!({"describedObject": {"kind": "Pod", "name": name}, "metric": {"name": "x"}, "value": value});
    let custom = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default";
    metrics.says(&format!("{custom}/pods/*/qps"), list(json!([of("a0", "30"), of("a1", "10")])));
    metrics.says(&format!("{custom}/farms.example.com/a/hay"), list(json!([of("a", "10")])));
    metrics.says(&format!("{custom}/metrics/rain"), list(json!([of("default", "1500m")])));
    metrics.says("/apis/external.metrics.k8s.io/v1beta1/namespaces/default/queue",
        json!({"kind": "ExternalMetricValueList", "items": [{"metricName": "queue", "value": "25"}, {"metricName": "queue", "value": "5"}]}));
}

async fn define(cluster: &Cluster) {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let scale = json!({"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"});
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}, "scale": scale}});
    let definition: CustomResourceDefinition = serde_json::from_value(json!({"metadata": {"name": "farms.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "farms", "kind": "Farm"}, "versions": [version]}}))
    .unwrap();
    let api: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    api.create(&PostParams::default(), &definition).await.unwrap();
    eventually("an established definition", async || {
        let status = api.get("farms.example.com").await.unwrap().status?;
        status.conditions?.iter().any(|c| c.type_ == "Established" && c.status == "True").then_some(())
    })
    .await;
}
