//! AppArmor: the runtime's own profile or one of the host's, by field or by the older annotation.

use std::collections::BTreeSet;

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::status;
use serde_json::Value;

use super::{Finding, Pod, context, names, plural, quoted, setters};

const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

fn bad(profile: Option<&Value>) -> Option<&str> {
    profile.map(|p| p.str_at(&["type"])).filter(|ty| !matches!(*ty, "RuntimeDefault" | "Localhost"))
}

fn of(container: &Value) -> Option<&str> {
    bad(context(container, &["appArmorProfile"]))
}

/// `appArmorProfile`.
pub fn profile(pod: Pod<'_>) -> Option<Finding> {
    let own = bad(pod.context(&["appArmorProfile"]));
    let bad_containers = names(pod, |c| of(c).is_some());
    let values: BTreeSet<&str> = own.into_iter().chain(pod.containers().filter_map(of)).collect();
    let annotations = pod.object.at(&["metadata", "annotations"]).and_then(Value::as_object);
    let annotations: BTreeSet<String> = annotations
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key, value.as_str()?)))
        .filter(|(key, value)| {
            key.starts_with(ANNOTATION) && !matches!(*value, "" | "runtime/default") && !value.starts_with("localhost/")
        })
        .map(|(key, value)| format!("{key}={}", status::quoted(value)))
        .collect();
    let mut who: Vec<String> = setters(own.is_some(), &bad_containers).into_iter().collect();
    if !annotations.is_empty() {
        who.push(plural("annotation", "annotations", annotations.len()).to_owned());
    }
    if who.is_empty() {
        return None;
    }
    let what: Vec<&str> = values.into_iter().chain(annotations.iter().map(String::as_str)).collect();
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", what.len());
    Some(Finding::new(reason, format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(what))))
}

#[cfg(test)]
mod tests {
    use super::super::{details, tests::run};
    use super::*;
    use serde_json::json;

    #[test]
    fn fields() {
        let ok = json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {"appArmorProfile": {"type": "Localhost"}}}, {"name": "b"}]});
        assert_eq!(run(profile, &ok), "");
        let spec = json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}},
            "ephemeralContainers": [{"name": "a", "securityContext": {"appArmorProfile": {"type": "Unconfined"}}}]});
        assert_eq!(
            run(profile, &spec),
            r#"forbidden AppArmor profile (pod and container "a" must not set AppArmor profile type to "Unconfined")"#
        );
    }

    #[test]
    fn annotations() {
        let pod = json!({"metadata": {"annotations": {
            "container.apparmor.security.beta.kubernetes.io/a": "unconfined",
            "container.apparmor.security.beta.kubernetes.io/b": "runtime/default",
            "container.apparmor.security.beta.kubernetes.io/c": "localhost/x",
            "container.apparmor.security.beta.kubernetes.io/d": "",
            "container.apparmor.security.beta.kubernetes.io/e": "unknown",
        }}, "spec": {}});
        let found: Vec<_> = profile(Pod::of(&pod)).into_iter().collect();
        assert_eq!(
            details(&found),
            r#"forbidden AppArmor profiles (annotations must not set AppArmor profile type to "container.apparmor.security.beta.kubernetes.io/a="unconfined"", "container.apparmor.security.beta.kubernetes.io/e="unknown"")"#
        );
    }
}
