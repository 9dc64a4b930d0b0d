//! What a host is, for preflight checks and for planning.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Facts about a host, gathered in one go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The agent's user.
    pub uid: u32,
    /// `ID` of os-release.
    pub os_id: String,
    /// `VERSION_CODENAME` of os-release.
    #[serde(default)]
    pub os_codename: String,
    /// `PRETTY_NAME` of os-release.
    pub os_name: String,
    /// `x86_64`.
    pub machine: String,
    /// Kernel release.
    pub kernel: String,
    /// Host name.
    pub hostname: String,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// Online CPUs.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes free where /var/lib is.
    pub disk_free: u64,
    /// Size of that disk in bytes, as far as unprivileged users may fill it.
    pub disk_size: u64,
    /// Whether systemd is the first process.
    pub systemd: bool,
    /// Whether the one cgroup hierarchy is v2.
    pub cgroup_v2: bool,
    /// Whether processes may lower their `oom_score_adj` (CAP_SYS_RESOURCE).
    pub can_lower_oom_score: bool,
    /// TCP ports in LISTEN state, with the name of a unit that holds it where that is known.
    pub listening: Vec<(u16, String)>,
    /// The host's clock, seconds since 1970.
    pub unix_time: i64,
    /// IPv4 addresses of the host, each with its interface.
    pub addresses: Vec<(String, String)>,
    /// Whether this host belongs to a cluster that kinit made (`/etc/kubernetes/kinit.json` exists), and its name.
    pub cluster: Option<String>,
    /// `sha256:` and the hash of the public key of the cluster authority on this host (kubeadm's `caCertHashes`).
    pub authority: Option<String>,
    /// Whether the key of that authority is here too, without which no controller manager signs (kubeadm's external CA
    /// mode); `None` where its certificate is not here.
    pub authority_key: Option<bool>,
    /// All authorities that this host trusts, the same way: two while one takes the other's place.
    pub authorities: Vec<String>,
    /// Whether etcd has data here.
    pub etcd_data: bool,
    /// Files and folders that are there, that kinit did not make, and that this cluster would use as its own.
    pub taken: Vec<String>,
    /// The hardware's identity, where it is the host's own.
    pub product_uuid: Option<String>,
    /// Whether the clock follows another; `None` where that is not known, or not the host's own affair.
    pub clock_synchronized: Option<bool>,
    /// Microseconds that a small write takes to be on the disk of etcd's data, 99th percentile; `None` where it was not
    /// measured.
    pub fsync_p99: Option<u64>,
    /// Firewalls that drop what they were not told to accept.
    pub firewalls: Vec<Firewall>,
    /// Whether containerd has settings of registries in a `config.toml` that kinit would overwrite.
    pub inline_registries: bool,
    /// Programs of components that kinit placed here, by component.
    #[serde(default)]
    pub components: BTreeMap<String, Installed>,
    /// The distribution's packages that clusters stand on, as far as they are installed.
    #[serde(default)]
    pub packages: BTreeMap<String, InstalledPackage>,
}

/// A package of the distribution's on a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledPackage {
    /// Its version, as dpkg has it.
    pub version: String,
    /// No upgrade of the whole system touches it (`apt-mark hold`).
    pub held: bool,
}

/// A component's program on a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// What it says of itself (`--version`); `None` when it says nothing.
    pub version: Option<String>,
    /// The earlier minor that its unit tells it to serve (`--emulated-version`).
    pub emulated: Option<String>,
}

impl Facts {
    /// The distribution's release, by which bundles have packages: `debian-trixie`.
    pub fn release(&self) -> String {
        format!("{}-{}", self.os_id, self.os_codename)
    }

    /// The interface that has this address.
    pub fn interface_of(&self, address: &str) -> Option<&str> {
        self.addresses.iter().find(|(own, _)| own == address).map(|(_, interface)| interface.as_str())
    }
}

/// A firewall that drops packets by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firewall {
    /// `ufw`, `firewalld`, or a chain of nftables.
    pub name: String,
    /// TCP ports that it is known to accept, from and to, from anywhere or from somewhere.
    pub open: Vec<(u16, u16)>,
    /// It drops what comes in for the host.
    pub input: bool,
    /// It drops what the host would pass on.
    pub forward: bool,
}
