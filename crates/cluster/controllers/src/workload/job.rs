//! `job`: pods that run to their end (`pkg/controller/job`).
//!
//! Each pod carries a finalizer until it was counted: a finished pod is first named in
//! `status.uncountedTerminatedPods`, then loses its finalizer, then becomes a number. A controller that stops anywhere
//! between counts none twice and misses none.

mod back_off;
mod conditions;
mod indexes;
mod manage;
mod orphans;
mod per_index;
mod plan;
mod policy;
mod sync;
mod tally;
mod verdict;

pub use conditions::is_finished;
pub use sync::run;

/// Keeps a pod until it was counted.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label with a pod's index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
