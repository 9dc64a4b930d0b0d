//! What a ResourceQuota counts of an object (`k8s.io/apiserver/pkg/quota/v1`, `pkg/quota/v1/evaluator/core`). Admission
//! charges by it and the quota controller counts again by it.
//!
//! ```text
//! subject  an object as quotas see it ──┬─ usage   what it uses, by the names of `spec.hard`
//!                                       ├─ scopes  whether a quota speaks of it
//!                                       └─ names   which names of `spec.hard` are about it; what pods must say
//! ```

mod names;
mod scopes;
mod subject;
mod usage;

pub use names::counted;
pub use scopes::{SCOPES, has_scopes, speaks_of_claim, speaks_of_pod};
pub use subject::Subject;
pub use usage::{of_claim, of_pod, of_service};
