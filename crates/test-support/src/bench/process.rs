//! A program under measurement.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Units of the times in `/proc/PID/stat`: hundredths of a second on every x86-64 Linux (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// User and system time that a process has used, to 10 ms.
pub fn cpu(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let ticks = ticks(&text).with_context(|| format!("{path} has no times"))?;
    Ok(TICK.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX)))
}

/// `utime` + `stime`, fields 14 and 15 of proc_pid_stat(5). The name, field 2, may contain anything, so counting starts
/// after it.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut times = rest.split_ascii_whitespace().skip(11).map(|field| field.parse::<u64>().ok());
    Some(times.next()?? + times.next()??)
}

/// Resident memory of a process, in bytes.
pub fn resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let kib =
        text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("{path} has no VmRSS"))? * 1024)
}

/// A running component; it ends with this value.
pub struct Process {
    /// Its name.
    pub name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `hyperkube ARGS`; its log goes to `DIR/NAME.log`.
    pub fn start<A: AsRef<std::ffi::OsStr>>(
        hyperkube: &Path,
        name: &'static str,
        args: impl IntoIterator<Item = A>,
        dir: &Path,
    ) -> Result<Self> {
        let path = dir.join(format!("{name}.log"));
        let log = std::fs::File::create(&path).with_context(|| format!("make {}", path.display()))?;
        let mut command = Command::new(hyperkube);
        // As verbose as on a host, whatever this process is.
        command.args(args).env_remove("RUST_LOG").stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("start {name} of {}", hyperkube.display()))?;
        Ok(Self { name, child, log: path })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error with the log's end if the process is no more.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait().with_context(|| format!("look at {}", self.name))? {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            bail!("{} ended with {status}: {}", self.name, lines[lines.len().saturating_sub(5)..].join("\n"));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_behind_any_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 7 7 20 0 9 0 100 1000 200";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("42 (a) S 1"), None);
    }

    #[test]
    fn this_process_has_used_time_and_memory() {
        let started = std::time::Instant::now();
        while cpu(std::process::id()).unwrap() < Duration::from_millis(20) {
            assert!(started.elapsed() < Duration::from_secs(10), "no time passes");
        }
        assert!(resident(std::process::id()).unwrap() > 100_000);
    }
}
