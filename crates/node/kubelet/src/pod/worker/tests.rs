//! Workers of a kubelet whose runtime does not answer.

use super::*;
use crate::kubelet::tests::kubelet;
use crate::resources::Asked;
use serde_json::{Value, json};

struct Scene {
    _directory: tempfile::TempDir,
    manager: Manager,
}

fn scene() -> Scene {
    let directory = tempfile::tempdir().unwrap();
    let kubelet = kubelet(directory.path(), Asked { cpu: 2000, memory: 1 << 30 });
    Scene { manager: Manager::new(kubelet), _directory: directory }
}

fn wanted(name: &str, labels: Value, spec: Value) -> Wanted {
    let meta = json!({"name": name, "namespace": "n", "uid": name, "labels": labels});
    let pod: Pod = serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap();
    Wanted { pod: Arc::new(pod), removed: false, api_uid: Some(name.into()), is_static: false, evicted: None }
}

impl Scene {
    fn worker(&self, wanted: Wanted) -> (Worker, watch::Sender<Wanted>) {
        let key = PodKey::of(&wanted.pod);
        let (sender, receiver) = watch::channel(wanted);
        (Worker::new(self.manager.clone(), key, receiver, Arc::new(Notify::new())), sender)
    }

    async fn admit(&self, wanted: Wanted) -> Result<(), (String, String)> {
        let pod = wanted.pod.clone();
        let (worker, _sender) = self.worker(wanted);
        worker.admit(&pod).await
    }
}

#[tokio::test]
async fn a_pod_that_does_not_fit_is_refused_in_upstreams_words() {
    let scene = scene();
    let with_port = |name: &str| {
        let ports = json!([{"containerPort": 80, "hostPort": 8080}]);
        wanted(name, json!({}), json!({"containers": [{"name": "c", "ports": ports}]}))
    };
    assert_eq!(scene.admit(with_port("a")).await, Ok(()));
    let (reason, message) = scene.admit(with_port("b")).await.unwrap_err();
    assert_eq!(reason, "NodePorts");
    assert_eq!(message, "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports");
    let greedy = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "3"}}}]});
    let (reason, message) = scene.admit(wanted("c", json!({}), greedy)).await.unwrap_err();
    assert_eq!(reason, "OutOfcpu");
    assert_eq!(message, "Node didn't have enough resource: cpu, requested: 3000, used: 0, capacity: 2000");
    let choosy = json!({"containers": [{"name": "c"}], "nodeSelector": {"disk": "ssd"}});
    assert_eq!(scene.admit(wanted("d", json!({}), choosy)).await.unwrap_err().0, "NodeAffinity");
    scene.manager.kubelet.ledger.leave("a");
    assert_eq!(scene.admit(with_port("b")).await, Ok(()), "the port is free again");
}

/// Room that a pod had before the kubelet was started again is not given to another.
#[tokio::test]
async fn what_runs_has_its_room_before_anybody_asks() {
    let scene = scene();
    let half = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1500m"}}}]});
    let mut running = wanted("a", json!({}), half.clone());
    let mut pod = (*running.pod).clone();
    pod.status = Some(PodStatus { phase: Some("Running".into()), ..PodStatus::default() });
    running.pod = Arc::new(pod);
    let _worker = scene.worker(running);
    assert_eq!(scene.admit(wanted("b", json!({}), half)).await.unwrap_err().0, "OutOfcpu");
}

#[tokio::test]
async fn a_critical_pod_waits_for_the_room_it_is_made() {
    let scene = scene();
    let cpu = |cpu: &str, priority: i32| {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        json!({"containers": [container], "priority": priority})
    };
    assert_eq!(scene.admit(wanted("small", json!({}), cpu("1500m", 0))).await, Ok(()));
    let ledger = scene.manager.kubelet.clone();
    let leaves = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        ledger.ledger.leave("small");
    };
    let (admitted, ()) = tokio::join!(scene.admit(wanted("big", json!({}), cpu("1", 2_000_001_000))), leaves);
    assert_eq!(admitted, Ok(()));
    let (reason, _) = scene.admit(wanted("bigger", json!({}), cpu("2", 2_000_001_000))).await.unwrap_err();
    assert_eq!(reason, "UnexpectedAdmissionError", "critical pods of the same priority do not give way");
}

/// Needs the right to mount, as the kubelet does.
#[tokio::test]
async fn downward_volumes_follow_labels() {
    for source in [
        json!({"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}),
        json!({"projected": {"sources": [
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}}),
    ] {
        let scene = scene();
        let mut volume = source.clone();
        volume["name"] = json!("v");
        let spec = json!({"containers": [{"name": "c"}], "volumes": [volume]});
        let (mut worker, sender) = scene.worker(wanted("p", json!({"a": "1"}), spec.clone()));
        worker.memory.volumes_ready = true;
        sender.send_modify(|w| *w = wanted("p", json!({"a": "2"}), spec));
        worker.round().await;
        let done = tokio::time::timeout(Duration::from_secs(10), worker.done.1.recv()).await;
        let Ok(Some(Done::Refreshed(_, Ok(volumes)))) = done else {
            unreachable!("{source}: the volume is not made anew")
        };
        let text = std::fs::read_to_string(volumes["v"].path.join("labels")).unwrap();
        crate::volumes::tear_down(&scene.manager.kubelet.paths.pod("p")).unwrap();
        assert_eq!(text, "a=\"2\"", "{source}");
    }
}
