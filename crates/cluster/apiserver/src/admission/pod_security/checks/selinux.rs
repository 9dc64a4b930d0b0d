//! SELinux: container types, and no user or role of the pod's choosing.

use std::collections::BTreeSet;

use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::{Finding, Pod, context, names, plural, quoted, setters};

const TYPES: &[&str] = &["", "container_t", "container_init_t", "container_kvm_t"];
const TYPES_WITH_ENGINE: &[&str] = &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

fn check(pod: Pod<'_>, allowed: &[&str]) -> Option<Finding> {
    let is_bad = |options: &Value| {
        !allowed.contains(&options.str_at(&["type"]))
            || !options.str_at(&["user"]).is_empty()
            || !options.str_at(&["role"]).is_empty()
    };
    let own = pod.context(&["seLinuxOptions"]);
    let of = |container| context(container, &["seLinuxOptions"]);
    let bad = names(pod, |c| of(c).is_some_and(is_bad));
    let who = setters(own.is_some_and(is_bad), &bad)?;
    let all: Vec<&Value> = own.into_iter().chain(pod.containers().filter_map(of)).collect();
    let types: BTreeSet<&str> = all.iter().map(|o| o.str_at(&["type"])).filter(|ty| !allowed.contains(ty)).collect();
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!("{} {}", plural("type", "types", types.len()), quoted(types)));
    }
    for field in ["user", "role"] {
        if all.iter().any(|o| !o.str_at(&[field]).is_empty()) {
            what.push(format!("{field} may not be set"));
        }
    }
    let detail = format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; "));
    Some(Finding::new("seLinuxOptions", detail))
}

/// `seLinuxOptions`.
pub fn options(pod: Pod<'_>) -> Option<Finding> {
    check(pod, TYPES)
}

/// `seLinuxOptions` from v1.31 on.
pub fn options_with_engine(pod: Pod<'_>) -> Option<Finding> {
    check(pod, TYPES_WITH_ENGINE)
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;
    use super::*;
    use serde_json::json;

    #[test]
    fn types_users_and_roles() {
        let spec = json!({"securityContext": {"seLinuxOptions": {"type": "foo", "user": "bar", "role": "baz"}}, "containers": [
            {"name": "a", "securityContext": {"seLinuxOptions": {"type": "container_t", "level": "s0"}}},
            {"name": "d", "securityContext": {"seLinuxOptions": {"type": "bar"}}},
            {"name": "e", "securityContext": {"seLinuxOptions": {"user": "bar"}}},
            {"name": "f", "securityContext": {"seLinuxOptions": {"role": "baz"}}}]});
        assert_eq!(
            run(options, &spec),
            r#"seLinuxOptions (pod and containers "d", "e", "f" set forbidden securityContext.seLinuxOptions: types "bar", "foo"; user may not be set; role may not be set)"#
        );
        let user = json!({"securityContext": {"seLinuxOptions": {"user": "bar"}}});
        assert_eq!(
            run(options, &user),
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: user may not be set)"
        );
    }

    #[test]
    fn engines_since_31() {
        let spec = json!({"containers": [{"name": "a", "securityContext": {"seLinuxOptions": {"type": "container_engine_t"}}}]});
        assert_eq!(
            run(options, &spec),
            r#"seLinuxOptions (container "a" set forbidden securityContext.seLinuxOptions: type "container_engine_t")"#
        );
        assert_eq!(run(options_with_engine, &spec), "");
    }
}
