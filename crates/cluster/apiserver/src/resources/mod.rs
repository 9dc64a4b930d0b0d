//! What can be served: one descriptor per resource, and the tables they come from.

pub mod convert;
pub mod descriptor;
pub mod faces;
pub mod fields;
mod hpa;
pub mod scopes;
mod table;

pub use descriptor::{Custom, Descriptor, Registry, Served, Sub};
