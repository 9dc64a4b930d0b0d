//! A host's disk: an overlay over the shared tree, its own /var, and its identity.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::identity;
use crate::rootfs::{Cache, remove_tree, run};
use crate::topology::{Host, Topology};

/// The folders of one host.
#[derive(Debug, Clone)]
pub struct Disk(PathBuf);

impl Disk {
    /// The host's folder inside its playground's.
    pub fn new(playground: &Path, host: &str) -> Self {
        Self(playground.join("hosts").join(host))
    }

    /// A file or folder of it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes the disk unless it exists, and returns the line of `known_hosts` that belongs to it.
    pub fn create(&self, cache: &Cache, topology: &Topology, host: &Host, authorized_key: &str) -> Result<String> {
        let upper = self.path("upper");
        if !self.path("known_host").exists() {
            for dir in ["upper/etc/ssh", "upper/root/.ssh", "work", "root"] {
                std::fs::create_dir_all(self.path(dir))
                    .with_context(|| format!("create {}", self.path(dir).display()))?;
            }
            self.var(cache, topology.offline)?;
            set_mode(&upper.join("root"), 0o700)?;
            set_mode(&upper.join("root/.ssh"), 0o700)?;
            write(&upper.join("root/.ssh/authorized_keys"), authorized_key)?;
            write(&upper.join("etc/hostname"), &format!("{}\n", host.name))?;
            write(&upper.join("etc/hosts"), &hosts_file(topology, host))?;
            write(&upper.join("etc/machine-id"), &format!("{}\n", identity::machine_id()?))?;
            let resolvers = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
            write(&upper.join("etc/resolv.conf"), if topology.offline { "" } else { &resolvers })?;
            if topology.offline {
                without_sources(cache, &upper)?;
            }
            let key = identity::generate(&host.name)?;
            identity::save(&key, &upper.join("etc/ssh/ssh_host_ed25519_key"))?;
            let line = format!("{} {}", topology.address_of(host), identity::public_line(&key)?);
            write(&self.path("known_host"), &line)?;
        }
        std::fs::read_to_string(self.path("known_host")).context("read the host's public key")
    }

    /// /var is a plain folder: containerd's overlay snapshots cannot sit on an overlay.
    fn var(&self, cache: &Cache, offline: bool) -> Result<()> {
        let var = self.path("var");
        run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(cache.root().join("var")).arg(&var))
            .context("copy /var")?;
        let archives = var.join("cache/apt/archives");
        std::fs::create_dir_all(&archives)?;
        if offline {
            let lists = var.join("lib/apt/lists");
            remove_tree(&lists)?;
            return std::fs::create_dir_all(lists.join("partial")).context("make a folder for apt");
        }
        for entry in std::fs::read_dir(cache.packages()).context("list the cached packages")? {
            let entry = entry?;
            std::fs::hard_link(entry.path(), archives.join(entry.file_name()))
                .context("link a cached package into the host")?;
        }
        Ok(())
    }
}

/// Hides the shared tree's sources of packages from a host.
fn without_sources(cache: &Cache, upper: &Path) -> Result<()> {
    let apt = upper.join("etc/apt");
    std::fs::create_dir_all(apt.join("sources.list.d")).context("make the host's folder for apt")?;
    write(&apt.join("sources.list"), "")?;
    let more = cache.root().join("etc/apt/sources.list.d");
    for entry in std::fs::read_dir(&more).into_iter().flatten().flatten() {
        write(&apt.join("sources.list.d").join(entry.file_name()), "")?;
    }
    Ok(())
}

fn hosts_file(topology: &Topology, host: &Host) -> String {
    let mut text = format!("127.0.0.1 localhost\n127.0.1.1 {}\n", host.name);
    for other in &topology.hosts {
        text.push_str(&format!("{} {}\n", topology.address_of(other), other.name));
    }
    text
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", path.display()))
}
