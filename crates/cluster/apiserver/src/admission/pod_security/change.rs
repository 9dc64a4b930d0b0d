//! Which updates of a pod are looked at again: of what can be changed, only images, containers and the old annotations
//! of seccomp matter to the standards (`isSignificantPodUpdate`).

use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::checks::{SECCOMP_CONTAINER, SECCOMP_POD};

/// Whether a changed pod is to be judged again.
pub fn matters(new: &Value, old: &Value) -> bool {
    let containers = |pod: &'_ Value, list: &str| -> Vec<Value> {
        pod.at(&["spec", list]).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let changed = |now: &Value, before: &Value| {
        let key = format!("{SECCOMP_CONTAINER}{}", now.str_at(&["name"]));
        now.str_at(&["image"]) != before.str_at(&["image"]) || annotation(new, &key) != annotation(old, &key)
    };
    let lists = ["containers", "initContainers"].into_iter().any(|list| {
        let (now, before) = (containers(new, list), containers(old, list));
        now.len() != before.len() || now.iter().zip(&before).any(|(now, before)| changed(now, before))
    });
    let before = containers(old, "ephemeralContainers");
    annotation(new, SECCOMP_POD) != annotation(old, SECCOMP_POD)
        || lists
        || containers(new, "ephemeralContainers").iter().any(|now| {
            let same = before.iter().find(|c| c.str_at(&["name"]) == now.str_at(&["name"]));
            same.is_none_or(|before| changed(now, before))
        })
}

fn annotation<'a>(pod: &'a Value, key: &str) -> &'a str {
    pod.annotation(key).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn images_containers_and_annotations() {
        let old = json!({"metadata": {"labels": {"a": "b"}}, "spec": {
            "containers": [{"name": "c", "image": "x"}], "ephemeralContainers": [{"name": "e", "image": "x"}]}});
        let with = |change: fn(&mut Value)| {
            let mut new = old.clone();
            change(&mut new);
            matters(&new, &old)
        };
        assert!(!with(|_| {}));
        assert!(!with(|p| p["metadata"]["labels"]["a"] = "c".into()));
        assert!(!with(|p| p["spec"]["tolerations"] = json!([{"key": "k"}])));
        assert!(!with(|p| p["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "1"}})));
        assert!(with(|p| p["spec"]["containers"][0]["image"] = "y".into()));
        assert!(with(|p| p["spec"]["initContainers"] = json!([{"name": "i"}])));
        assert!(with(|p| p["spec"]["ephemeralContainers"][0]["image"] = "y".into()));
        assert!(with(|p| p["spec"]["ephemeralContainers"] = json!([{"name": "e", "image": "x"}, {"name": "f"}])));
        assert!(with(|p| p["metadata"]["annotations"] = json!({SECCOMP_POD: "unconfined"})));
        assert!(with(|p| p["metadata"]["annotations"] = json!({format!("{SECCOMP_CONTAINER}c"): "unconfined"})));
        assert!(!with(|p| p["metadata"]["annotations"] = json!({format!("{SECCOMP_CONTAINER}z"): "unconfined"})));
    }
}
