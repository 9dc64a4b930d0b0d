//! How containers end, and what is said of it.

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::harness::{Node, container, phase};

#[tokio::test(flavor = "multi_thread")]
async fn ends_are_told_as_they_were() {
    let node = Node::start().await;
    for (name, script, code, reason, phase_then, message) in [
        ("done", "echo fine > /dev/termination-log", 0, "Completed", "Succeeded", "fine\n"),
        ("failed", "echo no > /dev/termination-log; exit 3", 3, "Error", "Failed", "no\n"),
        ("hungry", "tail /dev/zero", 137, "OOMKilled", "Failed", ""),
    ] {
        let limits = json!({"limits": {"memory": "24Mi"}});
        node.pod(name, json!({"containers": [{"name": "c", "command": ["sh", "-c", script], "resources": limits}]}))
            .await;
        let pod = node.until(name, "has ended", |pod| ["Succeeded", "Failed"].contains(&phase(pod))).await;
        let end = container(&pod, "c").state.clone().unwrap().terminated.unwrap();
        assert_eq!((end.exit_code, end.reason.as_deref(), phase(&pod)), (code, Some(reason), phase_then), "{end:?}");
        assert_eq!(end.message.unwrap_or_default(), message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_are_started_again() {
    let node = Node::start().await;
    // Fails twice, then stays: the directory is the pod's, not the container's.
    let script = "test -e /s/two && sleep 1000; test -e /s/one && touch /s/two; touch /s/one; exit 1";
    node.pod(
        "crashes",
        json!({"restartPolicy": "Always", "volumes": [{"name": "s", "emptyDir": {}}],
            "containers": [{"name": "c", "command": ["sh", "-c", script], "volumeMounts": [{"name": "s", "mountPath": "/s"}]}]}),
    )
    .await;
    let stays = |pod: &Pod| {
        let mut statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        statuses.any(|c| c.restart_count == 2 && c.state.as_ref().is_some_and(|state| state.running.is_some()))
    };
    let pod = node.until("crashes", "runs for good", stays).await;
    let ended = container(&pod, "c").last_state.clone().unwrap().terminated.unwrap();
    assert_eq!(ended.exit_code, 1);

    let probe =
        json!({"exec": {"command": ["test", "!", "-e", "/tmp/sick"]}, "periodSeconds": 1, "failureThreshold": 1});
    node.pod(
        "sick",
        json!({"restartPolicy": "Always", "containers": [{"name": "c", "command": ["sleep", "1000"], "livenessProbe": probe}]}),
    )
    .await;
    let before = container(&node.running("sick").await, "c").container_id.clone();
    node.exec("sick", "touch /tmp/sick").await;
    let pod = node.until("sick", "is restarted", |pod| container(pod, "c").restart_count == 1).await;
    assert_ne!(container(&pod, "c").container_id, before);
}
