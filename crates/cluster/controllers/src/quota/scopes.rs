//! Which pods a quota with scopes speaks of (`pkg/quota/v1/evaluator/core.podMatchesScopeFunc`). No IO.

use k8s_openapi::api::core::v1::{
    Pod, PodAffinityTerm, ResourceQuota, ResourceQuotaSpec, ScopedResourceSelectorRequirement,
};

use super::requests::{Half, of_pod};

/// Whether the quota has scopes: then it speaks of pods alone.
pub fn has_scopes(quota: &ResourceQuota) -> bool {
    quota.spec.as_ref().is_some_and(|s| {
        s.scopes.as_ref().is_some_and(|all| !all.is_empty())
            || s.scope_selector.as_ref().is_some_and(|s| s.match_expressions.iter().flatten().next().is_some())
    })
}

/// Whether all the quota's scopes hold for the pod.
pub fn matches(spec: &ResourceQuotaSpec, pod: &Pod) -> bool {
    let selector = spec.scope_selector.iter().flat_map(|s| s.match_expressions.iter().flatten());
    spec.scopes.iter().flatten().all(|scope| holds(scope, pod)) && selector.clone().all(|r| requirement_holds(r, pod))
}

fn requirement_holds(requirement: &ScopedResourceSelectorRequirement, pod: &Pod) -> bool {
    if requirement.scope_name != "PriorityClass" {
        return holds(&requirement.scope_name, pod) == (requirement.operator != "DoesNotExist");
    }
    let class = pod.spec.as_ref().and_then(|s| s.priority_class_name.as_deref()).filter(|c| !c.is_empty());
    let listed = class.is_some_and(|c| requirement.values.iter().flatten().any(|v| v == c));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => class.is_some(),
        "DoesNotExist" => class.is_none(),
        _ => false,
    }
}

fn holds(scope: &str, pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let ends = spec.active_deadline_seconds.is_some_and(|s| s >= 0);
    match scope {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => spec.priority_class_name.as_ref().is_some_and(|c| !c.is_empty()),
        "CrossNamespacePodAffinity" => looks_elsewhere(pod),
        _ => false,
    }
}

/// By the status where the API server has written it, by the requirements otherwise.
fn is_best_effort(pod: &Pod) -> bool {
    if let Some(class) = pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        return class == "BestEffort";
    }
    let counts = |half| {
        let amounts = pod.spec.as_ref().map(|s| of_pod(s, half)).unwrap_or_default();
        amounts.iter().any(|(name, amount)| (name == "cpu" || name == "memory") && amount.value() > 0)
    };
    !counts(Half::Requests) && !counts(Half::Limits)
}

fn looks_elsewhere(pod: &Pod) -> bool {
    let Some(affinity) = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()) else { return false };
    let elsewhere = |t: &PodAffinityTerm| {
        t.namespace_selector.is_some() || t.namespaces.as_ref().is_some_and(|all| !all.is_empty())
    };
    let with = affinity.pod_affinity.iter().flat_map(|a| {
        let soft = a.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        let hard = a.required_during_scheduling_ignored_during_execution.iter().flatten();
        hard.chain(soft.map(|w| &w.pod_affinity_term))
    });
    let without = affinity.pod_anti_affinity.iter().flat_map(|a| {
        let soft = a.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        let hard = a.required_during_scheduling_ignored_during_execution.iter().flatten();
        hard.chain(soft.map(|w| &w.pod_affinity_term))
    });
    with.chain(without).any(elsewhere)
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
            let quota: ResourceQuota = serde_json::from_value(json!({"spec": spec})).unwrap();
            let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": pod})).unwrap();
            assert_eq!(matches(quota.spec.as_ref().unwrap(), &pod), expected, "{spec} {:?}", pod.spec);
            assert_eq!(has_scopes(&quota), spec != json!({}), "{spec}");
        }
    }
}
