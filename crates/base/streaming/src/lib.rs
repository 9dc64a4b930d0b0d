//! The channel protocols of exec, attach and port-forward.
//!
//! ```text
//! kubectl ══ WebSocket v5/v4.channel.k8s.io ══► channels ─┐
//!                                                        exec (pump) ──► spdy::Session ══► CRI runtime
//! kubectl ══ SPDY/3.1 inside a WebSocket ══► tunnel ─► spdy::Session ─► forward (pump) ─► a port of the pod
//! ```
//!
//! SPDY/3.1 is what CRI runtimes' streaming servers speak with half-close of stdin; WebSocket's older protocols lose it.

pub mod channels;
pub mod exec;
pub mod forward;
pub mod spdy;
pub mod tunnel;
