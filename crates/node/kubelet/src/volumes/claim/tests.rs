//! Claims over an API that a test plays.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;
use crate::downward::Place;
use crate::kubelet::Kubelet;
use crate::names::PodKey;
use crate::resources::Asked;
use crate::volumes::payload::Tokens;

/// A client whose GETs are answered out of `objects`, by path.
fn client(objects: Value) -> Client {
    let answer = move |request: http::Request<Body>| {
        let found = objects.get(request.uri().path()).cloned();
        let status = if found.is_some() { 200 } else { 404 };
        let body = found.unwrap_or_else(|| {
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
                "message": "persistentvolumeclaims \"data\" not found"})
        });
        async move { http::Response::builder().status(status).body(Body::from(body.to_string().into_bytes())) }
    };
    Client::new(tower::service_fn(answer), "n")
}

fn kubelet(root: &std::path::Path, objects: Value) -> Kubelet {
    let kubelet = crate::kubelet::tests::kubelet(root, Asked::default());
    let mut kubelet = Arc::into_inner(kubelet).unwrap();
    kubelet.client = Some(client(objects));
    let node = json!({"metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n1"}}});
    kubelet.initial = Arc::new(serde_json::from_value(node).unwrap());
    kubelet
}

fn pod() -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "pu"}, "spec": {
        "containers": [{"name": "c", "volumeMounts": [{"name": "d", "mountPath": "/d"}]}],
        "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]}}))
    .unwrap()
}

fn claim_object(phase: &str) -> Value {
    json!({"metadata": {"name": "data", "namespace": "n", "uid": "u"}, "spec": {"volumeName": "pvc-u"}, "status": {"phase": phase}})
}

fn volume_object(node: &str) -> Value {
    json!({"metadata": {"name": "pvc-u", "labels": {LocalPath::NODE: node},
        "annotations": {"pv.kubernetes.io/provisioned-by": LocalPath::PROVISIONER}},
        "spec": {"local": {"path": LocalPath::path("pvc-u")}, "claimRef": {"name": "data", "namespace": "n", "uid": "u"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}}})
}

fn objects(claim: Value, volume: Value) -> Value {
    json!({"/api/v1/namespaces/n/persistentvolumeclaims/data": claim, "/api/v1/persistentvolumes/pvc-u": volume})
}

async fn set_up(kubelet: &Kubelet) -> Result<Mounted, String> {
    let pod = pod();
    let key = PodKey::of(&pod);
    let place = Place { pod_ips: Vec::new(), host_ips: Vec::new(), node_cpu: 0, node_memory: 0, node_storage: 0 };
    let volumes = crate::volumes::set_up(kubelet, &pod, &key, &place, &mut Tokens::default()).await?;
    Ok(volumes["d"].clone())
}

#[tokio::test]
async fn failures_say_what_upstreams_say() {
    let dir = tempfile::tempdir().unwrap();
    let before = "Unable to attach or mount volumes: unmounted volumes=[d], unattached volumes=[], failed to process volumes=[d]: error processing PVC n/data: ";
    for (objects, words) in [
        (json!({}), format!("{before}failed to fetch PVC from API server: ")),
        (objects(claim_object("Pending"), json!({})), format!("{before}PVC is not bound")),
        (
            objects(claim_object("Bound"), volume_object("n2")),
            "MountVolume.NodeAffinity check failed for volume \"pvc-u\" : no matching NodeSelectorTerms".into(),
        ),
    ] {
        let error = set_up(&kubelet(dir.path(), objects)).await.unwrap_err();
        assert!(error.starts_with(&words), "{error}");
    }
    let mut missing = volume_object("n1");
    missing["spec"]["local"]["path"] = "/nonexistent/disk".into();
    let error = set_up(&kubelet(dir.path(), objects(claim_object("Bound"), missing))).await.unwrap_err();
    assert_eq!(error, "MountVolume.SetUp failed for volume \"pvc-u\" : path \"/nonexistent/disk\" does not exist");
}

/// The folder is made, mounted, found again without an API server, and left alone when the pod goes.
#[tokio::test]
async fn a_folder_lives_longer_than_its_pod() {
    let dir = tempfile::tempdir().unwrap();
    let with_api = kubelet(dir.path(), objects(claim_object("Bound"), volume_object("n1")));
    let mounted = match set_up(&with_api).await {
        Err(error) if error.contains("EPERM") => return eprintln!("skipped: nothing can be mounted here"),
        result => result.unwrap(),
    };
    std::fs::write(mounted.path.join("f"), "x").unwrap();
    let alone = kubelet(dir.path(), json!({}));
    assert_eq!(set_up(&alone).await.unwrap(), mounted, "as after a restart while the API server is away");
    let pod = with_api.paths.pod("pu");
    crate::volumes::take_down(&pod).unwrap();
    crate::volumes::tear_down(&pod).unwrap();
    assert!(!pod.exists());
    let folder = with_api.paths.local_path.join("pvc-u");
    assert_eq!(std::fs::read_to_string(folder.join("f")).unwrap(), "x");
    let again = set_up(&with_api).await.unwrap();
    assert_eq!(std::fs::read_to_string(again.path.join("f")).unwrap(), "x");
    crate::volumes::tear_down(&pod).unwrap();
}
