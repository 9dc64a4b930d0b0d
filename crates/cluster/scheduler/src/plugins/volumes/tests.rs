use serde_json::{Value, json};

use super::*;
use k8s_openapi::api::core::v1::Pod;
use kinit_component_helpers::storage::{SELECTED_NODE, annotation, class_of_volume};

#[derive(Default)]
struct World {
    claims: Vec<Arc<PersistentVolumeClaim>>,
    volumes: Vec<Arc<PersistentVolume>>,
    classes: Vec<Arc<StorageClass>>,
}

impl Lookup for World {
    fn claim(&self, _: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.iter().find(|c| c.metadata.name.as_deref() == Some(name)).cloned()
    }
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.iter().find(|v| v.metadata.name.as_deref() == Some(name)).cloned()
    }
    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.classes.iter().find(|c| c.metadata.name.as_deref() == Some(name)).cloned()
    }
    fn candidates(&self, claim: &PersistentVolumeClaim) -> Vec<Arc<PersistentVolume>> {
        let class = kinit_component_helpers::storage::class_of_claim(claim);
        self.volumes.iter().filter(|v| class_of_volume(v) == class).cloned().collect()
    }
    fn selected(&self, claim: &PersistentVolumeClaim) -> Option<String> {
        annotation(claim, SELECTED_NODE).map(str::to_owned)
    }
}

fn class(name: &str, provisioner: &str, mode: &str) -> Arc<StorageClass> {
    let class = json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
    Arc::new(serde_json::from_value(class).unwrap())
}

fn claim(name: &str, class: &str, size: &str, volume: Option<&str>, change: Value) -> Arc<PersistentVolumeClaim> {
    let annotations = volume.map(|_| json!({"pv.kubernetes.io/bind-completed": "yes"}));
    let mut claim = json!({"metadata": {"name": name, "namespace": "n", "uid": name, "annotations": annotations},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "volumeName": volume,
            "resources": {"requests": {"storage": size}}}});
    for (key, value) in change.as_object().unwrap() {
        claim[key] = value.clone();
    }
    Arc::new(serde_json::from_value(claim).unwrap())
}

fn volume(name: &str, class: &str, size: &str, node: &str) -> Arc<PersistentVolume> {
    let required = json!({"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]});
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": name}, "status": {"phase": "Available"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": class, "capacity": {"storage": size},
            "nodeAffinity": {"required": required}}}))
        .unwrap(),
    )
}

fn node(name: &str, zone: Option<&str>) -> NodeInfo {
    let labels = json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone.unwrap_or("z")});
    let mut node = json!({"metadata": {"name": name, "labels": labels}});
    if zone.is_none() {
        node["metadata"]["labels"].as_object_mut().unwrap().remove("topology.kubernetes.io/zone");
    }
    let mut info = NodeInfo::default();
    info.set_node(Arc::new(serde_json::from_value(node).unwrap()));
    info
}

fn pod(claims: &[&str]) -> Pod {
    let volumes: Vec<Value> =
        claims.iter().map(|c| json!({"name": c, "persistentVolumeClaim": {"claimName": c}})).collect();
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "p"},
        "spec": {"containers": [], "volumes": volumes}}))
    .unwrap()
}

fn said(volumes: &PodVolumes, node: &NodeInfo) -> String {
    if let Some(problem) = &volumes.problem {
        return problem.clone();
    }
    binding(volumes, node).err().map_or_else(|| "fits".to_owned(), |r| r.reasons.join(", "))
}

#[test]
fn reasons_word_for_word() {
    let gone = json!({"metadata": {"name": "c", "namespace": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let lost = json!({"status": {"phase": "Lost"}});
    let classes = || {
        let waits = "WaitForFirstConsumer";
        let now = class("now", "example.com/p", "Immediate");
        vec![now, class("later", "example.com/p", waits), class("by-hand", NO_PROVISIONER, waits)]
    };
    let pending = |class: &str| vec![claim("c", class, "1Gi", None, json!({}))];
    let bound = |change: Value| vec![claim("c", "now", "1Gi", Some("v"), change)];
    let on = |class: &str, node: &str| vec![volume("v", class, "1Gi", node)];
    let lost_words = "persistentvolumeclaim \"c\" bound to non-existent persistentvolume \"v\"";
    let nowhere = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
    let immediate = "pod has unbound immediate PersistentVolumeClaims";
    for (what, claims, volumes, expected) in [
        ("none", vec![], vec![], "persistentvolumeclaim \"c\" not found"),
        ("going", bound(gone), vec![], "persistentvolumeclaim \"c\" is being deleted"),
        ("lost", bound(lost), vec![], lost_words),
        ("unbound", pending("now"), vec![], immediate),
        ("no class", pending(""), vec![], immediate),
        ("bound here", bound(json!({})), on("now", "n1"), "fits"),
        ("bound there", bound(json!({})), on("now", "n2"), "node(s) had volume node affinity conflict"),
        ("bound nowhere", bound(json!({})), vec![], nowhere),
        ("to be made", pending("later"), vec![], "fits"),
        ("by hand", pending("by-hand"), on("by-hand", "n1"), "fits"),
        (
            "none by hand",
            pending("by-hand"),
            on("by-hand", "n2"),
            "node(s) didn't find available persistent volumes to bind",
        ),
    ] {
        let world = World { claims, volumes, classes: classes() };
        assert_eq!(said(&gather(&pod(&["c"]), &world), &node("n1", None)), expected, "{what}");
    }
}

#[test]
fn ephemeral_volumes_wait_for_their_claims() {
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "pu"},
        "spec": {"containers": [], "volumes": [{"name": "v", "ephemeral": {}}]}}))
    .unwrap();
    let problem = gather(&pod, &World::default()).problem.unwrap();
    assert_eq!(problem, "waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-v\"");
    let world = World { claims: vec![claim("p-v", "", "1Gi", Some("x"), json!({}))], ..World::default() };
    assert_eq!(gather(&pod, &world).problem.unwrap(), "PVC n/p-v was not created for pod n/p (pod is not owner)");
}

#[test]
fn each_claim_gets_a_volume_of_its_own() {
    let classes = vec![class("by-hand", NO_PROVISIONER, "WaitForFirstConsumer")];
    let claims =
        vec![claim("big", "by-hand", "4Gi", None, json!({})), claim("small", "by-hand", "1Gi", None, json!({}))];
    let two = vec![volume("a", "by-hand", "2Gi", "n1"), volume("b", "by-hand", "5Gi", "n1")];
    let world = World { claims, volumes: two, classes };
    let volumes = gather(&pod(&["big", "small"]), &world);
    let choice = choose(&volumes, node("n1", None).node.as_ref().unwrap()).unwrap();
    let pairs: Vec<_> = choice
        .bindings
        .iter()
        .map(|(v, c)| (v.metadata.name.clone().unwrap(), c.metadata.name.clone().unwrap()))
        .collect();
    assert_eq!(pairs, [("a".into(), "small".into()), ("b".into(), "big".into())]);
    let one = World { volumes: vec![volume("b", "by-hand", "5Gi", "n1")], ..world };
    assert!(choose(&gather(&pod(&["big", "small"]), &one), node("n1", None).node.as_ref().unwrap()).is_none());
}

#[test]
fn a_chosen_node_is_kept() {
    let selected =
        json!({"metadata": {"name": "c", "namespace": "n", "uid": "c", "annotations": {SELECTED_NODE: "n1"}}});
    let world = World {
        claims: vec![claim("c", "later", "1Gi", None, selected)],
        classes: vec![class("later", "example.com/p", "WaitForFirstConsumer")],
        ..World::default()
    };
    let volumes = gather(&pod(&["c"]), &world);
    assert_eq!(said(&volumes, &node("n1", None)), "fits");
    assert_eq!(said(&volumes, &node("n2", None)), "node(s) didn't find available persistent volumes to bind");
}

#[test]
fn zones_of_volumes() {
    let mut zoned = (*volume("v", "", "1Gi", "n1")).clone();
    zoned.metadata.labels = Some([("failure-domain.beta.kubernetes.io/zone".to_owned(), "a__b".to_owned())].into());
    let volumes = PodVolumes { bound: vec![Arc::new(zoned)], ..PodVolumes::default() };
    for (here, fits) in [(Some("a"), true), (Some("b"), true), (Some("c"), false), (None, true)] {
        assert_eq!(zone(&volumes, &node("n1", here)).is_ok(), fits, "{here:?}");
    }
}

#[test]
fn one_pod_at_a_time() {
    let once = json!({"spec": {"accessModes": ["ReadWriteOncePod"], "volumeName": "v"}});
    let world = World {
        claims: vec![claim("c", "", "1Gi", Some("v"), once)],
        volumes: vec![volume("v", "", "1Gi", "n1")],
        ..World::default()
    };
    let mine = PodInfo::new(Arc::new(pod(&["c"])));
    let volumes = gather(&mine.pod, &world);
    let other = |namespace: &str, claim: &str| {
        let mut other = pod(&[claim]);
        (other.metadata.namespace, other.metadata.uid) = (Some(namespace.to_owned()), Some("q".to_owned()));
        let mut node = node("n2", None);
        node.add("x", PodInfo::new(Arc::new(other)));
        is_taken(&mine, &[&node], &volumes)
    };
    assert!(other("n", "c"));
    assert!(!other("n", "d") && !other("m", "c"));
}
