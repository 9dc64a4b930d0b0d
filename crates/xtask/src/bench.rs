//! `cargo xtask bench`: figures beside their floors, measured in the same run. They inform; nothing fails for them.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Subcommand, ValueEnum};
use serde_json::Value;

use crate::run::{cargo, run as start};
use crate::{bundle, programs, setup};

/// What can be measured.
#[derive(Subcommand)]
pub enum Bench {
    /// `kinit init` on a fresh playground whose hosts have their packages already
    Init,
    /// Each verb of a cluster's life: time, round trips and bytes per host, and what clients notice meanwhile
    Lifecycle,
    /// One API server's operations, beside those of etcd alone
    Apiserver(Programs),
    /// A ReplicaSet of 1,000 pods: created, bound, deleted
    Pods(Programs),
    /// The service proxy with 1,000, 5,000 and 10,000 Services, beside plain nftables transactions; needs root
    Proxy(Profiled),
}

/// Which programs are measured.
#[derive(clap::Args)]
pub struct Programs {
    /// How they are built
    #[arg(long, value_enum, default_value = "release")]
    profile: Profile,
    /// Flags of the benchmark, after -- (--help tells them)
    #[arg(last = true)]
    flags: Vec<String>,
}

/// How what is measured is built.
#[derive(clap::Args)]
pub struct Profiled {
    /// cargo's profile
    #[arg(long, value_enum, default_value = "release")]
    profile: Profile,
}

/// cargo's profiles.
#[derive(ValueEnum, Clone, Copy)]
enum Profile {
    Release,
    Dev,
}

/// Measures.
pub fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Init => init(),
        Bench::Lifecycle => lifecycle(),
        Bench::Apiserver(programs) => control_plane("apiserver", programs),
        Bench::Pods(programs) => control_plane("pods", programs),
        Bench::Proxy(profiled) => proxy(profiled.profile),
    }
}

/// On hosts of a playground, by the program of end-to-end tests that does nothing else.
fn lifecycle() -> Result<()> {
    setup::run()?;
    let bundle = bundle::for_tests()?;
    start(Command::new(bundle.join("kinit")).args(["playground", "cache"]).stdout(std::process::Stdio::null()))?;
    let mut command = cargo();
    command.args(["test", "--quiet", "--workspace", "--test", "lifecycle", "--", "--ignored", "--nocapture"]);
    start(command.env("KINIT_BUNDLE", bundle))
}

/// Measures components without hosts: etcd and they are processes on this machine.
fn control_plane(bench: &str, programs: &Programs) -> Result<()> {
    let profile = match programs.profile {
        Profile::Release => "release",
        Profile::Dev => "dev",
    };
    let built = bundle::programs(&["hyperkube", "bench-control-plane"], profile)?;
    let mut command = Command::new(built.join("bench-control-plane"));
    command.arg(bench).arg("--hyperkube").arg(built.join("hyperkube")).args(&programs.flags);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("profile {profile}, {cores} cores");
    start(command.env("PATH", programs::path(&[programs::ETCD])?))
}

/// In network namespaces of its own: no host, no API server.
fn proxy(profile: Profile) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["test", "--quiet", "--package", "kinit-proxy", "--lib"]);
    if matches!(profile, Profile::Release) {
        command.arg("--release");
    }
    start(command.args(["bench::cost_of_services", "--", "--ignored", "--nocapture", "--exact"]))
}

/// Resident memory of each component's main process.
const MEMORY: &str = r#"for unit in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kube-netd containerd; do
  pid=$(systemctl show -p MainPID --value $unit)
  awk -v unit=$unit '/^VmRSS/ { printf "%-26s %8.1f\n", unit, $2 / 1024 }' /proc/$pid/status
done"#;
const DNS_MEMORY: &str =
    r#"awk '/^VmRSS/ { printf "%-26s %8.1f\n", "kube-dns", $2 / 1024 }' /proc/$(pgrep -xo kube-dns)/status"#;

fn init() -> Result<()> {
    setup::run()?;
    let bundle = bundle::for_tests()?;
    let kinit = |arguments: &[&str]| start(Command::new(bundle.join("kinit")).args(arguments));
    let file = "/var/lib/kinit/playgrounds/bench/cluster.yaml";
    kinit(&["playground", "up", "--name", "bench"])?;
    let measured = (|| {
        // Packages first: the figure is kinit's own work.
        let rest = "binaries,certs,kubeconfig,etcd,load-balancer,control-plane,wait-control-plane,upload-config,bootstrap-token,kubelet-start,network,mark-control-plane,addon,verify";
        kinit(&["init", "-f", file, "--skip-phases", rest])?;
        let floor = Instant::now();
        kinit(&["playground", "ssh", "--name", "bench", "cp1", "true"])?;
        let floor = floor.elapsed();
        let started = Instant::now();
        let timing = std::env::temp_dir().join(format!("kinit-bench-{}.json", std::process::id()));
        kinit(&["init", "-f", file, "--timing", &timing.display().to_string()])?;
        let total = started.elapsed();
        let phases: Value = serde_json::from_slice(&std::fs::read(&timing).context("read the timing")?)?;
        std::fs::remove_file(&timing).ok();
        println!("{:<22} {:>8}", "phase", "seconds");
        for phase in phases.as_array().into_iter().flatten() {
            let seconds = phase["milliseconds"].as_f64().unwrap_or(0.0) / 1000.0;
            println!("{:<22} {seconds:>8.2}", phase["phase"].as_str().unwrap_or("?"));
        }
        println!("{:<22} {:>8.2}", "init, all", total.as_secs_f64());
        println!("{:<22} {:>8.2}", "floor: one ssh command", floor.as_secs_f64());
        println!("\n{:<26} {:>8}", "at rest, cp1 and kube-dns", "MiB RSS");
        kinit(&["playground", "ssh", "--name", "bench", "cp1", MEMORY])?;
        kinit(&["playground", "ssh", "--name", "bench", "w1", DNS_MEMORY])
    })();
    kinit(&["playground", "down", "--name", "bench"])?;
    measured
}
