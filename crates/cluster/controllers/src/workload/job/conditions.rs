//! A Job's conditions.

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Whether the Job is over.
pub fn is_finished(job: &Job) -> bool {
    has(job.status.as_ref(), "Complete") || has(job.status.as_ref(), "Failed")
}

/// Whether the condition is true.
pub fn has(status: Option<&JobStatus>, type_: &str) -> bool {
    condition(status, type_).is_some_and(|c| c.status == "True")
}

/// The condition of this type.
pub fn condition<'a>(status: Option<&'a JobStatus>, type_: &str) -> Option<&'a JobCondition> {
    status?.conditions.iter().flatten().find(|c| c.type_ == type_)
}

/// Sets a condition; whether that changed its value or reason.
pub fn set_condition(
    status: &mut JobStatus,
    type_: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: &Time,
) -> bool {
    if condition(Some(status), type_).is_some_and(|c| c.status == value && c.reason.as_deref() == Some(reason)) {
        return false;
    }
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|c| c.type_ != type_);
    conditions.push(JobCondition {
        type_: type_.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(now.clone()),
        last_transition_time: Some(now.clone()),
    });
    true
}
