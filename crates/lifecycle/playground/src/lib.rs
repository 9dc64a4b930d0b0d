//! A playground: hosts out of namespaces, on one machine, as real as they get without a hypervisor.
//!
//! ```text
//! kinit playground up ── topology ──► state directory  one folder a playground: spec, keys, known_hosts
//!                                        └ hosts/NAME   upper/ work/ var/ root/, console log, pids
//!                   ── rootfs   ──► cache               one Debian tree, built once, shared read-only
//!                   ── net      ──► bridge + NAT        one subnet a playground
//!                   ── boot     ──► supervisor ► launcher ► systemd as PID 1
//! ```
//!
//! Every host has its own name, address, machine-id, SSH host key, boot id, cgroups and processes; it shares the
//! kernel, the clock, swap and the page cache with the machine. A host that loses power loses no unsynced page cache;
//! clocks cannot disagree.

mod boot;
mod cgroup;
mod disk;
mod identity;
mod init;
mod net;
mod power;
mod rootfs;
mod state;
mod topology;
mod vagrant;

pub use boot::{launch, supervise};
pub use init::init;
pub use rootfs::{Cache, HOST_PACKAGES};
pub use state::{Playground, UpOptions};
pub use topology::{Host, Role, Topology};
pub use vagrant::{address as vagrant_address, vagrantfile};
