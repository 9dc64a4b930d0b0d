//! A playground as its users see it.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::identity;
use crate::net;
use crate::power::ProcessRef;
use crate::rootfs::{Cache, remove_tree};
use crate::topology::{Host, Topology};

/// A set of hosts that were brought up together.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Playground {
    /// Its name; the folder's too.
    pub name: String,
    /// Its hosts.
    pub topology: Topology,
    /// The program that runs the hosts: kinit itself, whoever made the playground.
    launcher: PathBuf,
    /// Where the shared tree was at creation.
    cache: PathBuf,
    /// Its folder.
    #[serde(skip)]
    pub dir: PathBuf,
}

/// What to bring up.
#[derive(Debug, Clone)]
pub struct UpOptions {
    /// Name of the playground: letters, digits and dashes.
    pub name: String,
    /// How many hosts of each role.
    pub loadbalancers: u8,
    /// How many hosts of each role.
    pub control_planes: u8,
    /// How many hosts of each role.
    pub workers: u8,
    /// The hosts get neither a route to anywhere nor a source of packages.
    pub offline: bool,
    /// The kinit program that runs the hosts.
    pub launcher: PathBuf,
    /// A process whose end takes the playground down too; `None`: it stays until it is taken down.
    pub owner: Option<u32>,
}

const STATE: &str = "/var/lib/kinit/playgrounds";
const BOOT_DEADLINE: Duration = Duration::from_secs(60);

impl Playground {
    /// Brings a playground up: builds the cache, makes missing hosts, starts those that are off, waits until all answer
    /// on port 22.
    pub fn up(options: &UpOptions, progress: &dyn Fn(&str)) -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "a playground needs root: it makes namespaces, cgroups and a bridge"
        );
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(
            !options.name.is_empty() && options.name.chars().all(valid),
            "playground name {:?}: use lower-case letters, digits and dashes",
            options.name
        );
        let cache = Cache::system();
        cache.ensure(progress)?;
        let playground = Self::create(options, &cache)?;
        net::up(&playground.topology)?;
        if let Some(owner) = options.owner {
            playground.spawn("reap", &["--owner", &owner.to_string()], "reaper.log")?;
        }
        progress("boot the hosts");
        for host in &playground.topology.hosts {
            playground.power_on(host)?;
        }
        playground.wait_until_reachable(&playground.topology.hosts)?;
        Ok(playground)
    }

    fn create(options: &UpOptions, cache: &Cache) -> Result<Self> {
        let state = Path::new(STATE);
        std::fs::create_dir_all(state).with_context(|| format!("create {}", state.display()))?;
        let _lock = lock(&state.join("lock"))?;
        let dir = state.join(&options.name);
        let playground = if dir.join("playground.json").exists() {
            Self::open(&options.name)?
        } else {
            let mut topology =
                Topology::new(free_index()?, options.loadbalancers, options.control_planes, options.workers)?;
            topology.offline = options.offline;
            std::fs::create_dir_all(&dir)?;
            let cache = cache.root().parent().map(Path::to_owned).unwrap_or_default();
            Self { name: options.name.clone(), topology, launcher: options.launcher.clone(), cache, dir: dir.clone() }
        };
        if !dir.join("id_ed25519").exists() {
            identity::save(&identity::generate("kinit-playground")?, &dir.join("id_ed25519"))?;
        }
        playground.make_disks(cache)?;
        std::fs::write(dir.join("playground.json"), serde_json::to_string_pretty(&playground)?)
            .context("write playground.json")?;
        Ok(playground)
    }

    /// The playground of that name.
    pub fn open(name: &str) -> Result<Self> {
        let dir = Path::new(STATE).join(name);
        ensure!(
            dir.join("playground.json").exists(),
            "there is no playground {name}; `kinit playground up --name {name}` makes one"
        );
        Self::open_dir(&dir)
    }

    /// The playground in that folder.
    pub fn open_dir(dir: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(dir.join("playground.json"))
            .with_context(|| format!("read the playground in {}", dir.display()))?;
        let mut playground: Self =
            serde_json::from_str(&text).with_context(|| format!("parse {}/playground.json", dir.display()))?;
        playground.dir = dir.to_owned();
        Ok(playground)
    }

    /// Names of all playgrounds on this machine.
    pub fn list() -> Result<Vec<String>> {
        let Ok(entries) = std::fs::read_dir(STATE) else { return Ok(Vec::new()) };
        let mut names: Vec<String> = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.path().join("playground.json").exists())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        Ok(names)
    }

    pub(crate) fn cache(&self) -> Cache {
        Cache::new(self.cache.clone())
    }

    /// The private key that every host accepts for root.
    pub fn ssh_key(&self) -> PathBuf {
        self.dir.join("id_ed25519")
    }

    /// The hosts' public keys, in OpenSSH's format.
    pub fn known_hosts(&self) -> PathBuf {
        self.dir.join("known_hosts")
    }

    fn disk(&self, host: &Host) -> Disk {
        Disk::new(&self.dir, &host.name)
    }

    /// Whether the host has power.
    pub fn is_on(&self, host: &Host) -> bool {
        ProcessRef::load(&self.disk(host).path("supervisor.pid")).is_some()
    }

    /// Presses the power button of a host that is off.
    pub fn power_on(&self, host: &Host) -> Result<()> {
        if self.is_on(host) {
            return Ok(());
        }
        self.spawn("supervise", &["--host", &host.name], &format!("hosts/{}/console.log", host.name))
    }

    /// Pulls the plug: the cable goes dead first, so that no dying process can tell its peers, then everything at once.
    pub fn power_off(&self, host: &Host) -> Result<()> {
        let disk = self.disk(host);
        net::set_plugged(&self.topology, host, false)?;
        let supervisor = ProcessRef::load(&disk.path("supervisor.pid"));
        if let Some(init) = ProcessRef::load(&disk.path("init.pid")) {
            init.kill();
        }
        if let Some(supervisor) = supervisor {
            supervisor.wait_gone(Some(Duration::from_secs(20))).with_context(|| format!("power off {}", host.name))?;
        }
        Ok(())
    }

    /// Puts a fresh machine in a host's place: same name and address, an empty disk, another identity. It is off.
    pub fn reinstall(&self, host: &Host) -> Result<()> {
        self.power_off(host)?;
        let _lock = lock(&Path::new(STATE).join("lock"))?;
        remove_tree(&self.disk(host).path(""))?;
        self.make_disks(&self.cache())?;
        Ok(())
    }

    /// Makes the disks that are missing, and writes the hosts' keys down.
    fn make_disks(&self, cache: &Cache) -> Result<()> {
        let authorized =
            std::fs::read_to_string(self.dir.join("id_ed25519.pub")).context("read the playground's public key")?;
        let mut known_hosts = String::new();
        for host in &self.topology.hosts {
            known_hosts.push_str(&self.disk(host).create(cache, &self.topology, host, &authorized)?);
        }
        std::fs::write(self.known_hosts(), known_hosts).context("write the hosts' keys")
    }

    /// Pulls the network cable out, or plugs it in again.
    pub fn set_plugged(&self, host: &Host, plugged: bool) -> Result<()> {
        net::set_plugged(&self.topology, host, plugged)
    }

    /// Cuts two hosts off from each other, silently.
    pub fn partition(&self, a: &Host, b: &Host) -> Result<()> {
        net::partition(&self.topology, a, b)
    }

    /// Ends all partitions.
    pub fn heal(&self) -> Result<()> {
        net::heal(&self.topology)
    }

    /// Waits until sshd greets on every host given.
    pub fn wait_until_reachable(&self, hosts: &[Host]) -> Result<()> {
        let deadline = Instant::now() + BOOT_DEADLINE;
        for host in hosts {
            let address = SocketAddr::new(self.topology.address_of(host).into(), 22);
            let log = self.disk(host).path("console.log");
            let mut had_power = false;
            while !greets(address) {
                let has_power = self.is_on(host);
                if had_power && !has_power {
                    let text = std::fs::read_to_string(&log).unwrap_or_default();
                    let end: Vec<&str> = text.lines().rev().take(2).collect();
                    bail!("{} stopped while it booted: {}; see {}", host.name, end.join("; "), log.display());
                }
                had_power = has_power;
                ensure!(
                    Instant::now() < deadline,
                    "{} did not come up within {BOOT_DEADLINE:?}; see {}",
                    host.name,
                    log.display()
                );
                // Nothing outside a booting host tells when its sshd listens.
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// Takes everything away: hosts, disks, network, folder. Goes on after a failure and tells all of them.
    pub fn down(&self) -> Result<()> {
        let mut failures = Vec::new();
        for host in &self.topology.hosts {
            if let Err(error) = self.power_off(host) {
                failures.push(format!("{error:#}"));
            }
        }
        if let Err(error) = net::down(&self.topology) {
            failures.push(format!("{error:#}"));
        }
        if failures.is_empty() {
            return remove_tree(&self.dir);
        }
        bail!("take playground {} down: {}", self.name, failures.join("; "))
    }

    /// Waits for the owner's end, then takes the playground down.
    pub fn reap(&self, owner: u32) -> Result<()> {
        rustix::process::setsid().ok();
        if let Ok(owner) = ProcessRef::of(owner) {
            owner.wait_gone(None)?;
        }
        if self.dir.exists() { self.down() } else { Ok(()) }
    }

    /// Starts this playground's program in the background; what it prints goes to `log`.
    fn spawn(&self, verb: &str, arguments: &[&str], log: &str) -> Result<()> {
        let log = self.dir.join(log);
        let file =
            File::options().append(true).create(true).open(&log).with_context(|| format!("open {}", log.display()))?;
        let mut child = Command::new(&self.launcher)
            .args(["playground", verb, "--dir"])
            .arg(&self.dir)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {}", self.launcher.display()))?;
        // A caller that lives on must not collect zombies.
        std::thread::spawn(move || child.wait());
        Ok(())
    }
}

fn greets(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_millis(500)) else { return false };
    let mut greeting = [0u8; 4];
    stream.set_read_timeout(Some(Duration::from_secs(2))).is_ok()
        && std::io::Read::read_exact(&mut stream, &mut greeting).is_ok()
        && &greeting == b"SSH-"
}

/// The lowest subnet number that no playground uses; the caller holds the lock.
fn free_index() -> Result<u8> {
    let used: Vec<u8> =
        Playground::list()?.iter().filter_map(|n| Playground::open(n).ok()).map(|p| p.topology.index).collect();
    (0..=250).find(|i| !used.contains(i)).context("250 playgrounds stand already")
}

/// Waits for and takes an exclusive lock, held until the file is dropped.
pub(crate) fn lock(path: &Path) -> Result<File> {
    let file =
        File::options().create(true).append(true).open(path).with_context(|| format!("open {}", path.display()))?;
    file.lock().with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}
