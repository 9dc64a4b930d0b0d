//! The host's lock: one agent at a time.

use std::fs::File;
use std::time::Duration;

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

    /// Takes the lock as soon as its holder lets go, within [`PATIENCE`]; None: whoever has it keeps it.
    pub(crate) async fn wait(self) -> Result<Option<Self>> {
        let (sender, taken) = tokio::sync::oneshot::channel();
        // flock cannot be given up: the thread that waits in it ends with the process, which must not wait for it.
        std::thread::spawn(move || {
            let result = loop {
                match flock(&self.0, FlockOperation::LockExclusive) {
                    Err(rustix::io::Errno::INTR) => {}
                    other => break other.with_context(|| format!("lock {PATH}")).map(|()| self),
                }
            };
            // Nobody waits any more when the time was over; the lock goes with the value.
            let _ = sender.send(result);
        });
        match tokio::time::timeout(PATIENCE, taken).await {
            Ok(Ok(result)) => result.map(Some),
            Ok(Err(_)) | Err(_) => Ok(None),
        }
    }
}
