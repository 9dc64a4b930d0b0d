//! Defaults of what makes pods (`pkg/apis/{apps,batch,autoscaling}/v1/defaults.go`).

use kinit_apimachinery::meta::Meta;
use serde_json::{Value, json};

use super::pod_spec::default_template;
use super::tools::{absent, each, empty, object};

fn template(object_: &mut Value) {
    let spec = object(object_, "spec");
    if spec.get("template").is_some() {
        default_template(&mut spec["template"]);
    }
}

pub fn default_pod_template(o: &mut Value) {
    if let Some(template) = o.get_mut("template") {
        default_template(template);
    }
}

pub fn default_deployment(o: &mut Value) {
    template(o);
    let spec = object(o, "spec");
    absent(spec, "replicas", 1);
    absent(spec, "revisionHistoryLimit", 10);
    absent(spec, "progressDeadlineSeconds", 600);
    let strategy = object(spec, "strategy");
    empty(strategy, "type", "RollingUpdate");
    if strategy.str_at(&["type"]) == "RollingUpdate" {
        let rolling = object(strategy, "rollingUpdate");
        absent(rolling, "maxUnavailable", "25%");
        absent(rolling, "maxSurge", "25%");
    }
}

pub fn default_replica_set(o: &mut Value) {
    template(o);
    absent(object(o, "spec"), "replicas", 1);
}

pub fn default_rc(o: &mut Value) {
    template(o);
    let labels = o.at(&["spec", "template", "metadata", "labels"]).cloned();
    let spec = object(o, "spec");
    absent(spec, "replicas", 1);
    if let Some(labels) = labels {
        absent(spec, "selector", labels.clone());
        if o.at(&["metadata", "labels"]).is_none() {
            o["metadata"]["labels"] = labels;
        }
    }
}

pub fn default_stateful_set(o: &mut Value) {
    template(o);
    let spec = object(o, "spec");
    absent(spec, "replicas", 1);
    absent(spec, "revisionHistoryLimit", 10);
    empty(spec, "podManagementPolicy", "OrderedReady");
    let strategy = object(spec, "updateStrategy");
    empty(strategy, "type", "RollingUpdate");
    if strategy.str_at(&["type"]) == "RollingUpdate" {
        absent(object(strategy, "rollingUpdate"), "partition", 0);
    }
    let retention = object(spec, "persistentVolumeClaimRetentionPolicy");
    empty(retention, "whenDeleted", "Retain");
    empty(retention, "whenScaled", "Retain");
    for claim in each(spec, "volumeClaimTemplates") {
        empty(claim, "apiVersion", "v1");
        empty(claim, "kind", "PersistentVolumeClaim");
        absent(object(claim, "spec"), "volumeMode", "Filesystem");
        empty(object(claim, "status"), "phase", "Pending");
    }
}

pub fn default_daemon_set(o: &mut Value) {
    template(o);
    let spec = object(o, "spec");
    absent(spec, "revisionHistoryLimit", 10);
    let strategy = object(spec, "updateStrategy");
    empty(strategy, "type", "RollingUpdate");
    if strategy.str_at(&["type"]) == "RollingUpdate" {
        let rolling = object(strategy, "rollingUpdate");
        absent(rolling, "maxUnavailable", 1);
        absent(rolling, "maxSurge", 0);
    }
}

pub fn default_job(o: &mut Value) {
    template(o);
    let spec = object(o, "spec");
    let has = |spec: &Value, key: &str| spec.get(key).is_some_and(|v| !v.is_null());
    if !has(spec, "completions") && !has(spec, "parallelism") {
        spec["completions"] = 1.into();
    }
    absent(spec, "parallelism", 1);
    let limit = if has(spec, "backoffLimitPerIndex") { i64::from(i32::MAX) } else { 6 };
    absent(spec, "backoffLimit", limit);
    absent(spec, "completionMode", "NonIndexed");
    absent(spec, "suspend", false);
    absent(spec, "manualSelector", false);
    let replacement = if has(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    absent(spec, "podReplacementPolicy", replacement);
    if let Some(policy) = spec.get_mut("podFailurePolicy") {
        for rule in each(policy, "rules") {
            for pattern in each(rule, "onPodConditions") {
                empty(pattern, "status", "True");
            }
        }
    }
}

/// The selector of a job is made for it, unless it brings its own.
pub fn prepare_job(o: &mut Value) {
    if o.at(&["spec", "manualSelector"]) == Some(&Value::Bool(true)) {
        return;
    }
    let (uid, name) = (o.uid().to_owned(), o.name().to_owned());
    let spec = object(o, "spec");
    spec["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"] = uid.clone().into();
    let metadata = object(object(spec, "template"), "metadata");
    let labels = object(metadata, "labels");
    for (key, value) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ] {
        labels[key] = value.clone().into();
    }
}

pub fn default_cron_job(o: &mut Value) {
    let spec = object(o, "spec");
    empty(spec, "concurrencyPolicy", "Allow");
    absent(spec, "suspend", false);
    absent(spec, "successfulJobsHistoryLimit", 3);
    absent(spec, "failedJobsHistoryLimit", 1);
    if let Some(job) = spec.get_mut("jobTemplate").and_then(|t| t.get_mut("spec"))
        && job.get("template").is_some()
    {
        default_template(&mut job["template"]);
    }
}

pub fn default_hpa(o: &mut Value) {
    let v1 = o.str_at(&["apiVersion"]) == "autoscaling/v1";
    let spec = object(o, "spec");
    absent(spec, "minReplicas", 1);
    if !v1 && spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        spec["metrics"] = json!([{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 80}}}]);
    }
    if !v1 && let Some(behavior) = spec.get_mut("behavior").filter(|behavior| behavior.is_object()) {
        default_behavior(behavior);
    }
}

/// Rules that are told in part are completed (`SetDefaults_HorizontalPodAutoscalerBehavior`). How long scaling down
/// waits is the controller's flag where it is not told.
fn default_behavior(behavior: &mut Value) {
    let up = object(behavior, "scaleUp");
    absent(up, "stabilizationWindowSeconds", 0);
    absent(up, "selectPolicy", "Max");
    let policy = |kind: &str, value: u32| json!({"type": kind, "value": value, "periodSeconds": 15});
    absent(up, "policies", json!([policy("Pods", 4), policy("Percent", 100)]));
    let down = object(behavior, "scaleDown");
    absent(down, "selectPolicy", "Max");
    absent(down, "policies", json!([policy("Percent", 100)]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_upstreams() {
        let mut d = json!({"spec":{"template":{"spec":{"containers":[{"name":"a","image":"x"}]}}}});
        default_deployment(&mut d);
        assert_eq!(
            d["spec"]["strategy"],
            json!({"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":"25%","maxSurge":"25%"}})
        );
        assert_eq!(d["spec"]["template"]["spec"]["restartPolicy"], "Always");
        let mut j = json!({"metadata":{"name":"j","uid":"u"},"spec":{"template":{"spec":{}}}});
        default_job(&mut j);
        prepare_job(&mut j);
        assert_eq!((j["spec"]["completions"].as_i64(), j["spec"]["backoffLimit"].as_i64()), (Some(1), Some(6)));
        assert_eq!(j["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
    }

    #[test]
    fn behavior_is_completed() {
        let mut hpa = json!({"apiVersion": "autoscaling/v2", "spec": {"behavior": {"scaleDown":
            {"stabilizationWindowSeconds": 60, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 5}]}}}});
        default_hpa(&mut hpa);
        let behavior = &hpa["spec"]["behavior"];
        assert_eq!(behavior["scaleUp"]["policies"].as_array().map(Vec::len), Some(2));
        assert_eq!(
            (&behavior["scaleUp"]["selectPolicy"], &behavior["scaleUp"]["stabilizationWindowSeconds"]),
            (&json!("Max"), &json!(0))
        );
        assert_eq!(
            behavior["scaleDown"],
            json!({"stabilizationWindowSeconds": 60, "selectPolicy": "Max",
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 5}]})
        );
        let mut plain = json!({"apiVersion": "autoscaling/v2", "spec": {}});
        default_hpa(&mut plain);
        assert!(plain["spec"].get("behavior").is_none(), "{plain}");
    }
}
