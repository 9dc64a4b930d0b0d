//! How a pod comes in: what this kubelet serves, and room beside those that were admitted before it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;

use super::{Eviction, Worker, grant};
use crate::evict;
use crate::node::capacity;
use crate::pod::admit::claim::Claim;
use crate::pod::admit::fit::Reason;
use crate::pod::admit::placement::{Misfit, misfits};
use crate::pod::admit::{self, Host};
use crate::pod::policy::grace_of;

/// No answer within this is no answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Beyond its own time a pod that makes room gets this long to be gone.
const MARGIN: Duration = Duration::from_secs(30);

impl Worker {
    /// Lets the pod in, or tells reason and message of its refusal.
    pub(super) async fn admit(&self, pod: &Pod) -> Result<(), (String, String)> {
        let lasting = self.kubelet.config.eviction_pressure_transition_period;
        evict::admit(pod, &self.kubelet.pressure.conditions(lasting))?;
        admit::admit(pod, &Host::look(&self.kubelet.runtime).await)?;
        // Nobody else comes in while a pod's room is being made.
        let _turn = self.kubelet.admission.lock().await;
        let claim = Claim::of(&self.pod);
        let Err(reasons) = self.find_room(pod, &claim).await else { return Ok(()) };
        let misfit = |reason: &Reason| matches!(reason, Reason::Misfit(_));
        if claim.critical && !reasons.iter().any(misfit) {
            return self.make_room(pod, &claim, reasons).await;
        }
        // What a critical pod lacks in resources would be freed for it: that is not what keeps it out.
        let reported = if claim.critical { reasons.iter().find(|r| misfit(r)) } else { reasons.first() };
        Err(reported.map(Reason::words).unwrap_or_default())
    }

    /// Takes the room there is. Labels may have changed since the node was last seen: it is asked for before they
    /// count.
    async fn find_room(&self, pod: &Pod, claim: &Claim) -> Result<(), Vec<Reason>> {
        let reasons = match self.take_room(pod, claim, &self.kubelet.node()) {
            Err(reasons) if reasons == [Reason::Misfit(Misfit::Affinity)] => reasons,
            done => return done,
        };
        let Some(client) = self.kubelet.client.clone() else { return Err(reasons) };
        let api: Api<Node> = Api::all(client);
        match tokio::time::timeout(PATIENCE, api.get(&self.kubelet.node_name)).await {
            Ok(Ok(node)) => {
                self.kubelet.node.note(node.clone());
                self.take_room(pod, claim, &node)
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "ask for the node");
                Err(reasons)
            }
            Err(_) => Err(reasons),
        }
    }

    fn take_room(&self, pod: &Pod, claim: &Claim, node: &Node) -> Result<(), Vec<Reason>> {
        let kubelet = &self.kubelet;
        let started = pod.status.as_ref().is_some_and(|s| s.start_time.is_some());
        let known = started && grant::is_kept(kubelet, &self.key);
        let misfits = misfits(pod, node, known, self.wanted.borrow().is_static);
        let room = capacity::room(&kubelet.config, &kubelet.machine, kubelet.disk(), node.status.as_ref());
        kubelet.ledger.admit(&self.key.uid, claim, &room, &misfits)
    }

    /// Ends pods that are less important than a critical one, and takes their room (`CriticalPodAdmissionHandler`).
    async fn make_room(&self, pod: &Pod, claim: &Claim, reasons: Vec<Reason>) -> Result<(), (String, String)> {
        let failed = |error: String| {
            let words = "Unexpected error while attempting to recover from admission failure";
            ("UnexpectedAdmissionError".to_owned(), format!("{words}: {error}"))
        };
        let victims = self.kubelet.ledger.victims(&self.key.uid, claim, &reasons);
        let victims =
            victims.map_err(|e| failed(format!("preemption: error finding a set of pods to preempt: {e}")))?;
        let short = reasons.iter().find_map(|r| match r {
            Reason::Insufficient { resource, .. } => Some(resource.as_str()),
            Reason::Misfit(_) => None,
        });
        tracing::info!(pod = %self.key, ?victims, "make room for a critical pod");
        for uid in &victims {
            self.kubelet.metrics.preempted(short.unwrap_or_default());
            self.manager.evict(
                uid,
                Eviction {
                    reason: "Preempting",
                    message: "Preempted in order to admit critical pod".to_owned(),
                    disruption: "Pod was preempted by Kubelet to accommodate a critical pod.".to_owned(),
                    grace: None,
                },
            );
        }
        for uid in &victims {
            let grace = self.manager.pod(uid).map_or(0, |pod| grace_of(&pod));
            let patience = Duration::from_secs(u64::try_from(grace).unwrap_or(0)) + MARGIN;
            if tokio::time::timeout(patience, self.kubelet.ledger.gone(uid)).await.is_err() {
                return Err(failed(format!("pod {uid} does not end")));
            }
        }
        self.find_room(pod, claim).await.map_err(|left| left.first().map(Reason::words).unwrap_or_default())
    }
}
