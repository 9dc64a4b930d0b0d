//! `resourcequota`: what a namespace uses of what its ResourceQuotas allow (`pkg/controller/resourcequota`). What one
//! object uses is `kinit_component_helpers::quota`'s, by which admission in the API server charges at once; this loop
//! counts again.
//!
//! ```text
//! pods, services, claims ─▶ usage of each, in which scopes ─────────────────────────────┐
//! anything that a quota counts ─▶ metadata watches, begun when asked for ─┴─▶ sync: the sum ─▶ settle ─▶ status.used
//! ```

mod settle;
mod sync;

pub use sync::run;
