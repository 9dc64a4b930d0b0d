//! The service proxy.
//!
//! ```text
//! Services, EndpointSlices ─ services ─▶ [ServicePort] ─ planner ─▶ changes ─ keeper ─▶ one transaction
//!                                              │            ├─ fronts, shared, own: what a Service needs in the table
//!                                              │            └─ flows ─▶ remembered UDP flows to forget
//!                                              └─ health ─▶ an HTTP port a Service that is Local
//! ```
//!
//! All but `keeper`, `health` and `run` is pure. Semantics are those of upstream's nftables mode
//! (`pkg/proxy/nftables`); the ruleset is smaller: endpoints are elements of maps, and Services share the chains that
//! pick one. A change costs what the changed Service costs (docs/service-proxy.md).

mod args;
#[cfg(test)]
mod bench;
mod flows;
mod fronts;
mod health;
mod keeper;
#[cfg(test)]
mod keeper_tests;
mod metrics;
#[cfg(test)]
mod nets;
mod own;
mod planner;
#[cfg(test)]
mod planner_tests;
mod ruleset;
mod run;
mod services;
mod shared;
#[cfg(test)]
mod traffic_tests;

pub use run::main;
