//! End-to-end tests: real hosts, real SSH, a real kubectl; ordinary Rust.
//!
//! ```text
//! Lab ── kinit(...) ──► the program under test, as its users start it
//!     ── kubectl(...) ► Debian's kubectl, unmodified
//!     ── ssh(...) ────► what is on a host
//!     └─ taken down when the test process ends, however it ends
//! ```

mod kubectl;
mod lab;

pub use lab::{Lab, Ran, eventually};
