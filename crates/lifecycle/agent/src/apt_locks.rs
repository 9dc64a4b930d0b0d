//! Locks of apt and dpkg. apt can wait for one of them itself (`DPkg::Lock::Timeout`), but says nothing of who holds
//! it, and gives up at once on the others.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use tokio::time::Instant;

use crate::facts::owner;
use crate::notes::note;

/// All that an installation or an update of the index takes.
pub(crate) const LOCKS: &[&str] =
    &["/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/lib/apt/lists/lock", "/var/cache/apt/archives/lock"];

fn whole_file() -> libc::flock {
    let (kind, whence) = (libc::F_WRLCK, libc::SEEK_SET);
    let short = |n: i32| libc::c_short::try_from(n).unwrap_or_default();
    libc::flock { l_type: short(kind), l_whence: short(whence), l_start: 0, l_len: 0, l_pid: 0 }
}

/// Who holds a lock: the program and its unit.
fn holder(file: &File) -> Result<Option<String>> {
    let mut lock = whole_file();
    fcntl(file, FcntlArg::F_GETLK(&mut lock)).context("ask for a lock's holder")?;
    if i32::from(lock.l_type) == libc::F_UNLCK {
        return Ok(None);
    }
    let process = Path::new("/proc").join(lock.l_pid.to_string());
    let program = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
    let (program, unit) = (program.trim(), owner(&process));
    let unit = if unit.is_empty() || unit == program { String::new() } else { format!(", {unit}") };
    Ok(Some(format!("{} (process {}{unit})", if program.is_empty() { "somebody" } else { program }, lock.l_pid)))
}

/// Waits until all locks are free, and says whom it waits for. They are not taken: the program that is started next
/// does that.
pub(crate) async fn wait_until_free(locks: &[&str], deadline: Instant) -> Result<()> {
    for path in locks {
        let file = match File::options().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("open {path}")),
        };
        let Some(holder) = holder(&file)? else { continue };
        note(format!("waiting for {holder}, which holds {path}"));
        if tokio::time::timeout_at(deadline, freed(file)).await.is_err() {
            bail!("{holder} holds {path} and did not end; wait for it, or stop it, and run the same command again");
        }
    }
    Ok(())
}

/// Waits in the kernel until the lock can be taken, and gives it back at once.
async fn freed(file: File) {
    let (sender, taken) = tokio::sync::oneshot::channel();
    // The wait cannot be cancelled: a thread of its own ends with the process. One of the runtime's would keep the
    // process from ending.
    std::thread::spawn(move || {
        while fcntl(&file, FcntlArg::F_SETLKW(&whole_file())) == Err(Errno::EINTR) {}
        drop(file);
        sender.send(()).unwrap_or_default();
    });
    // An error would be a thread that ended otherwise; the caller looks again anyway.
    taken.await.unwrap_or_default();
}

/// How long one wait for another's work may take; upgrades of a whole system are done in it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;
    use crate::notes::noting;

    /// A program that holds the lock until its input ends, as apt does.
    const HOLD: &str = "use Fcntl; open(F, '+>', $ARGV[0]); my $l = pack('s s x4 q q i x4', F_WRLCK, 0, 0, 0, 0); \
                        fcntl(F, F_SETLK, $l) or die; $| = 1; print \"held\\n\"; <STDIN>;";

    #[tokio::test]
    async fn the_holder_is_named_and_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock").display().to_string();
        let locks = ["/no/such/lock", path.as_str()];
        let soon = |ms| Instant::now() + Duration::from_millis(ms);
        let mut child = Command::new("perl")
            .args(["-e", HOLD, &path])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        let pid = child.id();
        let error = wait_until_free(&locks, soon(100)).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("perl (process {pid}")) && error.contains(&path), "{error}");
        let mut stdin = child.stdin.take();
        let (waiting, mut notes) = noting(wait_until_free(&locks, soon(20_000)));
        let release = async {
            let text = notes.recv().await.unwrap();
            assert!(text.starts_with("waiting for perl"), "{text}");
            drop(stdin.take());
        };
        tokio::join!(waiting, release).0.unwrap();
        child.wait().unwrap();
        wait_until_free(&locks, soon(0)).await.unwrap();
    }
}
