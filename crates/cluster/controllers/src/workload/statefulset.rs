//! `statefulset`: pods with names and claims of their own, in order (`pkg/controller/statefulset`).

mod identity;
mod plan;
mod sync;

pub use sync::run;
