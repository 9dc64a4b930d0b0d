use serde_json::{Value, json};

use super::*;

fn claim(change: Value) -> PersistentVolumeClaim {
    let mut claim = json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "s", "resources": {"requests": {"storage": "5Gi"}}}});
    for (key, value) in change.as_object().unwrap() {
        claim["spec"][key] = value.clone();
    }
    serde_json::from_value(claim).unwrap()
}

fn volume(name: &str, size: &str, change: Value) -> PersistentVolume {
    let mut volume = json!({"metadata": {"name": name, "labels": {"disk": name}}, "status": {"phase": "Available"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "s", "capacity": {"storage": size}}});
    for (key, value) in change.as_object().unwrap() {
        volume["spec"][key] = value.clone();
    }
    serde_json::from_value(volume).unwrap()
}

fn node(name: &str) -> Node {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}})).unwrap()
}

fn on(name: &str) -> Value {
    json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": [name]}]}]}}})
}

fn found(claim: &PersistentVolumeClaim, node: Option<&Node>, waits: bool, volumes: &[PersistentVolume]) -> String {
    let found = find(Wish { claim, node, waits }, volumes);
    found.and_then(|v| v.metadata.name.clone()).unwrap_or_else(|| "-".into())
}

#[test]
fn the_smallest_that_fits() {
    let reserved = |uid: &str| json!({"claimRef": {"namespace": "n", "name": "c", "uid": uid}});
    let modes = json!({"accessModes": ["ReadWriteOnce", "ReadWriteMany"]});
    let none = json!({});
    for (what, asked, volumes, expected) in [
        ("too small", none.clone(), vec![volume("a", "4Gi", none.clone())], "-"),
        ("exact", none.clone(), vec![volume("a", "5Gi", none.clone())], "a"),
        ("smallest", none.clone(), vec![volume("a", "9Gi", none.clone()), volume("b", "6Gi", none.clone())], "b"),
        ("by name", none.clone(), vec![volume("b", "6Gi", none.clone()), volume("a", "6Gi", none.clone())], "a"),
        ("fewest modes", none.clone(), vec![volume("a", "6Gi", modes.clone()), volume("b", "9Gi", none.clone())], "b"),
        (
            "modes",
            json!({"accessModes": ["ReadWriteMany"]}),
            vec![volume("a", "6Gi", none.clone()), volume("b", "9Gi", modes)],
            "b",
        ),
        ("another class", json!({"storageClassName": "t"}), vec![volume("a", "6Gi", none.clone())], "-"),
        ("no class", json!({"storageClassName": ""}), vec![volume("a", "6Gi", json!({"storageClassName": null}))], "a"),
        ("mode", json!({"volumeMode": "Block"}), vec![volume("a", "6Gi", none.clone())], "-"),
        (
            "selector",
            json!({"selector": {"matchLabels": {"disk": "b"}}}),
            vec![volume("a", "6Gi", none.clone()), volume("b", "9Gi", none.clone())],
            "b",
        ),
        (
            "selector",
            json!({"selector": {"matchExpressions": [{"key": "disk", "operator": "NotIn", "values": ["a"]}]}}),
            vec![volume("a", "6Gi", none.clone()), volume("b", "9Gi", none.clone())],
            "b",
        ),
        (
            "odd selector",
            json!({"selector": {"matchExpressions": [{"key": "disk", "operator": "Near"}]}}),
            vec![volume("a", "6Gi", none.clone())],
            "-",
        ),
        (
            "reserved by name",
            none.clone(),
            vec![volume("a", "6Gi", none.clone()), volume("b", "9Gi", reserved(""))],
            "b",
        ),
        (
            "reserved for it",
            none.clone(),
            vec![volume("a", "6Gi", none.clone()), volume("b", "9Gi", reserved("u"))],
            "b",
        ),
        ("of its predecessor", none.clone(), vec![volume("b", "9Gi", reserved("older"))], "-"),
        ("reserved, too small", none.clone(), vec![volume("b", "1Gi", reserved("")), volume("a", "6Gi", none)], "a"),
    ] {
        assert_eq!(found(&claim(asked), None, false, &volumes), expected, "{what}");
    }
    let mut gone = volume("a", "5Gi", json!({}));
    gone.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
    let mut released = volume("b", "5Gi", json!({}));
    released.status.as_mut().unwrap().phase = Some("Released".into());
    assert_eq!(found(&claim(json!({})), None, false, &[gone, released]), "-", "neither is to be had");
}

#[test]
fn nodes_and_waiting() {
    let volumes = [volume("a", "5Gi", on("n1")), volume("b", "6Gi", on("n2"))];
    let plain = claim(json!({}));
    for (node_name, waits, expected) in [
        (None, false, "a"),
        (None, true, "-"),
        (Some("n1"), true, "a"),
        (Some("n2"), true, "b"),
        (Some("n3"), true, "-"),
    ] {
        let node = node_name.map(node);
        assert_eq!(found(&plain, node.as_ref(), waits, &volumes), expected, "{node_name:?} {waits}");
    }
    let mut reserved = volume("r", "6Gi", on("n2"));
    reserved.spec.as_mut().unwrap().claim_ref = serde_json::from_value(json!({"namespace": "n", "name": "c"})).unwrap();
    let all = [volume("a", "5Gi", on("n1")), reserved];
    assert_eq!(found(&plain, None, true, &all), "r", "what is reserved need not wait");
    assert_eq!(found(&plain, Some(&node("n1")), true, &all), "-", "it gets the reserved one or none");
}

#[test]
fn why_a_requested_volume_does_not_do() {
    let fit = |change: Value, asked: Value| misfit(&volume("v", "5Gi", change), &claim(asked));
    for (change, asked, expected) in [
        (json!({}), json!({}), None),
        (json!({"capacity": {"storage": "1Gi"}}), json!({}), Some("requested PV is too small")),
        (json!({"capacity": null}), json!({}), Some("requested PV is too small")),
        (json!({"storageClassName": "t"}), json!({}), Some("storageClassName does not match")),
        (json!({}), json!({"volumeAttributesClassName": "fast"}), Some("volumeAttributesClassName does not match")),
        (json!({"volumeMode": "Block"}), json!({}), Some("incompatible volumeMode")),
        (json!({}), json!({"accessModes": ["ReadWriteMany"]}), Some("incompatible accessMode")),
    ] {
        assert_eq!(fit(change.clone(), asked.clone()).as_deref(), expected, "{change} {asked}");
    }
}

#[test]
fn folders_are_only_those_of_the_volumes_own_name() {
    let volume = |name: &str, path: &str, by: &str| -> PersistentVolume {
        serde_json::from_value(json!({"metadata": {"name": name, "labels": {LocalPath::NODE: "n1"},
            "annotations": {PROVISIONED_BY: by}}, "spec": {"local": {"path": path}}}))
        .unwrap()
    };
    let by = LocalPath::PROVISIONER;
    for (name, path, by, ours) in [
        ("pvc-1", "/var/lib/kinit/local-path/pvc-1", by, true),
        ("pvc-1", "/var/lib/kinit/local-path/pvc-2", by, false),
        ("pvc-1", "/var/lib/kinit/local-path/pvc-1/", by, false),
        ("pvc-1", "/var/lib/kinit/local-path/../../kubelet", by, false),
        ("pvc-1", "/etc", by, false),
        ("pvc-1", "/var/lib/kinit/local-path/pvc-1", "example.com/other", false),
        ("..", "/var/lib/kinit/local-path/..", by, false),
        ("", "/var/lib/kinit/local-path/", by, false),
        ("a/b", "/var/lib/kinit/local-path/a/b", by, false),
    ] {
        assert_eq!(LocalPath::of(&volume(name, path, by)).is_some(), ours, "{name} {path} {by}");
    }
}

#[test]
fn the_finalizer_goes_last() {
    let volume = |finalizers: &[&str], deleted: bool| -> PersistentVolume {
        let at = deleted.then_some("2026-01-01T00:00:00Z");
        serde_json::from_value(json!({"metadata": {"name": "v", "finalizers": finalizers, "deletionTimestamp": at}}))
            .unwrap()
    };
    let own = LocalPath::FINALIZER;
    assert!(LocalPath::is_due(&volume(&[own], true)));
    assert!(!LocalPath::is_due(&volume(&[own], false)), "it is not deleted");
    assert!(!LocalPath::is_due(&volume(&["kubernetes.io/pv-protection", own], true)), "a claim is bound to it");
    assert!(!LocalPath::is_due(&volume(&[], true)));
}

#[test]
fn claims_of_pods() {
    let pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "pu"}, "spec": {"containers": [],
        "volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "data", "readOnly": true}}, {"name": "b", "ephemeral": {}},
            {"name": "c", "emptyDir": {}}]}}))
    .unwrap();
    let claims: Vec<_> = claims_of(&pod).map(|c| (c.volume, c.claim, c.ephemeral, c.read_only)).collect();
    assert_eq!(claims, [("a".into(), "data".into(), false, true), ("b".into(), "p-b".into(), true, false)]);
    let mut owned = claim(json!({}));
    assert_eq!(is_for_pod(&owned, &pod).unwrap_err(), "PVC n/c was not created for pod n/p (pod is not owner)");
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "pu", "controller": true}]);
    owned.metadata.owner_references = serde_json::from_value(owner).unwrap();
    assert!(is_for_pod(&owned, &pod).is_ok());
}

#[test]
fn classes() {
    let class = |name: &str, at: &str, default: &str| -> StorageClass {
        serde_json::from_value(
            json!({"metadata": {"name": name, "creationTimestamp": at, "annotations": {DEFAULT_CLASS: default}},
            "provisioner": "p"}),
        )
        .unwrap()
    };
    let (old, new) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
    let all = [class("a", old, "true"), class("c", new, "true"), class("b", new, "true"), class("d", new, "false")];
    assert_eq!(default_class(&all).unwrap().metadata.name.as_deref(), Some("b"));
    assert!(default_class(&all[3..]).is_none());
    let mut zoned = class("z", old, "false");
    zoned.allowed_topologies = serde_json::from_value(json!([{"matchLabelExpressions": [
        {"key": "kubernetes.io/hostname", "values": ["n1", "n2"]}]}]))
    .unwrap();
    assert!(allows(&zoned, &node("n1")) && !allows(&zoned, &node("n3")) && allows(&all[0], &node("n3")));
}
