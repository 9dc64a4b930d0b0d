//! Checks of pods and templates (`pkg/apis/core/validation`), the important ones, in upstream's words.

use std::collections::HashSet;

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::names::{self, NameRule};
use kinit_apimachinery::status::FieldErrors;
use serde_json::Value;

use super::tools::{items, one_of, port};

/// Checks a pod.
pub fn validate(pod: &Value, errors: &mut FieldErrors) {
    validate_spec(pod.get("spec").unwrap_or(&Value::Null), "spec", errors);
}

/// Checks a spec at a path.
pub fn validate_spec(spec: &Value, at: &str, errors: &mut FieldErrors) {
    let volumes = volumes(spec, at, errors);
    if items(spec, &["containers"]).is_empty() {
        errors.required(&format!("{at}.containers"), "");
    }
    let mut seen = HashSet::new();
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, container) in items(spec, &[list]).iter().enumerate() {
            let at = format!("{at}.{list}[{i}]");
            validate_container(container, &at, &volumes, &mut seen, errors);
        }
    }
    let get = |key: &str| spec.get(key).cloned().unwrap_or_default();
    one_of(&get("restartPolicy"), &format!("{at}.restartPolicy"), &["Always", "OnFailure", "Never"], errors);
    one_of(
        &get("dnsPolicy"),
        &format!("{at}.dnsPolicy"),
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
        errors,
    );
    // A negative grace period is accepted, and is one second when the pod is deleted.
    if let Some(n) = spec.get("activeDeadlineSeconds").and_then(Value::as_i64)
        && !(1..=i64::from(i32::MAX)).contains(&n)
    {
        errors.invalid(
            &format!("{at}.activeDeadlineSeconds"),
            &n.into(),
            "must be between 1 and 2147483647, inclusive",
        );
    }
    for key in ["nodeName", "serviceAccountName"] {
        let name = spec.str_at(&[key]);
        if !name.is_empty() {
            for problem in NameRule::Subdomain.check(name) {
                errors.invalid(&format!("{at}.{key}"), &name.into(), &problem);
            }
        }
    }
    for key in ["hostname", "subdomain"] {
        let name = spec.str_at(&[key]);
        if !name.is_empty() {
            for problem in NameRule::Label.check(name) {
                errors.invalid(&format!("{at}.{key}"), &name.into(), &problem);
            }
        }
    }
    for (key, value) in spec.get("nodeSelector").and_then(Value::as_object).into_iter().flatten() {
        for problem in names::check_qualified_name(key)
            .into_iter()
            .chain(names::check_label_value(value.as_str().unwrap_or_default()))
        {
            errors.invalid(&format!("{at}.nodeSelector"), value, &problem);
        }
    }
    super::tolerations::validate(spec, at, errors);
    sysctls(spec, at, errors);
}

fn volumes(spec: &Value, at: &str, errors: &mut FieldErrors) -> HashSet<String> {
    let mut out = HashSet::new();
    for (i, volume) in items(spec, &["volumes"]).iter().enumerate() {
        let name = volume.str_at(&["name"]);
        let at = format!("{at}.volumes[{i}]");
        if name.is_empty() {
            errors.required(&format!("{at}.name"), "");
            continue;
        }
        for problem in NameRule::Label.check(name) {
            errors.invalid(&format!("{at}.name"), &name.into(), &problem);
        }
        if !out.insert(name.to_owned()) {
            errors.duplicate(&format!("{at}.name"), &name.into());
        }
        let sources: Vec<&String> =
            volume.as_object().map(|m| m.keys().filter(|k| *k != "name").collect()).unwrap_or_default();
        for extra in sources.iter().skip(1) {
            errors.forbidden(&format!("{at}.{extra}"), "may not specify more than 1 volume type");
        }
        for (path, what) in [
            (["secret", "secretName"], "secret"),
            (["configMap", "name"], "configMap"),
            (["persistentVolumeClaim", "claimName"], "persistentVolumeClaim"),
            (["hostPath", "path"], "hostPath"),
        ] {
            if volume.get(what).is_some() && volume.str_at(&path).is_empty() {
                errors.required(&format!("{at}.{}", path.join(".")), "");
            }
        }
    }
    out
}

fn validate_container(
    container: &Value,
    at: &str,
    volumes: &HashSet<String>,
    seen: &mut HashSet<String>,
    errors: &mut FieldErrors,
) {
    let name = container.str_at(&["name"]);
    if name.is_empty() {
        errors.required(&format!("{at}.name"), "");
    } else {
        for problem in NameRule::Label.check(name) {
            errors.invalid(&format!("{at}.name"), &name.into(), &problem);
        }
        if !seen.insert(name.to_owned()) {
            errors.duplicate(&format!("{at}.name"), &name.into());
        }
    }
    let image = container.str_at(&["image"]);
    if image.is_empty() {
        errors.required(&format!("{at}.image"), "");
    } else if image.trim() != image {
        errors.invalid(&format!("{at}.image"), &image.into(), "must not have leading or trailing whitespace");
    }
    let policy = container.get("imagePullPolicy").cloned().unwrap_or_default();
    one_of(&policy, &format!("{at}.imagePullPolicy"), &["Always", "IfNotPresent", "Never"], errors);
    for (i, entry) in items(container, &["ports"]).iter().enumerate() {
        let at = format!("{at}.ports[{i}]");
        port(entry.get("containerPort"), &format!("{at}.containerPort"), errors);
        if entry.get("hostPort").is_some() {
            port(entry.get("hostPort"), &format!("{at}.hostPort"), errors);
        }
        one_of(
            &entry.get("protocol").cloned().unwrap_or_default(),
            &format!("{at}.protocol"),
            &["TCP", "UDP", "SCTP"],
            errors,
        );
    }
    for (i, env) in items(container, &["env"]).iter().enumerate() {
        let name = env.str_at(&["name"]);
        if name.is_empty() {
            errors.required(&format!("{at}.env[{i}].name"), "");
        } else if name.contains('=') {
            errors.invalid(
                &format!("{at}.env[{i}].name"),
                &name.into(),
                "environment variable names must be made of printable ASCII characters except '='",
            );
        }
        if env.get("valueFrom").is_some() && !env.str_at(&["value"]).is_empty() {
            errors.invalid(
                &format!("{at}.env[{i}].valueFrom"),
                &"".into(),
                "may not be specified when `value` is not empty",
            );
        }
    }
    mounts(container, at, volumes, errors);
    resources(container, at, errors);
    probes(container, at, errors);
}

fn mounts(container: &Value, at: &str, volumes: &HashSet<String>, errors: &mut FieldErrors) {
    let mut paths = HashSet::new();
    for (i, mount) in items(container, &["volumeMounts"]).iter().enumerate() {
        let at = format!("{at}.volumeMounts[{i}]");
        let (name, path) = (mount.str_at(&["name"]), mount.str_at(&["mountPath"]));
        if name.is_empty() {
            errors.required(&format!("{at}.name"), "");
        } else if !volumes.contains(name) {
            errors.not_found(&format!("{at}.name"), &name.into());
        }
        if path.is_empty() {
            errors.required(&format!("{at}.mountPath"), "");
        } else if !paths.insert(path.to_owned()) {
            errors.invalid(&format!("{at}.mountPath"), &path.into(), "must be unique");
        }
        for key in ["subPath", "subPathExpr"] {
            let sub = mount.str_at(&[key]);
            if sub.starts_with('/') {
                errors.invalid(&format!("{at}.{key}"), &sub.into(), "must be a relative path");
            }
            if sub.split('/').any(|p| p == "..") {
                errors.invalid(&format!("{at}.{key}"), &sub.into(), "must not contain '..'");
            }
        }
    }
}

fn resources(container: &Value, at: &str, errors: &mut FieldErrors) {
    use kinit_apimachinery::quantity::Quantity;
    let amount = |kind: &str, name: &str| {
        container.at(&["resources", kind, name]).and_then(Value::as_str).and_then(|t| t.parse::<Quantity>().ok())
    };
    for kind in ["limits", "requests"] {
        for (name, value) in container.at(&["resources", kind]).and_then(Value::as_object).into_iter().flatten() {
            if amount(kind, name).is_some_and(|q| q.is_negative()) {
                errors.invalid(&format!("{at}.resources.{kind}[{name}]"), value, "must be greater than or equal to 0");
            }
            if kind == "requests"
                && let (Some(request), Some(limit)) = (amount("requests", name), amount("limits", name))
                && request > limit
            {
                errors.invalid(
                    &format!("{at}.resources.requests"),
                    value,
                    &format!("must be less than or equal to {name} limit of {limit}"),
                );
            }
        }
    }
}

fn probes(container: &Value, at: &str, errors: &mut FieldErrors) {
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get(key).filter(|p| p.is_object()) else { continue };
        let handlers = ["exec", "httpGet", "tcpSocket", "grpc"].iter().filter(|h| probe.get(**h).is_some()).count();
        match handlers {
            0 => errors.required(&format!("{at}.{key}"), "must specify a handler type"),
            1 => {}
            _ => errors.forbidden(&format!("{at}.{key}"), "may not specify more than 1 handler type"),
        }
        if key != "readinessProbe" && probe.get("successThreshold").and_then(Value::as_i64).is_some_and(|n| n != 1) {
            errors.invalid(&format!("{at}.{key}.successThreshold"), &probe["successThreshold"], "must be 1");
        }
    }
}

/// Containers for debugging come later, by a subresource.
pub fn validate_create(pod: &Value, errors: &mut FieldErrors) {
    if !items(pod, &["spec", "ephemeralContainers"]).is_empty() {
        errors.forbidden("spec.ephemeralContainers", "cannot be set on create");
    }
}

/// Kernel parameters (`validateSysctls`); a node's kubelet decides which of them it sets.
fn sysctls(spec: &Value, at: &str, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (i, sysctl) in items(spec, &["securityContext", "sysctls"]).iter().enumerate() {
        let (name, at) = (sysctl.str_at(&["name"]), format!("{at}.securityContext.sysctls[{i}].name"));
        if name.is_empty() {
            errors.required(&at, "");
        } else if !names::is_sysctl(name) {
            errors.invalid(&at, &name.into(), names::SYSCTL_MESSAGE);
        } else if !seen.insert(name.replace('/', ".")) {
            errors.duplicate(&at, &name.into());
        }
        let host = |key: &str| spec.get(key) == Some(&Value::Bool(true));
        for (key, prefixes) in
            [("hostNetwork", &["net."][..]), ("hostIPC", &["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."])]
        {
            if host(key) && prefixes.iter().any(|prefix| name.replace('/', ".").starts_with(prefix)) {
                errors.invalid(&at, &name.into(), &format!("may not be specified when '{key}' is true"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_wrong_is_named() {
        let mut pod = json!({"spec":{"containers":[{"name":"A","volumeMounts":[{"name":"v","mountPath":"/x"}]}]}});
        super::super::pods::default(&mut pod);
        let mut errors = FieldErrors::default();
        validate(&pod, &mut errors);
        let fields: Vec<&str> = errors.0.iter().map(|c| c.field.as_str()).collect();
        assert_eq!(
            fields,
            ["spec.containers[0].name", "spec.containers[0].image", "spec.containers[0].volumeMounts[0].name"]
        );
    }
}
