//! Claims and volumes, from the claim to the last finalizer, with the scheduler where it has a say.

use k8s_openapi::api::core::v1::{Event, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kinit_component_helpers::storage::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, LocalPath, SELECTED_NODE, annotation, claim_phase, is_bound, phase,
    volume_name,
};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::harness::{Cluster, Says, eventually};

const CONTROLLERS: &str = "persistentvolume-binder-controller,local-path-provisioner-controller,\
    ephemeral-volume-controller,persistentvolumeclaim-protection-controller,persistentvolume-protection-controller";

fn volumes(cluster: &Cluster) -> Api<PersistentVolume> {
    Api::all(cluster.client.clone())
}

async fn add_volume(cluster: &Cluster, name: &str, size: &str, change: Value) -> PersistentVolume {
    let mut volume = json!({"metadata": {"name": name, "labels": {"disk": name}}, "spec": {"capacity": {"storage": size},
        "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}});
    for (key, value) in change.as_object().unwrap() {
        volume["spec"][key] = value.clone();
    }
    volumes(cluster).create(&PostParams::default(), &serde_json::from_value(volume).unwrap()).await.unwrap()
}

fn claim(name: &str, size: &str, change: Value) -> Value {
    let mut claim = json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "",
        "resources": {"requests": {"storage": size}}}});
    for (key, value) in change.as_object().unwrap() {
        claim["spec"][key] = value.clone();
    }
    claim
}

async fn add_class(cluster: &Cluster, name: &str, provisioner: &str, is_default: &str) {
    let class = json!({"metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": is_default}},
        "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true});
    let api: Api<StorageClass> = Api::all(cluster.client.clone());
    api.create(&PostParams::default(), &serde_json::from_value(class).unwrap()).await.unwrap();
    // Admission goes by the server's cache, which is milliseconds behind.
    let cache = cluster.server.server.store.cache("storageclasses/").unwrap();
    eventually("the class in the server's cache", async || cache.last_known(name).map(drop)).await;
}

async fn bound(cluster: &Cluster, name: &str) -> PersistentVolumeClaim {
    let claims = cluster.api::<PersistentVolumeClaim>();
    eventually(&format!("claim {name} bound"), async || {
        let claim = claims.get(name).await.unwrap();
        (is_bound(&claim) && claim_phase(&claim) == "Bound").then_some(claim)
    })
    .await
}

async fn volume_in(cluster: &Cluster, name: &str, wanted: &str) -> PersistentVolume {
    eventually(&format!("volume {name} {wanted}"), async || {
        volumes(cluster).get(name).await.ok().filter(|v| phase(v) == wanted)
    })
    .await
}

async fn event(cluster: &Cluster, about: &str, reason: &str) -> String {
    eventually(&format!("event {reason} of {about}"), async || {
        let events = cluster.api::<Event>().list(&ListParams::default()).await.unwrap().items;
        let found = events
            .into_iter()
            .find(|e| e.involved_object.name.as_deref() == Some(about) && e.reason.as_deref() == Some(reason));
        found.and_then(|e| e.message)
    })
    .await
}

fn pod(name: &str, volume: Value) -> Value {
    let mut volume = volume;
    volume["name"] = "data".into();
    json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 1, "volumes": [volume],
        "containers": [{"name": "c", "image": "i:1", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}})
}

async fn scheduled(cluster: &Cluster, name: &str) -> String {
    eventually(&format!("pod {name} on a node"), async || {
        cluster.api::<Pod>().get(name).await.unwrap().spec.unwrap().node_name
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_get_the_smallest_volume_and_give_it_back() {
    let cluster = Cluster::start(CONTROLLERS).await;
    for (name, size) in [("large", "9Gi"), ("medium", "5Gi"), ("small", "1Gi")] {
        add_volume(&cluster, name, size, json!({})).await;
        volume_in(&cluster, name, "Available").await;
    }
    cluster.create::<PersistentVolumeClaim>(claim("a", "2Gi", json!({}))).await;
    let a = bound(&cluster, "a").await;
    assert_eq!(volume_name(&a), "medium");
    assert!(annotation(&a, BIND_COMPLETED).is_some() && annotation(&a, BOUND_BY_CONTROLLER).is_some());
    assert_eq!(a.status.as_ref().unwrap().capacity.as_ref().unwrap()["storage"].0, "5Gi");
    let taken = volume_in(&cluster, "medium", "Bound").await;
    assert_eq!(taken.spec.unwrap().claim_ref.unwrap().uid, a.uid());
    let selector = json!({"selector": {"matchLabels": {"disk": "large"}}});
    cluster.create::<PersistentVolumeClaim>(claim("b", "1Gi", selector)).await;
    assert_eq!(volume_name(&bound(&cluster, "b").await), "large");
    cluster.create::<PersistentVolumeClaim>(claim("c", "2Gi", json!({}))).await;
    let said = event(&cluster, "c", "FailedBinding").await;
    assert_eq!(said, "no persistent volumes available for this claim and no storage class is set");
    add_volume(&cluster, "late", "3Gi", json!({})).await;
    assert_eq!(volume_name(&bound(&cluster, "c").await), "late", "it waited for one to come");
    cluster.api::<PersistentVolumeClaim>().delete("a", &DeleteParams::default()).await.unwrap();
    let kept = volume_in(&cluster, "medium", "Released").await;
    assert!(kept.metadata.deletion_timestamp.is_none(), "Retain");
    cluster.create::<PersistentVolumeClaim>(claim("a", "4Gi", json!({}))).await;
    event(&cluster, "a", "FailedBinding").await;
    volume_in(&cluster, "medium", "Released").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reservations_on_either_side() {
    let cluster = Cluster::start(CONTROLLERS).await;
    add_volume(&cluster, "plain", "2Gi", json!({})).await;
    add_volume(&cluster, "kept", "9Gi", json!({"claimRef": {"namespace": "default", "name": "a"}})).await;
    volume_in(&cluster, "kept", "Available").await;
    cluster.create::<PersistentVolumeClaim>(claim("a", "1Gi", json!({}))).await;
    assert_eq!(volume_name(&bound(&cluster, "a").await), "kept");
    let kept = volume_in(&cluster, "kept", "Bound").await;
    assert!(annotation(&kept, BOUND_BY_CONTROLLER).is_none(), "a user reserved it");
    cluster.create::<PersistentVolumeClaim>(claim("b", "1Gi", json!({"volumeName": "kept"}))).await;
    assert_eq!(event(&cluster, "b", "FailedBinding").await, "volume \"kept\" already bound to a different claim.");
    cluster.create::<PersistentVolumeClaim>(claim("c", "5Gi", json!({"volumeName": "plain"}))).await;
    let said = event(&cluster, "c", "VolumeMismatch").await;
    assert_eq!(said, "Cannot bind to requested volume \"plain\": requested PV is too small");
    cluster.create::<PersistentVolumeClaim>(claim("d", "1Gi", json!({"volumeName": "plain"}))).await;
    let d = bound(&cluster, "d").await;
    assert!(annotation(&d, BOUND_BY_CONTROLLER).is_none(), "its user asked for it");
    // Its volume is taken from under it.
    let bare = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    volumes(&cluster).delete("plain", &DeleteParams::default()).await.unwrap();
    volumes(&cluster).patch("plain", &PatchParams::default(), &bare).await.unwrap();
    let said = event(&cluster, "d", "ClaimLost").await;
    assert_eq!(said, "Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    let d = cluster.api::<PersistentVolumeClaim>().get("d").await.unwrap();
    assert_eq!(claim_phase(&d), "Lost");
    // What nobody here can delete says so.
    add_volume(
        &cluster,
        "orphan",
        "9Gi",
        json!({"persistentVolumeReclaimPolicy": "Delete", "claimRef":
        {"namespace": "default", "name": "gone", "uid": "00000000-0000-0000-0000-000000000000"}}),
    )
    .await;
    let failed = volume_in(&cluster, "orphan", "Failed").await.status.unwrap();
    assert_eq!(failed.reason.as_deref(), Some("VolumeFailedDelete"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_from_the_first_pod_to_the_last_finalizer() {
    let cluster = Cluster::start(CONTROLLERS).await.with_scheduler();
    let _n1 = cluster.node("n1", |_| Says::Ready).await;
    let _n2 = cluster.node("n2", |_| Says::Ready).await;
    add_class(&cluster, "local-path", LocalPath::PROVISIONER, "true").await;
    let mut wanted = claim("data", "1Gi", json!({}));
    wanted["spec"].as_object_mut().unwrap().remove("storageClassName");
    let made = cluster.create::<PersistentVolumeClaim>(wanted).await;
    assert_eq!(made.spec.unwrap().storage_class_name.as_deref(), Some("local-path"), "the default class");
    let said = event(&cluster, "data", "WaitForFirstConsumer").await;
    assert_eq!(said, "waiting for first consumer to be created before binding");
    let uses = json!({"persistentVolumeClaim": {"claimName": "data"}});
    cluster.create::<Pod>(pod("first", uses.clone())).await;
    let node = scheduled(&cluster, "first").await;
    let data = bound(&cluster, "data").await;
    assert_eq!(annotation(&data, SELECTED_NODE), Some(node.as_str()));
    event(&cluster, "data", "ExternalProvisioning").await;
    event(&cluster, "data", "ProvisioningSucceeded").await;
    let volume = volume_in(&cluster, volume_name(&data), "Bound").await;
    let folder = LocalPath { name: format!("pvc-{}", data.uid().unwrap()), node: node.clone() };
    assert_eq!(LocalPath::of(&volume), Some(folder));
    let more = Patch::Merge(json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}}));
    let claims = cluster.api::<PersistentVolumeClaim>();
    claims.patch("data", &PatchParams::default(), &more).await.unwrap();
    eventually("a larger claim", async || {
        let capacity = claims.get("data").await.unwrap().status?.capacity?;
        (capacity["storage"].0 == "3Gi").then_some(())
    })
    .await;
    for name in ["second", "third"] {
        cluster.create::<Pod>(pod(name, uses.clone())).await;
        assert_eq!(scheduled(&cluster, name).await, node, "where the data are");
    }
    for name in ["first", "second", "third"] {
        cluster.api::<Pod>().delete(name, &DeleteParams::default()).await.unwrap();
    }
    cluster.api::<PersistentVolumeClaim>().delete("data", &DeleteParams::default()).await.unwrap();
    let name = volume.name_any();
    eventually("the volume is left to its kubelet", async || {
        volumes(&cluster).get(&name).await.ok().filter(LocalPath::is_due)
    })
    .await;
    let gone = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    volumes(&cluster).patch(&name, &PatchParams::default(), &gone).await.unwrap();
    assert!(volumes(&cluster).get_opt(&name).await.unwrap().is_none(), "nothing else held it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_gone_holds_no_volume() {
    let cluster = Cluster::start(CONTROLLERS).await.with_scheduler();
    let _n1 = cluster.node("n1", |_| Says::Ready).await;
    add_class(&cluster, "local-path", LocalPath::PROVISIONER, "false").await;
    let template = json!({"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "local-path",
        "resources": {"requests": {"storage": "1Gi"}}}});
    cluster.create::<Pod>(pod("p", json!({"ephemeral": {"volumeClaimTemplate": template}}))).await;
    assert_eq!(scheduled(&cluster, "p").await, "n1");
    let claim = bound(&cluster, "p-data").await;
    assert_eq!(claim.owner_references()[0].name, "p", "it goes with its pod");
    let name = volume_name(&claim).to_owned();
    cluster.api::<Pod>().delete("p", &DeleteParams::default()).await.unwrap();
    cluster.api::<PersistentVolumeClaim>().delete("p-data", &DeleteParams::default()).await.unwrap();
    eventually("the volume is left to its kubelet", async || {
        volumes(&cluster).get(&name).await.ok().filter(LocalPath::is_due)
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(volumes(&cluster).get_opt(&name).await.unwrap().is_some(), "while there is a node, its kubelet decides");
    Api::<Node>::all(cluster.client.clone()).delete("n1", &DeleteParams::default()).await.unwrap();
    eventually("the volume is gone", async || volumes(&cluster).get_opt(&name).await.unwrap().is_none().then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_go_where_their_volumes_can_be() {
    let cluster = Cluster::start(CONTROLLERS).await.with_scheduler();
    let _n1 = cluster.node("n1", |_| Says::Ready).await;
    let _n2 = cluster.node("n2", |_| Says::Ready).await;
    let message = async |name: &str, wanted: &str| {
        eventually(wanted, async || {
            let status = cluster.api::<Pod>().get(name).await.unwrap().status?;
            let condition = status.conditions?.into_iter().find(|c| c.type_ == "PodScheduled")?;
            (condition.message.as_deref() == Some(wanted)).then_some(())
        })
        .await;
    };
    cluster.create::<Pod>(pod("p", json!({"persistentVolumeClaim": {"claimName": "data"}}))).await;
    message("p", "0/2 nodes are available: persistentvolumeclaim \"data\" not found.").await;
    add_class(&cluster, "by-hand", "kubernetes.io/no-provisioner", "false").await;
    cluster.create::<PersistentVolumeClaim>(claim("data", "1Gi", json!({"storageClassName": "by-hand"}))).await;
    message("p", "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.").await;
    let here = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n2"]}]}]}});
    add_volume(&cluster, "disk", "2Gi", json!({"storageClassName": "by-hand", "nodeAffinity": here})).await;
    assert_eq!(scheduled(&cluster, "p").await, "n2");
    assert_eq!(volume_name(&bound(&cluster, "data").await), "disk");
    let immediate = claim("now", "1Gi", json!({}));
    cluster.create::<PersistentVolumeClaim>(immediate).await;
    cluster.create::<Pod>(pod("q", json!({"persistentVolumeClaim": {"claimName": "now"}}))).await;
    message("q", "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.").await;
    add_volume(&cluster, "anywhere", "2Gi", json!({})).await;
    scheduled(&cluster, "q").await;
    add_volume(&cluster, "once", "2Gi", json!({"accessModes": ["ReadWriteOncePod"]})).await;
    cluster.create::<PersistentVolumeClaim>(claim("once", "1Gi", json!({"accessModes": ["ReadWriteOncePod"]}))).await;
    bound(&cluster, "once").await;
    let once = json!({"persistentVolumeClaim": {"claimName": "once"}});
    cluster.create::<Pod>(pod("r", once.clone())).await;
    scheduled(&cluster, "r").await;
    cluster.create::<Pod>(pod("s", once)).await;
    message("s", "0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode.").await;
    cluster.api::<Pod>().delete("r", &DeleteParams::default()).await.unwrap();
    scheduled(&cluster, "s").await;
}
