//! The service proxy.
//!
//! ```text
//! Services, EndpointSlices ─ services ─▶ [ServicePort] ─ ruleset ─▶ Table ─ kinit-nftables ─▶ the difference
//!                                             ├─ flows ─▶ remembered UDP flows to forget
//!                                             └─ health_ports ─▶ an HTTP port a Service that is Local
//! ```
//!
//! `services`, `ruleset` and `flows` are pure. Semantics are those of upstream's nftables mode (`pkg/proxy/nftables`);
//! the ruleset is smaller: endpoints are elements of maps, not chains.

mod args;
mod flows;
mod health;
mod metrics;
mod ruleset;
mod run;
mod services;
#[cfg(test)]
mod traffic_tests;

pub use run::main;
