//! What to do next for a pod: a pure function of what is wanted, what is, and what this process remembers.
//!
//! ```text
//!   Run:       volumes → sandbox → init containers in order (sidecars stay) → containers → all done? stop the sandbox
//!   Terminate: kill containers → kill sidecars, last first → stop the sandbox → finished
//! ```
//!
//! Follows `kuberuntime_manager.computePodActions` and `SyncPod`. Long actions run outside; what is in flight is not
//! asked for again.

mod turn;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::memory::{Memory, SANDBOX, VOLUMES};
use super::observe::{Container, Life, Observed};
use super::policy::{grace_of, is_done, is_sidecar};
use super::resize::Resize;
use turn::Turn;

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
        /// It is made anew afterwards, whatever its restart policy says.
        renew: bool,
    },
    /// Change limits of the pod and of containers that run.
    Resize(Resize),
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
    /// Asks to be looked at again at `at` at the latest.
    pub fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }
}

/// Decides.
pub fn step(pod: &Pod, seen: &Observed, memory: &Memory, intent: &Intent, now: Timestamp) -> Step {
    match intent {
        Intent::Terminate { grace } => terminate(pod, seen, memory, *grace, "Stopping container"),
        Intent::Run if is_done(pod, seen, &memory.renewed) => {
            terminate(pod, seen, memory, grace_of(pod), "Stopping container")
        }
        Intent::Run => run(pod, seen, memory, now),
    }
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
                renew: false,
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
        // After a restart of the kubelet: containers run on, but their volumes must be known again before any is
        // started.
        mount(memory, now, &mut out);
    }
    let here = |name: &str| seen.latest(name).filter(|c| c.sandbox == sandbox.id);
    let initialized = spec.containers.iter().any(|c| here(&c.name).is_some());
    super::resize::enforce(pod, seen, memory, now, &mut out);
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
            renew: true,
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
