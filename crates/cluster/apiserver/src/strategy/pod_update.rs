//! What of a pod may change after it was created (`ValidatePodUpdate`, `ValidatePodStatusUpdate`, `ValidatePodResize`,
//! `ValidatePodEphemeralContainersUpdate` of `pkg/apis/core/validation`), in upstream's words.

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::status::FieldErrors;
use kinit_apimachinery::well_known::MIRROR_POD;
use serde_json::{Map, Value};

use super::pods::qos;
use super::tools::items;

const MUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const ADDITIONS: &str = "only additions are allowed (no mutations or deletions)";

/// Checks an update of the pod itself.
pub fn validate(new: &Value, old: &Value, errors: &mut FieldErrors) {
    for list in ["containers", "initContainers"] {
        if items(new, &["spec", list]).len() != items(old, &["spec", list]).len() {
            return errors.forbidden(&format!("spec.{list}"), "pod updates may not add or remove containers");
        }
    }
    deadline(new, old, errors);
    tolerations(new, old, errors);
    let gates = items(old, &["spec", "schedulingGates"]);
    if items(new, &["spec", "schedulingGates"]).iter().any(|gate| !gates.contains(gate)) {
        errors.forbidden("spec.schedulingGates", "only deletion is allowed, but found new scheduling gate");
    }
    let gated = !gates.is_empty();
    if gated {
        placement(new, old, errors);
    }
    if fixed(new, old, gated) != fixed(old, old, gated) {
        errors.forbidden("spec", MUTABLE);
    }
}

/// A deadline can be set, and shortened.
fn deadline(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let of = |pod: &Value| pod.at(&["spec", "activeDeadlineSeconds"]).and_then(Value::as_i64);
    let field = "spec.activeDeadlineSeconds";
    match (of(new), of(old)) {
        (Some(seconds), _) if !(0..=i64::from(i32::MAX)).contains(&seconds) => {
            errors.invalid(field, &seconds.into(), "must be between 0 and 2147483647, inclusive");
        }
        (Some(seconds), Some(before)) if seconds > before => {
            errors.invalid(field, &seconds.into(), "must be less than or equal to previous value");
        }
        (None, Some(_)) => {
            errors.invalid(field, &Value::Null, "must not update from a positive integer to nil value");
        }
        _ => {}
    }
}

/// Tolerations are added; of an existing one only the seconds change.
fn tolerations(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let timeless = |toleration: &Value| significant(toleration, &["tolerationSeconds"]);
    let have: Vec<_> = items(new, &["spec", "tolerations"]).iter().map(timeless).collect();
    if items(old, &["spec", "tolerations"]).iter().any(|toleration| !have.contains(&timeless(toleration))) {
        errors.forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds");
    }
}

/// The fields of an object that say something, but for some.
fn significant(object: &Value, without: &[&str]) -> Map<String, Value> {
    let kept = |(key, value): &(&String, &Value)| !without.contains(&key.as_str()) && !value.is_null() && **value != "";
    object.as_object().into_iter().flatten().filter(kept).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// While a pod is gated, where it may run can be narrowed.
fn placement(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let selector =
        |pod: &Value| pod.at(&["spec", "nodeSelector"]).and_then(Value::as_object).cloned().unwrap_or_default();
    let wanted = selector(new);
    if selector(old).iter().any(|(key, value)| wanted.get(key) != Some(value)) {
        errors.invalid("spec.nodeSelector", &wanted.into(), ADDITIONS);
    }
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let path = ["spec", "affinity", "nodeAffinity", REQUIRED, "nodeSelectorTerms"];
    let (had, have) = (items(old, &path), items(new, &path));
    let at = path.join(".");
    if !had.is_empty() && had.len() != have.len() {
        let text = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return errors.invalid(&at, &have.to_vec().into(), text);
    }
    for (i, (before, after)) in had.iter().zip(have).enumerate() {
        let of = |term: &Value, key: &str| items(term, &[key]).to_vec();
        // An empty term selects nothing: a requirement more would make it select something.
        let empty = of(before, "matchExpressions").is_empty() && of(before, "matchFields").is_empty();
        let narrowed = ["matchExpressions", "matchFields"].iter().all(|key| {
            let (before, after) = (of(before, key), of(after, key));
            if empty { after.is_empty() } else { after.starts_with(&before) }
        });
        if !narrowed {
            errors.invalid(&format!("{at}[{i}]"), after, ADDITIONS);
        }
    }
}

/// The spec without what may differ.
fn fixed(pod: &Value, old: &Value, gated: bool) -> Value {
    let mut spec = pod.get("spec").cloned().unwrap_or_default();
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(map) = container.as_object_mut() {
                map.shift_remove("image");
            }
        }
    }
    let grace = |pod: &Value| pod.at(&["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64);
    let repaired = grace(old).is_some_and(|before| before < 0)
        && matches!(grace(pod), Some(now) if now == 1 || Some(now) == grace(old));
    let Some(map) = spec.as_object_mut() else { return spec };
    for key in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        map.shift_remove(key);
    }
    if repaired {
        map.shift_remove("terminationGracePeriodSeconds");
    }
    if gated {
        map.shift_remove("nodeSelector");
        without_node_affinity(map);
    }
    spec
}

fn without_node_affinity(spec: &mut Map<String, Value>) {
    let Some(Value::Object(affinity)) = spec.get_mut("affinity") else { return };
    affinity.shift_remove("nodeAffinity");
    if affinity.is_empty() {
        spec.shift_remove("affinity");
    }
}

/// Checks an update of a subresource.
pub fn validate_sub(sub: &str, new: &Value, old: &Value, errors: &mut FieldErrors) {
    match sub {
        "status" => super::pod_status::validate_update(new, old, errors),
        "resize" => resize(new, old, errors),
        "ephemeralcontainers" => ephemeral(new, old, errors),
        _ => {}
    }
}

fn is_mirror(pod: &Value) -> bool {
    pod.annotation(MIRROR_POD).is_some()
}

/// Amounts of CPU and memory change; nothing else, and none goes.
fn resize(new: &Value, old: &Value, errors: &mut FieldErrors) {
    super::pod_validation::validate(new, errors);
    if is_mirror(old) {
        errors.forbidden("", "static pods are not resize-able");
    }
    let before = match old.str_at(&["status", "qosClass"]) {
        "" => qos(old),
        class => class,
    };
    if before != qos(new) {
        let class = new.at(&["status", "qosClass"]).cloned().unwrap_or_default();
        errors.invalid("spec", &class, "Pod QOS Class may not change as a result of resizing");
    }
    let mut others = false;
    for list in ["containers", "initContainers"] {
        let (had, have) = (items(old, &["spec", list]), items(new, &["spec", list]));
        others |= had.len() != have.len();
        for (i, (before, after)) in had.iter().zip(have).enumerate() {
            others |= significant(before, &["resources", "resizePolicy"])
                != significant(after, &["resources", "resizePolicy"]);
            others |= before.get("resizePolicy") != after.get("resizePolicy");
            others |= !amounts(before, after, &format!("spec.{list}[{i}].resources"), errors);
        }
    }
    if others {
        errors.forbidden("spec", "only cpu and memory resources are mutable");
    }
}

/// Whether nothing but CPU and memory differs; what was asked for stays asked for.
fn amounts(before: &Value, after: &Value, at: &str, errors: &mut FieldErrors) -> bool {
    let (had, have) = (before.get("resources"), after.get("resources"));
    let mut same = had.and_then(|r| r.get("claims")) == have.and_then(|r| r.get("claims"));
    for kind in ["limits", "requests"] {
        let of =
            |r: Option<&Value>| r.and_then(|r| r.get(kind)).and_then(Value::as_object).cloned().unwrap_or_default();
        let (mut had, mut have) = (of(had), of(have));
        for name in ["cpu", "memory"] {
            if had.shift_remove(name).is_some() & have.shift_remove(name).is_none() {
                errors.forbidden(&format!("{at}.{kind}"), &format!("resource {kind} cannot be removed"));
            }
        }
        same &= had == have;
    }
    same
}

/// Fields that a container for debugging may have (`allowedEphemeralContainerFields`).
const EPHEMERAL: &[&str] = &[
    "name",
    "image",
    "command",
    "args",
    "workingDir",
    "envFrom",
    "env",
    "volumeMounts",
    "volumeDevices",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "imagePullPolicy",
    "securityContext",
    "stdin",
    "stdinOnce",
    "tty",
    "targetContainerName",
];

/// Containers for debugging are added, and stay as they are.
fn ephemeral(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if is_mirror(old) {
        return errors.forbidden("", "static pods do not support ephemeral containers");
    }
    super::pod_validation::validate(new, errors);
    const FIELD: &str = "spec.ephemeralContainers";
    let have = items(new, &["spec", "ephemeralContainers"]);
    for (i, container) in have.iter().enumerate() {
        let at = format!("{FIELD}[{i}]");
        let empty = |value: &Value| value.is_null() || value.as_object().is_some_and(Map::is_empty);
        for (key, _) in container.as_object().into_iter().flatten().filter(|(_, value)| !empty(value)) {
            if !EPHEMERAL.contains(&key.as_str()) {
                errors.forbidden(&format!("{at}.{key}"), "cannot be set for an Ephemeral Container");
            }
        }
        for (j, mount) in items(container, &["volumeMounts"]).iter().enumerate() {
            for key in ["subPath", "subPathExpr"].into_iter().filter(|key| !mount.str_at(&[key]).is_empty()) {
                errors.forbidden(&format!("{at}.volumeMounts[{j}].{key}"), "cannot be set for an Ephemeral Container");
            }
        }
        let target = container.str_at(&["targetContainerName"]);
        let mut all = ["containers", "initContainers"].into_iter().flat_map(|list| items(new, &["spec", list]));
        if !target.is_empty() && !all.any(|other| other.str_at(&["name"]) == target) {
            errors.not_found(&format!("{at}.targetContainerName"), &target.into());
        }
    }
    for before in items(old, &["spec", "ephemeralContainers"]) {
        let name = before.str_at(&["name"]);
        match have.iter().find(|container| container.str_at(&["name"]) == name) {
            None => errors.forbidden(FIELD, &format!("existing ephemeral containers {name:?} may not be removed\n")),
            Some(now) if now != before => {
                errors.forbidden(FIELD, &format!("existing ephemeral containers {name:?} may not be changed\n"));
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(change: impl FnOnce(&mut Value)) -> Value {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i",
            "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}}],
            "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]}});
        change(&mut pod);
        super::super::pods::default(&mut pod);
        pod
    }

    fn fields(check: impl FnOnce(&mut FieldErrors)) -> Vec<String> {
        let mut errors = FieldErrors::default();
        check(&mut errors);
        errors.0.into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn updates_of_a_pod() {
        let old = pod(|_| {});
        let check = |change: fn(&mut Value)| fields(|errors| validate(&pod(change), &old, errors));
        let none: [&str; 0] = [];
        assert_eq!(check(|p| p["spec"]["containers"][0]["image"] = "j".into()), none);
        assert_eq!(check(|p| p["spec"]["nodeName"] = "n".into()), ["spec"]);
        assert_eq!(check(|p| p["spec"]["terminationGracePeriodSeconds"] = 5.into()), ["spec"]);
        assert_eq!(check(|p| p["spec"]["tolerations"][0]["tolerationSeconds"] = 5.into()), none);
        assert_eq!(check(|p| p["spec"]["tolerations"][0]["tolerationSeconds"] = Value::Null), none);
        assert_eq!(check(|p| p["spec"]["tolerations"][0]["key"] = "l".into()), ["spec.tolerations"]);
        assert_eq!(check(|p| p["spec"]["tolerations"] = json!([])), ["spec.tolerations"]);
        assert_eq!(check(|p| p["spec"]["activeDeadlineSeconds"] = 5.into()), none);
        assert_eq!(check(|p| p["spec"]["activeDeadlineSeconds"] = (-1).into()), ["spec.activeDeadlineSeconds"]);
        assert_eq!(check(|p| p["spec"]["schedulingGates"] = json!([{"name": "g"}])), ["spec.schedulingGates"]);
        assert_eq!(
            check(|p| p["spec"]["initContainers"] = json!([{"name": "x", "image": "i"}])),
            ["spec.initContainers"]
        );
    }

    #[test]
    fn a_negative_grace_becomes_one() {
        let grace = |seconds: i64| pod(|p| p["spec"]["terminationGracePeriodSeconds"] = seconds.into());
        let check = |new: i64| fields(|errors| validate(&grace(new), &grace(-3), errors)).len();
        assert_eq!((check(1), check(-3), check(0), check(30)), (0, 0, 1, 1));
    }

    #[test]
    fn deadlines_get_shorter() {
        let with = |seconds: Value| pod(|p| p["spec"]["activeDeadlineSeconds"] = seconds);
        let old = with(10.into());
        let check = |new: Value| fields(|errors| validate(&with(new), &old, errors)).len();
        assert_eq!((check(5.into()), check(0.into()), check(11.into()), check(Value::Null)), (0, 0, 1, 1));
    }

    #[test]
    fn gated_pods_are_narrowed() {
        let gated = |selector: Value, terms: Value| {
            pod(|p| {
                p["spec"]["schedulingGates"] = json!([{"name": "g"}]);
                p["spec"]["nodeSelector"] = selector;
                if !terms.is_null() {
                    p["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"] =
                        terms;
                }
            })
        };
        let term = |keys: &[&str]| json!({"matchExpressions": keys.iter().map(|k| json!({"key": k, "operator": "Exists"})).collect::<Vec<_>>()});
        let old = gated(json!({"a": "b"}), json!([term(&["x"])]));
        for (selector, terms, wrong) in [
            (json!({"a": "b", "c": "d"}), json!([term(&["x", "y"])]), 0),
            (json!({"a": "z"}), json!([term(&["x"])]), 1),
            (json!({}), json!([term(&["x"])]), 1),
            (json!({"a": "b"}), json!([term(&["y", "x"])]), 1),
            (json!({"a": "b"}), json!([term(&["x"]), term(&["y"])]), 1),
            (json!({"a": "b"}), Value::Null, 1),
        ] {
            let new = gated(selector, terms);
            assert_eq!(fields(|errors| validate(&new, &old, errors)).len(), wrong, "{}", new["spec"]);
        }
    }

    #[test]
    fn resizes() {
        let old = pod(|_| {});
        let check = |change: fn(&mut Value)| fields(|errors| validate_sub("resize", &pod(change), &old, errors));
        let none: [&str; 0] = [];
        assert_eq!(check(|p| p["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "1500m".into()), none);
        assert_eq!(
            check(|p| p["spec"]["containers"][0]["resources"]["limits"] = json!({})),
            ["spec.containers[0].resources.limits"]
        );
        assert_eq!(
            check(|p| p["spec"]["containers"][0]["resources"]["limits"]["example.com/x"] = "1".into()),
            ["spec"]
        );
        assert_eq!(check(|p| p["spec"]["containers"][0]["image"] = "j".into()), ["spec"]);
        let guaranteed = check(|p| {
            p["spec"]["containers"][0]["resources"] =
                json!({"requests": {"cpu": "1", "memory": "1"}, "limits": {"cpu": "1", "memory": "1"}});
        });
        assert_eq!(guaranteed, ["spec"], "another quality of service");
    }

    #[test]
    fn containers_for_debugging() {
        let with = |list: Value| pod(|p| p["spec"]["ephemeralContainers"] = list);
        let one = json!({"name": "d", "image": "i"});
        let old = with(json!([one]));
        let check = |list: Value| fields(|errors| validate_sub("ephemeralcontainers", &with(list), &old, errors));
        let none: [&str; 0] = [];
        assert_eq!(check(json!([one, {"name": "e", "image": "i", "targetContainerName": "c"}])), none);
        assert_eq!(check(json!([])), ["spec.ephemeralContainers"]);
        assert_eq!(check(json!([{"name": "d", "image": "j"}])), ["spec.ephemeralContainers"]);
        assert_eq!(
            check(json!([one, {"name": "e", "image": "i", "targetContainerName": "x"}])),
            ["spec.ephemeralContainers[1].targetContainerName"]
        );
        assert_eq!(
            check(json!([one, {"name": "e", "image": "i", "ports": [{"containerPort": 1}]}])),
            ["spec.ephemeralContainers[1].ports"]
        );
        assert_eq!(check(json!([one, {"name": "c", "image": "i"}])), ["spec.ephemeralContainers[1].name"]);
    }
}
