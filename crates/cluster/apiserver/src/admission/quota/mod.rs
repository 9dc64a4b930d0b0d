//! ResourceQuota: what would use more than a namespace may is refused, what fits is charged (`plugin/resourcequota`).
//!
//! ```text
//! object ─▶ the namespace's quotas, from the watch cache ─▶ check: fits? ─▶ ledger: status.used by compare-and-swap
//!                                                              ▲                 │ another server was faster
//!                                                              └─────────────────┘
//! ```
//!
//! The charge comes before the object is written. When that fails, the quota controller counts again and takes the
//! charge back.

mod check;
mod ledger;

use std::collections::BTreeMap;
use std::time::Duration;

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use kinit_component_helpers::quota::Subject;
use serde_json::Value;

use super::{Attributes, Operation};
use check::QuotaWrite;
pub use ledger::Ledger;

/// How long one request may wait for its turn (upstream's).
const PATIENCE: Duration = Duration::from_secs(10);

/// Refuses what does not fit, charges what does.
pub async fn admit(attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
    if !is_measured(attributes, object) {
        return Ok(());
    }
    let request = attributes.request;
    let known = ledger::quotas(&request.server, &request.info.namespace)?;
    if known.is_empty() {
        return Ok(());
    }
    let desc = &request.desc;
    let subject = |object: &Value| {
        let subject = Subject::of(&desc.group, &desc.plural, object);
        subject.map_err(|e| ApiError::bad_request(format!("{} cannot be measured for quotas: {e}", desc.plural)))
    };
    let write = QuotaWrite {
        new: subject(object)?,
        old: attributes.old.map(subject).transpose()?,
        // What a controller says has happened is counted, not refused.
        enforced: attributes.subresource != "status",
        now: jiff::Timestamp::now(),
    };
    let refused = |cause: String| ApiError::forbidden(&desc.group, &desc.plural, object.name(), &cause);
    let first = write.charges(&known);
    // What costs nothing, and what is only tried, does not wait for its turn.
    if attributes.dry_run || first.as_ref().is_ok_and(BTreeMap::is_empty) {
        return first.map(drop).map_err(refused);
    }
    let charged = ledger::charge(&request.server, &request.info.namespace, &write);
    match tokio::time::timeout(PATIENCE, charged).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(ledger::Failure::Refused(cause))) => Err(refused(cause)),
        Ok(Err(ledger::Failure::Other(error))) => Err(error),
        Err(_) => Err(ApiError::internal("resource quota evaluation timed out")),
    }
}

/// Whether quotas look at the write at all (`Evaluator.Handles`, `DefaultIgnoredResources`).
fn is_measured(attributes: &Attributes<'_>, object: &Value) -> bool {
    let desc = &attributes.request.desc;
    let ignored = desc.plural == "events" && matches!(desc.group.as_str(), "" | "events.k8s.io");
    if !desc.namespaced || desc.prefix.is_empty() || ignored {
        return false;
    }
    let core = if desc.group.is_empty() { desc.plural.as_str() } else { "" };
    match (core, attributes.operation, attributes.subresource) {
        (_, Operation::Create, "") | ("services" | "persistentvolumeclaims", Operation::Update, "") => true,
        ("pods", Operation::Update, "resize") => true,
        ("persistentvolumeclaims", Operation::Update, "status") => {
            attributes.old.is_some_and(|old| claim_grows(object, old))
        }
        _ => false,
    }
}

/// `RequiresQuotaReplenish`.
fn claim_grows(new: &Value, old: &Value) -> bool {
    let paths: [&[&str]; 3] = [
        &["status", "allocatedResources", "storage"],
        &["status", "currentVolumeAttributesClassName"],
        &["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"],
    ];
    paths.into_iter().any(|path| new.at(path) != old.at(path))
}
