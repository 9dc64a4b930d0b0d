//! NetworkPolicy (`networking.k8s.io/v1`) of the pods of this node, by nftables.
//!
//! ```text
//! NetworkPolicy ─ parse ─┐                     ┌─ sets    addresses per distinct selector, shared between policies
//! Pod           ─ pods  ─┼─ feed ─▶ engine ────┼─ groups  a chain per set of policies that pods have in common
//! Namespace     ─────────┘        (pure)       └─ base    verdict maps: address of a pod of this node ─▶ its chain
//!                                    │
//!                                    ▼ a draft: the table, and what of it changed
//!                                  keeper ─▶ kernel    one transaction for a burst; undoes others' changes
//! ```
//!
//! A connection is judged where it is forwarded, at its first packet, after Services are resolved: the egress rules of
//! the pod it comes from on that pod's node, the ingress rules of the pod it goes to on that one's. What a host says
//! to its own pods, and they to it, is never forwarded, and so never judged. The rules followed are those of
//! upstream's page "Network Policies" and of the API's field descriptions.

mod address;
mod allow;
mod base;
#[cfg(test)]
mod bench;
mod engine;
mod feed;
mod groups;
mod keeper;
mod metrics;
mod parse;
mod pods;
#[cfg(test)]
mod random_tests;
mod ranges;
#[cfg(test)]
mod reach_tests;
mod selector;
mod sets;
#[cfg(test)]
mod simulate;
#[cfg(test)]
mod traffic_tests;

use std::collections::BTreeMap;
use std::fmt;

pub use base::remove;
pub use keeper::{Keeper, Settings};
pub use metrics::Metrics;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// An object of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Id {
    /// Of these names.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Which connections of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Those that others make to it.
    Ingress,
    /// Those that it makes.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// As it is written in names of chains and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}
