//! The Debian tree that all hosts share, and the packages they will ask for, both built once and cached.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// What a host will install when kinit prepares it; downloaded once into the package cache.
pub const HOST_PACKAGES: &[&str] = &[
    "etcd-server",
    "containerd",
    "runc",
    "containernetworking-plugins",
    "haproxy",
    "nftables",
    "conntrack",
    "socat",
    "ethtool",
    "iptables",
];

/// A bare server as the installer leaves it, sudo included, plus nothing.
const BASE_PACKAGES: &str = "systemd-sysv,libpam-systemd,dbus,kmod,openssh-server,iproute2,iputils-ping,procps,ca-certificates,netbase,less,sudo,util-linux,apt-utils";
const SUITE: &str = "trixie";
/// Changing what is below or in [`finish`] must change this, so that old caches are not used.
const RECIPE: &str = "4";

/// Where the shared tree and the packages are.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// `dir` is made when missing.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The system's cache, `/var/cache/kinit/playground`.
    pub fn system() -> Self {
        Self::new("/var/cache/kinit/playground")
    }

    /// The finished tree. It is never written to once it exists.
    pub fn root(&self) -> PathBuf {
        self.dir.join(format!("{SUITE}-{RECIPE}"))
    }

    /// Downloaded `.deb` files, to be linked into each host's apt cache.
    pub fn packages(&self) -> PathBuf {
        self.dir.join(format!("{SUITE}-{RECIPE}-debs"))
    }

    /// Builds what is missing: half a minute the first time, nothing afterwards. `progress` hears of long steps.
    pub fn ensure(&self, progress: &dyn Fn(&str)) -> Result<()> {
        std::fs::create_dir_all(&self.dir).with_context(|| format!("create {}", self.dir.display()))?;
        let _lock = crate::state::lock(&self.dir.join("lock"))?;
        if !self.root().exists() {
            progress("build the hosts' root file system (once)");
            self.build()?;
        }
        if !self.packages().exists() {
            progress("download the packages that hosts will install (once)");
            self.download()?;
        }
        Ok(())
    }

    fn build(&self) -> Result<()> {
        let unfinished = self.dir.join("unfinished");
        remove_tree(&unfinished)?;
        let sources = debian_sources()?;
        let mut command = Command::new("mmdebstrap");
        command.args(["--variant=minbase", "--mode=root", "--format=directory", "--quiet"]);
        command.arg(format!("--include={BASE_PACKAGES}"));
        command.args(["--aptopt=Acquire::Languages \"none\"", "--aptopt=APT::Install-Recommends \"false\""]);
        command.args([
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
        ]);
        command.args(["--dpkgopt=force-unsafe-io", "--skip=cleanup/apt/lists"]);
        command.arg(SUITE).arg(&unfinished).args(&sources);
        run(&mut command).context(
            "build the root file system; the Debian packages mmdebstrap and debian-archive-keyring are needed",
        )?;
        finish(&unfinished)?;
        std::fs::rename(&unfinished, self.root()).context("put the finished root file system in its place")
    }

    fn download(&self) -> Result<()> {
        let unfinished = self.dir.join("unfinished-debs");
        remove_tree(&unfinished)?;
        std::fs::create_dir_all(unfinished.join("partial"))?;
        let root = self.root();
        // apt inside the tree, with its state where it will be on the hosts; only archives are redirected.
        let mut command = Command::new("apt-get");
        command
            .arg(format!("-oDir={}", root.display()))
            .arg(format!("-oDir::State::status={}/var/lib/dpkg/status", root.display()));
        command.arg(format!("-oDir::Cache::archives={}", unfinished.display()));
        command.args([
            "-oDir::Cache::pkgcache=",
            "-oDir::Cache::srcpkgcache=",
            "-oAPT::Sandbox::User=root",
            "-oDebug::NoLocking=1",
        ]);
        command.args(["-qq", "--yes", "--no-install-recommends", "--download-only", "install"]).args(HOST_PACKAGES);
        run(&mut command).context("download the hosts' packages")?;
        std::fs::remove_dir(unfinished.join("partial")).ok();
        std::fs::rename(&unfinished, self.packages()).context("put the downloaded packages in their place")
    }
}

/// The machine's own Debian mirrors, for the hosts' suite.
fn debian_sources() -> Result<Vec<String>> {
    let text = std::fs::read_to_string("/etc/apt/sources.list.d/debian.sources")
        .or_else(|_| std::fs::read_to_string("/etc/apt/sources.list"))
        .context("find out which Debian mirror this machine uses")?;
    let uris: Vec<&str> = text
        .split_whitespace()
        .filter(|word| word.starts_with("http://") || word.starts_with("https://"))
        .map(|word| word.trim_end_matches('/'))
        .filter(|uri| !uri.contains("snapshot"))
        .collect();
    let main =
        uris.iter().find(|u| u.ends_with("/debian")).context("no Debian mirror in this machine's apt sources")?;
    let security = uris
        .iter()
        .find(|u| u.ends_with("/debian-security"))
        .map_or_else(|| format!("{main}-security"), |u| (*u).to_owned());
    Ok(vec![
        format!("deb {main} {SUITE} main"),
        format!("deb {main} {SUITE}-updates main"),
        format!("deb {security} {SUITE}-security main"),
    ])
}

/// What a tree needs to boot as a host without udev, consoles and modules of its own.
fn finish(root: &Path) -> Result<()> {
    for unit in [
        "systemd-udevd.service",
        "systemd-udevd-control.socket",
        "systemd-udevd-kernel.socket",
        "systemd-udev-trigger.service",
        "systemd-pstore.service",
        "console-getty.service",
        "getty@tty1.service",
        "fstrim.timer",
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "systemd-firstboot.service",
        "systemd-timesyncd.service",
    ] {
        let link = root.join("etc/systemd/system").join(unit);
        std::fs::remove_file(&link).ok();
        std::os::unix::fs::symlink("/dev/null", &link).with_context(|| format!("mask {unit}"))?;
    }
    write(root, "etc/systemd/journald.conf.d/playground.conf", "[Journal]\nStorage=persistent\nReadKMsg=no\n")?;
    write(root, "etc/fstab", "")?;
    write(root, "etc/machine-id", "")?;
    // Seeded packages must survive the first installation, for the next.
    write(
        root,
        "etc/apt/apt.conf.d/50playground",
        "Binary::apt::APT::Keep-Downloaded-Packages \"true\";\nAPT::Install-Recommends \"false\";\n",
    )?;
    for entry in std::fs::read_dir(root.join("etc/ssh"))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("ssh_host_")) {
            std::fs::remove_file(path)?;
        }
    }
    built_in_modules(root)
}

/// On a kernel without modules, `modprobe` of what is built in must succeed as on a stock kernel: tell it what is built
/// in.
fn built_in_modules(root: &Path) -> Result<()> {
    let release = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
    if Path::new("/lib/modules").join(&release).exists() {
        return Ok(());
    }
    let Ok(packed) = std::fs::read("/proc/config.gz") else { return Ok(()) };
    let mut config = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(packed.as_slice()), &mut config)
        .context("unpack /proc/config.gz")?;
    let mut list = String::new();
    for (option, modules) in BUILT_IN {
        if config.lines().any(|line| line == format!("{option}=y")) {
            modules.iter().for_each(|m| list.push_str(&format!("kernel/{m}.ko\n")));
        }
    }
    let dir = format!("lib/modules/{release}");
    write(root, &format!("{dir}/modules.builtin"), &list)?;
    write(root, &format!("{dir}/modules.order"), "")?;
    run(Command::new("chroot").arg(root).args(["depmod", "-a", &release])).context("index the list of built-in modules")
}

const BUILT_IN: &[(&str, &[&str])] = &[
    ("CONFIG_OVERLAY_FS", &["overlay"]),
    ("CONFIG_BRIDGE", &["bridge"]),
    ("CONFIG_BRIDGE_NETFILTER", &["br_netfilter"]),
    ("CONFIG_VXLAN", &["vxlan"]),
    ("CONFIG_VETH", &["veth"]),
    ("CONFIG_TUN", &["tun"]),
    ("CONFIG_NF_CONNTRACK", &["nf_conntrack"]),
    ("CONFIG_NF_NAT", &["nf_nat"]),
    ("CONFIG_NF_TABLES", &["nf_tables"]),
    ("CONFIG_NFT_CT", &["nft_ct"]),
    ("CONFIG_NFT_MASQ", &["nft_masq"]),
    ("CONFIG_NFT_NAT", &["nft_chain_nat"]),
    ("CONFIG_NFT_FIB_INET", &["nft_fib_inet"]),
    ("CONFIG_NFT_REJECT_INET", &["nft_reject_inet"]),
    ("CONFIG_NFT_COMPAT", &["nft_compat"]),
    ("CONFIG_DUMMY", &["dummy"]),
    ("CONFIG_WIREGUARD", &["wireguard"]),
];

fn write(root: &Path, path: &str, text: &str) -> Result<()> {
    let path = root.join(path);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

/// Removes a tree that may not exist.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Runs a program to its end; on failure the error holds the end of what it printed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(std::process::Stdio::null()).output().with_context(|| format!("start {program}"))?;
    ensure_success(&program, &output)
}

fn ensure_success(program: &str, output: &std::process::Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let tail: Vec<&str> = said.lines().rev().take(8).collect();
    ensure!(!tail.is_empty(), "{program} failed with {}", output.status);
    bail!("{program} failed with {}: {}", output.status, tail.into_iter().rev().collect::<Vec<_>>().join(" | "))
}
