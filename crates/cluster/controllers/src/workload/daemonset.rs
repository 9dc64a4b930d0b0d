//! `daemonset`: one pod on every node that is meant (`pkg/controller/daemon`).

mod place;
mod plan;
mod sync;

pub use sync::run;
