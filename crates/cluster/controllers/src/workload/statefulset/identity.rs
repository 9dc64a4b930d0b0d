//! Names, labels and claims of a StatefulSet's pods. No IO.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;

use crate::object::owner::controller_ref;
use crate::workload::pods::from_template;
use crate::workload::revisions::HASH;

/// A pod's ordinal in this set, from its name.
pub fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let rest = pod.metadata.name.as_deref()?.strip_prefix(set.metadata.name.as_deref()?)?;
    rest.strip_prefix('-')?.parse().ok().filter(|n| *n >= 0)
}

/// The pod of an ordinal, of the template of the revision of this name.
pub fn pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let name = format!("{}-{ordinal}", set.name_any());
    let mut pod = from_template(template, set);
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.labels_mut();
    labels.insert("statefulset.kubernetes.io/pod-name".into(), name.clone());
    labels.insert("apps.kubernetes.io/pod-index".into(), ordinal.to_string());
    labels.insert(HASH.into(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.as_ref().and_then(|s| s.service_name.clone());
    let claims = claims(set, ordinal);
    let volumes = spec.volumes.get_or_insert_default();
    for (volume, claim) in claims {
        volumes.retain(|v| v.name != volume);
        volumes.push(Volume {
            name: volume,
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.name_any(),
                read_only: None,
            }),
            ..Default::default()
        });
    }
    pod
}

/// The claims of an ordinal, by volume name.
pub fn claims(set: &StatefulSet, ordinal: i32) -> Vec<(String, PersistentVolumeClaim)> {
    let Some(spec) = &set.spec else { return Vec::new() };
    let templates = spec.volume_claim_templates.iter().flatten();
    templates
        .map(|template| {
            let volume = template.name_any();
            let mut claim = template.clone();
            claim.metadata.name = Some(format!("{volume}-{}-{ordinal}", set.name_any()));
            claim.metadata.namespace = set.namespace();
            claim.status = None;
            if let Some(labels) = &spec.selector.match_labels {
                claim.labels_mut().extend(labels.clone());
            }
            (volume, claim)
        })
        .collect()
}

/// The owners that a claim should have by `persistentVolumeClaimRetentionPolicy`, or `None` when it has them.
///
/// A claim that goes with its set is the set's; one that goes with a pod that is scaled away is that pod's. The garbage
/// collector does the rest (`updateClaimOwnerRefForSetAndPod`).
pub fn claim_owners(
    set: &StatefulSet,
    pod: Option<&Pod>,
    claim: &PersistentVolumeClaim,
    scaled_away: bool,
) -> Option<Vec<OwnerReference>> {
    let policy = set.spec.as_ref().and_then(|s| s.persistent_volume_claim_retention_policy.as_ref());
    let deletes = |when: Option<&String>| when.is_some_and(|w| w == "Delete");
    let (on_deletion, on_scale) =
        (deletes(policy.and_then(|p| p.when_deleted.as_ref())), deletes(policy.and_then(|p| p.when_scaled.as_ref())));
    let by_pod = on_scale && scaled_away;
    let by_set = on_deletion && !by_pod;
    let set_uid = set.uid().unwrap_or_default();
    let pod_uid = pod.and_then(ResourceExt::uid);
    let current = claim.owner_references();
    let is_set = |o: &OwnerReference| o.uid == set_uid;
    let is_pod = |o: &OwnerReference| Some(&o.uid) == pod_uid.as_ref();
    let mut wanted: Vec<OwnerReference> =
        current.iter().filter(|o| (!is_set(o) || by_set) && (!is_pod(o) || by_pod)).cloned().collect();
    if by_set && !wanted.iter().any(is_set) {
        wanted.push(controller_ref(set));
    }
    if let Some(pod) = pod.filter(|_| by_pod && !wanted.iter().any(is_pod)) {
        wanted.push(controller_ref(pod));
    }
    (wanted != current).then_some(wanted)
}

/// Whether a claim is on its way out, with the pod it belonged to: the next pod of that name has to wait for a new one.
pub fn is_stale(claim: &PersistentVolumeClaim, name: &str) -> bool {
    claim.metadata.deletion_timestamp.is_some()
        || claim.owner_references().iter().any(|o| o.kind == "Pod" && o.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_and_claims() {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "n"},
            "spec": {"serviceName": "svc", "selector": {"matchLabels": {"app": "db"}}, "template": {},
                     "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}
        }))
        .unwrap();
        let pod = pod(&set, &PodTemplateSpec::default(), "h", 2);
        assert_eq!((pod.name_any().as_str(), ordinal(&set, &pod)), ("db-2", Some(2)));
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-2"), Some("svc")));
        let claim = spec.volumes.as_ref().unwrap()[0].persistent_volume_claim.as_ref().unwrap();
        assert_eq!(claim.claim_name, "data-db-2");
        let stranger =
            Pod { metadata: kube::api::ObjectMeta { name: Some("dbx-1".into()), ..Default::default() }, ..pod };
        assert_eq!(ordinal(&set, &stranger), None);
    }

    #[test]
    fn who_owns_a_claim() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "db-2", "uid": "pod"}})).unwrap();
        for (deleted, scaled, away, had, wanted) in [
            ("Retain", "Retain", true, vec![], None),
            ("Delete", "Retain", false, vec![], Some(vec!["set"])),
            ("Delete", "Retain", true, vec!["set"], None),
            ("Retain", "Delete", false, vec![], None),
            ("Retain", "Delete", true, vec![], Some(vec!["pod"])),
            ("Retain", "Delete", false, vec!["pod"], Some(vec![])),
            ("Delete", "Delete", true, vec!["set"], Some(vec!["pod"])),
            ("Delete", "Delete", false, vec!["other", "pod"], Some(vec!["other", "set"])),
            ("Retain", "Retain", false, vec!["set", "other"], Some(vec!["other"])),
        ] {
            let set: StatefulSet = serde_json::from_value(json!({
                "metadata": {"name": "db", "uid": "set"},
                "spec": {"selector": {}, "template": {}, "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}}
            }))
            .unwrap();
            let owner = |uid: &&str| OwnerReference { uid: (*uid).to_owned(), ..Default::default() };
            let mut claim = PersistentVolumeClaim::default();
            claim.metadata.owner_references = Some(had.iter().map(owner).collect());
            let got = claim_owners(&set, Some(&pod), &claim, away);
            let got = got.map(|all| all.into_iter().map(|o| o.uid).collect::<Vec<_>>());
            let wanted = wanted.map(|all: Vec<&str>| all.into_iter().map(str::to_owned).collect());
            assert_eq!(got, wanted, "{deleted} {scaled} {away} {had:?}");
        }
    }
}
