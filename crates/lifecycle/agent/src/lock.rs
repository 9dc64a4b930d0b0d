//! The host's lock: one agent at a time.

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

const PATH: &str = "/run/kinit.lock";
/// An agent whose kinit was killed finishes its current step first; installing packages is the longest.
const PATIENCE: Duration = Duration::from_secs(120);

/// Takes the lock, which the kernel releases when this process ends, however it ends.
pub fn take() -> Result<File> {
    let file = File::options().create(true).append(true).open(PATH).with_context(|| format!("open {PATH}"))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            // flock cannot wait with a deadline.
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50))
            }
            Err(rustix::io::Errno::WOULDBLOCK) => bail!("another kinit works on this host (it holds {PATH})"),
            Err(error) => return Err(error).with_context(|| format!("lock {PATH}")),
        }
    }
}
