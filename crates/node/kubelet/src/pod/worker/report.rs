//! What the API is told: statuses and events.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::jiff::Timestamp;
use kinit_component_helpers::pod::is_over;

use super::{Wanted, Worker};
use crate::pod::observe::Observed;
use crate::pod::status::{CONDITIONS, Facts, status};
use crate::pod::step::Step;

impl Worker {
    /// One event for each time a container begins to wait for its restart.
    pub(super) fn tell_of_back_off(&mut self, pod: &Pod, out: &Step) {
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

    pub(super) fn publish(&mut self, wanted: &Wanted, seen: &Observed, out: &Step, over: bool, now: Timestamp) {
        let known = is_over(self.last.as_ref());
        if known && seen.containers.is_empty() {
            // Ended long ago, and its containers are gone: what the API knows is all there is.
            return;
        }
        let pod = self.pod.clone();
        let pod = pod.as_ref();
        let resizing = if over { None } else { self.resize_in_progress(pod, seen) };
        let old = merge(pod.status.as_ref(), self.last.as_ref());
        let (started, ready) = self.probes.read(|r| (r.started.clone(), r.ready.clone()));
        let facts = Facts {
            waiting: out.waiting.clone(),
            started,
            ready,
            host_ips: &self.kubelet.host_ips,
            over,
            verdict: self.verdict.clone(),
            pending_resize: self.refusal.clone().filter(|_| !over).map(|r| (r.reason.to_owned(), r.message)),
            resizing,
            disruption: self.disruption.as_ref().map(|e| e.disruption.clone()),
            renewed: self.memory.renewed.clone(),
            old: old.as_ref(),
        };
        let mut new = status(pod, seen, &facts, now);
        if self.verdict.is_some() && !over && seen.running().next().is_some() {
            // The end is announced when it has come.
            new.phase = self.last.as_ref().and_then(|l| l.phase.clone()).or(new.phase);
            new.reason = None;
            new.message = None;
        }
        if new.phase.as_deref() == Some("Running")
            && let Some(seen) = self.unstarted.take()
        {
            self.kubelet.metrics.pod_started(seen.elapsed());
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
}

/// The status to build on: our own last one, with conditions that others wrote into the API's.
fn merge(api: Option<&PodStatus>, last: Option<&PodStatus>) -> Option<PodStatus> {
    let mut base = last.or(api)?.clone();
    let mut conditions: BTreeMap<String, _> =
        base.conditions.take().into_iter().flatten().map(|c| (c.type_.clone(), c)).collect();
    for condition in api.iter().flat_map(|s| s.conditions.iter().flatten()) {
        if !CONDITIONS.contains(&condition.type_.as_str()) || !conditions.contains_key(&condition.type_) {
            conditions.insert(condition.type_.clone(), condition.clone());
        }
    }
    base.conditions = Some(conditions.into_values().collect());
    Some(base)
}
