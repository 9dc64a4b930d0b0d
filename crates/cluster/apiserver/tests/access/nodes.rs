//! Kubelets: what they may read and write, on a running server.

use serde_json::{Value, json};

use crate::client::{ADMIN, Api};

const CORE: &str = "/api/v1/namespaces/default";
const N1: &str = "system:node:n1";
const N2: &str = "system:node:n2";

async fn cluster() -> (Api, String) {
    let api = Api::start().await;
    api.default_account().await;
    let mut uid = String::new();
    for node in ["n2", "n1"] {
        let who = format!("system:node:{node}");
        let made = api.post(&who, "/api/v1/nodes", &json!({"metadata": {"name": node}})).await;
        assert_eq!(made.code, 201, "{}", made.text);
        uid = made.body["metadata"]["uid"].as_str().unwrap().to_owned();
    }
    api.create(&format!("{CORE}/secrets"), &json!({"metadata": {"name": "s"}, "stringData": {"k": "hidden"}})).await;
    for node in ["n1", "n2"] {
        api.cached("minions/", node, |n| n.is_some()).await;
    }
    (api, uid)
}

fn mirror(uid: &str, spec: &Value) -> Value {
    let mut pod = json!({"metadata": {"name": "m", "annotations": {"kubernetes.io/config.mirror": "x"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid, "controller": true}]},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    pod
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_pod_opens_nothing() {
    let (api, uid) = cluster().await;
    let pods = format!("{CORE}/pods");
    let volume = |source: Value| {
        let mut volume = source;
        volume["name"] = "v".into();
        json!({"volumes": [volume]})
    };
    for spec in [
        json!({"containers": [{"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": "s"}}]}]}),
        json!({"initContainers": [{"name": "d", "image": "i", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}]}),
        json!({"imagePullSecrets": [{"name": "s"}]}),
        json!({"serviceAccountName": "default"}),
        json!({"resourceClaims": [{"name": "r", "resourceClaimName": "c"}]}),
        volume(json!({"projected": {"sources": [{"secret": {"name": "s"}}]}})),
        volume(json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}})),
        volume(json!({"csi": {"driver": "d", "nodePublishSecretRef": {"name": "s"}}})),
        volume(
            json!({"iscsi": {"targetPortal": "1.2.3.4", "iqn": "iqn.2001-04.com.example:a", "lun": 0, "secretRef": {"name": "s"}}}),
        ),
        volume(
            json!({"ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}}),
        ),
        volume(json!({"persistentVolumeClaim": {"claimName": "c"}})),
        volume(json!({"configMap": {"name": "c"}})),
    ] {
        for who in [N1, ADMIN] {
            let answer = api.post(who, &pods, &mirror(&uid, &spec)).await;
            assert_eq!(answer.code, 403, "{who} {spec}: {}", answer.text);
        }
    }
    let wrong = |key: &str, value: Value| {
        let mut pod = mirror(&uid, &json!({}));
        pod["metadata"][key] = value;
        pod
    };
    let owner = |key: &str, value: Value| {
        let mut owner = mirror(&uid, &json!({}))["metadata"]["ownerReferences"][0].clone();
        owner[key] = value;
        wrong("ownerReferences", json!([owner]))
    };
    for pod in [
        wrong("annotations", json!({})),
        wrong("ownerReferences", json!([])),
        owner("uid", "another".into()),
        owner("controller", false.into()),
        owner("blockOwnerDeletion", true.into()),
        mirror(&uid, &json!({"nodeName": "n2"})),
    ] {
        let answer = api.post(N1, &pods, &pod).await;
        assert_eq!(answer.code, 403, "{pod}: {}", answer.text);
    }
    let made = api.post(N1, &pods, &mirror(&uid, &volume(json!({"hostPath": {"path": "/etc"}})))).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(api.get(N1, &format!("{CORE}/secrets/s")).await.code, 403);
    assert_eq!(api.delete(N2, &format!("{pods}/m")).await.code, 403);
    assert_eq!(api.delete(N1, &format!("{pods}/m?gracePeriodSeconds=0")).await.code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_has_what_its_pods_need_while_they_need_it() {
    let (api, _) = cluster().await;
    let pods = format!("{CORE}/pods");
    let pod = populate(&api).await;
    let reads = reads();
    for path in &reads {
        assert_eq!(api.get(N1, path).await.code, 200, "{path}");
        assert_eq!(api.get(N2, path).await.code, 403, "{path}");
    }
    let selected = format!("/api/v1/secrets?{SELECTED}");
    for path in [&selected, &format!("{CORE}/secrets"), "/api/v1/watch/secrets", SLICES] {
        assert_eq!(api.get(N1, path).await.code, 403, "{path}");
    }
    writes(&api, &pod["metadata"]["uid"]).await;
    assert_eq!(api.delete(N1, &format!("{pods}/p?gracePeriodSeconds=0")).await.code, 200);
    api.cached("pods/", "default/p", |p| p.is_none()).await;
    for path in &reads[..6] {
        assert_eq!(api.get(N1, path).await.code, 403, "{path}: the pod is gone");
    }
}

const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";
const SELECTED: &str = "fieldSelector=metadata.name%3Ds";

/// What n1 may read and n2 may not; the first six because of the pod.
fn reads() -> [String; 8] {
    [
        format!("{CORE}/secrets/s"),
        format!("{CORE}/secrets?{SELECTED}"),
        format!("{CORE}/pods/p"),
        format!("{CORE}/persistentvolumeclaims/c"),
        format!("{CORE}/serviceaccounts/default"),
        "/api/v1/persistentvolumes/pv".to_owned(),
        "/apis/storage.k8s.io/v1/volumeattachments/va".to_owned(),
        format!("{SLICES}/slice-n1"),
    ]
}

/// A pod on n1 with a secret and a claim, the claim's volume, its attachment and a slice of the node's devices; the
/// pod.
async fn populate(api: &Api) -> Value {
    let pods = format!("{CORE}/pods");
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "automountServiceAccountToken": false,
        "containers": [{"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": "s"}}]}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}});
    let made = api.create(&pods, &pod).await;
    let claim = json!({"metadata": {"name": "c"}, "spec": {"volumeName": "pv", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    api.create(&format!("{CORE}/persistentvolumeclaims"), &claim).await;
    let volume = json!({"metadata": {"name": "pv"}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": "/x"}, "claimRef": {"namespace": "default", "name": "c"}}});
    api.create("/api/v1/persistentvolumes", &volume).await;
    let attachment = json!({"metadata": {"name": "va"}, "spec": {"attacher": "example.com", "nodeName": "n1", "source": {"persistentVolumeName": "pv"}}});
    api.create("/apis/storage.k8s.io/v1/volumeattachments", &attachment).await;
    let slice = |node: &str| {
        json!({"metadata": {"name": format!("slice-{node}")}, "spec": {"driver": "d.example.com", "nodeName": node,
        "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}})
    };
    assert_eq!(api.post(N1, SLICES, &slice("n2")).await.code, 403);
    let published = api.post(N1, SLICES, &slice("n1")).await;
    assert_eq!(published.code, 201, "{}", published.text);
    for (prefix, key) in [
        ("pods/", "default/p"),
        ("persistentvolumes/", "pv"),
        ("volumeattachments/", "va"),
        ("resourceslices/", "slice-n1"),
    ] {
        api.cached(prefix, key, |o| o.is_some()).await;
    }
    made
}

/// What n1 may write about its pod and n2 may not.
async fn writes(api: &Api, uid: &Value) {
    let pods = format!("{CORE}/pods");
    let sized = json!({"status": {"capacity": {"storage": "2Gi"}}});
    let status = format!("{CORE}/persistentvolumeclaims/c/status");
    assert_eq!(api.merge(N2, &status, &sized).await.code, 403);
    assert_eq!(api.merge(N1, &status, &sized).await.code, 200);
    assert_eq!(api.merge(N1, &status, &json!({"status": {"phase": "Lost"}})).await.code, 403);
    let bound =
        |uid: &Value| json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid}}});
    let token = format!("{CORE}/serviceaccounts/default/token");
    assert_eq!(api.post(N1, &token, &bound(&"".into())).await.code, 403);
    assert_eq!(api.post(N2, &token, &bound(uid)).await.code, 403);
    let given = api.post(N1, &token, &bound(uid)).await;
    assert_eq!(given.code, 201, "{}", given.text);
    let evict = |name: &str| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    assert_eq!(api.post(N2, &format!("{pods}/p/eviction"), &evict("p")).await.code, 403);
    assert_eq!(api.post(N1, &format!("{pods}/p/eviction?dryRun=All"), &evict("p")).await.code, 201);
}

/// A request costs a look, however many pods there are; and a pod that is bound later counts at once.
#[tokio::test(flavor = "multi_thread")]
async fn bindings_count_at_once() {
    let (api, _) = cluster().await;
    let pods = format!("{CORE}/pods");
    for i in 0..20 {
        let name = format!("p{i}");
        let secret = format!("s{i}");
        api.create(&format!("{CORE}/secrets"), &json!({"metadata": {"name": secret}})).await;
        let pod = json!({"metadata": {"name": name}, "spec": {"automountServiceAccountToken": false,
            "containers": [{"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": secret}}]}]}});
        api.create(&pods, &pod).await;
        let path = format!("{CORE}/secrets/{secret}");
        assert_eq!(api.get(N1, &path).await.code, 403, "not yet bound");
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "n1"}});
        assert_eq!(api.post(ADMIN, &format!("{pods}/{name}/binding"), &binding).await.code, 201);
        // The kubelet learns of it by its watch, which is fed by the same cache.
        api.cached("pods/", &format!("default/{name}"), |p| p.is_some_and(|p| p["spec"]["nodeName"] == "n1")).await;
        assert_eq!(api.get(N1, &path).await.code, 200);
        assert_eq!(api.get(N2, &path).await.code, 403);
    }
    let added = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i", "envFrom": [{"secretRef": {"name": "s"}}]}]}});
    let media = "application/strategic-merge-patch+json";
    let answer =
        api.ask(ADMIN, "PATCH", &format!("{pods}/p0/ephemeralcontainers"), Some((media, added.to_string()))).await;
    assert_eq!(answer.code, 200, "{}", answer.text);
    api.cached("pods/", "default/p0", |p| p.is_some_and(|p| p["spec"]["ephemeralContainers"].is_array())).await;
    assert_eq!(api.get(N1, &format!("{CORE}/secrets/s")).await.code, 200, "a debugging container's secret");
}

/// A kubelet finds the volumes that are folders on its disk, and of those that are deleted it may say that the folder
/// is gone. Nothing else of them is its own.
#[tokio::test(flavor = "multi_thread")]
async fn folders_are_let_go_of_by_their_node() {
    let (api, _) = cluster().await;
    const VOLUMES: &str = "/api/v1/persistentvolumes";
    let (own, folder) = (format!("{VOLUMES}/v1"), "kinit.dev/local-path-folder");
    for node in ["n1", "n2"] {
        let name = node.replace('n', "v");
        let volume = json!({"metadata": {"name": name, "labels": {"kinit.dev/local-path-node": node}, "finalizers": [folder]},
            "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}});
        api.create(VOLUMES, &volume).await;
        api.cached("persistentvolumes/", &name, |v| v.is_some()).await;
    }
    let mine = format!("{VOLUMES}?labelSelector=kinit.dev/local-path-node%3Dn1");
    let listed = api.get(N1, &mine).await;
    assert_eq!((listed.code, listed.body["items"].as_array().map(Vec::len)), (200, Some(1)), "{}", listed.text);
    assert_eq!(api.get(N2, &mine).await.code, 403);
    assert_eq!(api.get(N1, VOLUMES).await.code, 403);
    // Of two selectors the one that is looked at is the one that counts.
    let twice = format!("{mine}&labelSelector=");
    assert!(api.get(N1, &twice).await.body["items"].as_array().is_none_or(|items| items.len() == 1));
    let bare = json!({"metadata": {"finalizers": null}});
    assert_eq!(api.merge(N1, &own, &bare).await.code, 403, "it is not deleted");
    assert_eq!(api.delete(N1, &own).await.code, 403);
    assert_eq!(api.delete(ADMIN, &own).await.code, 200);
    let kept = json!({"metadata": {"finalizers": ["kubernetes.io/pv-protection"]}});
    for (who, path, patch, code) in [
        (N2, &own, &bare, 403),
        (N1, &format!("{VOLUMES}/v2"), &bare, 403),
        (N1, &format!("{own}/status"), &json!({"status": {"phase": "Failed"}}), 403),
        (N1, &own, &json!({"spec": {"capacity": {"storage": "2Gi"}}}), 403),
        (N1, &own, &json!({"metadata": {"labels": {"kinit.dev/local-path-node": "n2"}}}), 403),
        // The protection of volumes in use is not its to lift.
        (N1, &own, &bare, 403),
        (N1, &own, &kept, 200),
        (ADMIN, &own, &bare, 200),
    ] {
        let answer = api.merge(who, path, patch).await;
        assert_eq!(answer.code, code, "{who} {path} {patch}: {}", answer.text);
    }
    assert_eq!(api.get(ADMIN, &own).await.code, 404);
}
