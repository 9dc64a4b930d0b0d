//! End-to-end tests: real hosts, real SSH, a real kubectl; ordinary Rust.
//!
//! ```text
//! Lab ── kinit(...) ──► the program under test, as its users start it
//!     ── kubectl(...) ► Debian's kubectls, unmodified
//!     ── ssh(...) ────► what is on a host
//! Traffic ──────────► clients that work through the load balancer the whole time
//!     └─ taken down when the test process ends, however it ends
//! ```

mod cluster_file;
mod dice;
mod follow;
mod interrupt;
mod kubectl;
mod lab;
pub mod traffic;

pub use cluster_file::ClusterFile;
pub use dice::Dice;
pub use follow::Follow;
pub use interrupt::{Interrupted, Interruption};
pub use kubectl::Kubectl;
pub use lab::{Lab, Ran, eventually};
pub use traffic::Traffic;
