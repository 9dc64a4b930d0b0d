//! What to do next for a pod: a pure function of what is wanted, what is, and what this process remembers.
//!
//! ```text
//!   Run:       volumes → sandbox → init containers in order (sidecars stay) → containers → all done? stop the sandbox
//!   Terminate: kill containers → kill sidecars, last first → stop the sandbox → finished
//! ```
//!
//! Follows `kuberuntime_manager.computePodActions` and `SyncPod`. Long actions run outside; what is in flight is not asked for again.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::backoff::BackOff;
use super::observe::{Container, Life, Observed, time};

/// What the pod is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// Live.
    Run,
    /// End, with this grace period in seconds.
    Terminate {
        /// Seconds between the stop signal and the kill.
        grace: i64,
    },
}

/// A container that must die and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Text of the `Killing` event.
    pub message: String,
    /// Grace period of the probe, if it has its own.
    pub grace: Option<i64>,
}

/// An attempt that failed and when to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Reason as the container's waiting state shows it.
    pub reason: String,
    /// What happened.
    pub message: String,
    /// When.
    pub at: Timestamp,
    /// Not before.
    pub until: Timestamp,
}

/// What only this process knows.
#[derive(Debug, Clone)]
pub struct Memory {
    /// The pod's volumes are in place.
    pub volumes_ready: bool,
    /// Volumes are being set up.
    pub mounting: bool,
    /// A sandbox is being made.
    pub creating_sandbox: bool,
    /// Containers that are being started.
    pub starting: BTreeSet<String>,
    /// Ids of containers that are being killed, with the grace they got.
    pub killing: BTreeMap<String, i64>,
    /// Ids of sandboxes that are being stopped.
    pub stopping: BTreeSet<String>,
    /// Ids of containers whose liveness or startup probe failed.
    pub condemned: BTreeMap<String, Verdict>,
    /// Ids of running containers that have passed their startup probe (or have none).
    pub started: BTreeSet<String>,
    /// Failed attempts by container name; `""` stands for the volumes, `"/"` for the sandbox.
    pub failures: BTreeMap<String, Failure>,
    /// Restart pauses by container name.
    pub backoff: BackOff,
}

impl Memory {
    /// Nothing known yet.
    pub fn new(longest: std::time::Duration) -> Self {
        Self {
            volumes_ready: false,
            mounting: false,
            creating_sandbox: false,
            starting: BTreeSet::new(),
            killing: BTreeMap::new(),
            stopping: BTreeSet::new(),
            condemned: BTreeMap::new(),
            started: BTreeSet::new(),
            failures: BTreeMap::new(),
            backoff: BackOff::new(longest),
        }
    }

    fn busy(&self) -> bool {
        self.mounting
            || self.creating_sandbox
            || !self.starting.is_empty()
            || !self.killing.is_empty()
            || !self.stopping.is_empty()
    }
}

/// Key of [`Memory::failures`] for volumes.
pub const VOLUMES: &str = "";
/// Key of [`Memory::failures`] for the sandbox.
pub const SANDBOX: &str = "/";

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Set up volumes and directories.
    MountVolumes,
    /// Make a sandbox.
    CreateSandbox {
        /// Its attempt number.
        attempt: u32,
    },
    /// Stop a sandbox.
    StopSandbox {
        /// Its id.
        id: String,
    },
    /// Pull, create and start a container.
    Start {
        /// Its name.
        container: String,
        /// How often it was started before.
        attempt: u32,
    },
    /// Kill a container.
    Kill {
        /// Its id.
        id: String,
        /// Its name.
        container: String,
        /// Text of the event.
        message: String,
        /// Seconds between the stop signal and the kill.
        grace: i64,
    },
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// What to start doing now.
    pub actions: Vec<Action>,
    /// Look again at this time even if nothing happens.
    pub wake: Option<Timestamp>,
    /// Nothing runs and nothing will: every container has ended for good and the sandbox is stopped.
    pub finished: bool,
    /// Why containers wait: name to (reason, message).
    pub waiting: BTreeMap<String, (String, String)>,
}

impl Step {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }
}

/// Whether an init container stays up beside the pod (a sidecar).
pub fn is_sidecar(container: &Spec) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Digest of the fields whose change replaces a running container (upstream: name and image).
pub fn hash(container: &Spec) -> String {
    let text = format!("{}\0{}", container.name, container.image.as_deref().unwrap_or(""));
    let digest = text.bytes().fold(0x811c_9dc5u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    format!("{digest:x}")
}

/// Whether a container that ended is started again.
pub fn restarts(pod: &Pod, container: &Spec, exit_code: i32) -> bool {
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|v| *v == exit_code);
        let matches = if codes.operator == "In" { listed } else { !listed };
        if matches {
            return rule.action == "Restart";
        }
    }
    let pod_policy = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    match container.restart_policy.as_deref().or(pod_policy).unwrap_or("Always") {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// An ordinary init container is started again after a failure unless the pod never restarts.
fn init_restarts(pod: &Pod, container: &Spec) -> bool {
    let pod_policy = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    container.restart_policy.as_deref().or(pod_policy) != Some("Never")
}

/// Whether the pod's work is done for good: every container has ended and none is started again, or initialization failed.
pub fn is_done(pod: &Pod, seen: &Observed) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let failed_init = spec.init_containers.iter().flatten().filter(|c| !is_sidecar(c)).any(|c| {
        seen.latest(&c.name).is_some_and(|s| s.life == Life::Exited && s.exit_code != 0 && !init_restarts(pod, c))
    });
    let over =
        |c: &Spec| seen.latest(&c.name).is_some_and(|s| s.life == Life::Exited && !restarts(pod, c, s.exit_code));
    let regular_running = spec.containers.iter().any(|c| seen.latest(&c.name).is_some_and(|s| s.life == Life::Running));
    (failed_init && !regular_running) || (!spec.containers.is_empty() && spec.containers.iter().all(over))
}

/// Decides.
pub fn step(pod: &Pod, seen: &Observed, memory: &Memory, intent: &Intent, now: Timestamp) -> Step {
    match intent {
        Intent::Terminate { grace } => terminate(pod, seen, memory, *grace, "Stopping container"),
        Intent::Run if is_done(pod, seen) => terminate(pod, seen, memory, grace_of(pod), "Stopping container"),
        Intent::Run => run(pod, seen, memory, now),
    }
}

/// The pod's own grace period.
pub fn grace_of(pod: &Pod) -> i64 {
    pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30)
}

fn terminate(pod: &Pod, seen: &Observed, memory: &Memory, grace: i64, what: &str) -> Step {
    let mut out = Step::default();
    let sidecars: Vec<&str> = pod
        .spec
        .iter()
        .flat_map(|s| s.init_containers.iter().flatten())
        .filter(|c| is_sidecar(c))
        .map(|c| c.name.as_str())
        .collect();
    let (side, main): (Vec<&Container>, Vec<&Container>) =
        seen.running().partition(|c| sidecars.contains(&c.name.as_str()));
    let mut kill = |container: &Container| {
        if memory.killing.get(&container.id).is_none_or(|given| grace < *given) {
            let message = format!("{what} {}", container.name);
            out.actions.push(Action::Kill {
                id: container.id.clone(),
                container: container.name.clone(),
                message,
                grace,
            });
        }
    };
    if !main.is_empty() {
        main.iter().for_each(|c| kill(c));
        return out;
    }
    if memory.mounting || memory.creating_sandbox || !memory.starting.is_empty() {
        // Something is on its way that may yet leave a container behind.
        return out;
    }
    if let Some(last) = sidecars.iter().rev().find_map(|name| side.iter().find(|c| c.name == *name)) {
        kill(last);
        return out;
    }
    for sandbox in seen.sandboxes.iter().filter(|s| s.ready && !memory.stopping.contains(&s.id)) {
        out.actions.push(Action::StopSandbox { id: sandbox.id.clone() });
    }
    out.finished = seen.sandboxes.iter().all(|s| !s.ready) && !memory.busy();
    out
}

fn run(pod: &Pod, seen: &Observed, memory: &Memory, now: Timestamp) -> Step {
    let mut out = Step::default();
    let Some(spec) = &pod.spec else { return out };
    let Some(sandbox) = seen.sandbox() else {
        prepare(seen, memory, now, &mut out);
        return out;
    };
    if !memory.volumes_ready {
        // After a restart of the kubelet: containers run on, but their volumes must be known again before any is started.
        mount(memory, now, &mut out);
    }
    let here = |name: &str| seen.latest(name).filter(|c| c.sandbox == sandbox.id);
    let initialized = spec.containers.iter().any(|c| here(&c.name).is_some());
    let mut turn = Turn { pod, memory, now, out: &mut out };
    let mut blocked = false;
    for container in spec.init_containers.iter().flatten() {
        let status = here(&container.name);
        let go_on = if is_sidecar(container) {
            let up = status.is_some_and(|s| s.life == Life::Running && memory.started.contains(&s.id));
            turn.maintain(container, status, seen, true);
            up || initialized
        } else if initialized {
            true
        } else {
            turn.initialize(container, status, seen)
        };
        if !go_on {
            blocked = true;
            break;
        }
    }
    if !blocked {
        for container in &spec.containers {
            turn.maintain(container, here(&container.name), seen, false);
        }
        for container in super::ephemeral::of(pod).iter().filter(|c| seen.latest(&c.name).is_none()) {
            turn.start(container, seen, None);
        }
    }
    out
}

fn prepare(seen: &Observed, memory: &Memory, now: Timestamp, out: &mut Step) {
    // What is left of a dead sandbox goes first; containers cannot outlive it.
    for container in seen.running().filter(|c| !memory.killing.contains_key(&c.id)) {
        let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
        out.actions.push(Action::Kill {
            id: container.id.clone(),
            container: container.name.clone(),
            message,
            grace: 0,
        });
    }
    if seen.running().next().is_some() || memory.creating_sandbox {
        return;
    }
    if !memory.volumes_ready {
        mount(memory, now, out);
        return;
    }
    match memory.failures.get(SANDBOX) {
        Some(failure) if failure.until > now => out.wake_at(failure.until),
        _ => out
            .actions
            .push(Action::CreateSandbox { attempt: seen.sandboxes.first().map_or(0, |s| s.attempt.saturating_add(1)) }),
    }
}

fn mount(memory: &Memory, now: Timestamp, out: &mut Step) {
    match memory.failures.get(VOLUMES) {
        _ if memory.mounting => {}
        Some(failure) if failure.until > now => out.wake_at(failure.until),
        _ => out.actions.push(Action::MountVolumes),
    }
}

struct Turn<'a> {
    pod: &'a Pod,
    memory: &'a Memory,
    now: Timestamp,
    out: &'a mut Step,
}

impl Turn<'_> {
    /// An init container that must end with 0 before anything after it; true when it has.
    fn initialize(&mut self, container: &Spec, status: Option<&Container>, seen: &Observed) -> bool {
        match status {
            Some(s) if s.life == Life::Exited && s.exit_code == 0 => return true,
            Some(s) if s.life == Life::Running => self.watch(container, s),
            Some(s) if s.life == Life::Exited && !init_restarts(self.pod, container) => {}
            Some(s) => self.start(container, seen, Some(s)),
            None => self.start(container, seen, None),
        }
        false
    }

    /// A container that is to run until its restart policy says otherwise.
    fn maintain(&mut self, container: &Spec, status: Option<&Container>, seen: &Observed, sidecar: bool) {
        match status {
            // In a new sandbox, what had ended for good in the old one is not run again.
            None => match seen.latest(&container.name) {
                Some(old) if !sidecar && old.life == Life::Exited && !restarts(self.pod, container, old.exit_code) => {}
                _ => self.start(container, seen, None),
            },
            Some(s) if s.life == Life::Running => self.watch(container, s),
            Some(s) if s.life == Life::Unknown => {
                self.kill(s, "Container is in an unknown state, try killing it before restart", 0)
            }
            Some(s) if s.life == Life::Created => self.start(container, seen, None),
            Some(s) if sidecar || restarts(self.pod, container, s.exit_code) => self.start(container, seen, Some(s)),
            Some(_) => {}
        }
    }

    fn watch(&mut self, container: &Spec, status: &Container) {
        if let Some(verdict) = self.memory.condemned.get(&status.id) {
            let grace = verdict.grace.unwrap_or_else(|| grace_of(self.pod));
            self.kill(status, &verdict.message, grace);
        } else if !status.hash.is_empty() && status.hash != hash(container) {
            let message = format!("Container {} definition changed, will be restarted", container.name);
            self.kill(status, &message, grace_of(self.pod));
        }
    }

    fn kill(&mut self, status: &Container, message: &str, grace: i64) {
        if !self.memory.killing.contains_key(&status.id) {
            let (id, container) = (status.id.clone(), status.name.clone());
            self.out.actions.push(Action::Kill { id, container, message: message.to_owned(), grace });
        }
    }

    /// Starts a container unless it, or another of the pod, is on its way, or it has to wait.
    fn start(&mut self, container: &Spec, seen: &Observed, ended: Option<&Container>) {
        let name = &container.name;
        if !self.memory.volumes_ready || self.memory.starting.contains(name) {
            return;
        }
        if let Some(s) = ended
            && let Some(until) = time(s.finished_at).and_then(|end| self.memory.backoff.until(name, end, self.now))
        {
            let delay = go_duration(self.memory.backoff.delay(name));
            let meta = &self.pod.metadata;
            let text = |f: &Option<String>| f.clone().unwrap_or_default();
            let message = format!(
                "back-off {delay} restarting failed container={name} pod={}_{}({})",
                text(&meta.name),
                text(&meta.namespace),
                text(&meta.uid)
            );
            self.out.waiting.insert(name.clone(), ("CrashLoopBackOff".to_owned(), message));
            return self.out.wake_at(until);
        }
        if let Some(failure) = self.memory.failures.get(name).filter(|f| f.until > self.now) {
            let fresh = self.now.duration_since(failure.at) < SignedDuration::from_secs(1);
            let (reason, message) = shown(failure, container, fresh);
            self.out.waiting.insert(name.clone(), (reason, message));
            if fresh {
                self.out.wake_at(failure.at.checked_add(SignedDuration::from_millis(1500)).unwrap_or(failure.until));
            }
            return self.out.wake_at(failure.until);
        }
        // One at a time, as upstream: a postStart hook holds back the containers after it.
        let queued = self.out.actions.iter().any(|a| matches!(a, Action::Start { .. }));
        if queued || !self.memory.starting.is_empty() {
            return;
        }
        let attempt = seen.latest(name).map_or(0, |c| c.attempt.saturating_add(1));
        self.out.actions.push(Action::Start { container: name.clone(), attempt });
    }
}

/// A failed pull shows as `ErrImagePull` at first and as `ImagePullBackOff` while it waits.
fn shown(failure: &Failure, container: &Spec, fresh: bool) -> (String, String) {
    if !fresh && failure.reason == "ErrImagePull" {
        let image = container.image.as_deref().unwrap_or("");
        return (
            "ImagePullBackOff".to_owned(),
            format!("Back-off pulling image \"{image}\": ErrImagePull: {}", failure.message),
        );
    }
    (failure.reason.clone(), failure.message.clone())
}

/// `5m0s`, `1m20s`, `10s`: as Go prints durations of whole seconds.
pub fn go_duration(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs();
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (h, m) {
        (0, 0) => format!("{s}s"),
        (0, _) => format!("{m}m{s}s"),
        _ => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::observe::Sandbox;

    const T: i64 = 1_700_000_000;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(
            serde_json::json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}),
        )
        .unwrap()
    }

    fn container(name: &str, life: Life, exit_code: i32) -> Container {
        Container {
            id: format!("{name}-id"),
            sandbox: "s".into(),
            name: name.into(),
            attempt: 0,
            life,
            created_at: T,
            started_at: T * 1_000_000_000,
            finished_at: if life == Life::Exited { T * 1_000_000_000 } else { 0 },
            exit_code,
            reason: String::new(),
            message: String::new(),
            image: String::new(),
            image_ref: String::new(),
            hash: String::new(),
            log_path: String::new(),
            log_is_last_word: false,
        }
    }

    fn seen(ready: bool, containers: Vec<Container>) -> Observed {
        let sandbox = Sandbox { id: "s".into(), attempt: 0, ready, created_at: 1, ips: vec![] };
        Observed { sandboxes: vec![sandbox], containers }
    }

    fn memory() -> Memory {
        Memory { volumes_ready: true, ..Memory::new(std::time::Duration::from_secs(300)) }
    }

    fn words(step: &Step) -> Vec<String> {
        step.actions
            .iter()
            .map(|a| match a {
                Action::MountVolumes => "mount".into(),
                Action::CreateSandbox { attempt } => format!("sandbox {attempt}"),
                Action::StopSandbox { id } => format!("stop {id}"),
                Action::Start { container, attempt } => format!("start {container} {attempt}"),
                Action::Kill { container, grace, .. } => format!("kill {container} {grace}"),
            })
            .collect()
    }

    #[test]
    fn a_pod_comes_up_in_order() {
        let p = pod(
            serde_json::json!({"initContainers": [{"name": "i"}, {"name": "side", "restartPolicy": "Always"}], "containers": [{"name": "a"}, {"name": "b"}]}),
        );
        let now = Timestamp::from_second(T + 1).unwrap();
        let mut m = memory();
        m.volumes_ready = false;
        let go = |seen: &Observed, m: &Memory| words(&step(&p, seen, m, &Intent::Run, now));
        assert_eq!(go(&Observed::default(), &m), ["mount"]);
        m.volumes_ready = true;
        assert_eq!(go(&Observed::default(), &m), ["sandbox 0"]);
        assert_eq!(go(&seen(true, vec![]), &m), ["start i 0"]);
        let i_run = container("i", Life::Running, 0);
        assert!(go(&seen(true, vec![i_run]), &m).is_empty());
        let i = container("i", Life::Exited, 0);
        assert_eq!(go(&seen(true, vec![i.clone()]), &m), ["start side 0"]);
        let side = container("side", Life::Running, 0);
        assert!(
            go(&seen(true, vec![side.clone(), i.clone()]), &m).is_empty(),
            "the sidecar has not passed its startup probe"
        );
        m.started.insert("side-id".into());
        assert_eq!(go(&seen(true, vec![side.clone(), i.clone()]), &m), ["start a 0"]);
        let a = container("a", Life::Running, 0);
        assert_eq!(go(&seen(true, vec![a, side, i]), &m), ["start b 0"]);
        assert_eq!(go(&seen(false, vec![]), &m), ["sandbox 1"]);
    }

    #[test]
    fn restarts_follow_the_policy_and_the_pause() {
        let now = Timestamp::from_second(T + 1).unwrap();
        for (policy, code, expected, finished) in [
            ("Always", 0, vec!["start a 1"], false),
            ("OnFailure", 1, vec!["start a 1"], false),
            ("OnFailure", 0, vec!["stop s"], false),
            ("Never", 1, vec!["stop s"], false),
        ] {
            let p = pod(serde_json::json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
            let s = step(&p, &seen(true, vec![container("a", Life::Exited, code)]), &memory(), &Intent::Run, now);
            assert_eq!(
                (words(&s), s.finished),
                (expected.iter().map(ToString::to_string).collect(), finished),
                "{policy} {code}"
            );
        }
        let p = pod(serde_json::json!({"containers": [{"name": "a"}]}));
        let mut m = memory();
        m.backoff.next("a", now);
        let s = step(&p, &seen(true, vec![container("a", Life::Exited, 1)]), &m, &Intent::Run, now);
        assert_eq!((s.actions.len(), s.waiting["a"].0.as_str()), (0, "CrashLoopBackOff"));
        assert_eq!(s.wake, Some(Timestamp::from_second(T + 10).unwrap()));
    }

    #[test]
    fn termination_kills_sidecars_last_and_ends_with_the_sandbox() {
        let p = pod(
            serde_json::json!({"initContainers": [{"name": "side", "restartPolicy": "Always"}], "containers": [{"name": "a"}]}),
        );
        let now = Timestamp::from_second(T + 1).unwrap();
        let end = Intent::Terminate { grace: 5 };
        let (a, side) = (container("a", Life::Running, 0), container("side", Life::Running, 0));
        let mut m = memory();
        assert_eq!(words(&step(&p, &seen(true, vec![a.clone(), side.clone()]), &m, &end, now)), ["kill a 5"]);
        m.killing.insert("a-id".into(), 5);
        assert!(step(&p, &seen(true, vec![a.clone(), side.clone()]), &m, &end, now).actions.is_empty());
        assert_eq!(
            words(&step(&p, &seen(true, vec![a, side.clone()]), &m, &Intent::Terminate { grace: 0 }, now)),
            ["kill a 0"],
            "a shorter grace is passed on"
        );
        m.killing.clear();
        let gone = container("a", Life::Exited, 0);
        assert_eq!(words(&step(&p, &seen(true, vec![gone.clone(), side]), &m, &end, now)), ["kill side 5"]);
        let all = vec![gone, container("side", Life::Exited, 0)];
        assert_eq!(words(&step(&p, &seen(true, all.clone()), &m, &end, now)), ["stop s"]);
        assert!(step(&p, &seen(false, all), &m, &end, now).finished);
    }

    #[test]
    fn a_condemned_container_is_killed_once() {
        let p = pod(serde_json::json!({"terminationGracePeriodSeconds": 7, "containers": [{"name": "a"}]}));
        let mut m = memory();
        m.condemned.insert("a-id".into(), Verdict { message: "x".into(), grace: None });
        let running = seen(true, vec![container("a", Life::Running, 0)]);
        let now = Timestamp::from_second(T).unwrap();
        assert_eq!(words(&step(&p, &running, &m, &Intent::Run, now)), ["kill a 7"]);
        m.killing.insert("a-id".into(), 7);
        assert!(step(&p, &running, &m, &Intent::Run, now).actions.is_empty());
    }
}
