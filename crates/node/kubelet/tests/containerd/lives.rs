//! Pods from their creation to their end, and through the ends of those who look after them.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::harness::{Node, container, eventually, is, phase};

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_from_its_creation_to_its_end() {
    let node = Node::start().await;
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "m"}, "data": {"color": "red"}})).unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(node.client.clone());
    maps.create(&PostParams::default(), &map).await.unwrap();
    let secret: Secret =
        serde_json::from_value(json!({"metadata": {"name": "s"}, "stringData": {"key": "k3y"}})).unwrap();
    Api::default_namespaced(node.client.clone()).create(&PostParams::default(), &secret).await.unwrap();
    let mounts = json!([{"name": "map", "mountPath": "/map"}, {"name": "secret", "mountPath": "/secret"},
        {"name": "info", "mountPath": "/info"}, {"name": "shared", "mountPath": "/shared"}]);
    node.pod(
        "p",
        json!({"volumes": [{"name": "map", "configMap": {"name": "m"}}, {"name": "secret", "secret": {"secretName": "s", "defaultMode": 256}},
                {"name": "info", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                {"name": "shared", "emptyDir": {"medium": "Memory"}}],
            "initContainers": [{"name": "first", "command": ["sh", "-c", "echo first > /shared/order"], "volumeMounts": mounts}],
            "containers": [{"name": "c", "volumeMounts": mounts,
                "env": [{"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "color"}}},
                    {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "key"}}},
                    {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                "command": ["sh", "-c", "trap 'echo leaving; exit 0' TERM; echo $COLOR $KEY $NODE; cat /shared/order; sleep 1000 & wait"],
                "readinessProbe": {"exec": {"command": ["cat", "/shared/order"]}, "periodSeconds": 1}}]}),
    )
    .await;
    let pod = node.running("p").await;
    assert!(
        ["PodScheduled", "Initialized", "ContainersReady", "Ready"].iter().all(|c| is(&pod, c)),
        "{:?}",
        pod.status
    );
    let first = container(&pod, "first").state.clone().unwrap().terminated.unwrap();
    assert_eq!((first.exit_code, first.reason.as_deref()), (0, Some("Completed")));
    let status = pod.status.clone().unwrap();
    assert_eq!((status.host_ip.as_deref(), status.pod_ip.as_deref()), (Some("127.0.0.1"), Some("127.0.0.1")));
    assert_eq!(node.log("p", "c").await, "red k3y n1\nfirst\n");
    assert_eq!(node.exec("p", "cat /map/color; echo; cat /secret/key; echo; id -u").await, "red\nk3y\n0");
    // Volumes follow what changes.
    let labels = Patch::Merge(json!({"metadata": {"labels": {"team": "blue"}}}));
    node.pods().patch("p", &PatchParams::default(), &labels).await.unwrap();
    eventually("the volume follows the labels", async || {
        let text = node.exec("p", "cat /info/labels").await;
        if text.contains("team=\"blue\"") { Ok(()) } else { Err(text) }
    })
    .await;
    let directory = node.root().join("pods").join(pod.uid().unwrap());
    assert!(directory.exists());
    node.delete("p").await;
    assert!(node.containerd.tasks().is_empty(), "nothing runs: {:?}", node.containerd.tasks());
    eventually("its directory is gone", async || (!directory.exists()).then_some(())).await;
    // A mount that stayed would keep the directory's contents.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&pod.uid().unwrap()), "{mounts}");
}

/// Neither the kubelet's end nor containerd's is one of the containers.
#[tokio::test(flavor = "multi_thread")]
async fn containers_outlive_kubelet_and_runtime() {
    let mut node = Node::start().await;
    node.pod("p", json!({"restartPolicy": "Always", "containers": [{"name": "c", "command": ["sleep", "1000"]}]}))
        .await;
    let before = container(&node.running("p").await, "c").clone();
    let tasks = node.containerd.tasks();
    assert_eq!(tasks.len(), 2, "sandbox and container: {tasks:?}");

    node.kill_kubelet();
    node.start_kubelet();
    // Whoever answers exec has found the pod.
    eventually("exec", async || {
        let params = kube::api::AttachParams::default().stderr(false);
        node.pods().exec("p", ["true"], &params).await.map(drop)
    })
    .await;
    assert_eq!(node.containerd.tasks(), tasks, "the same processes");

    node.containerd.kill();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let meanwhile = node.pods().get("p").await.unwrap();
    assert_eq!(phase(&meanwhile), "Running", "a runtime that does not answer says nothing of containers");
    node.containerd.start_again();
    eventually("exec", async || {
        let params = kube::api::AttachParams::default().stderr(false);
        node.pods().exec("p", ["true"], &params).await.map(drop)
    })
    .await;
    assert_eq!(node.containerd.tasks(), tasks, "the same processes");
    let after = container(&node.running("p").await, "c").clone();
    assert_eq!((after.restart_count, after.container_id), (0, before.container_id.clone()));

    // A process that ends while nobody looks is noticed afterwards.
    node.kill_kubelet();
    let id = before.container_id.unwrap();
    let (_, pid) = tasks.iter().find(|(task, _)| id.ends_with(task.as_str())).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    node.start_kubelet();
    let pod = node.until("p", "is restarted", |pod| container(pod, "c").restart_count == 1 && is(pod, "Ready")).await;
    let last = container(&pod, "c").last_state.clone().unwrap().terminated.unwrap();
    assert_eq!(last.exit_code, 137, "{last:?}");
    node.delete("p").await;
}
