//! Probes: one task per container and kind, whose results change a shared state and wake the pod's worker
//! (`pkg/kubelet/prober`).

pub mod grpc;
pub mod http;
pub mod metrics;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, Probe};
use k8s_openapi::jiff::Timestamp;
use kinit_component_base::supervise;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::kubelet::Kubelet;
use crate::pod::memory::Verdict;
use crate::pod::observe::{self, Life, Observed, time};
use crate::pod::policy::is_sidecar;

/// What probes say, by container id.
#[derive(Debug, Default)]
pub struct Results {
    /// Passed the startup probe, or has none.
    pub started: BTreeSet<String>,
    /// Passes the readiness probe, or has none and is started.
    pub ready: BTreeSet<String>,
    /// Must die.
    pub condemned: BTreeMap<String, Verdict>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// A pod's probes.
#[derive(Debug)]
pub struct Probes {
    results: Arc<Mutex<Results>>,
    tasks: HashMap<(String, Kind), JoinHandle<()>>,
    poke: Arc<Notify>,
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Its figures go with it.
impl Drop for Prober {
    fn drop(&mut self) {
        self.kubelet.metrics.probes.forget(&self.pod, &self.container.name, self.kind.name());
    }
}

/// One probe of one container.
struct Prober {
    kubelet: Arc<Kubelet>,
    pod: Arc<Pod>,
    container: Container,
    id: String,
    kind: Kind,
    probe: Probe,
    ip: Option<String>,
    since: Option<Timestamp>,
    results: Arc<Mutex<Results>>,
    poke: Arc<Notify>,
}

impl Probes {
    /// No probes yet. What the API knows to be ready or started stays so: a kubelet that restarts must not take pods
    /// out of service.
    pub fn new(poke: Arc<Notify>, status: Option<&PodStatus>) -> Self {
        let mut results = Results::default();
        let lists = status
            .into_iter()
            .flat_map(|s| s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten()));
        for known in lists {
            let Some(id) = known.container_id.as_deref().and_then(|id| id.split_once("://")).map(|(_, id)| id) else {
                continue;
            };
            if known.ready {
                results.ready.insert(id.to_owned());
            }
            if known.started == Some(true) {
                results.started.insert(id.to_owned());
            }
        }
        Self { results: Arc::new(Mutex::new(results)), tasks: HashMap::new(), poke }
    }

    /// Ends all probes; results stay.
    pub fn stop(&mut self) {
        self.tasks.drain().for_each(|(_, task)| task.abort());
    }

    /// Starts probes of containers that run, forgets those that do not.
    pub fn follow(&mut self, kubelet: &Arc<Kubelet>, pod: &Arc<Pod>, seen: &Observed) {
        let running: BTreeSet<&str> =
            seen.containers.iter().filter(|c| c.life == Life::Running).map(|c| c.id.as_str()).collect();
        self.tasks.retain(|(id, _), task| {
            let keep = running.contains(id.as_str());
            if !keep {
                task.abort();
            }
            keep
        });
        {
            let mut results = self.results.lock();
            results.started.retain(|id| running.contains(id.as_str()));
            results.ready.retain(|id| running.contains(id.as_str()));
            results.condemned.retain(|id, _| running.contains(id.as_str()));
        }
        let Some(spec) = &pod.spec else { return };
        let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c));
        let plain_inits: Vec<&str> =
            spec.init_containers.iter().flatten().filter(|c| !is_sidecar(c)).map(|c| c.name.as_str()).collect();
        for container in spec.containers.iter().chain(sidecars) {
            let Some(status) = seen.latest(&container.name).filter(|s| s.life == Life::Running) else { continue };
            self.container(kubelet, pod, container, status, seen);
        }
        for status in
            seen.containers.iter().filter(|c| plain_inits.contains(&c.name.as_str()) && c.life == Life::Running)
        {
            self.results.lock().started.insert(status.id.clone());
        }
    }

    fn container(
        &mut self,
        kubelet: &Arc<Kubelet>,
        pod: &Arc<Pod>,
        container: &Container,
        status: &observe::Container,
        seen: &Observed,
    ) {
        let id = &status.id;
        if container.startup_probe.is_none() {
            self.results.lock().started.insert(id.clone());
        }
        let started = self.results.lock().started.contains(id);
        if container.readiness_probe.is_none() && started {
            self.results.lock().ready.insert(id.clone());
        }
        let host_network = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        let ip = if host_network {
            kubelet.host_ips.first().cloned()
        } else {
            seen.sandbox().and_then(|s| s.ips.first().cloned())
        };
        let wanted = [
            (Kind::Startup, container.startup_probe.as_ref().filter(|_| !started)),
            (Kind::Liveness, container.liveness_probe.as_ref().filter(|_| started)),
            (Kind::Readiness, container.readiness_probe.as_ref().filter(|_| started)),
        ];
        for (kind, probe) in wanted {
            let Some(probe) = probe else { continue };
            let key = (id.clone(), kind);
            if self.tasks.contains_key(&key) {
                continue;
            }
            let prober = Prober {
                kubelet: kubelet.clone(),
                pod: pod.clone(),
                container: container.clone(),
                id: id.clone(),
                kind,
                probe: probe.clone(),
                ip: ip.clone(),
                since: time(status.started_at),
                results: self.results.clone(),
                poke: self.poke.clone(),
            };
            self.tasks.insert(key, tokio::spawn(prober.keep_on()));
        }
    }

    /// Reads the results.
    pub fn read<T>(&self, f: impl FnOnce(&Results) -> T) -> T {
        f(&self.results.lock())
    }
}

/// Why a probe did not say yes (`prober.go: runProbe`: an error of the prober itself is no result).
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    /// The container answered, badly or not at all.
    Bad(String),
    /// It could not be asked.
    Unknown(String),
}

impl From<String> for Trouble {
    fn from(message: String) -> Self {
        Self::Bad(message)
    }
}

/// A command that took too long is a failed probe; any other error is the runtime's.
fn exec_trouble(code: kinit_cri::Code, message: &str) -> Trouble {
    match code {
        kinit_cri::Code::DeadlineExceeded => Trouble::Bad(message.to_owned()),
        _ => Trouble::Unknown(message.to_owned()),
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    let value = value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default);
    Duration::from_secs(value)
}

impl Prober {
    /// Probes to the end. A panic is this container's trouble alone; without its prober it would never become ready.
    async fn keep_on(self) {
        supervise::persist(seconds(None, 60), || self.run()).await;
    }

    async fn run(&self) {
        let initial = seconds(self.probe.initial_delay_seconds, 0);
        let up = self
            .since
            .map_or(Duration::ZERO, |s| Duration::try_from(Timestamp::now().duration_since(s)).unwrap_or_default());
        tokio::time::sleep(initial.saturating_sub(up)).await;
        let period = seconds(self.probe.period_seconds, 10);
        let timeout = seconds(self.probe.timeout_seconds, 1);
        let success = self.probe.success_threshold.unwrap_or(1).max(1);
        let failure = self.probe.failure_threshold.unwrap_or(3).max(1);
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut row, mut last) = (0, None);
        loop {
            ticks.tick().await;
            let began = std::time::Instant::now();
            let outcome = self.once(timeout).await;
            let good = match &outcome {
                Ok(()) => Some(true),
                Err(Trouble::Bad(_)) => Some(false),
                Err(Trouble::Unknown(_)) => None,
            };
            let (name, kind) = (&self.container.name, self.kind.name());
            self.kubelet.metrics.probes.probed(&self.pod, name, kind, good, began.elapsed());
            let outcome = match outcome {
                Ok(()) => Ok(()),
                Err(Trouble::Bad(message)) => Err(message),
                // Whether the container is well is not known: a runtime that restarts must not cost it its life.
                Err(Trouble::Unknown(message)) => {
                    let note = format!("{} probe errored and resulted in unknown state: {message}", self.kind.name());
                    self.kubelet.events.pod(&self.pod, Some(&self.container.name), true, "ProbeWarning", note);
                    continue;
                }
            };
            let good = outcome.is_ok();
            row = if last == Some(good) { row + 1 } else { 1 };
            last = Some(good);
            if let Err(message) = &outcome {
                let note = format!("{} probe failed: {message}", self.kind.name());
                self.kubelet.events.pod(&self.pod, Some(&self.container.name), true, "Unhealthy", note);
            }
            if row >= if good { success } else { failure } && self.conclude(good) {
                return;
            }
        }
    }

    /// Takes note; true when this probe is done for good.
    fn conclude(&self, good: bool) -> bool {
        let mut results = self.results.lock();
        let id = &self.id;
        let changed = match (self.kind, good) {
            (Kind::Readiness, true) => results.ready.insert(id.clone()),
            (Kind::Readiness, false) => results.ready.remove(id),
            (Kind::Startup, true) => results.started.insert(id.clone()),
            (Kind::Liveness, true) => false,
            (kind @ (Kind::Startup | Kind::Liveness), false) => {
                let message = format!(
                    "Container {} failed {} probe, will be restarted",
                    self.container.name,
                    kind.name().to_lowercase()
                );
                let grace = self.probe.termination_grace_period_seconds;
                results.condemned.insert(id.clone(), Verdict { message, grace }).is_none()
            }
        };
        drop(results);
        if changed {
            self.poke.notify_one();
        }
        changed && self.kind != Kind::Readiness
    }

    async fn once(&self, timeout: Duration) -> Result<(), Trouble> {
        let probe = &self.probe;
        let host = |own: Option<&String>| {
            own.filter(|h| !h.is_empty())
                .or(self.ip.as_ref())
                .cloned()
                .ok_or_else(|| "the pod has no address".to_owned())
        };
        if let Some(exec) = &probe.exec {
            let command = exec.command.clone().unwrap_or_default();
            let call = self.kubelet.runtime.exec_sync(&self.id, command, timeout);
            let answer = tokio::time::timeout(timeout + Duration::from_secs(1), call)
                .await
                .map_err(|_| Trouble::Bad(format!("command timed out after {timeout:?}")))?
                .map_err(|e| exec_trouble(e.code(), e.message()))?;
            let mut text = String::from_utf8_lossy(&answer.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&answer.stderr));
            return if answer.exit_code == 0 { Ok(()) } else { Err(Trouble::Bad(text)) };
        }
        if let Some(get) = &probe.http_get {
            let target = http::target(get, &self.container, self.ip.as_deref()).map_err(Trouble::Unknown)?;
            let answer = http::get(&target, timeout).await?;
            if let Some(warning) = answer.warning() {
                let note = format!("{} probe warning: {warning}", self.kind.name());
                self.kubelet.events.pod(&self.pod, Some(&self.container.name), true, "ProbeWarning", note);
            }
            return Ok(answer.into_result()?);
        }
        if let Some(tcp) = &probe.tcp_socket {
            let (host, port) = (host(tcp.host.as_ref())?, http::port(&tcp.port, &self.container)?);
            return match tokio::time::timeout(timeout, http::dial(&host, port)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(why)) => Err(Trouble::Bad(why)),
                Err(_) => Err(Trouble::Bad(format!("dial tcp {host}:{port}: i/o timeout"))),
            };
        }
        if let Some(check) = &probe.grpc {
            let port = u16::try_from(check.port).map_err(|_| format!("port {} is out of range", check.port))?;
            let service = check.service.as_deref().unwrap_or("");
            return Ok(grpc::check(&host(None)?, port, service, timeout).await?);
        }
        Err(Trouble::Unknown("the probe has no action".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_that_is_away_is_no_verdict() {
        use kinit_cri::Code::{DeadlineExceeded, NotFound, Unavailable, Unknown};
        for (code, is_verdict) in [(DeadlineExceeded, true), (Unavailable, false), (Unknown, false), (NotFound, false)]
        {
            assert_eq!(matches!(exec_trouble(code, "x"), Trouble::Bad(_)), is_verdict, "{code:?}");
        }
    }
}
