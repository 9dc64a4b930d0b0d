//! What a failed pod means (`podFailurePolicy`) and when enough has succeeded (`successPolicy`). No IO.
//!
//! Upstream: `pkg/controller/job/pod_failure_policy.go`, `success_policy.go`.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern, SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kinit_component_helpers::pod::{condition, phase};
use kube::ResourceExt;

use super::indexes;

/// What a failed pod means for its Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// It counts against the back-off limits.
    Counts,
    /// It is as if it had not been.
    Ignored,
    /// Its index has failed for good.
    FailsIndex,
    /// The Job has failed; the text says why.
    FailsJob(String),
}

/// Whether pods are replaced only once they are over, not from the beginning of their deletion.
pub fn replaces_late(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

/// Whether the pod has failed. A pod that is being deleted has too, unless its end is to be waited for.
pub fn has_failed(spec: &JobSpec, pod: &Pod) -> bool {
    phase(pod) == "Failed"
        || !replaces_late(spec) && pod.metadata.deletion_timestamp.is_some() && phase(pod) != "Succeeded"
}

/// The first rule of the policy that matches decides; without a match the pod counts.
pub fn meaning(spec: &JobSpec, pod: &Pod) -> Meaning {
    let rules = spec.pod_failure_policy.iter().flat_map(|p| &p.rules);
    for (number, rule) in rules.enumerate() {
        let matched = if let Some(codes) = &rule.on_exit_codes {
            failed_container(pod, codes)
        } else {
            rule.on_pod_conditions.as_ref().and_then(|patterns| failed_condition(pod, patterns))
        };
        let Some(what) = matched else { continue };
        return match rule.action.as_str() {
            "Ignore" => Meaning::Ignored,
            "FailIndex" => Meaning::FailsIndex,
            "FailJob" => Meaning::FailsJob(format!("{what} matching FailJob rule at index {number}")),
            _ => Meaning::Counts,
        };
    }
    Meaning::Counts
}

fn failed_container(pod: &Pod, codes: &PodFailurePolicyOnExitCodesRequirement) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let code = |c: &ContainerStatus| c.state.as_ref()?.terminated.as_ref().map(|t| t.exit_code);
    let named = |c: &ContainerStatus| codes.container_name.as_ref().is_none_or(|name| *name == c.name);
    let listed = |code: i32| match codes.operator.as_str() {
        "In" => codes.values.contains(&code),
        "NotIn" => !codes.values.contains(&code),
        _ => false,
    };
    let (container, code) =
        all.filter(|c| named(c)).filter_map(|c| Some((c, code(c)?))).find(|(_, code)| *code != 0 && listed(*code))?;
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    Some(format!("Container {} for pod {namespace}/{name} failed with exit code {code}", container.name))
}

fn failed_condition(pod: &Pod, patterns: &[PodFailurePolicyOnPodConditionsPattern]) -> Option<String> {
    let holds = |p: &&PodFailurePolicyOnPodConditionsPattern| {
        condition(pod, &p.type_).is_some_and(|c| c.status == p.status.as_deref().unwrap_or("True"))
    };
    let pattern = patterns.iter().find(holds)?;
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    Some(format!("Pod {namespace}/{name} has condition {}", pattern.type_))
}

/// Which rule of a success policy these completed indexes fulfil.
pub fn success(policy: Option<&SuccessPolicy>, completions: i32, completed: &BTreeSet<i32>) -> Option<String> {
    if completed.is_empty() {
        return None;
    }
    let enough = |have: usize, count: i32| i32::try_from(have).is_ok_and(|have| have >= count);
    let met = policy?.rules.iter().position(|rule| match (&rule.succeeded_indexes, rule.succeeded_count) {
        (Some(text), count) => {
            let wanted = indexes::parse(text, completions);
            let have = wanted.intersection(completed).count();
            count.map_or(have == wanted.len(), |count| enough(have, count))
        }
        (None, Some(count)) => enough(completed.len(), count),
        (None, None) => false,
    })?;
    Some(format!("Matched rules at index {met}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(rules: Value) -> JobSpec {
        serde_json::from_value(json!({"template": {}, "podFailurePolicy": {"rules": rules}})).unwrap()
    }

    fn pod(exit: i32, conditions: &[&str]) -> Pod {
        let conditions: Vec<_> = conditions.iter().map(|c| json!({"type": c, "status": "True"})).collect();
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "status": {
            "phase": "Failed", "conditions": conditions,
            "containerStatuses": [
                {"name": "side", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 0}}},
                {"name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": exit}}}]
        }}))
        .unwrap()
    }

    #[test]
    fn what_a_failed_pod_means() {
        let codes = |action: &str, operator: &str, values: Value, name: Value| {
            json!([{"action": action,
            "onExitCodes": {"containerName": name, "operator": operator, "values": values}}])
        };
        let disrupted = |action: &str| json!([{"action": action, "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]);
        let fails = |text: &str| Meaning::FailsJob(text.into());
        for (rules, pod, expected) in [
            (json!([]), pod(1, &[]), Meaning::Counts),
            (
                codes("FailJob", "In", json!([42]), json!(null)),
                pod(42, &[]),
                fails("Container main for pod n/p failed with exit code 42 matching FailJob rule at index 0"),
            ),
            (codes("FailJob", "In", json!([42]), json!(null)), pod(1, &[]), Meaning::Counts),
            (codes("FailJob", "In", json!([42]), json!("side")), pod(42, &[]), Meaning::Counts),
            (codes("FailIndex", "NotIn", json!([1]), json!("main")), pod(42, &[]), Meaning::FailsIndex),
            (codes("Ignore", "NotIn", json!([1]), json!(null)), pod(0, &[]), Meaning::Counts),
            (disrupted("Ignore"), pod(137, &["DisruptionTarget"]), Meaning::Ignored),
            (disrupted("Ignore"), pod(137, &[]), Meaning::Counts),
            (disrupted("Count"), pod(137, &["DisruptionTarget"]), Meaning::Counts),
            (
                disrupted("FailJob"),
                pod(137, &["DisruptionTarget"]),
                fails("Pod n/p has condition DisruptionTarget matching FailJob rule at index 0"),
            ),
        ] {
            assert_eq!(meaning(&spec(rules.clone()), &pod), expected, "{rules}");
        }
        let first = json!([disrupted("Ignore")[0], codes("FailJob", "In", json!([1]), json!(null))[0]]);
        assert_eq!(meaning(&spec(first), &pod(1, &["DisruptionTarget"])), Meaning::Ignored, "the first that matches");
    }

    #[test]
    fn when_enough_has_succeeded() {
        for (rules, completed, expected) in [
            (json!([{"succeededIndexes": "0,2-3"}]), vec![0, 2], None),
            (json!([{"succeededIndexes": "0,2-3"}]), vec![0, 2, 3], Some(0)),
            (json!([{"succeededIndexes": "0,2-3", "succeededCount": 2}]), vec![1, 2], None),
            (json!([{"succeededIndexes": "0,2-3", "succeededCount": 2}]), vec![2, 3], Some(0)),
            (json!([{"succeededIndexes": "9"}, {"succeededCount": 2}]), vec![4, 5], Some(1)),
            (json!([{"succeededCount": 0}]), vec![], None),
        ] {
            let policy: SuccessPolicy = serde_json::from_value(json!({"rules": rules})).unwrap();
            let got = success(Some(&policy), 10, &completed.iter().copied().collect());
            assert_eq!(got, expected.map(|i| format!("Matched rules at index {i}")), "{rules} {completed:?}");
        }
    }
}
