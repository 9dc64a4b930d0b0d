//! The task that looks after one pod from its arrival to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::observe::{Observed, observe};
use super::start::{self, Start, StartError};
use super::status::{Facts, status};
use super::step::{Action, Failure, Intent, Memory, SANDBOX, Step, VOLUMES, grace_of, step};
use super::{admit, clean, ephemeral, kill};
use crate::kubelet::Kubelet;
use crate::names::PodKey;
use crate::objects::{Changes, Handle};
use crate::probe::Probes;
use crate::references;
use crate::volumes::{Volumes, limit, payload::Tokens};

/// What is wanted of a pod.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its newest spec and metadata.
    pub pod: Arc<Pod>,
    /// It is gone from its source: end it, there is nobody to report to.
    pub removed: bool,
    /// Uid to write its status under; `None` for a static pod without a mirror.
    pub api_uid: Option<String>,
    /// From a file.
    pub is_static: bool,
}

enum Done {
    Mounted(Result<(Volumes, Tokens), String>),
    Sandbox(Result<(), String>),
    Started(String, Result<(), StartError>),
    Killed(String),
    Stopped(String),
    TornDown(Result<(), String>),
    Exceeded(Option<String>),
}

/// Objects a pod holds.
#[derive(Default)]
struct Held {
    _config_maps: Vec<Arc<Handle<k8s_openapi::api::core::v1::ConfigMap>>>,
    _secrets: Vec<Arc<Handle<k8s_openapi::api::core::v1::Secret>>>,
    stop: CancellationToken,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Without news a pod is looked at again after this.
const RESYNC: Duration = Duration::from_secs(60);
/// Volumes with a limit are measured this often at most.
const MEASURE: Duration = Duration::from_secs(10);

/// One pod's worker.
pub struct Worker {
    kubelet: Arc<Kubelet>,
    key: PodKey,
    wanted: watch::Receiver<Wanted>,
    poke: Arc<Notify>,
    memory: Memory,
    probes: Probes,
    volumes: Volumes,
    tokens: Tokens,
    held: Held,
    refresh: Arc<Notify>,
    verdict: Option<(String, String)>,
    last: Option<PodStatus>,
    backing_off: BTreeSet<String>,
    measured: Option<tokio::time::Instant>,
    torn_down: bool,
    tearing: bool,
    done: (mpsc::UnboundedSender<Done>, mpsc::UnboundedReceiver<Done>),
}

/// What the loop does after a round.
enum Round {
    Wait(Option<Timestamp>),
    Again,
    End,
}

impl Worker {
    /// A worker for a pod that has just been seen.
    pub fn new(kubelet: Arc<Kubelet>, key: PodKey, wanted: watch::Receiver<Wanted>, poke: Arc<Notify>) -> Self {
        let longest = kubelet.config.crash_loop_back_off.max_container_restart_period;
        let pod = wanted.borrow().pod.clone();
        let probes = Probes::new(poke.clone(), pod.status.as_ref());
        Self {
            memory: Memory::new(longest),
            probes,
            volumes: Volumes::new(),
            tokens: Tokens::default(),
            held: Held::default(),
            refresh: Arc::new(Notify::new()),
            verdict: None,
            last: pod.status.clone().filter(|s| s.start_time.is_some()),
            backing_off: BTreeSet::new(),
            measured: None,
            torn_down: false,
            tearing: false,
            done: mpsc::unbounded_channel(),
            kubelet,
            key,
            wanted,
            poke,
        }
    }

    /// Runs to the pod's end.
    pub async fn run(mut self) {
        let pod = self.wanted.borrow().pod.clone();
        if let Err((reason, message)) = admit::admit(&pod) {
            self.kubelet.events.pod(&pod, None, true, &reason, &message);
            self.verdict = Some((reason, message));
        }
        self.hold(&pod);
        loop {
            let wake = match self.round().await {
                Round::End => return,
                Round::Again => continue,
                Round::Wait(wake) => wake,
            };
            let resync = tokio::time::Instant::now() + if self.measured.is_some() { MEASURE } else { RESYNC };
            let until =
                [wake, self.tokens.due()].into_iter().flatten().min().map_or(resync, |t| instant(t).min(resync));
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() { return },
                () = self.poke.notified() => {}
                () = self.refresh.notified() => self.mount_again().await,
                Some(done) = self.done.1.recv() => self.take(done),
                () = tokio::time::sleep_until(until) => {
                    if self.tokens.due().is_some_and(|d| d <= Timestamp::now()) {
                        self.mount_again().await;
                    }
                }
            }
            while let Ok(done) = self.done.1.try_recv() {
                self.take(done);
            }
        }
    }

    async fn round(&mut self) -> Round {
        let wanted = self.wanted.borrow_and_update().clone();
        let pod = wanted.pod.clone();
        let seen = match observe(&self.kubelet.runtime, &self.key.uid).await {
            Ok(seen) => seen,
            Err(error) => {
                tracing::warn!(pod = %self.key, %error, "ask the runtime about the pod");
                return Round::Wait(Timestamp::now().checked_add(SignedDuration::from_secs(5)).ok());
            }
        };
        let now = Timestamp::now();
        self.remember(&pod, &seen);
        self.check_deadline(&pod, now);
        self.check_sizes(&pod);
        let intent = self.intent(&wanted);
        let out = step(&pod, &seen, &self.memory, &intent, now);
        let over = out.finished;
        if over && !self.torn_down {
            if !self.tearing {
                self.tear_down(&pod);
            }
            self.publish(&wanted, &seen, &out, false, now);
            return Round::Wait(None);
        }
        self.publish(&wanted, &seen, &out, over, now);
        if over && (wanted.removed || pod.metadata.deletion_timestamp.is_some()) {
            return self.finish(&wanted, &seen).await;
        }
        self.tell_of_back_off(&pod, &out);
        let wake = [out.wake, self.deadline(&pod)].into_iter().flatten().min();
        for action in out.actions {
            self.act(&pod, &seen, action);
        }
        let keep = usize::try_from(self.kubelet.config.max_per_pod_container.unwrap_or(1)).unwrap_or(1);
        clean::dead_containers(&self.kubelet, &self.key, &seen, keep).await;
        Round::Wait(wake)
    }

    /// One event for each time a container begins to wait for its restart.
    fn tell_of_back_off(&mut self, pod: &Pod, out: &Step) {
        let now: BTreeSet<String> = out
            .waiting
            .iter()
            .filter(|(_, (reason, _))| reason == "CrashLoopBackOff")
            .map(|(name, _)| name.clone())
            .collect();
        for name in now.difference(&self.backing_off) {
            let note = format!(
                "Back-off restarting failed container {name} in pod {}_{}({})",
                self.key.name, self.key.namespace, self.key.uid
            );
            self.kubelet.events.pod(pod, Some(name), true, "BackOff", note);
        }
        self.backing_off = now;
    }

    fn intent(&self, wanted: &Wanted) -> Intent {
        let pod = &wanted.pod;
        let ended = self.last.as_ref().is_some_and(|s| matches!(s.phase.as_deref(), Some("Succeeded" | "Failed")));
        if wanted.removed || pod.metadata.deletion_timestamp.is_some() {
            return Intent::Terminate {
                grace: pod.metadata.deletion_grace_period_seconds.unwrap_or_else(|| grace_of(pod)),
            };
        }
        if self.verdict.is_some() || ended { Intent::Terminate { grace: grace_of(pod) } } else { Intent::Run }
    }

    fn deadline(&self, pod: &Pod) -> Option<Timestamp> {
        let seconds = pod.spec.as_ref().and_then(|s| s.active_deadline_seconds)?;
        let start = self.last.as_ref().and_then(|s| s.start_time.clone())?;
        start.0.checked_add(SignedDuration::from_secs(seconds)).ok()
    }

    fn check_deadline(&mut self, pod: &Pod, now: Timestamp) {
        let ended = self.last.as_ref().is_some_and(|s| matches!(s.phase.as_deref(), Some("Succeeded" | "Failed")));
        if self.verdict.is_none() && !ended && self.deadline(pod).is_some_and(|d| d <= now) {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.kubelet.events.pod(pod, None, false, "DeadlineExceeded", &message);
            self.verdict = Some(("DeadlineExceeded".into(), message));
        }
    }

    /// Measures emptyDir volumes that have a limit, now and then; nothing tells when a directory has grown.
    fn check_sizes(&mut self, pod: &Pod) {
        let recently = self.measured.is_some_and(|m| m.elapsed() < MEASURE);
        if recently || self.verdict.is_some() || self.torn_down {
            return;
        }
        let limited = limit::limited(pod, &self.volumes);
        if limited.is_empty() {
            return;
        }
        self.measured = Some(tokio::time::Instant::now());
        let done = self.done.0.clone();
        tokio::task::spawn_blocking(move || {
            let _ = done.send(Done::Exceeded(limit::exceeded(&limited)));
        });
    }

    /// Brings what is remembered in line with what is.
    fn remember(&mut self, pod: &Arc<Pod>, seen: &Observed) {
        self.probes.follow(&self.kubelet, pod, seen);
        let (started, condemned) = self.probes.read(|r| (r.started.clone(), r.condemned.clone()));
        self.memory.started = started;
        self.memory.condemned = condemned;
    }

    fn publish(&mut self, wanted: &Wanted, seen: &Observed, out: &Step, over: bool, now: Timestamp) {
        let known = self.last.as_ref().is_some_and(|s| matches!(s.phase.as_deref(), Some("Succeeded" | "Failed")));
        if known && seen.containers.is_empty() {
            // Ended long ago, and its containers are gone: what the API knows is all there is.
            return;
        }
        let pod = &wanted.pod;
        let old = merge(pod.status.as_ref(), self.last.as_ref());
        let (started, ready) = self.probes.read(|r| (r.started.clone(), r.ready.clone()));
        let facts = Facts {
            waiting: out.waiting.clone(),
            started,
            ready,
            host_ips: &self.kubelet.host_ips,
            over,
            verdict: self.verdict.clone(),
            old: old.as_ref(),
        };
        let mut new = status(pod, seen, &facts, now);
        if self.verdict.is_some() && !over && seen.running().next().is_some() {
            // The end is announced when it has come.
            new.phase = self.last.as_ref().and_then(|l| l.phase.clone()).or(new.phase);
            new.reason = None;
            new.message = None;
        }
        if self.last.as_ref() != Some(&new) || !wanted.removed {
            self.kubelet.writer.set(
                &self.key.uid,
                &self.key.namespace,
                &self.key.name,
                wanted.api_uid.clone(),
                new.clone(),
            );
        }
        self.last = Some(new);
    }

    fn act(&mut self, pod: &Arc<Pod>, seen: &Observed, action: Action) {
        let (kubelet, key, pod, done) = (self.kubelet.clone(), self.key.clone(), pod.clone(), self.done.0.clone());
        let ips: Vec<String> = if pod.spec.as_ref().and_then(|s| s.host_network) == Some(true) {
            kubelet.host_ips.clone()
        } else {
            seen.sandbox().map(|s| s.ips.clone()).unwrap_or_default()
        };
        tracing::debug!(pod = %key, ?action, "act");
        match action {
            Action::MountVolumes => {
                self.memory.mounting = true;
                let tokens = self.tokens.clone();
                tokio::spawn(async move {
                    let result = start::mount(&kubelet, &pod, &key, &ips, tokens).await;
                    let _ = done.send(Done::Mounted(result));
                });
            }
            Action::CreateSandbox { attempt } => {
                self.memory.creating_sandbox = true;
                tokio::spawn(async move {
                    let _ = done.send(Done::Sandbox(start::sandbox(&kubelet, &pod, &key, attempt).await));
                });
            }
            Action::StopSandbox { id } => {
                self.memory.stopping.insert(id.clone());
                tokio::spawn(async move {
                    let request = kinit_cri::v1::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
                    if let Err(error) = kubelet.runtime.stop_pod_sandbox(request).await {
                        tracing::warn!(pod = %key, %error, "stop the sandbox");
                        tokio::time::sleep(Duration::from_secs(2)).await;
                    }
                    let _ = done.send(Done::Stopped(id));
                });
            }
            Action::Start { container, attempt } => self.start(pod, seen, container, attempt, ips),
            Action::Kill { id, container, message, grace } => {
                self.memory.killing.insert(id.clone(), grace);
                tokio::spawn(async move {
                    kill::kill(&kubelet, &pod, &container, &id, &message, grace, ips.first().map(String::as_str)).await;
                    let _ = done.send(Done::Killed(id));
                });
            }
        }
    }

    fn start(&mut self, pod: Arc<Pod>, seen: &Observed, container: String, attempt: u32, ips: Vec<String>) {
        let Some(spec) = ephemeral::find(&pod, &container) else { return };
        let Some(sandbox) = seen.sandbox() else { return };
        if attempt > 0 {
            let now = Timestamp::now();
            self.memory.backoff.next(&container, now);
        }
        self.memory.starting.insert(container.clone());
        let start = Start {
            sandbox: sandbox.id.clone(),
            sandbox_attempt: sandbox.attempt,
            attempt,
            volumes: self.volumes.clone(),
            pod_ips: ips,
            target: ephemeral::target(&pod, &container).and_then(|t| seen.latest(&t).map(|c| c.id.clone())),
        };
        let (kubelet, key, done) = (self.kubelet.clone(), self.key.clone(), self.done.0.clone());
        tokio::spawn(async move {
            let result = start::container(&kubelet, &pod, &key, &spec, &start).await;
            let _ = done.send(Done::Started(container, result));
        });
    }

    /// Takes note of a finished action.
    fn take(&mut self, done: Done) {
        let pod = self.wanted.borrow().pod.clone();
        match done {
            Done::Mounted(result) => self.mounted(&pod, result),
            Done::Sandbox(result) => self.sandbox_made(&pod, result),
            Done::Started(name, result) => self.started(&name, result),
            Done::Killed(id) => {
                self.memory.killing.remove(&id);
            }
            Done::Stopped(id) => {
                self.memory.stopping.remove(&id);
            }
            Done::Exceeded(None) => {}
            Done::Exceeded(Some(message)) => {
                self.kubelet.events.pod(&pod, None, true, "Evicted", &message);
                self.verdict = Some(("Evicted".to_owned(), message));
            }
            Done::TornDown(result) => self.taken_down(result),
        }
    }

    fn mounted(&mut self, pod: &Pod, result: Result<(Volumes, Tokens), String>) {
        self.memory.mounting = false;
        match result {
            Ok((volumes, tokens)) => {
                (self.volumes, self.tokens) = (volumes, tokens);
                self.memory.volumes_ready = true;
                self.memory.failures.remove(VOLUMES);
            }
            Err(message) => {
                self.kubelet.events.pod(pod, None, true, "FailedMount", &message);
                self.fail(VOLUMES, "ContainerCreating", message, 30);
            }
        }
    }

    fn sandbox_made(&mut self, pod: &Pod, result: Result<(), String>) {
        self.memory.creating_sandbox = false;
        match result {
            Ok(()) => {
                self.memory.failures.remove(SANDBOX);
                if self.held_downward() {
                    self.refresh.notify_one();
                }
            }
            Err(message) => {
                self.kubelet.events.pod(pod, None, true, "FailedCreatePodSandBox", &message);
                self.fail(SANDBOX, "ContainerCreating", message, 15);
            }
        }
    }

    fn started(&mut self, name: &str, result: Result<(), StartError>) {
        self.memory.starting.remove(name);
        match result {
            Err(error) if !error.created || error.reason == "RunContainerError" => {
                self.fail(name, error.reason, error.message, 300);
            }
            // Where the container exists, the runtime's own record says how it ended; the restart pause does the rest.
            Ok(()) | Err(_) => {
                self.memory.failures.remove(name);
            }
        }
    }

    fn taken_down(&mut self, result: Result<(), String>) {
        self.tearing = false;
        let Err(error) = result else {
            self.torn_down = true;
            return;
        };
        tracing::warn!(pod = %self.key, error, "take down the pod's volumes");
        let poke = self.poke.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(2)).await;
            poke.notify_one();
        });
    }

    /// Notes a failed attempt; the pause doubles from 1 s (volumes and sandbox) or 10 s (containers) up to `longest` seconds.
    fn fail(&mut self, what: &str, reason: &str, message: String, longest: i64) {
        let now = Timestamp::now();
        let first = if matches!(what, VOLUMES | SANDBOX) {
            1
        } else if reason == "CreateContainerConfigError" {
            5
        } else {
            10
        };
        let pause = self
            .memory
            .failures
            .get(what)
            .map_or(first, |f| (f.until.duration_since(f.at).as_secs() * 2).clamp(first, longest));
        let until = now.checked_add(SignedDuration::from_secs(pause)).unwrap_or(now);
        if reason == "ErrImagePull" {
            let pod = self.wanted.borrow().pod.clone();
            let image = ephemeral::find(&pod, what).and_then(|c| c.image).unwrap_or_default();
            self.kubelet.events.pod(&pod, Some(what), false, "BackOff", format!("Back-off pulling image \"{image}\""));
        }
        self.memory.failures.insert(what.to_owned(), Failure { reason: reason.to_owned(), message, at: now, until });
    }

    /// Watches what the pod refers to, so that volumes follow their objects.
    fn hold(&mut self, pod: &Pod) {
        let refers = references::of(pod);
        let objects = &self.kubelet.objects;
        let namespace = &self.key.namespace;
        let config_maps: Vec<_> =
            refers.config_maps.iter().filter_map(|n| objects.config_map(namespace, n).ok()).collect();
        let secrets: Vec<_> = refers.secrets.iter().filter_map(|n| objects.secret(namespace, n).ok()).collect();
        let stop = CancellationToken::new();
        config_maps.iter().for_each(|handle| follow(handle.changes(), &self.refresh, &stop));
        secrets.iter().for_each(|handle| follow(handle.changes(), &self.refresh, &stop));
        self.held = Held { _config_maps: config_maps, _secrets: secrets, stop };
    }

    fn held_downward(&self) -> bool {
        let pod = self.wanted.borrow().pod.clone();
        pod.spec
            .iter()
            .flat_map(|s| s.volumes.iter().flatten())
            .any(|v| v.downward_api.is_some() || v.projected.is_some())
    }

    /// Brings live volumes up to date.
    async fn mount_again(&mut self) {
        if !self.memory.volumes_ready {
            // They may fail for want of what has just come.
            self.memory.failures.remove(VOLUMES);
            return;
        }
        if self.tearing || self.torn_down || self.memory.mounting {
            return;
        }
        let pod = self.wanted.borrow().pod.clone();
        let ips: Vec<String> =
            self.last.iter().flat_map(|s| s.pod_ips.iter().flatten()).map(|ip| ip.ip.clone()).collect();
        let place = start::place(&self.kubelet, &ips);
        match crate::volumes::set_up(&self.kubelet, &pod, &self.key, &place, &mut self.tokens).await {
            Ok(volumes) => self.volumes = volumes,
            Err(error) => self.kubelet.events.pod(&pod, None, true, "FailedMount", error),
        }
    }

    fn tear_down(&mut self, pod: &Arc<Pod>) {
        self.tearing = true;
        self.probes.stop();
        let (kubelet, key, pod, done) = (self.kubelet.clone(), self.key.clone(), pod.clone(), self.done.0.clone());
        tokio::spawn(async move {
            let directory = kubelet.paths.pod(&key.uid);
            let result = tokio::task::spawn_blocking(move || {
                // Last words of containers stay readable until the pod is gone.
                crate::volumes::mounts::unmount_below(&directory)?;
                for part in ["volumes", "volume-subpaths"] {
                    let path = directory.join(part);
                    if path.exists() {
                        std::fs::remove_dir_all(&path).map_err(|e| format!("remove {}: {e}", path.display()))?;
                    }
                }
                Ok(())
            })
            .await
            .unwrap_or_else(|e| Err(e.to_string()));
            if let Err(error) = kubelet.cgroups.remove(&pod, &key).await {
                tracing::debug!(pod = %key, error = format!("{error:#}"), "remove the pod's cgroup");
            }
            let _ = done.send(Done::TornDown(result));
        });
    }

    /// The pod has ended and is to go: last status out, object deleted, everything removed.
    async fn finish(&mut self, wanted: &Wanted, seen: &Observed) -> Round {
        if !wanted.removed
            && !wanted.is_static
            && let Some(client) = self.kubelet.client.clone()
        {
            if !self.kubelet.writer.flush(&self.key.uid, Duration::from_secs(30)).await {
                return Round::Again;
            }
            let api: Api<Pod> = Api::namespaced(client, &self.key.namespace);
            let preconditions = Some(Preconditions { uid: wanted.api_uid.clone(), resource_version: None });
            let params = DeleteParams { grace_period_seconds: Some(0), preconditions, ..Default::default() };
            match api.delete(&self.key.name, &params).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => {
                    tracing::warn!(pod = %self.key, %error, "delete the pod's object");
                    return Round::Wait(Timestamp::now().checked_add(SignedDuration::from_secs(2)).ok());
                }
            }
        }
        clean::everything(&self.kubelet, &self.key, seen).await;
        self.kubelet.writer.forget(&self.key.uid);
        tracing::info!(pod = %self.key, uid = self.key.uid, "the pod is gone");
        Round::End
    }
}

/// Passes changes of an object on until `stop`.
fn follow<K: Send + Sync + 'static>(mut changes: Changes<K>, refresh: &Arc<Notify>, stop: &CancellationToken) {
    let (refresh, stop) = (refresh.clone(), stop.clone());
    tokio::spawn(async move {
        loop {
            tokio::select! { () = stop.cancelled() => return, () = changes.next() => refresh.notify_one() }
        }
    });
}

fn instant(at: Timestamp) -> tokio::time::Instant {
    let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
    tokio::time::Instant::now() + left
}

/// The status to build on: our own last one, with conditions that others wrote into the API's.
fn merge(api: Option<&PodStatus>, last: Option<&PodStatus>) -> Option<PodStatus> {
    let mut base = last.or(api)?.clone();
    let mut conditions: BTreeMap<String, _> =
        base.conditions.take().into_iter().flatten().map(|c| (c.type_.clone(), c)).collect();
    const OURS: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    for condition in api.iter().flat_map(|s| s.conditions.iter().flatten()) {
        if !OURS.contains(&condition.type_.as_str()) || !conditions.contains_key(&condition.type_) {
            conditions.insert(condition.type_.clone(), condition.clone());
        }
    }
    base.conditions = Some(conditions.into_values().collect());
    Some(base)
}
