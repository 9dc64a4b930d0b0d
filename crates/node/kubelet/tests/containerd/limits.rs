//! What a pod asks for, in the kernel; and what a node does not give.

use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::harness::{Node, cgroup_file, container, phase};

#[tokio::test(flavor = "multi_thread")]
async fn limits_reach_the_kernel_and_change_in_place() {
    let node = Node::start().await;
    let resources = |cpu: &str, memory: &str| json!({"requests": {"cpu": cpu, "memory": "16Mi"}, "limits": {"cpu": "500m", "memory": memory}});
    node.pod(
        "p",
        json!({"containers": [{"name": "c", "command": ["sleep", "1000"], "resources": resources("100m", "64Mi")}]}),
    )
    .await;
    let pod = node.running("p").await;
    let id = container(&pod, "c").container_id.clone().unwrap();
    let of_pod = format!("{}/kubepods/burstable/pod{}", node.cgroup, pod.uid().unwrap());
    let of_container = format!("{of_pod}/{}", id.trim_start_matches("containerd://"));
    let memory = |cgroup: &str| cgroup_file(cgroup, "memory", "memory.limit_in_bytes", "memory.max");
    let quota = |cgroup: &str| cgroup_file(cgroup, "cpu", "cpu.cfs_quota_us", "cpu.max");
    for cgroup in [&of_pod, &of_container] {
        assert_eq!(memory(cgroup), (64 << 20).to_string(), "{cgroup}");
        assert!(quota(cgroup).starts_with("50000"), "{cgroup}: {}", quota(cgroup));
    }

    let bigger = json!({"spec": {"containers": [{"name": "c", "resources": resources("200m", "96Mi")}]}});
    let pods = node.pods();
    let patched =
        pods.patch_subresource("resize", "p", &PatchParams::default(), &Patch::Strategic(bigger)).await.unwrap();
    assert!(patched.metadata.generation > pod.metadata.generation, "{:?}", patched.metadata);
    let shown = |pod: &k8s_openapi::api::core::v1::Pod| {
        let limits = container(pod, "c").resources.clone().and_then(|r| r.limits).unwrap_or_default();
        limits.get("memory").is_some_and(|quantity| quantity.0 == "96Mi")
    };
    let after = node.until("p", "shows its new size", shown).await;
    for cgroup in [&of_pod, &of_container] {
        assert_eq!(memory(cgroup), (96 << 20).to_string(), "{cgroup}");
    }
    assert_eq!(
        (container(&after, "c").restart_count, container(&after, "c").container_id.as_deref()),
        (0, Some(id.as_str()))
    );
    node.delete("p").await;
    let gone = std::path::Path::new("/sys/fs/cgroup/memory").join(&of_pod);
    crate::harness::eventually("its cgroup is gone", async || (!gone.exists()).then_some(())).await;
}

/// Upstream's reasons: what has no room on the node fails there, and runs nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused() {
    let node = Node::start().await;
    let port = json!([{"containerPort": 18080, "hostPort": 18080}]);
    node.pod("holder", json!({"containers": [{"name": "c", "command": ["sleep", "1000"], "ports": port}]})).await;
    node.running("holder").await;
    let sleeper = |more: serde_json::Value| {
        let mut container = json!({"name": "c", "command": ["sleep", "1000"]});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([container])
    };
    for (name, spec, reason) in [
        ("port", json!({"containers": sleeper(json!({"ports": port}))}), "NodePorts"),
        ("cpu", json!({"containers": sleeper(json!({"resources": {"requests": {"cpu": "4000"}}}))}), "OutOfcpu"),
        (
            "memory",
            json!({"containers": sleeper(json!({"resources": {"requests": {"memory": "900Ti"}}}))}),
            "OutOfmemory",
        ),
        ("label", json!({"containers": sleeper(json!({})), "nodeSelector": {"disk": "fast"}}), "NodeAffinity"),
    ] {
        node.pod(name, spec).await;
        let pod = node.until(name, "is refused", |pod| phase(pod) == "Failed").await;
        assert_eq!(pod.status.unwrap().reason.as_deref(), Some(reason), "{name}");
    }
    assert_eq!(node.containerd.tasks().len(), 2, "the holder's sandbox and container alone");
}
