//! Not root: said to be so, and not user 0.

use serde_json::Value;

use super::{Finding, Pod, containers, context, names, setters};

/// `runAsNonRoot`.
pub fn non_root(pod: Pod<'_>) -> Option<Finding> {
    let reason = "runAsNonRoot != true";
    let said = |value: Option<&Value>| value.and_then(Value::as_bool);
    let own = said(pod.context(&["runAsNonRoot"]));
    let of = |container| said(context(container, &["runAsNonRoot"]));
    if let Some(who) = setters(own == Some(false), &names(pod, |c| of(c) == Some(false))) {
        return Some(Finding::new(reason, format!("{who} must not set securityContext.runAsNonRoot=false")));
    }
    let silent = names(pod, |c| of(c).is_none());
    if own == Some(true) || silent.is_empty() {
        return None;
    }
    Some(Finding::new(reason, format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&silent))))
}

/// `runAsUser`.
pub fn not_zero(pod: Pod<'_>) -> Option<Finding> {
    let zero = |value: Option<&Value>| value.and_then(Value::as_i64) == Some(0);
    let bad = names(pod, |c| zero(context(c, &["runAsUser"])));
    let who = setters(zero(pod.context(&["runAsUser"])), &bad)?;
    Some(Finding::new("runAsUser=0", format!("{who} must not set runAsUser=0")))
}

/// From v1.35 on: root of a pod with users of its own is nobody on the host.
pub fn non_root_unless_own_users(pod: Pod<'_>) -> Option<Finding> {
    if pod.has_own_users() { None } else { non_root(pod) }
}

/// From v1.35 on, as above.
pub fn not_zero_unless_own_users(pod: Pod<'_>) -> Option<Finding> {
    if pod.has_own_users() { None } else { not_zero(pod) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;
    use super::*;
    use serde_json::json;

    fn says(name: &str, yes: bool) -> Value {
        json!({"name": name, "securityContext": {"runAsNonRoot": yes}})
    }

    #[test]
    fn non_root_must_be_said() {
        for (spec, want) in [
            (json!({"securityContext": {"runAsNonRoot": true}, "containers": [{"name": "a"}, says("b", true)]}), ""),
            (json!({"containers": [says("a", true)]}), ""),
            (
                json!({"containers": [{"name": "a"}, says("b", true), {"name": "c"}]}),
                r#"runAsNonRoot != true (pod or containers "a", "c" must set securityContext.runAsNonRoot=true)"#,
            ),
            (
                json!({"securityContext": {"runAsNonRoot": true}, "containers": [{"name": "a"}, says("b", false)]}),
                r#"runAsNonRoot != true (container "b" must not set securityContext.runAsNonRoot=false)"#,
            ),
            (
                json!({"securityContext": {"runAsNonRoot": false}, "containers": [{"name": "a"}, says("b", false)]}),
                r#"runAsNonRoot != true (pod and container "b" must not set securityContext.runAsNonRoot=false)"#,
            ),
        ] {
            assert_eq!(run(non_root, &spec), want);
        }
    }

    #[test]
    fn user_zero() {
        let mut spec = json!({"securityContext": {"runAsUser": 0}, "containers": [
            {"name": "a", "securityContext": {"runAsUser": 0}}, {"name": "b", "securityContext": {"runAsUser": 1}}, {"name": "c"}]});
        assert_eq!(run(not_zero, &spec), r#"runAsUser=0 (pod and container "a" must not set runAsUser=0)"#);
        assert_eq!(run(not_zero_unless_own_users, &spec), run(not_zero, &spec));
        spec["hostUsers"] = false.into();
        assert_eq!(run(not_zero_unless_own_users, &spec), "");
        assert_eq!(run(non_root_unless_own_users, &spec), "");
        spec["hostUsers"] = true.into();
        assert_ne!(run(non_root_unless_own_users, &spec), "");
    }
}
