//! Processes told apart from later ones of the same number, and waiting for their end.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process: its number, and when it started (clock ticks since boot), so that a reused number is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessRef {
    pid: u32,
    started: u64,
}

impl ProcessRef {
    /// A running process.
    pub fn of(pid: u32) -> Result<Self> {
        let stat =
            std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("look at process {pid}"))?;
        // The name, in parentheses, may hold spaces; start time is field 22, the 20th after it.
        let started =
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)).and_then(|f| f.parse().ok());
        Ok(Self { pid, started: started.with_context(|| format!("read the start time of process {pid}"))? })
    }

    /// This process.
    pub fn current() -> Result<Self> {
        Self::of(std::process::id())
    }

    /// Writes it to a file.
    pub fn save(&self, path: &Path) -> Result<()> {
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, format!("{} {}\n", self.pid, self.started))
            .with_context(|| format!("write {}", path.display()))?;
        std::fs::rename(&temporary, path).with_context(|| format!("write {}", path.display()))
    }

    /// The process a file names, if it still runs.
    pub fn load(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        let mut words = text.split_whitespace();
        let saved = Self { pid: words.next()?.parse().ok()?, started: words.next()?.parse().ok()? };
        (Self::of(saved.pid).ok()? == saved).then_some(saved)
    }

    fn open(&self) -> Option<OwnedFd> {
        let fd = pidfd_open(Pid::from_raw(i32::try_from(self.pid).ok()?)?, PidfdFlags::empty()).ok()?;
        // The number may have changed hands between the look and the open.
        (Self::of(self.pid).ok()? == *self).then_some(fd)
    }

    /// SIGKILL, if it still runs.
    pub fn kill(&self) {
        if let Some(fd) = self.open() {
            // It may have ended by itself; that is as good.
            pidfd_send_signal(&fd, Signal::KILL).ok();
        }
    }

    /// Waits for its end.
    pub fn wait_gone(&self, deadline: Option<Duration>) -> Result<()> {
        let Some(fd) = self.open() else { return Ok(()) };
        let timeout = deadline.map(|d| Timespec {
            tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: d.subsec_nanos().into(),
        });
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], timeout.as_ref()) {
            Ok(0) => bail!("process {} still runs", self.pid),
            Ok(_) => Ok(()),
            Err(error) => Err(error).context("wait for a process"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_number_is_not_the_same_process() {
        let dir = std::env::temp_dir().join(format!("kinit-pid-{}", std::process::id()));
        let me = ProcessRef::current().unwrap();
        me.save(&dir).unwrap();
        assert_eq!(ProcessRef::load(&dir), Some(me));
        ProcessRef { started: me.started + 1, ..me }.save(&dir).unwrap();
        assert_eq!(ProcessRef::load(&dir), None);
        std::fs::remove_file(&dir).unwrap();
    }

    #[test]
    fn the_end_of_a_process_is_waited_for() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let it = ProcessRef::of(child.id()).unwrap();
        assert!(it.wait_gone(Some(Duration::from_millis(10))).is_err());
        it.kill();
        it.wait_gone(Some(Duration::from_secs(5))).unwrap();
        child.wait().unwrap();
    }
}
