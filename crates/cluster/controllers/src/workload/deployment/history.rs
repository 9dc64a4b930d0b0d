//! Revisions of a Deployment: which ReplicaSet is which, and which may be forgotten. No IO.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::ResourceExt;

use super::plan::{DESIRED, MAX, desired, fenceposts, replicas};

/// Label that tells the pods of a Deployment's sets apart.
pub const HASH: &str = "pod-template-hash";
/// Annotation with the revision's number.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";

/// Annotations of a Deployment that are its own and not its sets'.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// Whether two templates are the same but for the hash label.
fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let bare = |t: &PodTemplateSpec| {
        let mut t = t.clone();
        let meta = t.metadata.get_or_insert_default();
        if let Some(labels) = meta.labels.as_mut() {
            labels.remove(HASH);
        }
        // Absent and empty are the same.
        meta.labels = meta.labels.take().filter(|l| !l.is_empty());
        meta.annotations = meta.annotations.take().filter(|a| !a.is_empty());
        meta.creation_timestamp = None;
        t
    };
    bare(a) == bare(b)
}

/// The set with the Deployment's template: the oldest, should there be several.
pub fn find_new(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Option<Arc<ReplicaSet>> {
    let template = &deployment.spec.as_ref()?.template;
    let mut sets: Vec<&Arc<ReplicaSet>> = sets.iter().collect();
    sets.sort_by_key(|s| (s.metadata.creation_timestamp.as_ref().map(|t| t.0), s.name_any()));
    let same =
        |s: &ReplicaSet| s.spec.as_ref().and_then(|s| s.template.as_ref()).is_some_and(|t| same_template(t, template));
    sets.into_iter().find(|s| same(s)).cloned()
}

/// The number of a set's or a Deployment's revision, 0 when it has none.
pub fn revision(annotations: &BTreeMap<String, String>) -> i64 {
    annotations.get(REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// The number that the new set should carry: one more than all old ones.
pub fn next_revision<'a>(old: impl Iterator<Item = &'a ReplicaSet>) -> i64 {
    old.map(|s| revision(s.annotations())).max().unwrap_or(0) + 1
}

/// FNV-1a of the template, in upstream's alphabet without vowels and look-alikes (`rand.SafeEncodeString`). What
/// exactly is hashed is each controller's own affair: sets are recognized by their template, never by the hash.
pub fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let text = serde_json::to_string(&serde_json::to_value(template).unwrap_or_default()).unwrap_or_default();
    let salt = collisions.map(i32::to_le_bytes).into_iter().flatten();
    let hash =
        text.bytes().chain(salt).fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    safe_encode(hash)
}

/// A hash in upstream's alphabet, which makes no words (`rand.SafeEncodeString`).
pub fn safe_encode(hash: u32) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let letter = |b: u8| char::from(*ALPHABET.get(usize::from(b) % ALPHABET.len()).unwrap_or(&b'b'));
    hash.to_string().bytes().map(letter).collect()
}

/// The set for the Deployment's template.
pub fn new_set(deployment: &Deployment, collisions: Option<i32>, revision: i64, count: i32) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let mut template = spec.template.clone();
    let hash = template_hash(&template, collisions);
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.into(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH.into(), hash.clone());
    let mut set = ReplicaSet::default();
    set.metadata.name = Some(format!("{}-{hash}", deployment.name_any()));
    set.metadata.namespace = deployment.namespace();
    set.metadata.labels = Some(labels);
    set.metadata.owner_references = Some(vec![crate::object::owner::controller_ref(deployment)]);
    set.metadata.annotations = Some(set_annotations(deployment, &BTreeMap::new(), Some(revision), true));
    let set_spec = set.spec.get_or_insert_default();
    set_spec.replicas = Some(count);
    set_spec.min_ready_seconds = spec.min_ready_seconds;
    set_spec.selector = selector;
    set_spec.template = Some(template);
    set
}

/// A set's annotations after a look: the Deployment's (for the new set), its revision, and the sizes it was scaled for.
pub fn set_annotations(
    deployment: &Deployment,
    current: &BTreeMap<String, String>,
    new_revision: Option<i64>,
    sizes: bool,
) -> BTreeMap<String, String> {
    let mut wanted = current.clone();
    if let Some(number) = new_revision {
        for (name, value) in deployment.annotations() {
            if !NOT_COPIED.contains(&name.as_str()) {
                wanted.insert(name.clone(), value.clone());
            }
        }
        let old = revision(current);
        if old < number {
            if old > 0 {
                let history = current.get(REVISION_HISTORY).map(|h| format!("{h},{old}"));
                wanted.insert(REVISION_HISTORY.into(), history.unwrap_or_else(|| old.to_string()));
            }
            wanted.insert(REVISION.into(), number.to_string());
        }
    }
    if sizes {
        let total = desired(deployment);
        wanted.insert(DESIRED.into(), total.to_string());
        wanted.insert(MAX.into(), (total + fenceposts(deployment).0).to_string());
    }
    wanted
}

/// Old sets beyond the history limit, oldest revision first.
pub fn forgettable(deployment: &Deployment, old: &[Arc<ReplicaSet>]) -> Vec<Arc<ReplicaSet>> {
    let limit = deployment.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
    let mut alive: Vec<_> = old.iter().filter(|s| s.metadata.deletion_timestamp.is_none()).cloned().collect();
    let excess = alive.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
    alive.sort_by_key(|s| (revision(s.annotations()), s.metadata.creation_timestamp.as_ref().map(|t| t.0)));
    let idle = |s: &ReplicaSet| {
        let status = s.status.clone().unwrap_or_default();
        replicas(s) == 0 && status.replicas == 0 && s.metadata.generation <= status.observed_generation.or(Some(0))
    };
    alive.into_iter().take(excess).filter(|s| idle(s)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(image: &str) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "d", "namespace": "n", "annotations": {"team": "a", REVISION: "7"}},
            "spec": {"replicas": 4, "revisionHistoryLimit": 1, "selector": {"matchLabels": {"app": "d"}},
                     "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}
        }))
        .unwrap()
    }

    #[test]
    fn a_new_set_is_found_again_by_its_template() {
        let (one, two) = (deployment("one"), deployment("two"));
        let set = new_set(&one, None, 3, 2);
        assert_eq!(set.annotations().get("team").map(String::as_str), Some("a"));
        assert_eq!((revision(set.annotations()), set.annotations()[MAX].as_str()), (3, "5"));
        let hash = set.labels()[HASH].clone();
        assert_eq!(set.spec.as_ref().unwrap().selector.match_labels.as_ref().unwrap()[HASH], hash);
        assert!(hash.bytes().all(|b| !b"aeiou013".contains(&b)), "{hash}");
        let sets = [Arc::new(set)];
        assert!(find_new(&one, &sets).is_some());
        assert!(find_new(&two, &sets).is_none());
        assert_ne!(template_hash(&one.spec.unwrap().template, Some(1)), hash);
    }

    #[test]
    fn going_back_gives_a_new_number_and_keeps_the_old() {
        let current = BTreeMap::from([(REVISION.to_owned(), "2".to_owned())]);
        let after = set_annotations(&deployment("x"), &current, Some(5), false);
        assert_eq!((after[REVISION].as_str(), after[REVISION_HISTORY].as_str()), ("5", "2"));
        let again = set_annotations(&deployment("x"), &after, Some(5), false);
        assert_eq!(again, after);
        let later = set_annotations(&deployment("x"), &after, Some(8), false);
        assert_eq!(later[REVISION_HISTORY], "2,5");
    }

    #[test]
    fn history_is_cut_from_its_oldest_end() {
        let old = |name: &str, revision: i64, replicas: i32| -> Arc<ReplicaSet> {
            Arc::new(
                serde_json::from_value(json!({
                    "metadata": {"name": name, "annotations": {REVISION: revision.to_string()}},
                    "spec": {"replicas": replicas, "selector": {}}, "status": {"replicas": replicas}
                }))
                .unwrap(),
            )
        };
        let sets = [old("c", 3, 0), old("a", 1, 0), old("b", 2, 1)];
        let names: Vec<_> = forgettable(&deployment("x"), &sets).iter().map(|s| s.name_any()).collect();
        assert_eq!(names, ["a"], "b still has a pod, c is within the limit");
    }
}
