//! Updates of a Job's status (`ValidateJobStatusUpdate` of `pkg/apis/batch/validation`, with the options that
//! `pkg/registry/batch/job.getStatusValidationOptions` gives it).
//!
//! Others than the job controller may write it (`spec.managedBy`): whoever waits for a job relies on what is finished
//! staying so. Most rules hold only for what an update changes, so that a spec that has just changed stops nobody from
//! making the status follow.

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::status::FieldErrors;
use kinit_apimachinery::time;
use serde_json::Value;

use super::job_indexes;
use super::tools::items;

/// A job as its status tells.
struct Job<'v>(&'v Value);

impl<'v> Job<'v> {
    fn status(&self, key: &str) -> Option<&'v Value> {
        self.0.at(&["status", key]).filter(|value| !value.is_null())
    }

    fn count(&self, key: &str) -> i64 {
        self.status(key).and_then(Value::as_i64).unwrap_or(0)
    }

    fn text(&self, key: &str) -> &'v str {
        self.0.str_at(&["status", key])
    }

    fn has(&self, condition: &str) -> bool {
        let conditions = items(self.0, &["status", "conditions"]);
        conditions.iter().any(|c| c.str_at(&["type"]) == condition && c.str_at(&["status"]) == "True")
    }

    fn is_finished(&self) -> bool {
        self.has("Complete") || self.has("Failed")
    }

    fn spec(&self, key: &str) -> Option<&'v Value> {
        self.0.at(&["spec", key]).filter(|value| !value.is_null())
    }

    fn is_indexed(&self) -> bool {
        self.0.str_at(&["spec", "completionMode"]) == "Indexed"
    }

    fn uncounted(&self) -> Vec<&'v Value> {
        let list = |key| items(self.0, &["status", "uncountedTerminatedPods", key]).iter();
        list("succeeded").chain(list("failed")).collect()
    }
}

/// What an update changes.
struct Change<'v> {
    new: Job<'v>,
    old: Job<'v>,
}

impl Change<'_> {
    fn of(&self, key: &str) -> bool {
        self.new.status(key) != self.old.status(key)
    }

    fn of_condition(&self, name: &str) -> bool {
        self.new.has(name) != self.old.has(name)
    }

    fn of_end(&self) -> bool {
        self.new.is_finished() != self.old.is_finished()
    }
}

/// Checks an update of the status.
pub fn validate(sub: &str, new: &Value, old: &Value, errors: &mut FieldErrors) {
    if sub != "status" {
        return;
    }
    let change = Change { new: Job(new), old: Job(old) };
    counters(&change, errors);
    uncounted(&change.new, errors);
    conditions(&change, errors);
    times(&change, errors);
    end(&change, errors);
    indexes(&change, errors);
}

fn counters(change: &Change<'_>, errors: &mut FieldErrors) {
    let (new, old) = (&change.new, &change.old);
    for key in ["active", "succeeded", "failed", "ready", "terminating"] {
        if new.count(key) < 0 {
            errors.invalid(&at(key), &new.count(key).into(), "must be greater than or equal to 0");
        }
    }
    if new.count("failed") < old.count("failed") {
        errors.invalid("status.failed", &new.count("failed").into(), "cannot decrease the failed counter");
    }
    // An indexed job may be scaled down, and its count of what succeeded with it.
    let elastic = new.is_indexed() && new.spec("completions") == new.spec("parallelism");
    if !elastic && new.count("succeeded") < old.count("succeeded") {
        errors.invalid("status.succeeded", &new.count("succeeded").into(), "cannot decrease the succeeded counter");
    }
    let reported = new.status("ready").is_some() && (change.of("ready") || change.of("active"));
    if reported && new.count("ready") > new.count("active") {
        errors.invalid("status.ready", &new.count("ready").into(), "cannot set more ready pods than active");
    }
}

fn uncounted(new: &Job<'_>, errors: &mut FieldErrors) {
    let mut seen: Vec<&str> = Vec::new();
    for list in ["succeeded", "failed"] {
        for (i, uid) in items(new.0, &["status", "uncountedTerminatedPods", list]).iter().enumerate() {
            let field = format!("status.uncountedTerminatedPods.{list}[{i}]");
            match uid.as_str().unwrap_or_default() {
                "" => errors.invalid(&field, uid, "must not be empty"),
                known if seen.contains(&known) => errors.duplicate(&field, uid),
                fresh => seen.push(fresh),
            }
        }
    }
}

fn conditions(change: &Change<'_>, errors: &mut FieldErrors) {
    let (new, old) = (&change.new, &change.old);
    let changed = |names: [&str; 2]| names.iter().any(|name| change.of_condition(name));
    let both = |a: &str, b: &str| new.has(a) && new.has(b);
    let mut refuse = |when: bool, detail: &str| {
        if when {
            let field = "status.conditions".to_owned();
            let message = format!("Invalid value: {detail}");
            errors.0.push(kinit_apimachinery::Cause { reason: "FieldValueInvalid".into(), message, field });
        }
    };
    refuse(
        changed(["Complete", "Failed"]) && both("Complete", "Failed"),
        "cannot set Complete=True and Failed=true conditions",
    );
    refuse(
        changed(["Complete", "FailureTarget"]) && both("Complete", "FailureTarget"),
        "cannot set Complete=True and FailureTarget=true conditions",
    );
    refuse(
        changed(["Failed", "FailureTarget"]) && new.has("Failed") && !new.has("FailureTarget"),
        "cannot set Failed=True condition without the FailureTarget=true condition",
    );
    refuse(
        changed(["Complete", "SuccessCriteriaMet"]) && new.has("Complete") && !new.has("SuccessCriteriaMet"),
        "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
    );
    refuse(both("SuccessCriteriaMet", "Failed"), "cannot set SuccessCriteriaMet=True and Failed=true conditions");
    refuse(
        both("SuccessCriteriaMet", "FailureTarget"),
        "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
    );
    for name in ["Failed", "Complete", "FailureTarget"] {
        refuse(old.has(name) && !new.has(name), &format!("cannot disable the terminal {name}=True condition"));
    }
    refuse(
        old.has("SuccessCriteriaMet") && !new.has("SuccessCriteriaMet"),
        "cannot disable the SuccessCriteriaMet=True condition",
    );
    refuse(
        old.has("Complete") && !old.has("SuccessCriteriaMet") && new.has("SuccessCriteriaMet"),
        "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions",
    );
}

fn times(change: &Change<'_>, errors: &mut FieldErrors) {
    let (new, old) = (&change.new, &change.old);
    let completion = new.status("completionTime");
    let shown = completion.cloned().unwrap_or_default();
    if change.of_condition("Complete") || change.of("completionTime") {
        match (completion, new.has("Complete")) {
            (Some(_), false) => errors.invalid(
                "status.completionTime",
                &shown,
                "cannot set completionTime when there is no Complete=True condition",
            ),
            (None, true) => errors.required("status.completionTime", "completionTime is required for Complete jobs"),
            _ => {}
        }
    }
    let [begun, done] = ["startTime", "completionTime"].map(|key| time::parse(new.text(key)));
    if (change.of("startTime") || change.of("completionTime"))
        && let (Some(begun), Some(done)) = (begun, done)
        && done < begun
    {
        errors.invalid("status.completionTime", &shown, "completionTime cannot be set before startTime");
    }
    if completion.is_some() && old.status("completionTime").is_some() && change.of("completionTime") {
        errors.invalid("status.completionTime", &shown, "completionTime cannot be mutated");
    }
    let suspended = new.spec("suspend") == Some(&Value::Bool(true));
    if old.status("startTime").is_some() && change.of("startTime") && !suspended {
        errors.required("status.startTime", "startTime cannot be removed for unsuspended job");
    }
}

/// What a finished job has no more.
fn end(change: &Change<'_>, errors: &mut FieldErrors) {
    let new = &change.new;
    if !new.is_finished() {
        return;
    }
    let ended = change.of_end();
    for key in ["active", "terminating"] {
        if (ended || change.of(key)) && new.count(key) > 0 {
            errors.invalid(&at(key), &new.count(key).into(), &format!("{key}>0 is invalid for finished job"));
        }
    }
    if (ended || change.of("startTime")) && new.status("startTime").is_none() {
        errors.required("status.startTime", "startTime is required for finished job");
    }
    if (ended || change.of("uncountedTerminatedPods")) && !new.uncounted().is_empty() {
        let value = new.status("uncountedTerminatedPods").cloned().unwrap_or_default();
        let detail = "uncountedTerminatedPods needs to be empty for finished job";
        errors.invalid("status.uncountedTerminatedPods", &value, detail);
    }
}

fn indexes(change: &Change<'_>, errors: &mut FieldErrors) {
    let new = &change.new;
    let completions = new.spec("completions").and_then(Value::as_i64);
    let (completed, failed) = (new.text("completedIndexes"), new.status("failedIndexes"));
    let per_index = new.spec("backoffLimitPerIndex").is_some();
    let mut check = |key: &str, text: &str, completions| {
        if let Err(problem) = job_indexes::parse(text, completions) {
            errors.invalid(&at(key), &text.into(), &format!("error parsing {key}: {problem}"));
        }
    };
    if change.of("completedIndexes")
        && let Some(completions) = completions
    {
        check("completedIndexes", completed, completions);
    }
    if change.of("failedIndexes")
        && let (Some(completions), true, Some(failed)) = (completions, per_index, failed)
    {
        check("failedIndexes", failed.as_str().unwrap_or_default(), completions);
    }
    if change.of("completedIndexes") && !completed.is_empty() && !new.is_indexed() {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.invalid("status.completedIndexes", &completed.into(), detail);
    }
    if change.of("failedIndexes")
        && !per_index
        && let Some(failed) = failed
    {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.invalid("status.failedIndexes", failed, detail);
    }
    if (change.of("failedIndexes") || change.of("completedIndexes"))
        && let (Some(completions), Some(failed)) = (completions, failed)
        && let Some(both) = job_indexes::common(completed, failed.as_str().unwrap_or_default(), completions)
    {
        let detail = format!("failedIndexes and completedIndexes overlap at index: {both}");
        errors.invalid("status.failedIndexes", failed, &detail);
    }
}

fn at(key: &str) -> String {
    format!("status.{key}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn condition(kind: &str) -> Value {
        json!({"type": kind, "status": "True"})
    }

    fn running() -> Value {
        json!({"active": 1, "startTime": "2026-01-01T00:00:00Z", "succeeded": 2, "failed": 1})
    }

    fn complete() -> Value {
        json!({"startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-02T00:00:00Z", "succeeded": 3,
            "failed": 1, "conditions": [condition("SuccessCriteriaMet"), condition("Complete")]})
    }

    fn failed() -> Value {
        json!({"startTime": "2026-01-01T00:00:00Z", "succeeded": 2, "failed": 2,
            "conditions": [condition("FailureTarget"), condition("Failed")]})
    }

    fn with(status: &Value, change: Value) -> Value {
        let mut status = status.clone();
        change.as_object().unwrap().iter().for_each(|(key, value)| status[key] = value.clone());
        status
    }

    fn reported(table: &[(&Value, Value, &[&str])]) {
        for (old, new, wanted) in table {
            let job = |status: &Value| json!({"spec": {"completions": 3, "parallelism": 1}, "status": status});
            let mut errors = FieldErrors::default();
            validate("status", &job(new), &job(old), &mut errors);
            super::super::tools::assert_told(&errors, wanted, new);
        }
    }

    #[test]
    fn counts_and_times() {
        let running = running();
        let complete = complete();
        let failed = failed();
        reported(&[
            (&running, running.clone(), &[]),
            (&running, complete.clone(), &[]),
            (&running, failed.clone(), &[]),
            (&complete, complete.clone(), &[]),
            (&running, with(&running, json!({"active": -1})), &["status.active: must be greater than or equal to 0"]),
            (&running, with(&running, json!({"failed": 0})), &["status.failed: cannot decrease the failed counter"]),
            (
                &running,
                with(&running, json!({"succeeded": 1})),
                &["status.succeeded: cannot decrease the succeeded counter"],
            ),
            (&running, with(&running, json!({"ready": 2})), &["status.ready: cannot set more ready pods than active"]),
            (&running, with(&running, json!({"startTime": null})), &["status.startTime: startTime cannot be removed"]),
            (&running, with(&complete, json!({"active": 1})), &["status.active: active>0 is invalid for finished job"]),
            (&running, with(&complete, json!({"terminating": 1})), &["status.terminating: terminating>0 is invalid"]),
            (
                &running,
                with(&complete, json!({"completionTime": null})),
                &["status.completionTime: completionTime is required"],
            ),
            (
                &running,
                with(&complete, json!({"completionTime": "2025-01-01T00:00:00Z"})),
                &["status.completionTime: completionTime cannot be set before startTime"],
            ),
        ]);
    }

    #[test]
    fn what_is_finished_stays_so() {
        let running = running();
        let complete = complete();
        let failed = failed();
        reported(&[
            (
                &running,
                with(&complete, json!({"conditions": [condition("Complete")]})),
                &["status.conditions: cannot set Complete=True condition without the SuccessCriteriaMet=true"],
            ),
            (
                &running,
                with(&failed, json!({"conditions": [condition("Failed")]})),
                &["status.conditions: cannot set Failed=True condition without the FailureTarget=true condition"],
            ),
            (
                &complete,
                with(&complete, json!({"conditions": []})),
                &[
                    "status.conditions: cannot disable the terminal Complete=True condition",
                    "status.conditions: cannot disable the SuccessCriteriaMet=True condition",
                    "status.completionTime: cannot set completionTime when there is no Complete=True condition",
                ],
            ),
            (
                &complete,
                with(&complete, json!({"completionTime": "2026-01-03T00:00:00Z"})),
                &["status.completionTime: completionTime cannot be mutated"],
            ),
        ]);
    }

    #[test]
    fn lists_of_pods_and_indexes() {
        let running = running();
        let complete = complete();
        reported(&[
            (
                &running,
                with(&complete, json!({"uncountedTerminatedPods": {"failed": ["u"]}})),
                &["status.uncountedTerminatedPods: uncountedTerminatedPods needs to be empty for finished job"],
            ),
            (
                &running,
                with(&running, json!({"uncountedTerminatedPods": {"failed": ["u"], "succeeded": ["u", ""]}})),
                &[
                    "status.uncountedTerminatedPods.succeeded[1]: must not be empty",
                    "status.uncountedTerminatedPods.failed[0]: Duplicate value",
                ],
            ),
            (
                &running,
                with(&running, json!({"completedIndexes": "0"})),
                &["status.completedIndexes: cannot set non-empty completedIndexes when non-indexed"],
            ),
            (
                &running,
                with(&running, json!({"completedIndexes": "3", "failedIndexes": "0"})),
                &[
                    "status.completedIndexes: error parsing completedIndexes: ",
                    "status.completedIndexes: cannot set non-empty",
                    "status.failedIndexes: cannot set non-null failedIndexes when backoffLimitPerIndex is null",
                ],
            ),
        ]);
    }

    #[test]
    fn indexes_do_not_overlap() {
        let job = |completed: &str, failed: &str| {
            json!({"spec": {"completions": 10, "completionMode": "Indexed", "backoffLimitPerIndex": 1},
                "status": {"completedIndexes": completed, "failedIndexes": failed}})
        };
        for (completed, failed, wrong) in [("0-3,5", "4,6-9", 0), ("0-3", "3,6", 1), ("5,3", "", 1), ("1", "10", 1)] {
            let mut errors = FieldErrors::default();
            validate("status", &job(completed, failed), &job("", ""), &mut errors);
            assert_eq!(errors.0.len(), wrong, "{completed} {failed}: {:?}", errors.0);
        }
    }
}
