//! What the host is.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use kinit_resource::Facts;

use crate::ledger::Ledger;
use crate::{components, packages, surroundings};

/// Gathers everything.
pub(crate) async fn gather(etcd_data: &str) -> Result<Facts> {
    let os = os_release(&read("/etc/os-release"));
    let system = nix::sys::utsname::uname().context("ask for the kernel's name")?;
    let text = |s: &std::ffi::OsStr| s.to_string_lossy().into_owned();
    let disk = rustix::fs::statvfs("/var/lib").context("look at the disk of /var/lib")?;
    Ok(Facts {
        uid: rustix::process::geteuid().as_raw(),
        os_id: os.get("ID").cloned().unwrap_or_default(),
        os_codename: os.get("VERSION_CODENAME").cloned().unwrap_or_default(),
        os_name: os.get("PRETTY_NAME").cloned().unwrap_or_default(),
        machine: text(system.machine()),
        kernel: text(system.release()),
        hostname: text(system.nodename()),
        machine_id: read("/etc/machine-id").trim().to_owned(),
        cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        memory: memory(&read("/proc/meminfo")),
        disk_free: disk.f_bavail.saturating_mul(disk.f_frsize),
        disk_size: disk.f_blocks.saturating_mul(disk.f_frsize),
        systemd: Path::new("/run/systemd/system").is_dir(),
        cgroup_v2: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
        can_lower_oom_score: can_lower_oom_score(&read("/proc/self/status")),
        listening: listening(),
        unix_time: time::OffsetDateTime::now_utc().unix_timestamp(),
        addresses: addresses()?,
        cluster: cluster(),
        authority: authority()?,
        authority_key: authority_key(),
        authorities: authorities()?,
        etcd_data: Path::new(etcd_data).join("member").exists(),
        taken: taken(),
        product_uuid: surroundings::product_uuid(),
        clock_synchronized: surroundings::clock_synchronized().await,
        fsync_p99: surroundings::fsync_p99(Path::new(etcd_data)),
        firewalls: surroundings::firewalls().await,
        components: components::installed().await,
        packages: packages::facts(STOOD_ON)?,
        inline_registries: inline_registries(&read("/etc/containerd/config.toml")),
    })
}

/// The distribution's packages that clusters stand on (`kinit_manifests::HOST_PACKAGES`, which agents do not know).
const STOOD_ON: &[&str] =
    &["etcd-server", "containerd", "runc", "containernetworking-plugins", "haproxy", "keepalived"];

/// Whether a configuration that is not kinit's names mirrors or credentials of registries, which belong into files of
/// their own (containerd's docs/hosts.md).
fn inline_registries(config: &str) -> bool {
    let section = |line: &str| {
        line.starts_with('[') && [".registry.mirrors", ".registry.configs"].iter().any(|part| line.contains(part))
    };
    !config.starts_with("# Made by kinit") && config.lines().any(|line| section(line.trim()))
}

/// What another cluster would have left where this one's things go, in kubeadm's places.
const SIGNS: &[&str] = &["/etc/kubernetes/kubelet.conf", "/etc/kubernetes/admin.conf", "/var/lib/etcd/member"];

fn taken() -> Vec<String> {
    // Once kinit has begun here, they are its own.
    if Ledger::exists() {
        return Vec::new();
    }
    SIGNS.iter().filter(|p| Path::new(p).exists()).map(|p| (*p).to_owned()).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn os_release(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|l| l.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.trim_matches('"').to_owned()))
        .collect()
}

fn memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:")).unwrap_or("");
    line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// CAP_SYS_RESOURCE is bit 24 of the effective set.
fn can_lower_oom_score(status: &str) -> bool {
    let caps =
        status.lines().find_map(|l| l.strip_prefix("CapEff:")).and_then(|h| u64::from_str_radix(h.trim(), 16).ok());
    caps.unwrap_or(0) & (1 << 24) != 0
}

fn cluster() -> Option<String> {
    let text = std::fs::read_to_string("/etc/kubernetes/kinit.json").ok()?;
    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
    Some(value.get("cluster")?.as_str()?.to_owned())
}

/// All authorities that this host trusts: its own first, beside it one that it replaces or that replaces it.
pub(crate) fn authorities() -> Result<Vec<String>> {
    let trusted = crate::files::read_optional("/etc/kubernetes/pki/ca.crt")?.unwrap_or_default();
    let trusted = kinit_pki::public_key_hashes(&trusted);
    if trusted.is_empty() { Ok(authority()?.into_iter().collect()) } else { Ok(trusted) }
}

fn authority_key() -> Option<bool> {
    let is_there = |file: &str| Path::new("/etc/kubernetes/pki").join(file).exists();
    is_there("ca.crt").then(|| is_there("ca.key"))
}

/// Tells the cluster of this host from any other: the hash of its authority's public key. A reset that was interrupted
/// may have removed the certificate already; the ledger knows it then.
pub(crate) fn authority() -> Result<Option<String>> {
    let certificate = match std::fs::read_to_string("/etc/kubernetes/pki/ca.crt") {
        Ok(text) => kinit_pki::public_key_hash(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).context("read /etc/kubernetes/pki/ca.crt"),
    };
    match certificate {
        Some(hash) => Ok(Some(hash)),
        None => Ok(Ledger::load()?.authority),
    }
}

/// IPv4 addresses, each with its interface.
pub(crate) fn addresses() -> Result<Vec<(String, String)>> {
    let interfaces = nix::ifaddrs::getifaddrs().context("list the host's addresses")?;
    let v4 = |i: nix::ifaddrs::InterfaceAddress| {
        let address = i.address.and_then(|a| a.as_sockaddr_in().map(|s| s.ip().to_string()))?;
        Some((address, i.interface_name))
    };
    Ok(interfaces.filter_map(v4).collect())
}

/// Ports in LISTEN state, with the unit (or else the program) that holds them.
fn listening() -> Vec<(u16, String)> {
    let mut sockets: BTreeMap<u64, u16> = BTreeMap::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        sockets.extend(listening_sockets(&read(file)));
    }
    let mut found: BTreeMap<u16, String> = sockets.values().map(|port| (*port, String::new())).collect();
    let Ok(processes) = std::fs::read_dir("/proc") else { return found.into_iter().collect() };
    for process in processes.filter_map(Result::ok) {
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.filter_map(Result::ok) {
            let Ok(link) = std::fs::read_link(descriptor.path()) else { continue };
            let inode = link.to_str().and_then(|l| l.strip_prefix("socket:[")).and_then(|l| l.strip_suffix(']'));
            if let Some(port) = inode.and_then(|i| i.parse().ok()).and_then(|i: u64| sockets.get(&i)) {
                found.insert(*port, owner(&process.path()));
            }
        }
    }
    found.into_iter().collect()
}

/// (inode, port) of each socket in state 0A, from `/proc/net/tcp`.
fn listening_sockets(table: &str) -> Vec<(u64, u16)> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let port = u16::from_str_radix(fields.get(1)?.rsplit(':').next()?, 16).ok()?;
        (*fields.get(3)? == "0A").then_some((fields.get(9)?.parse().ok()?, port))
    };
    table.lines().skip(1).filter_map(parse).collect()
}

/// The unit that a process belongs to, or else its program.
pub(crate) fn owner(process: &Path) -> String {
    let groups = std::fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    let unit = groups.split(['/', '\n']).rev().find(|part| part.ends_with(".service")).map(str::to_owned);
    unit.unwrap_or_else(|| std::fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_the_kernel_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n   \
                     1: 0100007F:0016 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0\n";
        assert_eq!(listening_sockets(table), [(4711, 6443)]);
        assert_eq!(memory("MemTotal:       24684000 kB\n"), 24_684_000 * 1024);
        assert!(can_lower_oom_score("CapEff:\t000001ffffffffff\n"));
        assert!(!can_lower_oom_score("CapEff:\t000001fffeffffff\n"));
        let mirror = "version = 2\n  [plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\n";
        assert!(inline_registries(mirror) && !inline_registries(&format!("# Made by kinit;\n{mirror}")));
        assert!(!inline_registries(
            "[plugins.x.registry]\nconfig_path = \"/etc/containerd/certs.d\"\n#.registry.mirrors"
        ));
        assert_eq!(os_release("ID=debian\nPRETTY_NAME=\"Debian 13\"\n").get("PRETTY_NAME").unwrap(), "Debian 13");
    }
}
