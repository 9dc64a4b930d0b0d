//! An object as quotas see it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuotaSpec, Service};
use serde_json::Value;

use super::{names, scopes, usage};
use crate::requests::Amounts;
use kinit_apimachinery::status::qualified;

/// An object that quotas may count (`quota.Evaluator`).
#[derive(Debug, Clone)]
pub enum Subject {
    /// Measured in what it asks for.
    Pod(Box<Pod>),
    /// Measured in ports and balancers.
    Service(Box<Service>),
    /// Measured in storage.
    Claim(Box<PersistentVolumeClaim>),
    /// Counted, by these names.
    Object(Vec<String>),
}

impl Subject {
    /// From an object of a resource.
    pub fn of(group: &str, plural: &str, object: &Value) -> Result<Self, serde_json::Error> {
        use serde::Deserialize;
        Ok(match (group, plural) {
            ("", "pods") => Self::Pod(Box::new(Pod::deserialize(object)?)),
            ("", "services") => Self::Service(Box::new(Service::deserialize(object)?)),
            ("", "persistentvolumeclaims") => Self::Claim(Box::new(PersistentVolumeClaim::deserialize(object)?)),
            _ => {
                let mut names = vec![format!("count/{}", qualified(group, plural))];
                if group.is_empty() && names::counted(plural).is_some() {
                    names.push(plural.to_owned());
                }
                Self::Object(names)
            }
        })
    }

    /// Whether the object is measured by a name of `spec.hard` (`MatchingResources`).
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::Pod(_) => names::is_of_pods(name),
            Self::Service(_) => names::is_of_services(name),
            Self::Claim(_) => names::is_of_claims(name),
            Self::Object(names) => names.iter().any(|n| n == name),
        }
    }

    /// Whether all the quota's scopes hold for it.
    pub fn is_in_scope(&self, spec: &ResourceQuotaSpec) -> bool {
        match self {
            Self::Pod(pod) => scopes::speaks_of_pod(spec, pod),
            Self::Claim(claim) => scopes::speaks_of_claim(spec, claim),
            Self::Service(_) | Self::Object(_) => !scopes::has_scopes(spec),
        }
    }

    /// What it uses.
    pub fn usage(&self, now: Timestamp) -> Amounts {
        match self {
            Self::Pod(pod) => usage::of_pod(pod, now),
            Self::Service(service) => usage::of_service(service),
            Self::Claim(claim) => usage::of_claim(claim),
            Self::Object(names) => names.iter().map(|name| (name.clone(), usage::number(1))).collect(),
        }
    }

    /// What it fails to say where a quota has these names, in upstream's words.
    pub fn unsaid(&self, names: &BTreeSet<&str>) -> Option<String> {
        match self {
            Self::Pod(pod) => names::unsaid(pod, names),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plain_objects_are_counted() {
        for (group, plural, expected) in [
            ("", "configmaps", vec!["count/configmaps", "configmaps"]),
            ("", "serviceaccounts", vec!["count/serviceaccounts"]),
            ("apps", "deployments", vec!["count/deployments.apps"]),
        ] {
            let subject = Subject::of(group, plural, &json!({})).unwrap();
            let used: BTreeSet<String> = subject.usage(Timestamp::UNIX_EPOCH).into_keys().collect();
            assert_eq!(used, expected.iter().map(|n| (*n).to_owned()).collect(), "{plural}");
            assert!(expected.iter().all(|n| subject.has(n)) && !subject.has("pods"));
        }
        let scoped: ResourceQuotaSpec = serde_json::from_value(json!({"scopes": ["BestEffort"]})).unwrap();
        assert!(!Subject::of("", "secrets", &json!({})).unwrap().is_in_scope(&scoped));
    }
}
