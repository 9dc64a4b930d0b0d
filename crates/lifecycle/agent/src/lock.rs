//! The host's lock: one agent at a time.
//!
//! The kernel keeps it (flock): it is free when its holder has ended, however that ended. The file tells who has it.
//! A second file beside it asks a holder to stop; the holder looks before each step. So two agents never work at the
//! same time, whatever is asked for.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::opening::{Caller, Held, Holder, unix_time};

pub(crate) const PATH: &str = "/run/kinit.lock";
/// An agent whose kinit was killed finishes its current step first; installing packages is the longest.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// How often a holder that waits for its desk looks whether it should stop, and how often it is asked.
const LOOK: Duration = Duration::from_millis(500);

/// The lock, held until the file is closed: the kernel sees to that when this process ends, however it ends.
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
    id: String,
}

/// Asks a holder to stop.
#[derive(Serialize, Deserialize)]
struct Demand {
    /// Which holding should end.
    holder: String,
    /// Who asks.
    caller: Caller,
}

fn demand_file(lock: &Path) -> PathBuf {
    lock.with_extension("lock.break")
}

impl Lock {
    /// Opens the lock without taking it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        let mut id = [0u8; 8];
        rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty()).context("get random bytes")?;
        let id = format!("{:016x}", u64::from_be_bytes(id));
        Ok(Self { file: file.with_context(|| format!("open {}", path.display()))?, path: path.to_owned(), id })
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

    /// Writes down who has taken the lock.
    pub(crate) fn sign(&mut self, caller: &Caller) -> Result<()> {
        let holder = Holder { caller: caller.clone(), since: unix_time(), id: self.id.clone() };
        let json = serde_json::to_vec(&holder).context("encode the lock's holder")?;
        let mut write = || -> std::io::Result<()> {
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.file.write_all(&json)
        };
        write().with_context(|| format!("write {}", self.path.display()))?;
        // It was for the holder before.
        std::fs::remove_file(demand_file(&self.path)).ok();
        Ok(())
    }

    /// Who wants this holding to end, if anybody does.
    pub(crate) fn demanded(&self) -> Option<Caller> {
        let text = std::fs::read(demand_file(&self.path)).ok()?;
        let demand: Demand = serde_json::from_slice(&text).ok()?;
        (demand.holder == self.id).then_some(demand.caller)
    }

    /// Waits until somebody wants this holding to end.
    pub(crate) async fn until_demanded(&self) -> Caller {
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            ticks.tick().await;
            if let Some(caller) = self.demanded() {
                return caller;
            }
        }
    }
}

/// Who has the lock; for those who do not have it themselves.
pub(crate) fn held(path: &Path) -> Held {
    // Its holder may be about to write it.
    Held::now(std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()))
}

/// Asks whoever has the lock now to stop, and nobody who takes it later. Goes on until it is cancelled.
pub(crate) async fn demand(path: &Path, caller: &Caller) -> Result<()> {
    let mut ticks = tokio::time::interval(LOOK);
    let holder = loop {
        ticks.tick().await;
        if let Some(holder) = held(path).holder {
            break holder.id;
        }
    };
    let json = serde_json::to_vec(&Demand { holder, caller: caller.clone() }).context("encode a demand")?;
    let file = demand_file(path);
    // Whole or not at all: the holder may look at any moment.
    let temporary = file.with_extension("break-new");
    std::fs::write(&temporary, &json).with_context(|| format!("write {}", temporary.display()))?;
    std::fs::rename(&temporary, &file).with_context(|| format!("write {}", file.display()))?;
    std::future::pending().await
}
