//! `kinit playground`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use kinit_playground::{Host, Playground, Role, Topology, UpOptions};

/// A playground's name.
#[derive(Args, Debug)]
pub struct Named {
    /// Name of the playground
    #[arg(long, default_value = "default")]
    name: String,
}

/// What can be done to a playground.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Boot hosts, and write a cluster file for them
    Up {
        #[command(flatten)]
        named: Named,
        /// Number of load balancer hosts
        #[arg(long, default_value_t = 1)]
        loadbalancers: u8,
        /// Number of control-plane hosts
        #[arg(long, default_value_t = 3)]
        control_planes: u8,
        /// Number of worker hosts
        #[arg(long, default_value_t = 2)]
        workers: u8,
        /// Give the hosts neither a route to anywhere nor a source of packages: what they need is in the bundle
        /// (`kinit bundle create --with-packages`)
        #[arg(long)]
        offline: bool,
        /// Take the playground down when this process ends
        #[arg(long, hide = true)]
        owner: Option<u32>,
    },
    /// Build the hosts' root file system and download their packages, once for all playgrounds (`up` does it when
    /// needed)
    Cache,
    /// Show the hosts
    Status {
        #[command(flatten)]
        named: Named,
    },
    /// Open a shell on a host, or run a command there
    Ssh {
        #[command(flatten)]
        named: Named,
        /// The host
        host: String,
        /// A command and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Cut a host's power, without a shutdown
    PowerOff {
        #[command(flatten)]
        named: Named,
        /// The host
        host: String,
    },
    /// Power on a host, and wait until it answers
    PowerOn {
        #[command(flatten)]
        named: Named,
        /// The host
        host: String,
    },
    /// Put a fresh machine in a host's place: same name and address, an empty disk, another host key
    Reinstall {
        #[command(flatten)]
        named: Named,
        /// The host
        host: String,
    },
    /// Drop all traffic between two hosts
    Partition {
        #[command(flatten)]
        named: Named,
        /// One host
        a: String,
        /// The other
        b: String,
    },
    /// Disconnect a host from the network
    Unplug {
        #[command(flatten)]
        named: Named,
        /// The host
        host: String,
    },
    /// Reconnect all hosts and end all partitions
    Heal {
        #[command(flatten)]
        named: Named,
    },
    /// Write a Vagrantfile of such hosts as virtual machines, and a cluster file; never tried on a hypervisor
    Vagrant {
        /// Folder to write them into
        directory: PathBuf,
        /// Number of load balancer hosts
        #[arg(long, default_value_t = 1)]
        loadbalancers: u8,
        /// Number of control-plane hosts
        #[arg(long, default_value_t = 3)]
        control_planes: u8,
        /// Number of worker hosts
        #[arg(long, default_value_t = 2)]
        workers: u8,
    },
    /// Run a Deployment and request its Service by name
    Demo {
        #[command(flatten)]
        named: Named,
    },
    /// Delete hosts, disks and network
    Down {
        #[command(flatten)]
        named: Named,
    },
    #[command(hide = true)]
    Supervise(Inner),
    #[command(hide = true)]
    Launch(Inner),
    #[command(hide = true)]
    Init(Inner),
    #[command(hide = true)]
    Reap {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        owner: u32,
    },
}

/// What a host's own processes are told.
#[derive(Args, Debug)]
pub struct Inner {
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    host: String,
}

/// Does it.
pub fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Up { named, loadbalancers, control_planes, workers, offline, owner } => {
            let launcher = std::env::current_exe().context("find this program")?;
            let options =
                UpOptions { name: named.name, loadbalancers, control_planes, workers, offline, launcher, owner };
            let playground = Playground::up(&options, &|step| tell!("{step} ..."))?;
            let file = playground.dir.join("cluster.yaml");
            // A file that its user changed stays.
            if !file.exists() {
                std::fs::write(&file, cluster_file(&playground))
                    .with_context(|| format!("write {}", file.display()))?;
            }
            status(&playground);
            say!("cluster file: {}", file.display());
        }
        Verb::Cache => {
            let cache = kinit_playground::Cache::system();
            cache.ensure(&|step| tell!("{step} ..."))?;
            say!("{}\n{}", cache.root().display(), cache.packages().display());
        }
        Verb::Status { named } => status(&Playground::open(&named.name)?),
        Verb::Ssh { named, host, command } => return ssh(&Playground::open(&named.name)?, &host, &command),
        Verb::PowerOff { named, host } => on(&named, &host, |p, h| p.power_off(h))?,
        Verb::Reinstall { named, host } => on(&named, &host, |p, h| {
            p.reinstall(h)?;
            p.power_on(h)?;
            p.wait_until_reachable(std::slice::from_ref(h))
        })?,
        Verb::PowerOn { named, host } => on(&named, &host, |p, h| {
            p.power_on(h)?;
            p.wait_until_reachable(std::slice::from_ref(h))
        })?,
        Verb::Unplug { named, host } => on(&named, &host, |p, h| p.set_plugged(h, false))?,
        Verb::Partition { named, a, b } => {
            let playground = Playground::open(&named.name)?;
            playground.partition(playground.topology.host(&a)?, playground.topology.host(&b)?)?;
        }
        Verb::Heal { named } => {
            let playground = Playground::open(&named.name)?;
            playground.heal()?;
            playground.topology.hosts.iter().try_for_each(|host| playground.set_plugged(host, true))?;
        }
        Verb::Demo { named } => {
            let playground = Playground::open(&named.name)?;
            return crate::command::on_runtime(async move { crate::demo::run(&playground).await });
        }
        Verb::Vagrant { directory, loadbalancers, control_planes, workers } => {
            vagrant(&directory, &Topology::new(0, loadbalancers, control_planes, workers)?)?;
        }
        Verb::Down { named } => Playground::open(&named.name)?.down()?,
        Verb::Supervise(inner) => kinit_playground::supervise(&inner.dir, &inner.host)?,
        Verb::Launch(inner) => return Ok(exit_code(kinit_playground::launch(&inner.dir, &inner.host)?)),
        Verb::Init(inner) => match kinit_playground::init(&inner.dir, &inner.host)? {},
        Verb::Reap { dir, owner } => Playground::open_dir(&dir)?.reap(owner)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn on(named: &Named, host: &str, act: impl Fn(&Playground, &Host) -> Result<()>) -> Result<()> {
    let playground = Playground::open(&named.name)?;
    act(&playground, playground.topology.host(host)?)
}

/// Hosts share the machine's disk, which others fill: shares of it say nothing about the hosts.
const KUBELET: &str = "  kubelet:\n    evictionHard:\n      memory.available: 100Mi\n      nodefs.available: 1Gi\n      imagefs.available: 1Gi\n    imageGCHighThresholdPercent: 100\n";

/// The cluster file for a playground's hosts.
fn cluster_file(playground: &Playground) -> String {
    let mut text = format!(
        "apiVersion: kinit.dev/v1alpha1\nkind: Cluster\nmetadata:\n  name: {}\nspec:\n  ssh:\n    identityFile: {}\n    knownHostsFile: {}\n{KUBELET}  hosts:\n",
        playground.name,
        playground.ssh_key().display(),
        playground.known_hosts().display()
    );
    if playground.topology.hosts.iter().filter(|host| host.role == Role::LoadBalancer).count() > 1 {
        text = text.replace(
            "  hosts:",
            &format!("  loadBalancer:\n    virtualAddress: {}\n  hosts:", playground.topology.unused()),
        );
    }
    for host in &playground.topology.hosts {
        let (address, role) = (playground.topology.address_of(host), role(host));
        text.push_str(&format!("  - name: {}\n    address: {address}\n    roles: [{role}]\n", host.name));
    }
    text
}

/// A Vagrantfile, and the cluster file of its machines.
fn vagrant(directory: &Path, topology: &Topology) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let files = [("Vagrantfile", kinit_playground::vagrantfile(topology)), ("cluster.yaml", vagrant_cluster(topology))];
    for (name, text) in files {
        let path = directory.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        say!("{}", path.display());
    }
    Ok(())
}

fn vagrant_cluster(topology: &Topology) -> String {
    let mut text = String::from(
        "# Made by `kinit playground vagrant`, for the machines of the Vagrantfile beside it.\napiVersion: kinit.dev/v1alpha1\nkind: Cluster\nmetadata:\n  name: vagrant\nspec:\n  ssh:\n    identityFile: ./id_ed25519\n",
    );
    let unused = Host { name: String::new(), role: Role::LoadBalancer, number: 9 };
    if topology.hosts.iter().filter(|host| host.role == Role::LoadBalancer).count() > 1 {
        text.push_str(&format!(
            "  loadBalancer:\n    virtualAddress: {}\n",
            kinit_playground::vagrant_address(&unused)
        ));
    }
    text.push_str("  hosts:\n");
    for host in &topology.hosts {
        let (address, role) = (kinit_playground::vagrant_address(host), role(host));
        text.push_str(&format!("  - name: {}\n    address: {address}\n    roles: [{role}]\n", host.name));
    }
    text
}

fn role(host: &Host) -> &'static str {
    match host.role {
        Role::LoadBalancer => "loadbalancer",
        Role::ControlPlane => "control-plane",
        Role::Worker => "worker",
    }
}

fn status(playground: &Playground) {
    say!("{:<8} {:<14} {:<14} POWER", "HOST", "ROLE", "ADDRESS");
    for host in &playground.topology.hosts {
        let role = role(host);
        let power = if playground.is_on(host) { "on" } else { "off" };
        say!("{:<8} {:<14} {:<14} {power}", host.name, role, playground.topology.address_of(host));
    }
}

fn ssh(playground: &Playground, host: &str, command: &[String]) -> Result<ExitCode> {
    let host = playground.topology.host(host)?;
    let option = |key: &str, path: &Path| format!("{key}={}", path.display());
    let status = Command::new("ssh")
        .args([
            "-o",
            &option("IdentityFile", &playground.ssh_key()),
            "-o",
            &option("UserKnownHostsFile", &playground.known_hosts()),
        ])
        .args(["-o", "StrictHostKeyChecking=yes", "-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes"])
        .arg(format!("root@{}", playground.topology.address_of(host)))
        .args(command)
        .status()
        .context("start ssh; the Debian package openssh-client is needed")?;
    Ok(exit_code(status.code().unwrap_or(255)))
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(255))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_of_a_vagrantfile_are_a_valid_cluster() {
        let text = vagrant_cluster(&Topology::new(0, 1, 3, 2).unwrap());
        assert_eq!(text, include_str!("../../../../vagrant/cluster.yaml"), "`kinit playground vagrant vagrant`");
        for (balancers, control_planes, workers) in [(1, 3, 2), (2, 3, 1), (0, 1, 1)] {
            let text = vagrant_cluster(&Topology::new(0, balancers, control_planes, workers).unwrap());
            let cluster = kinit_config::load(&text).unwrap();
            assert_eq!(cluster.spec.hosts.len(), usize::from(balancers + control_planes + workers));
        }
    }
}
