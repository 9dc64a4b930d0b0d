//! Seccomp: never off in the baseline, always on when restricted.

use std::collections::BTreeSet;

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::status;
use serde_json::Value;

use super::{Finding, Pod, containers, context, names, plural, quoted, setters};

/// The annotation for the whole pod.
pub const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
/// What the annotation for a container starts with.
pub const CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// `seccompProfile_baseline` before v1.19.
pub fn annotations(pod: Pod<'_>) -> Option<Finding> {
    let keys = pod.containers().map(|c| format!("{CONTAINER}{}", c.str_at(&["name"])));
    let bad: BTreeSet<String> = std::iter::once(POD.to_owned())
        .chain(keys)
        .filter_map(|key| {
            let value = pod.object.annotation(&key)?;
            let fine = matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
            (!fine).then(|| format!("{key}={}", status::quoted(value)))
        })
        .collect();
    (!bad.is_empty()).then(|| {
        let noun = plural("annotation", "annotations", bad.len());
        Finding::new("seccompProfile", format!("forbidden {noun} {}", bad.into_iter().collect::<Vec<_>>().join(", ")))
    })
}

fn bad(profile: Option<&Value>) -> Option<&str> {
    profile.map(|p| p.str_at(&["type"])).filter(|ty| !matches!(*ty, "RuntimeDefault" | "Localhost"))
}

fn of(container: &Value) -> Option<&Value> {
    context(container, &["seccompProfile"])
}

/// `seccompProfile_baseline` from v1.19 on.
pub fn baseline(pod: Pod<'_>) -> Option<Finding> {
    let own = bad(pod.context(&["seccompProfile"]));
    let who = setters(own.is_some(), &names(pod, |c| bad(of(c)).is_some()))?;
    let types: BTreeSet<&str> = own.into_iter().chain(pod.containers().filter_map(|c| bad(of(c)))).collect();
    let detail = format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(types));
    Some(Finding::new("seccompProfile", detail))
}

/// `seccompProfile_restricted`.
pub fn restricted(pod: Pod<'_>) -> Option<Finding> {
    if let Some(finding) = baseline(pod) {
        return Some(finding);
    }
    if pod.context(&["seccompProfile"]).is_some() {
        return None;
    }
    let open = names(pod, |c| of(c).is_none());
    (!open.is_empty()).then(|| {
        let who = containers(&open);
        let detail =
            format!("pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"");
        Finding::new("seccompProfile", detail)
    })
}

/// From v1.25 on: Windows has no seccomp.
pub fn restricted_but_windows(pod: Pod<'_>) -> Option<Finding> {
    if pod.is_windows() { None } else { restricted(pod) }
}

#[cfg(test)]
mod tests {
    use super::super::{details, tests::run};
    use super::*;
    use serde_json::json;

    #[test]
    fn old_annotations() {
        let pod = json!({"metadata": {"annotations": {
            "seccomp.security.alpha.kubernetes.io/pod": "unconfined",
            "container.seccomp.security.alpha.kubernetes.io/a": "unknown",
            "container.seccomp.security.alpha.kubernetes.io/b": "docker/default",
            "container.seccomp.security.alpha.kubernetes.io/nobody": "unconfined",
        }}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(
            details(&annotations(Pod::of(&pod)).into_iter().collect::<Vec<_>>()),
            r#"seccompProfile (forbidden annotations container.seccomp.security.alpha.kubernetes.io/a="unknown", seccomp.security.alpha.kubernetes.io/pod="unconfined")"#
        );
    }

    #[test]
    fn off_is_refused_by_both() {
        let off = json!({"seccompProfile": {"type": "Unconfined"}});
        let spec = json!({"os": {"name": "windows"}, "securityContext": off,
            "containers": [{"name": "a", "securityContext": off}, {"name": "b", "securityContext": {"seccompProfile": {"type": "Localhost"}}}]});
        let text = r#"seccompProfile (pod and container "a" must not set securityContext.seccompProfile.type to "Unconfined")"#;
        assert_eq!(run(baseline, &spec), text);
        assert_eq!(run(restricted, &spec), text);
        assert_eq!(run(restricted_but_windows, &spec), "");
    }

    #[test]
    fn restricted_wants_a_profile() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c", "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}]});
        assert_eq!(run(baseline, &spec), "");
        assert_eq!(
            run(restricted, &spec),
            r#"seccompProfile (pod or containers "a", "b" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#
        );
        let set =
            json!({"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}, "containers": [{"name": "a"}]});
        assert_eq!(run(restricted, &set), "");
    }
}
