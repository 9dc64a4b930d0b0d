//! Which objects a quota with scopes speaks of (`podMatchesScopeFunc`, `pvcMatchesScopeFunc`).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, Pod, PodAffinityTerm, ResourceQuotaSpec, ScopedResourceSelectorRequirement,
    WeightedPodAffinityTerm,
};

use crate::qos::{self, Qos};

/// The scopes there are.
pub const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

/// Whether the quota has scopes: then it speaks of pods and claims alone.
pub fn has_scopes(spec: &ResourceQuotaSpec) -> bool {
    requirements(spec).next().is_some()
}

/// The scopes as requirements: a plain one is that it exists (`getScopeSelectorsFromQuota`).
fn requirements(spec: &ResourceQuotaSpec) -> impl Iterator<Item = ScopedResourceSelectorRequirement> {
    let plain = spec.scopes.iter().flatten().map(|scope| ScopedResourceSelectorRequirement {
        scope_name: scope.clone(),
        operator: "Exists".into(),
        values: None,
    });
    plain.chain(spec.scope_selector.iter().flat_map(|s| s.match_expressions.iter().flatten()).cloned())
}

/// Whether all the quota's scopes hold for the pod.
pub fn speaks_of_pod(spec: &ResourceQuotaSpec, pod: &Pod) -> bool {
    requirements(spec).all(|requirement| holds_for_pod(&requirement, pod))
}

/// Whether all the quota's scopes hold for the claim.
pub fn speaks_of_claim(spec: &ResourceQuotaSpec, claim: &PersistentVolumeClaim) -> bool {
    requirements(spec).all(|r| r.scope_name == "VolumeAttributesClass" && selects(&r, &attribute_classes(claim)))
}

/// A set of names against the requirement, as one label against a selector; several names are as many chances.
fn selects(requirement: &ScopedResourceSelectorRequirement, names: &BTreeSet<&str>) -> bool {
    let listed = |name: &&str| requirement.values.iter().flatten().any(|v| v == name);
    match requirement.operator.as_str() {
        "In" => names.iter().any(listed),
        "NotIn" => names.is_empty() || !names.iter().all(listed),
        "Exists" => !names.is_empty(),
        "DoesNotExist" => names.is_empty(),
        _ => false,
    }
}

fn holds_for_pod(requirement: &ScopedResourceSelectorRequirement, pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let ends = spec.active_deadline_seconds.is_some_and(|s| s >= 0);
    match requirement.scope_name.as_str() {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => {
            let class = spec.priority_class_name.as_deref().filter(|c| !c.is_empty());
            selects(requirement, &class.into_iter().collect())
        }
        "CrossNamespacePodAffinity" => looks_elsewhere(pod),
        _ => false,
    }
}

/// By the status where the API server has written it, by the requirements otherwise.
fn is_best_effort(pod: &Pod) -> bool {
    if let Some(class) = pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        return class == "BestEffort";
    }
    qos::of_pod(pod) == Qos::BestEffort
}

fn looks_elsewhere(pod: &Pod) -> bool {
    let Some(affinity) = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()) else { return false };
    let elsewhere = |t: &PodAffinityTerm| {
        t.namespace_selector.is_some() || t.namespaces.as_ref().is_some_and(|all| !all.is_empty())
    };
    let any = |hard: &Option<Vec<PodAffinityTerm>>, soft: &Option<Vec<WeightedPodAffinityTerm>>| {
        hard.iter().flatten().any(elsewhere) || soft.iter().flatten().any(|w| elsewhere(&w.pod_affinity_term))
    };
    affinity.pod_affinity.as_ref().is_some_and(|a| {
        any(
            &a.required_during_scheduling_ignored_during_execution,
            &a.preferred_during_scheduling_ignored_during_execution,
        )
    }) || affinity.pod_anti_affinity.as_ref().is_some_and(|a| {
        any(
            &a.required_during_scheduling_ignored_during_execution,
            &a.preferred_during_scheduling_ignored_during_execution,
        )
    })
}

/// The classes that the claim has, wants or is on its way to (`getReferencedVolumeAttributesClassNames`).
fn attribute_classes(claim: &PersistentVolumeClaim) -> BTreeSet<&str> {
    let status = claim.status.as_ref();
    let names = [
        claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref()),
        status.and_then(|s| s.current_volume_attributes_class_name.as_deref()),
        status
            .and_then(|s| s.modify_volume_status.as_ref())
            .and_then(|m| m.target_volume_attributes_class_name.as_deref()),
    ];
    names.into_iter().flatten().filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn which_pods_a_quota_speaks_of() {
        let plain = json!({"containers": []});
        let asking = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]});
        let ending = json!({"containers": [], "activeDeadlineSeconds": 5});
        let high = json!({"containers": [], "priorityClassName": "high"});
        let far = json!({"containers": [], "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "k", "namespaces": ["x"]}]}}});
        let scopes = |list: Value| json!({"scopes": list});
        let class = |operator: &str, values: Value| {
            json!({"scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": operator, "values": values}]}})
        };
        for (spec, pod, expected) in [
            (json!({}), &plain, true),
            (scopes(json!(["BestEffort"])), &plain, true),
            (scopes(json!(["BestEffort"])), &asking, false),
            (scopes(json!(["NotBestEffort", "NotTerminating"])), &asking, true),
            (scopes(json!(["Terminating"])), &ending, true),
            (scopes(json!(["Terminating"])), &plain, false),
            (scopes(json!(["CrossNamespacePodAffinity"])), &far, true),
            (scopes(json!(["CrossNamespacePodAffinity"])), &plain, false),
            (class("In", json!(["high"])), &high, true),
            (class("In", json!(["high"])), &plain, false),
            (class("NotIn", json!(["high"])), &plain, true),
            (class("Exists", json!([])), &high, true),
            (class("DoesNotExist", json!([])), &high, false),
        ] {
            let quota: ResourceQuotaSpec = serde_json::from_value(spec.clone()).unwrap();
            let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": pod})).unwrap();
            assert_eq!(speaks_of_pod(&quota, &pod), expected, "{spec} {:?}", pod.spec);
            assert_eq!(has_scopes(&quota), spec != json!({}), "{spec}");
        }
    }

    #[test]
    fn which_claims_a_quota_speaks_of() {
        let class = |operator: &str, values: Value| {
            json!({"scopeSelector": {"matchExpressions": [
            {"scopeName": "VolumeAttributesClass", "operator": operator, "values": values}]}})
        };
        let plain = json!({"spec": {}});
        let changing = json!({"spec": {"volumeAttributesClassName": "gold"}, "status": {"currentVolumeAttributesClassName": "silver"}});
        for (spec, claim, expected) in [
            (json!({}), &plain, true),
            (json!({"scopes": ["BestEffort"]}), &plain, false),
            (json!({"scopes": ["VolumeAttributesClass"]}), &changing, true),
            (json!({"scopes": ["VolumeAttributesClass"]}), &plain, false),
            (class("In", json!(["silver"])), &changing, true),
            (class("In", json!(["bronze"])), &changing, false),
            (class("NotIn", json!(["gold"])), &changing, true),
            (class("NotIn", json!(["gold", "silver"])), &changing, false),
            (class("DoesNotExist", json!([])), &plain, true),
        ] {
            let quota: ResourceQuotaSpec = serde_json::from_value(spec.clone()).unwrap();
            let claim: PersistentVolumeClaim = serde_json::from_value(claim.clone()).unwrap();
            assert_eq!(speaks_of_claim(&quota, &claim), expected, "{spec} {claim:?}");
        }
    }
}
