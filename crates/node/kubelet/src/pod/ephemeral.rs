//! Ephemeral containers: started once beside a running pod, never again (`kubectl debug`).

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};

/// An ephemeral container with the fields it shares with all others.
fn common(from: &EphemeralContainer) -> Option<Container> {
    // The types have the same fields but for the target; the API refuses probes, ports and resources here.
    serde_json::from_value(serde_json::to_value(from).ok()?).ok()
}

/// All ephemeral containers of a pod.
pub fn of(pod: &Pod) -> Vec<Container> {
    pod.spec.iter().flat_map(|s| s.ephemeral_containers.iter().flatten()).filter_map(common).collect()
}

/// The container whose processes an ephemeral one is to see.
pub fn target(pod: &Pod, name: &str) -> Option<String> {
    let mut all = pod.spec.iter().flat_map(|s| s.ephemeral_containers.iter().flatten());
    all.find(|e| e.name == name).and_then(|e| e.target_container_name.clone()).filter(|t| !t.is_empty())
}

/// A container of any sort by name.
pub fn find(pod: &Pod, name: &str) -> Option<Container> {
    let spec = pod.spec.as_ref()?;
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    all.find(|c| c.name == name).cloned().or_else(|| of(pod).into_iter().find(|c| c.name == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_found_with_their_target() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [{"name": "a"}],
            "ephemeralContainers": [{"name": "dbg", "image": "i", "targetContainerName": "a"}]}}))
        .unwrap();
        assert_eq!(find(&pod, "dbg").and_then(|c| c.image).as_deref(), Some("i"));
        assert_eq!((target(&pod, "dbg").as_deref(), target(&pod, "a")), (Some("a"), None));
    }
}
