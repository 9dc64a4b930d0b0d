//! What comes of actions, and the pauses after those that failed.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::Worker;
use crate::pod::ephemeral;
use crate::pod::memory::{Failure, RESIZE, SANDBOX, VOLUMES};
use crate::pod::resize::Resize;
use crate::pod::start::StartError;
use crate::volumes::{Volumes, payload::Tokens};

/// An action is through.
pub(super) enum Done {
    Mounted(Result<(Volumes, Tokens), String>),
    Refreshed(Tokens, Result<Volumes, String>),
    Resized(Resize, Result<(), String>),
    Sandbox(Result<(), String>),
    Started(String, Result<(), StartError>),
    Killed(String),
    Stopped(String),
    TornDown(Result<(), String>),
    Exceeded(Option<String>),
}

impl Worker {
    /// Takes note of a finished action.
    pub(super) fn take(&mut self, done: Done) {
        let pod = self.wanted.borrow().pod.clone();
        match done {
            Done::Mounted(result) => self.mounted(&pod, result),
            Done::Refreshed(tokens, result) => self.refreshed(&pod, tokens, result),
            Done::Sandbox(result) => self.sandbox_made(&pod, result),
            Done::Started(name, result) => self.started(&name, result),
            Done::Resized(resize, result) => self.resized(&pod, resize, result),
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

    fn refreshed(&mut self, pod: &Pod, tokens: Tokens, result: Result<Volumes, String>) {
        self.memory.mounting = false;
        // Those that could not be had carry the time of the next attempt.
        self.tokens = tokens;
        match result {
            Ok(volumes) => self.volumes = volumes,
            Err(error) => self.kubelet.events.pod(pod, None, true, "FailedMount", error),
        }
        self.catch_up();
    }

    /// What changed while volumes were being made was not seen by them.
    fn catch_up(&mut self) {
        if std::mem::take(&mut self.stale) {
            self.refresh.notify_one();
        }
    }

    pub(super) fn mounted(&mut self, pod: &Pod, result: Result<(Volumes, Tokens), String>) {
        self.memory.mounting = false;
        match result {
            Ok((volumes, tokens)) => {
                (self.volumes, self.tokens) = (volumes, tokens);
                self.memory.volumes_ready = true;
                self.save();
                self.memory.failures.remove(VOLUMES);
            }
            Err(message) => {
                self.kubelet.events.pod(pod, None, true, "FailedMount", &message);
                self.fail(VOLUMES, "ContainerCreating", message, 30);
            }
        }
        self.catch_up();
    }

    fn resized(&mut self, pod: &Pod, resize: Resize, result: Result<(), String>) {
        self.memory.resizing = false;
        match result {
            Ok(()) => {
                self.memory.failures.remove(RESIZE);
                self.memory.limits = Some(resize.settle.unwrap_or(resize.lift));
                self.memory.given.extend(resize.changes.into_iter().map(|c| (c.id, c.to)));
            }
            Err(message) => {
                self.kubelet.events.pod(pod, None, true, "ResizeError", &message);
                self.fail(RESIZE, "Error", message, 60);
            }
        }
    }

    pub(super) fn sandbox_made(&mut self, pod: &Pod, result: Result<(), String>) {
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

    pub(super) fn started(&mut self, name: &str, result: Result<(), StartError>) {
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

    pub(super) fn taken_down(&mut self, result: Result<(), String>) {
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

    /// Notes a failed attempt; the pause doubles from 1 s (volumes and sandbox) or 10 s (containers) up to `longest`
    /// seconds.
    pub(super) fn fail(&mut self, what: &str, reason: &str, message: String, longest: i64) {
        let now = Timestamp::now();
        let first = if matches!(what, VOLUMES | SANDBOX | RESIZE) {
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
}
