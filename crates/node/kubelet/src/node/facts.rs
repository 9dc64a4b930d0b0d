//! What the machine is: read from /proc, /sys and /etc.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};

/// The machine.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// Number of CPUs online.
    pub cpus: i64,
    /// Memory in bytes.
    pub memory: i64,
    /// /etc/machine-id.
    pub machine_id: String,
    /// DMI product uuid, or the machine id where there is none.
    pub system_uuid: String,
    /// Of this boot.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel: String,
    /// PRETTY_NAME of /etc/os-release.
    pub os_image: String,
    /// `amd64` and the like.
    pub architecture: String,
}

/// Reads them all.
pub fn machine() -> Result<Machine> {
    let text = |path: &str| std::fs::read_to_string(path).map(|t| t.trim().to_owned());
    let machine_id = text("/etc/machine-id").context("read /etc/machine-id")?;
    let uname = nix::sys::utsname::uname().context("uname")?;
    let release = text("/etc/os-release").or_else(|_| text("/usr/lib/os-release")).unwrap_or_default();
    let pretty = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).map(|v| v.trim_matches('"').to_owned());
    let system_uuid = text("/sys/class/dmi/id/product_uuid").ok().filter(|u| !u.is_empty());
    Ok(Machine {
        cpus: i64::try_from(std::thread::available_parallelism().map_or(1, usize::from)).unwrap_or(1),
        memory: memory().context("read MemTotal of /proc/meminfo")?,
        system_uuid: system_uuid.unwrap_or_else(|| machine_id.clone()),
        machine_id,
        boot_id: text("/proc/sys/kernel/random/boot_id").context("read the boot id")?,
        kernel: uname.release().to_string_lossy().into_owned(),
        os_image: pretty.unwrap_or_else(|| "Linux".to_owned()),
        architecture: match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
        .to_owned(),
    })
}

fn memory() -> Option<i64> {
    meminfo("MemTotal")
}

/// A field of /proc/meminfo in bytes.
pub fn meminfo(field: &str) -> Option<i64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.split(':').next() == Some(field))?;
    line.split_whitespace().nth(1)?.parse::<i64>().ok().map(|kib| kib * 1024)
}

/// Size, free bytes, inodes, free inodes of a file system.
pub fn disk(path: &Path) -> Result<(u64, u64, u64, u64)> {
    let s = rustix::fs::statvfs(path).with_context(|| format!("statvfs {}", path.display()))?;
    Ok((s.f_blocks * s.f_frsize, s.f_bavail * s.f_frsize, s.f_files, s.f_ffree))
}

/// Processes that exist and the most there may be.
pub fn pids() -> Option<(i64, i64)> {
    let most = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()?;
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    let running = load.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    Some((running, most))
}

/// The address that packets towards the default route leave from.
pub fn default_ip() -> Result<IpAddr> {
    // Connecting a datagram socket sends nothing; the kernel only chooses a route and an address.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
    socket.connect("192.0.2.1:9").context("find the address of the default route; give --node-ip")?;
    Ok(socket.local_addr().context("read the socket's address")?.ip())
}
