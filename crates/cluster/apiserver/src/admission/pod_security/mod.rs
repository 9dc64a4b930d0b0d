//! PodSecurity: namespaces say by labels how much their pods may do (`k8s.io/pod-security-admission`).
//!
//! ```text
//! labels ── policy ──┬─ enforce ── pods that violate it are refused
//!                    ├─ audit ──── noted in the audit log     } pods, and what has a template of pods
//!                    └─ warn ───── told to the client         }
//! checks   the standards themselves, a table of pure functions     judge     a pod against a policy
//! existing what a namespace's pods would violate when more is enforced     change   which updates of pods matter
//! ```
//!
//! Deliberately absent: exemptions and other defaults than `privileged` (upstream's `PodSecurityConfiguration`).

mod change;
mod checks;
mod existing;
mod judge;
mod policy;

use std::sync::Arc;

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::status::FieldErrors;
use kinit_storage::Entry;
use serde_json::Value;

use self::checks::Pod;
use self::policy::{Policy, Standard};
use super::{Attributes, Operation};
use crate::registry::cached;

/// Subresources of pods that change nothing which the standards look at.
const IGNORED: &[&str] = &["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

/// Holds a new or changed namespace, pod or template of pods against its namespace's policy.
pub async fn check(attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
    let (group, kind) = attributes.kind();
    match (group, kind, attributes.subresource) {
        _ if attributes.operation == Operation::Delete => Ok(()),
        ("", "Namespace", "") => check_namespace(attributes, object).await,
        ("", "Pod", sub) if !IGNORED.contains(&sub) => check_pod(attributes, object).await,
        (_, _, "") => match template(group, kind).and_then(|path| object.at(path)) {
            Some(template) => check_template(attributes, template).await,
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Where a kind keeps its template of pods.
fn template(group: &str, kind: &str) -> Option<&'static [&'static str]> {
    match (group, kind) {
        ("", "PodTemplate") => Some(&["template"]),
        ("", "ReplicationController")
        | ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet")
        | ("batch", "Job") => Some(&["spec", "template"]),
        ("batch", "CronJob") => Some(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

async fn check_pod(attributes: &Attributes<'_>, pod: &Value) -> Result<(), ApiError> {
    let request = attributes.request;
    let Some(namespace) = namespace_of(attributes).await? else {
        return Err(ApiError::internal(format!("failed to lookup namespace {}", request.info.namespace)));
    };
    let (policy, errors) = Policy::of(|key| namespace.label(key));
    if errors.0.is_empty() && [policy.enforce, policy.audit, policy.warn].into_iter().all(Standard::is_privileged) {
        request.annotate(judge::ENFORCED, Standard::PRIVILEGED.to_string());
        return Ok(());
    }
    if attributes.old.is_some_and(|old| !change::matters(pod, old)) {
        return Ok(());
    }
    let verdict = judge::judge(&policy, &errors, Pod::of(pod), true);
    match verdict.tell(request) {
        Some(cause) => Err(ApiError::forbidden("", "pods", pod.name(), &cause)),
        None => Ok(()),
    }
}

async fn check_template(attributes: &Attributes<'_>, template: &Value) -> Result<(), ApiError> {
    let request = attributes.request;
    // Nothing is enforced here: the pods themselves will be.
    let namespace = match namespace_of(attributes).await {
        Ok(Some(namespace)) => namespace,
        Ok(None) => {
            let name = &request.info.namespace;
            let text = format!("failed to lookup namespace {name}: namespaces \"{name}\" not found");
            request.annotate(judge::ERROR, text);
            return Ok(());
        }
        Err(error) => {
            request.annotate(judge::ERROR, format!("failed to lookup namespace {}: {error}", request.info.namespace));
            return Ok(());
        }
    };
    let (policy, errors) = Policy::of(|key| namespace.label(key));
    if !(errors.0.is_empty() && policy.warn.is_privileged() && policy.audit.is_privileged()) {
        judge::judge(&policy, &errors, Pod::of(template), false).tell(request);
    }
    Ok(())
}

/// The request's namespace: from the cache, or from etcd when it is too new for the cache.
async fn namespace_of(attributes: &Attributes<'_>) -> Result<Option<Arc<Entry>>, ApiError> {
    let request = attributes.request;
    let name = request.info.namespace.as_str();
    let store = &request.server.store;
    match cached::one(&request.server, "namespaces/", name)? {
        Some(entry) => Ok(Some(entry)),
        None => Ok(store.get("namespaces/", name).await.map_err(|e| request.storage_error(e))?.map(Into::into)),
    }
}

/// Labels that cannot be read are refused where they are new; pods that exist are held against what is enforced anew.
async fn check_namespace(attributes: &Attributes<'_>, namespace: &Value) -> Result<(), ApiError> {
    let (policy, errors) = Policy::of(|key| namespace.label(key));
    let before = attributes.old.map(|old| Policy::of(|key| old.label(key)));
    let told_before = |errors: &FieldErrors| before.as_ref().is_some_and(|(_, old)| old.0 == errors.0);
    if !errors.0.is_empty() && !told_before(&errors) {
        return errors.into_result("", "Namespace", namespace.name());
    }
    if let Some((old, _)) = before
        && is_raised(old.enforce, policy.enforce)
    {
        let (request, name) = (attributes.request, namespace.name().to_owned());
        let pods = request.server.store.cache("pods/").map(|c| c.all_last_known(&format!("{name}/"), |_| true).0);
        let enforce = policy.enforce;
        let run = move || existing::warnings(&name, enforce, &pods.unwrap_or_default(), existing::a_second());
        let texts = tokio::task::spawn_blocking(run).await;
        for text in texts.map_err(|e| ApiError::internal(format!("check the namespace's pods: {e}")))? {
            request.warn(text);
        }
    }
    Ok(())
}

/// Whether pods that were fine may now violate what is enforced.
fn is_raised(old: Standard, new: Standard) -> bool {
    !new.is_privileged() && (new.version != old.version || new.level > old.level)
}

#[cfg(test)]
mod tests {
    use super::policy::{Level, Version};
    use super::*;

    #[test]
    fn what_is_enforced_anew() {
        let standard = |level, version| Standard { level, version };
        let latest = |level| standard(level, Version::Latest);
        for (old, new, want) in [
            (latest(Level::Privileged), latest(Level::Baseline), true),
            (latest(Level::Baseline), latest(Level::Baseline), false),
            (latest(Level::Restricted), latest(Level::Baseline), false),
            (latest(Level::Restricted), standard(Level::Baseline, Version::Minor(30)), true),
            (latest(Level::Baseline), standard(Level::Privileged, Version::Minor(30)), false),
        ] {
            assert_eq!(is_raised(old, new), want, "{old} -> {new}");
        }
    }
}
