//! `resourcequota`: what a namespace uses of what its ResourceQuotas allow (`pkg/controller/resourcequota`, `pkg/quota/v1`).
//!
//! ```text
//! pods, services, claims ─▶ usage: what one object uses, in which scopes ─┐
//! anything that a quota counts ─▶ metadata watches, begun when asked for ─┴─▶ sync: the sum ─▶ status.used
//! ```

mod requests;
mod scopes;
mod sync;
mod usage;

pub use sync::run;
