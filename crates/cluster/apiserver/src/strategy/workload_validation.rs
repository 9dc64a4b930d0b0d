//! Checks of what makes pods (`pkg/apis/{apps,batch}/validation`).

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::selector::LabelSelector;
use kinit_apimachinery::status::FieldErrors;
use serde_json::Value;

use super::pod_validation::validate_spec;
use super::tools::{immutable, not_negative, one_of};

fn template(o: &Value, at: &[&str], restart: &[&str], errors: &mut FieldErrors) {
    let path = at.join(".");
    let Some(template) = o.at(at) else { return errors.required(&path, "") };
    validate_spec(template.get("spec").unwrap_or(&Value::Null), &format!("{path}.spec"), errors);
    let policy = template.at(&["spec", "restartPolicy"]).cloned().unwrap_or_default();
    if policy.as_str().is_some_and(|p| ["Always", "OnFailure", "Never"].contains(&p)) {
        one_of(&policy, &format!("{path}.spec.restartPolicy"), restart, errors);
    }
}

fn selector(o: &Value, errors: &mut FieldErrors) {
    let Some(selector) = o.at(&["spec", "selector"]).filter(|s| s.is_object()) else {
        return errors.required("spec.selector", "");
    };
    let Some(parsed) = LabelSelector::from_object(Some(selector)) else {
        return errors.invalid("spec.selector", selector, "invalid label selector");
    };
    if parsed.is_empty() {
        return errors.invalid("spec.selector", selector, "empty selector is invalid for deployment");
    }
    let labels = o.at(&["spec", "template", "metadata", "labels"]);
    let get = |k: &str| labels.and_then(|l| l.get(k)).and_then(Value::as_str);
    if !parsed.matches(get) {
        let value = labels.cloned().unwrap_or_default();
        errors.invalid("spec.template.metadata.labels", &value, "`selector` does not match template `labels`");
    }
}

const ALWAYS: &[&str] = &["Always"];

pub fn validate_deployment(o: &Value, errors: &mut FieldErrors) {
    not_negative(o, &["spec", "replicas"], errors);
    selector(o, errors);
    template(o, &["spec", "template"], ALWAYS, errors);
    let kind = o.at(&["spec", "strategy", "type"]).cloned().unwrap_or_default();
    one_of(&kind, "spec.strategy.type", &["Recreate", "RollingUpdate"], errors);
    if kind == "Recreate" && o.at(&["spec", "strategy", "rollingUpdate"]).is_some() {
        errors.forbidden("spec.strategy.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'");
    }
    let zero = |key: &str| matches!(o.at(&["spec", "strategy", "rollingUpdate", key]), Some(v) if v == 0 || v == "0%");
    if zero("maxUnavailable") && zero("maxSurge") {
        let value = o.at(&["spec", "strategy", "rollingUpdate", "maxUnavailable"]).cloned().unwrap_or_default();
        errors.invalid("spec.strategy.rollingUpdate.maxUnavailable", &value, "may not be 0 when `maxSurge` is 0");
    }
    for key in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        not_negative(o, &["spec", key], errors);
    }
}

pub fn validate_replica_set(o: &Value, errors: &mut FieldErrors) {
    not_negative(o, &["spec", "replicas"], errors);
    selector(o, errors);
    template(o, &["spec", "template"], ALWAYS, errors);
}

pub fn validate_pod_template(o: &Value, errors: &mut FieldErrors) {
    template(o, &["template"], &["Always", "OnFailure", "Never"], errors);
}

pub fn validate_rc(o: &Value, errors: &mut FieldErrors) {
    not_negative(o, &["spec", "replicas"], errors);
    if o.at(&["spec", "selector"]).and_then(Value::as_object).is_none_or(serde_json::Map::is_empty) {
        errors.required("spec.selector", "");
    }
    template(o, &["spec", "template"], ALWAYS, errors);
}

/// The spec of its pods is not looked into, as upstream does not (`ValidatePodTemplateSpecForStatefulSet`): mounts name
/// claims of `volumeClaimTemplates`, which become volumes with each pod.
pub fn validate_stateful_set(o: &Value, errors: &mut FieldErrors) {
    not_negative(o, &["spec", "replicas"], errors);
    selector(o, errors);
    match o.at(&["spec", "template"]) {
        None => errors.required("spec.template", ""),
        Some(template) => {
            let restart = template.at(&["spec", "restartPolicy"]).cloned().unwrap_or_default();
            one_of(&restart, "spec.template.spec.restartPolicy", ALWAYS, errors);
            if template.at(&["spec", "activeDeadlineSeconds"]).is_some_and(|v| !v.is_null()) {
                let at = "spec.template.spec.activeDeadlineSeconds";
                errors.forbidden(at, "activeDeadlineSeconds in StatefulSet is not Supported");
            }
        }
    }
    let policy = o.at(&["spec", "podManagementPolicy"]).cloned().unwrap_or_default();
    one_of(&policy, "spec.podManagementPolicy", &["OrderedReady", "Parallel"], errors);
    let kind = o.at(&["spec", "updateStrategy", "type"]).cloned().unwrap_or_default();
    one_of(&kind, "spec.updateStrategy.type", &["OnDelete", "RollingUpdate"], errors);
}

pub fn validate_daemon_set(o: &Value, errors: &mut FieldErrors) {
    selector(o, errors);
    template(o, &["spec", "template"], ALWAYS, errors);
    let kind = o.at(&["spec", "updateStrategy", "type"]).cloned().unwrap_or_default();
    one_of(&kind, "spec.updateStrategy.type", &["OnDelete", "RollingUpdate"], errors);
}

pub fn validate_selector_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    immutable(new, old, &["spec", "selector"], errors);
}

pub fn validate_stateful_set_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    const MUTABLE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let fixed = |o: &Value| {
        let mut spec = o.get("spec").cloned().unwrap_or_default();
        if let Some(map) = spec.as_object_mut() {
            map.retain(|k, _| !MUTABLE.contains(&k.as_str()));
        }
        spec
    };
    if fixed(new) != fixed(old) {
        errors.forbidden("spec", "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden");
    }
}

pub fn validate_job(o: &Value, errors: &mut FieldErrors) {
    for key in ["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"] {
        not_negative(o, &["spec", key], errors);
    }
    selector(o, errors);
    template(o, &["spec", "template"], &["OnFailure", "Never"], errors);
    let mode = o.at(&["spec", "completionMode"]).cloned().unwrap_or_default();
    one_of(&mode, "spec.completionMode", &["NonIndexed", "Indexed"], errors);
    if mode == "Indexed" && o.at(&["spec", "completions"]).is_none() {
        errors.required("spec.completions", "when completion mode is Indexed");
    }
}

pub fn validate_job_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    for key in ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex"] {
        immutable(new, old, &["spec", key], errors);
    }
    let suspended =
        old.at(&["spec", "suspend"]) == Some(&Value::Bool(true)) && old.at(&["status", "startTime"]).is_none();
    if !suspended {
        immutable(new, old, &["spec", "template"], errors);
    }
    let elastic = new.at(&["spec", "completionMode"]).is_some_and(|m| m == "Indexed");
    if !elastic {
        immutable(new, old, &["spec", "completions"], errors);
    }
}

/// The words with which a schedule may begin instead of five fields (`robfig/cron`'s `parseDescriptor`).
fn descriptor(schedule: &str) -> Result<(), String> {
    if let Some(pause) = schedule.strip_prefix("@every ") {
        let parsed = kinit_component_base::flags::duration(pause);
        return parsed
            .map(drop)
            .map_err(|_| format!("failed to parse duration {schedule}: time: invalid duration {pause:?}"));
    }
    let known = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
    if schedule.starts_with('@') && !known.contains(&schedule) {
        return Err(format!("unrecognized descriptor: {schedule}"));
    }
    Ok(())
}

pub fn validate_cron_job(o: &Value, errors: &mut FieldErrors) {
    let schedule = o.str_at(&["spec", "schedule"]);
    if schedule.is_empty() {
        errors.required("spec.schedule", "");
    } else if let Err(cause) = descriptor(schedule) {
        errors.invalid("spec.schedule", &schedule.into(), &cause);
    } else if !schedule.starts_with('@') && schedule.split_whitespace().count() != 5 {
        let count = schedule.split_whitespace().count();
        errors.invalid(
            "spec.schedule",
            &schedule.into(),
            &format!("expected exactly 5 fields, found {count}: [{schedule}]"),
        );
    }
    if schedule.contains("TZ") {
        errors.invalid(
            "spec.schedule",
            &schedule.into(),
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        );
    }
    let policy = o.at(&["spec", "concurrencyPolicy"]).cloned().unwrap_or_default();
    one_of(&policy, "spec.concurrencyPolicy", &["Allow", "Forbid", "Replace"], errors);
    template(o, &["spec", "jobTemplate", "spec", "template"], &["OnFailure", "Never"], errors);
    if o.name().len() > 52 {
        errors.invalid("metadata.name", &o.name().into(), "must be no more than 52 characters");
    }
}

pub fn validate_revision_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    immutable(new, old, &["data"], errors);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reported(set: &Value) -> String {
        let mut errors = FieldErrors::default();
        validate_stateful_set(set, &mut errors);
        errors.into_result("apps", "StatefulSet", "s").err().map_or_else(String::new, |e| e.message)
    }

    #[test]
    fn a_stateful_sets_mounts_may_name_its_claims() {
        let mounts = json!([{"name": "data", "mountPath": "/data"}]);
        let mut set = json!({"spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
            "podManagementPolicy": "OrderedReady", "updateStrategy": {"type": "RollingUpdate"},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Always",
                "containers": [{"name": "c", "image": "i", "volumeMounts": mounts}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}}]}});
        assert_eq!(reported(&set), "");
        set["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
        set["spec"]["template"]["spec"]["activeDeadlineSeconds"] = json!(5);
        let message = reported(&set);
        assert!(message.contains("restartPolicy: Unsupported value: \"Never\""), "{message}");
        assert!(message.contains("activeDeadlineSeconds in StatefulSet is not Supported"), "{message}");
    }
}
