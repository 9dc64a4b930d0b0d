//! The host's lock: one agent at a time.

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

pub(crate) const PATH: &str = "/run/kinit.lock";
/// An agent whose kinit was killed finishes its current step first; installing packages is the longest.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The lock, held until the file is closed: the kernel sees to that when this process ends, however it ends.
pub(crate) struct Lock(File);

impl Lock {
    /// Opens the lock without taking it.
    pub(crate) fn open() -> Result<Self> {
        let file = File::options().create(true).append(true).open(PATH);
        Ok(Self(file.with_context(|| format!("open {PATH}"))?))
    }

    /// Takes the lock if nobody else has it; whether it did.
    pub(crate) fn try_take(&self) -> Result<bool> {
        match flock(&self.0, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("lock {PATH}")),
        }
    }

    /// Takes the lock as soon as its holder lets go, within [`PATIENCE`]; whether it did.
    pub(crate) fn wait(&self) -> Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.try_take()? {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            // flock cannot wait with a deadline.
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
