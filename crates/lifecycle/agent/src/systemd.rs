//! systemd over D-Bus (org.freedesktop.systemd1(5)).

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use kinit_resource::{Observed, UnitState};
use zbus::proxy;
use zbus::{Connection, OwnedObjectPath};

use crate::ledger::Ledger;

#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn reload(&self) -> zbus::Result<()>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn get_unit_file_state(&self, name: &str) -> zbus::Result<String>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reload_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn kill_unit(&self, name: &str, whom: &str, signal: i32) -> zbus::Result<()>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    #[allow(clippy::type_complexity)]
    fn enable_unit_files(
        &self,
        names: &[&str],
        runtime: bool,
        force: bool,
    ) -> zbus::Result<(bool, Vec<(String, String, String)>)>;
    #[allow(clippy::type_complexity)]
    fn disable_unit_files(&self, names: &[&str], runtime: bool) -> zbus::Result<Vec<(String, String, String)>>;
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

#[proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
trait Unit {
    #[zbus(property(emits_changed_signal = "false"))]
    fn active_state(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn load_state(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn need_daemon_reload(&self) -> zbus::Result<bool>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn fragment_path(&self) -> zbus::Result<String>;
    /// Microseconds since 1970.
    #[zbus(property(emits_changed_signal = "false"))]
    fn inactive_exit_timestamp(&self) -> zbus::Result<u64>;
    /// Microseconds since 1970; a reload changes it too.
    #[zbus(property(emits_changed_signal = "false"))]
    fn state_change_timestamp(&self) -> zbus::Result<u64>;
}

#[proxy(interface = "org.freedesktop.systemd1.Timer", default_service = "org.freedesktop.systemd1")]
trait Timer {
    /// Microseconds since 1970; 0 or the largest number when it does not elapse.
    #[zbus(property(emits_changed_signal = "false"), name = "NextElapseUSecRealtime")]
    fn next_elapse(&self) -> zbus::Result<u64>;
}

#[proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
trait State {
    #[zbus(property)]
    fn active_state(&self) -> zbus::Result<String>;
}

const JOB: Duration = Duration::from_secs(90);

struct Systemd {
    connection: Connection,
    manager: ManagerProxy<'static>,
}

impl Systemd {
    async fn connect() -> Result<Self> {
        let connection = Connection::system().await.context("connect to the system bus")?;
        let manager = ManagerProxy::new(&connection).await.context("talk to systemd")?;
        Ok(Self { connection, manager })
    }

    async fn unit(&self, name: &str) -> Result<UnitProxy<'static>> {
        let path = self.manager.load_unit(name).await.with_context(|| format!("look up {name}"))?;
        let proxy = UnitProxy::builder(&self.connection).path(path).cache_properties(zbus::proxy::CacheProperties::No);
        proxy.build().await.with_context(|| format!("look up {name}"))
    }

    /// Starts a job by `start` and waits for systemd to say how it ended.
    async fn job(&self, name: &str, verb: Job) -> Result<()> {
        self.manager.subscribe().await.ok();
        let mut removed = self.manager.receive_job_removed().await.context("listen to systemd's jobs")?;
        let path = match verb {
            Job::Start => self.manager.start_unit(name, "replace").await,
            Job::Restart => self.manager.restart_unit(name, "replace").await,
            Job::Reload => self.manager.reload_unit(name, "replace").await,
            Job::Stop => self.manager.stop_unit(name, "replace").await,
            Job::Kill => {
                let job = self.manager.stop_unit(name, "replace").await;
                // One that has stopped already has nothing to kill.
                self.manager.kill_unit(name, "all", nix::libc::SIGKILL).await.ok();
                job
            }
        };
        let path = path.with_context(|| format!("{verb:?} {name}"))?;
        let wait = async {
            while let Some(signal) = removed.next().await {
                let job = signal.args().context("read a signal of systemd")?;
                if *job.job() == path {
                    return Ok(job.result().clone());
                }
            }
            bail!("systemd went away")
        };
        let result = tokio::time::timeout(JOB, wait)
            .await
            .map_err(|_| anyhow::anyhow!("{verb:?} {name}: not finished within {JOB:?}"))??;
        if result != "done" {
            bail!("{verb:?} {name}: {result}; `journalctl -u {name}` on the host shows why");
        }
        Ok(())
    }

    async fn enabled(&self, name: &str) -> bool {
        self.manager.get_unit_file_state(name).await.is_ok_and(|state| state == "enabled")
    }
}

#[derive(Debug, Clone, Copy)]
enum Job {
    Start,
    Restart,
    Reload,
    Stop,
    /// Stops it without waiting for its own end.
    Kill,
}

/// Whether the unit does what it should, since its files last changed.
pub(crate) async fn observe(name: &str, wanted: &UnitState) -> Result<Observed> {
    if *wanted == UnitState::Stopped && !Ledger::load()?.units.contains_key(name) {
        return Ok(Observed::AsWanted);
    }
    let systemd = Systemd::connect().await?;
    let unit = systemd.unit(name).await?;
    let active = unit.active_state().await?;
    let running = runs(&active);
    let enabled = systemd.enabled(name).await;
    Ok(match wanted {
        UnitState::Stopped if !running && !enabled => Observed::AsWanted,
        UnitState::Stopped => Observed::Differs(if running { "runs" } else { "is enabled" }.to_owned()),
        UnitState::Running { .. } if !running && !enabled => Observed::Missing,
        UnitState::Running { .. } if !running => Observed::Differs(format!("is {active}")),
        UnitState::Running { .. } if !enabled => Observed::Differs("is not enabled".to_owned()),
        UnitState::Running { reads, reloads } => match stale(&unit, reads, *reloads).await? {
            Some(why) => Observed::Differs(why),
            None => Observed::AsWanted,
        },
    })
}

/// One that starts, or waits to be started again, runs as well.
fn runs(active_state: &str) -> bool {
    matches!(active_state, "active" | "activating" | "reloading")
}

async fn stale(unit: &UnitProxy<'static>, reads: &[String], reloads: bool) -> Result<Option<String>> {
    if let Some(why) = old_unit_file(unit).await? {
        return Ok(Some(why));
    }
    let since = if reloads { unit.state_change_timestamp().await? } else { unit.inactive_exit_timestamp().await? };
    Ok(reads.iter().find(|path| changed_after(path, since)).map(|path| format!("{path} changed")))
}

/// Why the unit file that it was started with is not the one that is there now, if so.
async fn old_unit_file(unit: &UnitProxy<'static>) -> Result<Option<String>> {
    if unit.need_daemon_reload().await? {
        return Ok(Some("its unit file changed".to_owned()));
    }
    let fragment = unit.fragment_path().await?;
    let started = unit.inactive_exit_timestamp().await?;
    Ok(changed_after(&fragment, started).then(|| format!("{fragment} changed")))
}

/// Whether a file changed after that time, in microseconds since 1970. The link itself, not what it points to: a new
/// binary is a new link.
fn changed_after(path: &str, time: u64) -> bool {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return false };
    let changed =
        u64::try_from(meta.ctime()).unwrap_or(0) * 1_000_000 + u64::try_from(meta.ctime_nsec()).unwrap_or(0) / 1000;
    changed > time
}

/// Brings the unit into that state.
pub(crate) async fn apply(name: &str, wanted: &UnitState) -> Result<()> {
    let systemd = Systemd::connect().await?;
    if matches!(wanted, UnitState::Running { .. }) {
        crate::packages::unmask(name)?;
    }
    // Asked first: reading its unit files again, systemd forgets that they had changed.
    let outdated = old_unit_file(&systemd.unit(name).await?).await?.is_some();
    systemd.manager.reload().await.context("make systemd read its unit files")?;
    let unit = systemd.unit(name).await?;
    let state = unit.active_state().await?;
    let active = state == "active";
    let enabled = systemd.enabled(name).await;
    // Nothing of kinit's has started it before it is in the ledger: what runs now ran before, and is started again at
    // reset.
    let before = active && enabled;
    Ledger::note(|l| {
        l.units.entry(name.to_owned()).or_insert(before);
    })?;
    match wanted {
        UnitState::Stopped => stop(&systemd, name, Job::Stop).await,
        UnitState::Running { reloads, .. } => {
            if unit.load_state().await? == "masked" {
                bail!("{name} is masked");
            }
            systemd.manager.enable_unit_files(&[name], false, true).await.with_context(|| format!("enable {name}"))?;
            // Enabling changes what is on disk: without this the unit would count as changed since it was read.
            systemd.manager.reload().await.context("make systemd read its unit files")?;
            systemd.manager.reset_failed_unit(name).await.ok();
            let verb = match active {
                true if *reloads && !outdated => Job::Reload,
                true => Job::Restart,
                // Between two attempts of a program that ends again and again a start would count as part of the first
                // attempt, which was before its files changed.
                false if runs(&state) => Job::Restart,
                false => Job::Start,
            };
            systemd.job(name, verb).await
        }
    }
}

/// Waits until the unit has stayed active for so long; an error as soon as it has not.
pub(crate) async fn steady(name: &str, seconds: u32) -> Result<()> {
    let systemd = Systemd::connect().await?;
    // Without this systemd sends no signals.
    systemd.manager.subscribe().await.ok();
    let path = systemd.manager.load_unit(name).await.with_context(|| format!("look up {name}"))?;
    let unit = StateProxy::builder(&systemd.connection).path(path);
    let unit = unit.build().await.with_context(|| format!("look up {name}"))?;
    let mut changes = unit.receive_active_state_changed().await;
    let ended = async {
        while let Some(change) = changes.next().await {
            let state = change.get().await.with_context(|| format!("look at {name}"))?;
            if state != "active" {
                return Ok(state);
            }
        }
        bail!("systemd went away")
    };
    match tokio::time::timeout(Duration::from_secs(seconds.into()), ended).await {
        Err(_) => Ok(()),
        Ok(state) => bail!("{name} did not stay up: it is {}; `journalctl -u {name}` on the host shows why", state?),
    }
}

async fn stop(systemd: &Systemd, name: &str, how: Job) -> Result<()> {
    systemd.job(name, how).await?;
    systemd.manager.disable_unit_files(&[name], false).await.with_context(|| format!("disable {name}"))?;
    systemd.manager.reload().await.context("make systemd read its unit files")
}

/// Has systemd read its unit files again. While some of them changed, all units count as outdated.
pub(crate) async fn reload() -> Result<()> {
    Systemd::connect().await?.manager.reload().await.context("make systemd read its unit files")
}

/// Stops and disables a unit that may be gone already. etcd is killed: its data is deleted next, and a member that its
/// cluster has removed does not end by itself for long.
pub(crate) async fn give_up(name: &str) -> Result<()> {
    let systemd = Systemd::connect().await?;
    if systemd.unit(name).await?.load_state().await? == "not-found" {
        return Ok(());
    }
    stop(&systemd, name, if name == "etcd.service" { Job::Kill } else { Job::Stop }).await?;
    systemd.manager.reset_failed_unit(name).await.ok();
    Ok(())
}

/// When a timer elapses next, in seconds since 1970; `None` when it does not run.
pub(crate) async fn next_elapse(name: &str) -> Result<Option<i64>> {
    let systemd = Systemd::connect().await?;
    if systemd.unit(name).await?.active_state().await? != "active" {
        return Ok(None);
    }
    let path = systemd.manager.load_unit(name).await.with_context(|| format!("look up {name}"))?;
    let timer = TimerProxy::builder(&systemd.connection).path(path).cache_properties(zbus::proxy::CacheProperties::No);
    let next = timer.build().await.with_context(|| format!("look up {name}"))?.next_elapse().await?;
    Ok(i64::try_from(next / 1_000_000).ok().filter(|_| next != 0 && next != u64::MAX))
}

/// Those of the units that run.
pub(crate) async fn active(units: impl Iterator<Item = &str>) -> Result<Vec<String>> {
    let systemd = Systemd::connect().await?;
    let mut running = Vec::new();
    for name in units {
        if runs(&systemd.unit(name).await?.active_state().await?) {
            running.push(name.to_owned());
        }
    }
    Ok(running)
}

/// Reads unit files again; then starts a unit that ran before kinit came, if it is still there.
pub(crate) async fn give_back(units: &[&str]) -> Result<()> {
    let systemd = Systemd::connect().await?;
    systemd.manager.reload().await.context("make systemd read its unit files")?;
    for name in units {
        if systemd.unit(name).await?.load_state().await? == "loaded" {
            systemd.manager.enable_unit_files(&[name], false, true).await.ok();
            systemd.job(name, Job::Restart).await?;
        }
    }
    Ok(())
}
