//! The turn of one container: start it, leave it, or end it.

use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kinit_apimachinery::duration;

use super::{Action, Step};
use crate::pod::memory::{Failure, Memory};
use crate::pod::observe::{Container, Life, Observed, time};
use crate::pod::policy::{grace_of, hash, init_restarts, restarts};
use crate::pod::resize;

/// Walks over a pod's containers and notes what is to be done.
pub(super) struct Turn<'a> {
    pub(super) pod: &'a Pod,
    pub(super) memory: &'a Memory,
    pub(super) now: Timestamp,
    pub(super) out: &'a mut Step,
}

impl Turn<'_> {
    /// An init container that must end with 0 before anything after it; true when it has.
    pub(super) fn initialize(&mut self, container: &Spec, status: Option<&Container>, seen: &Observed) -> bool {
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
    pub(super) fn maintain(&mut self, container: &Spec, status: Option<&Container>, seen: &Observed, sidecar: bool) {
        match status {
            // In a new sandbox, what had ended for good in the old one is not run again.
            None => match seen.latest(&container.name) {
                Some(old) if !sidecar && old.life == Life::Exited && !restarts(self.pod, container, old.exit_code) => {}
                _ => self.start(container, seen, None),
            },
            Some(s) if s.life == Life::Running => self.watch(container, s),
            Some(s) if s.life == Life::Unknown => {
                self.kill(s, "Container is in an unknown state, try killing it before restart", 0, false)
            }
            Some(s) if s.life == Life::Created => self.start(container, seen, None),
            Some(s) if self.memory.renewed.contains(&s.id) => self.start(container, seen, None),
            Some(s) if sidecar || restarts(self.pod, container, s.exit_code) => self.start(container, seen, Some(s)),
            Some(_) => {}
        }
    }

    fn watch(&mut self, container: &Spec, status: &Container) {
        if let Some(verdict) = self.memory.condemned.get(&status.id) {
            let grace = verdict.grace.unwrap_or_else(|| grace_of(self.pod));
            self.kill(status, &verdict.message, grace, false);
        } else if !status.hash.is_empty() && status.hash != hash(container) {
            let message = format!("Container {} definition changed, will be restarted", container.name);
            self.kill(status, &message, grace_of(self.pod), true);
        } else if resize::needs_restart(container, status, self.memory) {
            let message = format!("Container {} resize requires restart, will be restarted", container.name);
            self.kill(status, &message, grace_of(self.pod), true);
        }
    }

    fn kill(&mut self, status: &Container, message: &str, grace: i64, renew: bool) {
        if !self.memory.killing.contains_key(&status.id) {
            let (id, container) = (status.id.clone(), status.name.clone());
            self.out.actions.push(Action::Kill { id, container, message: message.to_owned(), grace, renew });
        }
    }

    /// Starts a container unless it, or another of the pod, is on its way, or it has to wait.
    pub(super) fn start(&mut self, container: &Spec, seen: &Observed, ended: Option<&Container>) {
        let name = &container.name;
        if !self.memory.volumes_ready || self.memory.starting.contains(name) {
            return;
        }
        if let Some(s) = ended
            && let Some(until) = time(s.finished_at).and_then(|end| self.memory.backoff.until(name, end, self.now))
        {
            let delay = self.memory.backoff.delay(name).as_secs();
            let delay = duration::format(SignedDuration::from_secs(i64::try_from(delay).unwrap_or(i64::MAX)));
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
        let queued = self.out.actions.iter().any(|a| matches!(a, Action::Start { .. } | Action::Resize(_)));
        if queued || self.memory.resizing || !self.memory.starting.is_empty() {
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
