//! Nodes answer for the addresses of Services of type LoadBalancer: one node an address, by ARP.
//!
//! ```text
//! Services (status, mark) ─▶ wanted ─┐ which addresses; which nodes may, in which order
//! Nodes, EndpointSlices  ─▶ wanted ──┤
//! Leases (kinit-load-balancer) ──────┴▶ decide ─▶ agent ─▶ lease writes
//! heart   Lease node.NAME, renewed ─▶ Pulse ──────┐ └▶ voice ─▶ speaker ─▶ ARP
//! interfaces  whose network the address is of ────┴───┘
//! ```
//!
//! An answer is made here, by a raw socket, and not by giving the address to an interface: the service proxy translates
//! by destination, so that the address need not be local; a host that had it would answer on all its other ports too
//! (SSH, node ports); and an address on an interface outlives the program that put it there, where a program that has
//! died or hangs says nothing, which is what the others count on.
//!
//! One Lease a node is renewed, not one an address: a hundred addresses cost no more writes than one. Addresses are
//! IPv4, as the whole cluster network.

mod act;
mod agent;
mod arp;
mod beats;
mod carry_out;
mod decide;
mod heart;
mod interfaces;
mod lease;
mod socket;
mod speaker;
mod voice;
mod wanted;

#[cfg(test)]
mod segment_tests;
#[cfg(test)]
mod speaker_tests;

pub use agent::{Setup, run};
