//! What can be served: one descriptor per resource, and the tables they come from.

pub mod descriptor;
pub mod faces;
pub mod fields;
mod hpa;
mod table;

pub use descriptor::{Descriptor, Registry, Served, Sub};
