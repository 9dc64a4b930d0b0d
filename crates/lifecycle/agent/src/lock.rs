//! The host's lock: one agent at a time.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

pub(crate) const PATH: &str = "/run/kinit.lock";
/// An agent whose kinit was killed finishes its current step first; installing packages is the longest.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The lock, held until the file is closed: the kernel sees to that when this process ends, however it ends.
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Opens the lock without taking it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        Ok(Self { file: file.with_context(|| format!("open {}", path.display()))?, path: path.to_owned() })
    }

    /// Takes the lock if nobody else has it; whether it did.
    pub(crate) fn try_take(&self) -> Result<bool> {
        match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("lock {}", self.path.display())),
        }
    }

    /// Takes the lock as soon as its holder lets go, within `patience`; `None` when its holder keeps it.
    pub(crate) async fn wait(self, patience: Duration) -> Result<Option<Self>> {
        let (sender, taken) = tokio::sync::oneshot::channel();
        // flock cannot be cancelled: a thread of its own waits in it and ends with the process. One of the runtime's
        // would keep the process from ending.
        std::thread::spawn(move || {
            let result = loop {
                match flock(&self.file, FlockOperation::LockExclusive) {
                    Err(rustix::io::Errno::INTR) => {}
                    other => break other.with_context(|| format!("lock {}", self.path.display())).map(|()| self),
                }
            };
            // When nobody waits any more the value comes back and is dropped, and the lock with it.
            drop(sender.send(result));
        });
        match tokio::time::timeout(patience, taken).await {
            Ok(taken) => taken.context("wait for the lock")?.map(Some),
            Err(_) => Ok(None),
        }
    }
}
