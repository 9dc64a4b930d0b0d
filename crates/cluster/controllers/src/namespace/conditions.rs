//! What stands between a namespace and its end, as conditions.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::{DynamicObject, PartialObjectMeta};

use crate::discovery::ApiResource;

/// What a pass over the namespace found.
#[derive(Debug, Default, PartialEq)]
pub struct Findings {
    /// API groups that could not be asked.
    pub discovery: Vec<String>,
    /// Resources whose objects could not be deleted.
    pub content: Vec<String>,
    /// Objects left, by resource.
    pub remaining: BTreeMap<String, usize>,
    /// Objects left that carry a finalizer, by finalizer.
    pub finalizers: BTreeMap<String, usize>,
}

impl Findings {
    /// Counts what is left of a resource.
    pub fn add(&mut self, resource: &ApiResource, left: &[PartialObjectMeta<DynamicObject>]) {
        if left.is_empty() {
            return;
        }
        *self.remaining.entry(resource.qualified()).or_default() += left.len();
        for finalizer in left.iter().flat_map(|o| o.metadata.finalizers.iter().flatten()) {
            *self.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }

    /// What went wrong.
    pub fn failures(&self) -> String {
        self.discovery.iter().chain(&self.content).cloned().collect::<Vec<_>>().join("; ")
    }
}

/// The namespace with phase and conditions as they should be; `None` when they are.
pub fn with_conditions(namespace: &Namespace, findings: &Findings, now: &Time) -> Option<Namespace> {
    let mut wanted = namespace.clone();
    let status = wanted.status.get_or_insert_default();
    status.phase = Some("Terminating".into());
    let conditions = status.conditions.get_or_insert_default();
    let count = |of: &BTreeMap<String, usize>, what: &str| {
        of.iter().map(|(name, n)| format!("{name} {what} {n} resource instances")).collect::<Vec<_>>().join(", ")
    };
    let remaining = count(&findings.remaining, "has");
    let finalizers = count(&findings.finalizers, "in");
    for (type_, bad, reasons, good) in [
        (
            "NamespaceDeletionDiscoveryFailure",
            findings.discovery.join("; "),
            ("DiscoveryFailed", "ResourcesDiscovered"),
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            String::new(),
            ("GroupVersionParsingFailed", "ParsedGroupVersions"),
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            findings.content.join("; "),
            ("ContentDeletionFailed", "ContentDeleted"),
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            prefixed("Some resources are remaining: ", &remaining),
            ("SomeResourcesRemain", "ContentRemoved"),
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            prefixed("Some content in the namespace has finalizers remaining: ", &finalizers),
            ("SomeFinalizersRemain", "ContentHasNoFinalizers"),
            "All content-preserving finalizers finished",
        ),
    ] {
        let failed = !bad.is_empty();
        let reason = if failed { reasons.0 } else { reasons.1 };
        set(conditions, type_, failed, reason, if failed { bad } else { good.to_owned() }, now);
    }
    (wanted != *namespace).then_some(wanted)
}

/// Sets a condition; its time is that of the last change of its status.
fn set(conditions: &mut Vec<NamespaceCondition>, type_: &str, failed: bool, reason: &str, message: String, now: &Time) {
    let status = if failed { "True" } else { "False" };
    match conditions.iter_mut().find(|c| c.type_ == type_) {
        Some(condition) => {
            if condition.status != status {
                condition.last_transition_time = Some(now.clone());
            }
            condition.status = status.into();
            condition.reason = Some(reason.into());
            condition.message = Some(message);
        }
        None => conditions.push(NamespaceCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(now.clone()),
        }),
    }
}

fn prefixed(prefix: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{prefix}{text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_written_once() {
        let namespace: Namespace = serde_json::from_value(serde_json::json!({"metadata": {"name": "n"}})).unwrap();
        let mut findings = Findings::default();
        findings.remaining.insert("pods.".into(), 2);
        let first = with_conditions(&namespace, &findings, &crate::object::now()).unwrap();
        let remaining = |n: &Namespace| {
            let all = n.status.as_ref().unwrap().conditions.clone().unwrap();
            all.into_iter().find(|c| c.type_ == "NamespaceContentRemaining").unwrap()
        };
        assert_eq!(
            remaining(&first).message.as_deref(),
            Some("Some resources are remaining: pods. has 2 resource instances")
        );
        assert_eq!(with_conditions(&first, &findings, &crate::object::now()), None);
        let clean = with_conditions(&first, &Findings::default(), &crate::object::now()).unwrap();
        assert_eq!(remaining(&clean).status, "False");
    }
}
