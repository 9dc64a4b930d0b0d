//! `cronjob`: Jobs at set times (`pkg/controller/cronjob`).

mod schedule;
mod sync;

pub use sync::run;
