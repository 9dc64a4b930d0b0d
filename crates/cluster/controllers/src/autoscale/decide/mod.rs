//! The decisions: pure functions of samples, pods, history and the time.

pub mod history;
pub mod limits;
pub mod pods;
pub mod replicas;

#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod replicas_tests;
