//! What runs pods: controllers, jobs, autoscalers, budgets.

use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::{AGE, CONTAINERS, IMAGES, NAME, SELECTOR, col, num, ratio, replicas, wide};
use crate::tables::Column;
use crate::tables::values::{condition, human, int, joined, labels, list, selector, since, size, text};

pub(super) static RC: &[Column] = &[
    NAME,
    num("Desired", |o| replicas(o).into()),
    num("Current", |o| int(o, &["status", "replicas"]).into()),
    num("Ready", |o| int(o, &["status", "readyReplicas"]).into()),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", |o| labels(o.at(&["spec", "selector"])).into()),
];
pub(super) static DEPLOYMENT: &[Column] = &[
    NAME,
    col("Ready", |o| ratio(int(o, &["status", "readyReplicas"]), replicas(o))),
    num("Up-to-date", |o| int(o, &["status", "updatedReplicas"]).into()),
    num("Available", |o| int(o, &["status", "availableReplicas"]).into()),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
pub(super) static REPLICA_SET: &[Column] = &[
    NAME,
    num("Desired", |o| replicas(o).into()),
    num("Current", |o| int(o, &["status", "replicas"]).into()),
    num("Ready", |o| int(o, &["status", "readyReplicas"]).into()),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
pub(super) static STATEFUL_SET: &[Column] =
    &[NAME, col("Ready", |o| ratio(int(o, &["status", "readyReplicas"]), replicas(o))), AGE, CONTAINERS, IMAGES];
pub(super) static DAEMON_SET: &[Column] = &[
    NAME,
    num("Desired", |o| int(o, &["status", "desiredNumberScheduled"]).into()),
    num("Current", |o| int(o, &["status", "currentNumberScheduled"]).into()),
    num("Ready", |o| int(o, &["status", "numberReady"]).into()),
    num("Up-to-date", |o| int(o, &["status", "updatedNumberScheduled"]).into()),
    num("Available", |o| int(o, &["status", "numberAvailable"]).into()),
    col("Node Selector", |o| labels(o.at(&["spec", "template", "spec", "nodeSelector"])).into()),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
fn controller(o: &Value) -> Value {
    let owner = list(o, &["metadata", "ownerReferences"])
        .iter()
        .find(|r| r.get("controller").and_then(Value::as_bool) == Some(true));
    match owner {
        Some(owner) => {
            let group = owner.str_at(&["apiVersion"]).split_once('/').map_or("", |(g, _)| g);
            let kind = owner.str_at(&["kind"]).to_lowercase();
            let dot = if group.is_empty() { String::new() } else { format!(".{group}") };
            format!("{kind}{dot}/{}", owner.str_at(&["name"])).into()
        }
        None => "<none>".into(),
    }
}
pub(super) static REVISION: &[Column] =
    &[NAME, col("Controller", controller), num("Revision", |o| int(o, &["revision"]).into()), AGE];

fn job_status(o: &Value) -> Value {
    let is = |kind: &str| condition(o, kind).is_some_and(|c| c.str_at(&["status"]) == "True");
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if o.is_deleting() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
    .into()
}
fn job_completions(o: &Value) -> Value {
    let done = int(o, &["status", "succeeded"]);
    match o.at(&["spec", "completions"]).and_then(Value::as_i64) {
        Some(n) => ratio(done, n),
        None if int(o, &["spec", "parallelism"]) > 1 => {
            format!("{done}/1 of {}", int(o, &["spec", "parallelism"])).into()
        }
        None => ratio(done, 1),
    }
}
fn job_duration(o: &Value) -> Value {
    use kinit_apimachinery::time::parse;
    let start = parse(o.str_at(&["status", "startTime"]));
    match (start, parse(o.str_at(&["status", "completionTime"]))) {
        (None, _) => "".into(),
        (Some(_), None) => since(o.str_at(&["status", "startTime"])).into(),
        (Some(start), Some(end)) => human(end.as_second() - start.as_second()).into(),
    }
}
pub(super) static JOB: &[Column] = &[
    NAME,
    col("Status", job_status),
    col("Completions", job_completions),
    col("Duration", job_duration),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
pub(super) static CRON_JOB: &[Column] = &[
    NAME,
    col("Schedule", |o| text(o, &["spec", "schedule"], "")),
    col("Timezone", |o| text(o, &["spec", "timeZone"], "<none>")),
    col("Suspend", |o| if o.at(&["spec", "suspend"]) == Some(&Value::Bool(true)) { "True" } else { "False" }.into()),
    num("Active", |o| size(o, &["status", "active"]).into()),
    col("Last Schedule", |o| match o.str_at(&["status", "lastScheduleTime"]) {
        "" => "<none>".into(),
        at => since(at).into(),
    }),
    AGE,
    wide("Containers", |o| {
        joined(list(o, &["spec", "jobTemplate", "spec", "template", "spec", "containers"]), |c| c.str_at(&["name"]))
            .into()
    }),
    wide("Images", |o| {
        joined(list(o, &["spec", "jobTemplate", "spec", "template", "spec", "containers"]), |c| c.str_at(&["image"]))
            .into()
    }),
    wide("Selector", |o| selector(o.at(&["spec", "jobTemplate", "spec", "selector"])).into()),
];
pub(super) static HPA: &[Column] = &[
    NAME,
    col("Reference", |o| {
        format!("{}/{}", o.str_at(&["spec", "scaleTargetRef", "kind"]), o.str_at(&["spec", "scaleTargetRef", "name"]))
            .into()
    }),
    col("Targets", super::autoscaling::targets),
    num("MinPods", |o| o.at(&["spec", "minReplicas"]).cloned().unwrap_or_else(|| "<unset>".into())),
    num("MaxPods", |o| int(o, &["spec", "maxReplicas"]).into()),
    num("Replicas", |o| int(o, &["status", "currentReplicas"]).into()),
    AGE,
];
fn int_or_none(o: &Value, path: &[&str]) -> Value {
    match o.at(path) {
        Some(Value::Number(n)) => n.to_string().into(),
        Some(Value::String(s)) => s.clone().into(),
        _ => "N/A".into(),
    }
}
pub(super) static PDB: &[Column] = &[
    NAME,
    col("Min Available", |o| int_or_none(o, &["spec", "minAvailable"])),
    col("Max Unavailable", |o| int_or_none(o, &["spec", "maxUnavailable"])),
    num("Allowed Disruptions", |o| int(o, &["status", "disruptionsAllowed"]).into()),
    AGE,
];
