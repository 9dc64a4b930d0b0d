//! The channel protocols of exec, attach and port-forward.
//!
//! ```text
//! clients ══ WebSocket [v4.|v5.][base64.]channel.k8s.io ══► channels ─┐
//!                                                        exec (pump) ──► spdy::Session ══► CRI runtime
//! kubectl ══ SPDY/3.1 inside a WebSocket ══► tunnel ─► spdy::Session ─► forward (pump) ─► a port of the pod
//! clients ◄══ WebSocket [base64.]binary.k8s.io ══ reader ◄── a log
//! ```
//!
//! SPDY/3.1 is what CRI runtimes' streaming servers speak with half-close of stdin; WebSocket's older protocols lose
//! it.

pub mod channels;
pub mod exec;
pub mod forward;
pub mod handshake;
pub mod idle;
pub mod reader;
pub mod spdy;
pub mod tunnel;
