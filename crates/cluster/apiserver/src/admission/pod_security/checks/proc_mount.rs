//! `/proc` with the runtime's masks.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Finding, Pod, containers, context, names, quoted};

fn bad(container: &Value) -> Option<&str> {
    context(container, &["procMount"]).and_then(Value::as_str).filter(|kind| *kind != "Default")
}

/// `procMount` and `procMount_restricted`.
pub fn always(pod: Pod<'_>) -> Option<Finding> {
    let who = names(pod, |c| bad(c).is_some());
    let kinds: BTreeSet<&str> = pod.containers().filter_map(bad).collect();
    (!who.is_empty()).then(|| {
        let detail = format!("{} must not set securityContext.procMount to {}", containers(&who), quoted(kinds));
        Finding::new("procMount", detail)
    })
}

/// `procMount` from v1.35 on: a pod with users of its own may see all.
pub fn unless_own_users(pod: Pod<'_>) -> Option<Finding> {
    if pod.has_own_users() { None } else { always(pod) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;
    use super::*;
    use serde_json::json;

    #[test]
    fn only_the_default() {
        let mut spec = json!({"containers": [
            {"name": "a"}, {"name": "b", "securityContext": {"procMount": "Default"}},
            {"name": "c", "securityContext": {"procMount": "Unmasked"}}, {"name": "d", "securityContext": {"procMount": "other"}}]});
        let text = r#"procMount (containers "c", "d" must not set securityContext.procMount to "Unmasked", "other")"#;
        assert_eq!(run(always, &spec), text);
        spec["hostUsers"] = true.into();
        assert_eq!(run(unless_own_users, &spec), text);
        spec["hostUsers"] = false.into();
        assert_eq!(run(unless_own_users, &spec), "");
        assert_eq!(run(always, &spec), text);
    }
}
