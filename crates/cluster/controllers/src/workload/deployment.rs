//! `deployment`: rolls ReplicaSets from one template to the next (`pkg/controller/deployment`).
//!
//! ```text
//! history   which set has which revision; the new set; what to forget
//! plan      how many replicas each set should have now (rolling, recreate, proportional scaling)
//! status    counts and conditions
//! sync      reads the store, does what the other three say
//! ```

mod history;
mod plan;
mod status;
mod sync;

pub use history::{safe_encode, template_hash};
pub use sync::run;
