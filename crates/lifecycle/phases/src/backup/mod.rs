//! Backups, from the desk: the hosts do the work, and what comes from them is encrypted already.

mod create;
mod open;
mod restore;

pub use create::{CreateOptions, Created, create};
pub use open::{Opened, look_here, look_on_host, open};
pub use restore::{Restoration, Snapshot, Unfit, fits};
