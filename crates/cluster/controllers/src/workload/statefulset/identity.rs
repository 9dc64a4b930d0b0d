//! Names, labels and claims of a StatefulSet's pods. No IO.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use kube::ResourceExt;

use crate::workload::pods::from_template;
use crate::workload::revisions::HASH;

/// A pod's ordinal in this set, from its name.
pub fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let rest = pod.metadata.name.as_deref()?.strip_prefix(set.metadata.name.as_deref()?)?;
    rest.strip_prefix('-')?.parse().ok().filter(|n| *n >= 0)
}

/// The pod of an ordinal, of a revision's template.
pub fn pod(set: &StatefulSet, template: &PodTemplateSpec, hash: &str, ordinal: i32) -> Pod {
    let name = format!("{}-{ordinal}", set.name_any());
    let mut pod = from_template(template, set);
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.labels_mut();
    labels.insert("statefulset.kubernetes.io/pod-name".into(), name.clone());
    labels.insert("apps.kubernetes.io/pod-index".into(), ordinal.to_string());
    labels.insert(HASH.into(), hash.to_owned());
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
}
