//! Privileged containers, those that may become more than they are, and Windows' host processes.

use serde_json::Value;

use super::{Finding, Pod, containers, context, is_true, names, setters};

/// `privileged`.
pub fn privileged(pod: Pod<'_>) -> Option<Finding> {
    let bad = names(pod, |c| is_true(context(c, &["privileged"])));
    (!bad.is_empty()).then(|| {
        Finding::new("privileged", format!("{} must not set securityContext.privileged=true", containers(&bad)))
    })
}

/// `windowsHostProcess`.
pub fn host_process(pod: Pod<'_>) -> Option<Finding> {
    let path = ["windowsOptions", "hostProcess"];
    let bad = names(pod, |c| is_true(context(c, &path)));
    let who = setters(is_true(pod.context(&path)), &bad)?;
    Some(Finding::new("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true")))
}

/// `allowPrivilegeEscalation`.
pub fn escalation(pod: Pod<'_>) -> Option<Finding> {
    let bad = names(pod, |c| context(c, &["allowPrivilegeEscalation"]) != Some(&Value::Bool(false)));
    (!bad.is_empty()).then(|| {
        let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&bad));
        Finding::new("allowPrivilegeEscalation != false", detail)
    })
}

/// From v1.25 on: Windows knows no such thing.
pub fn escalation_but_windows(pod: Pod<'_>) -> Option<Finding> {
    if pod.is_windows() { None } else { escalation(pod) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;
    use super::*;
    use serde_json::json;

    #[test]
    fn privileged_containers() {
        let spec = json!({"containers": [{"name": "a", "securityContext": {"privileged": false}}, {"name": "b"}],
            "ephemeralContainers": [{"name": "e", "securityContext": {"privileged": true}}]});
        assert_eq!(
            run(privileged, &spec),
            r#"privileged (container "e" must not set securityContext.privileged=true)"#
        );
    }

    #[test]
    fn host_processes() {
        let windows = json!({"windowsOptions": {"hostProcess": true}});
        let text = "must not set securityContext.windowsOptions.hostProcess=true)";
        for (spec, who) in [
            (json!({"securityContext": windows}), "hostProcess (pod "),
            (json!({"containers": [{"name": "a", "securityContext": windows}]}), r#"hostProcess (container "a" "#),
            (
                json!({"securityContext": windows, "containers": [{"name": "a", "securityContext": windows}, {"name": "b", "securityContext": windows}]}),
                r#"hostProcess (pod and containers "a", "b" "#,
            ),
        ] {
            assert_eq!(run(host_process, &spec), format!("{who}{text}"));
        }
    }

    #[test]
    fn escalation_is_off_only_when_said() {
        let spec = json!({"os": {"name": "windows"}, "containers": [
            {"name": "a", "securityContext": {"allowPrivilegeEscalation": false}},
            {"name": "b", "securityContext": {"allowPrivilegeEscalation": true}},
            {"name": "c", "securityContext": {}}]});
        assert_eq!(
            run(escalation, &spec),
            r#"allowPrivilegeEscalation != false (containers "b", "c" must set securityContext.allowPrivilegeEscalation=false)"#
        );
        assert_eq!(run(escalation_but_windows, &spec), "");
    }
}
