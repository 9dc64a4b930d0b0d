//! This machine as the API sees it: a Node object, its status, its lease.

pub mod capacity;
pub mod conditions;
pub mod facts;
pub mod held;
pub mod lease;
pub mod register;
pub mod status;
