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
    for key in ["terminationGracePeriodSeconds", "activeDeadlineSeconds"] {
        if let Some(n) = spec.get(key).and_then(Value::as_i64)
            && (n < 0 || (key == "activeDeadlineSeconds" && n == 0))
        {
            errors.invalid(&format!("{at}.{key}"), &n.into(), "must be greater than or equal to 0");
        }
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
    tolerations(spec, at, errors);
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

fn tolerations(spec: &Value, at: &str, errors: &mut FieldErrors) {
    for (i, toleration) in items(spec, &["tolerations"]).iter().enumerate() {
        let at = format!("{at}.tolerations[{i}]");
        let operator = toleration.str_at(&["operator"]);
        if toleration.str_at(&["key"]).is_empty() && operator != "Exists" {
            errors.invalid(
                &format!("{at}.operator"),
                &operator.into(),
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if toleration.get("tolerationSeconds").is_some() && toleration.str_at(&["effect"]) != "NoExecute" {
            errors.invalid(
                &format!("{at}.effect"),
                &toleration.str_at(&["effect"]).into(),
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
        if operator == "Exists" && !toleration.str_at(&["value"]).is_empty() {
            errors.invalid(
                &format!("{at}.operator"),
                &toleration.str_at(&["value"]).into(),
                "value must be empty when `operator` is 'Exists'",
            );
        }
    }
}

const MUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// A pod's spec hardly changes.
pub fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let had = items(old, &["spec", "tolerations"]);
    let have = items(new, &["spec", "tolerations"]);
    if !had.iter().all(|t| have.contains(t)) {
        errors.forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds");
    }
    let gates = items(old, &["spec", "schedulingGates"]);
    if items(new, &["spec", "schedulingGates"]).iter().any(|g| !gates.contains(g)) {
        errors.forbidden("spec.schedulingGates", "only deletion is allowed, but found new scheduling gate");
    }
    let gated = !gates.is_empty();
    if comparable(new, gated) != comparable(old, gated) {
        errors.forbidden("spec", MUTABLE);
    }
}

fn comparable(pod: &Value, gated: bool) -> Value {
    let mut spec = pod.get("spec").cloned().unwrap_or_default();
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(map) = container.as_object_mut() {
                map.shift_remove("image");
            }
        }
    }
    if let Some(map) = spec.as_object_mut() {
        for key in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"] {
            map.shift_remove(key);
        }
        if gated {
            map.shift_remove("nodeSelector");
            map.shift_remove("affinity");
        }
    }
    spec
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

    #[test]
    fn only_images_change() {
        let mut old = json!({"spec":{"containers":[{"name":"a","image":"x"}]}});
        super::super::pods::default(&mut old);
        let mut new = old.clone();
        new["spec"]["containers"][0]["image"] = "y".into();
        let check = |new: &Value| {
            let mut errors = FieldErrors::default();
            validate_update(new, &old, &mut errors);
            errors.0.len()
        };
        assert_eq!(check(&new), 0);
        new["spec"]["nodeName"] = "n".into();
        assert_eq!(check(&new), 1);
    }
}
