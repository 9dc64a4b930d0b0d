//! What the pods of a namespace would violate when more is enforced (`EvaluatePodsInNamespace`): told, not refused.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kinit_apimachinery::meta::Meta;
use kinit_storage::Entry;
use serde_json::Value;

use super::checks::{self, Pod};
use super::policy::Standard;

/// Pods that are looked at, at most.
const MOST: usize = 3000;

/// For how long pods are looked at.
pub fn a_second() -> impl Fn() -> bool + Send {
    let end = Instant::now() + Duration::from_secs(1);
    move || Instant::now() >= end
}

/// Pods that share a violation.
struct Group {
    first: String,
    count: usize,
}

/// The warnings, one for each kind of violation. At least one pod is looked at, and none more once `over`.
pub fn warnings(namespace: &str, enforce: Standard, pods: &[Arc<Entry>], over: impl Fn() -> bool) -> Vec<String> {
    let all = pods.len();
    let mut checked = 0;
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for pod in one_of_each_first(pods.iter().map(|entry| entry.value())).into_iter().take(MOST) {
        let findings = checks::evaluate(enforce, Pod::of(&pod));
        if !findings.is_empty() {
            let name = pod.name().to_owned();
            let group = groups.entry(checks::reasons(&findings)).or_insert(Group { first: name.clone(), count: 0 });
            group.count += 1;
            group.first = name.min(std::mem::take(&mut group.first));
        }
        checked += 1;
        if over() {
            break;
        }
    }
    let mut out = Vec::new();
    if checked < all {
        out.push(format!(
            "new PodSecurity enforce level only checked against the first {checked} of {all} existing pods"
        ));
    }
    if !groups.is_empty() {
        out.push(format!(
            "existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \"{enforce}\""
        ));
    }
    let mut texts: Vec<String> = groups.into_iter().map(|(reasons, group)| reported(&group, &reasons)).collect();
    texts.sort();
    out.extend(texts);
    out
}

fn reported(group: &Group, reasons: &str) -> String {
    let first = &group.first;
    match group.count {
        1 => format!("{first}: {reasons}"),
        2 => format!("{first} (and 1 other pod): {reasons}"),
        many => format!("{first} (and {} other pods): {reasons}", many - 1),
    }
}

/// Pods without a controller and one of each controller come before the others of those controllers.
fn one_of_each_first(pods: impl Iterator<Item = Value>) -> Vec<Value> {
    let mut seen = HashSet::new();
    let (mut first, more): (Vec<Value>, Vec<Value>) =
        pods.partition(|pod| controller(pod).is_none_or(|uid| seen.insert(uid)));
    first.extend(more);
    first
}

fn controller(pod: &Value) -> Option<String> {
    let owners = pod.at(&["metadata", "ownerReferences"])?.as_array()?;
    let owner = owners.iter().find(|o| o.get("controller") == Some(&Value::Bool(true)))?;
    Some(owner.str_at(&["uid"]).to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::policy::{Level, Version};
    use super::*;
    use serde_json::json;

    fn pod(name: &str, owner: &str, spec: Value) -> Arc<Entry> {
        let mut meta = json!({"name": name, "namespace": "n"});
        if !owner.is_empty() {
            meta["ownerReferences"] = json!([{"uid": "other"}, {"uid": owner, "controller": true}]);
        }
        let text = json!({"metadata": meta, "spec": spec}).to_string();
        Arc::new(
            Entry::from_stored(&format!("n/{name}"), text.as_bytes(), 1, &kinit_storage::Reading::default()).unwrap(),
        )
    }

    fn baseline() -> Standard {
        Standard { level: Level::Baseline, version: Version::Latest }
    }

    const HEAD: &str = r#"existing pods in namespace "n" violate the new PodSecurity enforce level "baseline:latest""#;

    #[test]
    fn grouped_by_what_is_violated() {
        let pods = [
            pod("d", "", json!({"hostPID": true})),
            pod("c", "", json!({"hostIPC": true})),
            pod("b", "", json!({"hostNetwork": true})),
            pod("p", "", json!({"containers": [{"name": "x", "securityContext": {"privileged": true}}]})),
            pod("fine", "", json!({})),
        ];
        let all = warnings("n", baseline(), &pods, || false);
        assert_eq!(all, [HEAD, "b (and 2 other pods): host namespaces", "p: privileged"]);
        assert_eq!(warnings("n", baseline(), &pods[..2], || false)[1], "c (and 1 other pod): host namespaces");
        assert!(warnings("n", baseline(), &pods[4..], || false).is_empty());
    }

    #[test]
    fn out_of_time_and_one_of_each_controller_first() {
        let pods = [
            pod("a1", "a", json!({})),
            pod("a2", "a", json!({"hostPID": true})),
            pod("b1", "b", json!({"hostPID": true})),
        ];
        let looked = std::cell::Cell::new(0);
        let over = || {
            looked.set(looked.get() + 1);
            looked.get() == 2
        };
        assert_eq!(
            warnings("n", baseline(), &pods, over),
            [
                "new PodSecurity enforce level only checked against the first 2 of 3 existing pods",
                HEAD,
                "b1: host namespaces"
            ]
        );
    }
}
