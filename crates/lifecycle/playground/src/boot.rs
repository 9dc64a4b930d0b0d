//! Who keeps a host running.
//!
//! ```text
//! supervisor   outside; makes cgroups and the cable, starts the next boot after a reboot, cleans up at the end
//!   └ launcher   enters new namespaces, configures the network, waits; its death is the host's
//!       └ init     PID 1: file systems, then systemd
//! ```

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::thread::UnshareFlags;

use crate::cgroup::Groups;
use crate::disk::Disk;
use crate::net;
use crate::power::ProcessRef;
use crate::state::Playground;

/// What a reboot inside looks like from outside: the kernel ends the namespace's first process with SIGHUP.
const REBOOT: i32 = 128 + libc::SIGHUP;

/// Keeps a host running until it is powered off; a reboot inside starts it again.
pub fn supervise(dir: &Path, name: &str) -> Result<()> {
    rustix::process::setsid().ok();
    let playground = Playground::open_dir(dir)?;
    let host = playground.topology.host(name)?;
    let disk = Disk::new(dir, name);
    ProcessRef::current()?.save(&disk.path("supervisor.pid"))?;
    let groups = Groups::new(&playground.name, name);
    loop {
        let code = boot_once(&playground, host, &disk, &groups);
        std::fs::remove_file(disk.path("init.pid")).ok();
        net::detach(&playground.topology, host)?;
        Groups::leave()?;
        groups.remove()?;
        let code = code?;
        eprintln!("host {name} ended with {code}");
        if code != REBOOT {
            break;
        }
    }
    std::fs::remove_file(disk.path("supervisor.pid")).context("remove the supervisor's pid file")
}

fn boot_once(playground: &Playground, host: &crate::Host, disk: &Disk, groups: &Groups) -> Result<i32> {
    groups.enter()?;
    let mut launcher = hidden_command("launch", &playground.dir, &host.name);
    let mut child = launcher.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start the launcher")?;
    Groups::leave()?;
    let mut answers = BufReader::new(child.stdout.take().context("the launcher has no output")?);
    let mut line = String::new();
    answers.read_line(&mut line)?;
    ensure!(line == "ready\n", "the launcher did not get ready; see the host's console.log");
    net::attach(&playground.topology, host, child.id())?;
    child.stdin.take().context("the launcher has no input")?.write_all(b"go\n")?;
    line.clear();
    answers.read_line(&mut line)?;
    let pid: u32 = line.trim().parse().context("the launcher did not start the host; see its console.log")?;
    ProcessRef::of(pid)?.save(&disk.path("init.pid"))?;
    let status = child.wait().context("wait for the launcher")?;
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// `kinit playground VERB --dir DIR --host HOST` of this very program.
fn hidden_command(verb: &str, dir: &Path, host: &str) -> Command {
    // Its path may lead nowhere from inside a new mount namespace, and another build may stand there by now.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("kinit").args(["playground", verb, "--dir"]).arg(dir).args(["--host", host]);
    command
}

/// Enters new namespaces, starts the host's first process there and waits for its end. Must be called before any thread
/// is started.
#[expect(unsafe_code, reason = "unshare asks for a process of one thread")]
pub fn launch(dir: &Path, name: &str) -> Result<i32> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let playground = Playground::open_dir(dir)?;
    let host = playground.topology.host(name)?;
    let uptime = std::fs::read_to_string("/proc/uptime").context("read the machine's uptime")?;
    let seconds = uptime.split('.').next().unwrap_or("0").to_owned();
    let outside = UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWCGROUP;
    // SAFETY: this process has one thread, and nothing of it relies on the namespaces it leaves.
    unsafe { rustix::thread::unshare_unsafe(outside) }.context("enter new namespaces")?;
    println!("ready");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    ensure!(line == "go\n", "the supervisor went away");
    net::configure_inside(&playground.topology, host)?;
    // SAFETY: as above; these two take effect in children only.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWPID | UnshareFlags::NEWTIME) }
        .context("enter new pid and time namespaces")?;
    std::fs::write("/proc/self/timens_offsets", format!("boottime -{seconds} 0\n"))
        .context("start the host's uptime at zero")?;
    let mut init = hidden_command("init", dir, name);
    let mut child =
        init.stdin(Stdio::null()).stdout(Stdio::inherit()).spawn().context("start the host's first process")?;
    println!("{}", child.id());
    let status = child.wait().context("wait for the host")?;
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}
