//! Rotations: a shared secret's successor takes its place, one stage after the other.
//!
//! ```text
//! next ─► look at the hosts ─► planner::rotation ─► Turn: a plan that puts a stage in force on all hosts
//!                                                 ├─ Settle: the usual plan for what follows, then a check
//!                                                 └─ Finish: one generation is left, the other is forgotten
//! ```
//!
//! The caller asks for the next move until there is none. Nothing is remembered between two runs: where a rotation
//! stands is what the hosts show.

mod pods;
mod values;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};
use kinit_agent::RotationRequest;
use kinit_config::Role;
use kinit_planner::{Next, Rotating, rotation};
use kinit_resource::{Observed, Place, Resource, RotationSeen, RotationStage, Shared};
use kinit_workflow::Listener;

use crate::operation::Run;
use crate::request::Impossible;
use crate::{access, operation};

/// What a rotation was asked for.
#[derive(Debug, Clone)]
pub struct RotationOptions {
    /// Which secret.
    pub shared: Shared,
    /// Where it is to end; [`RotationStage::Old`] takes it back.
    pub goal: RotationStage,
    /// What is done about pods that may still hold what is to go.
    pub pods: Pods,
    /// How long a token may live that the old key has signed.
    pub token_life: Duration,
}

/// What is done about pods that may still hold what is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pods {
    /// The rotation stops, and names them.
    Stop,
    /// Their workloads are restarted.
    Restart,
    /// They are left alone.
    Leave,
}

/// Why a rotation cannot begin, or must wait.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RotationStopped(pub String);

impl Run {
    /// The next move of a rotation; `settled` is the stage that this run has settled.
    pub async fn next_of_rotation(&self, options: &RotationOptions, settled: Option<RotationStage>) -> Result<Next> {
        if self.wanted.cluster.signs_on_desk() && matches!(options.shared, Shared::Authority(_)) {
            return Err(Impossible::KeysOnDesk(format!("a rotation of {}", options.shared.name())).into());
        }
        self.hosts.need_all()?;
        let seen = self.look_at_rotation(options, settled).await.context("look at the rotation")?;
        Ok(rotation(&self.wanted.cluster, &seen)?)
    }

    /// Whether both generations of this secret are kept on some host.
    pub async fn is_rotating(&self, options: &RotationOptions) -> Result<bool> {
        let seen = self.look_at_rotation(options, None).await.context("look at the rotation")?;
        Ok(seen.hosts.values().any(|own| own.record.is_some()))
    }

    async fn look_at_rotation(&self, options: &RotationOptions, settled: Option<RotationStage>) -> Result<Rotating> {
        let shared = options.shared;
        let is_control_plane = |name: &str| self.wanted.cluster.hosts(Role::ControlPlane).any(|host| host.name == name);
        let looked = self.hosts.each(|agent| async move {
            if is_control_plane(agent.host()) {
                let text = agent.rotation(RotationRequest::Look(Shared::ALL.to_vec())).await?;
                let all: Vec<RotationSeen> = serde_json::from_str(&text).context("decode what was seen")?;
                return Ok((all, None));
            }
            let public = Resource::Shared { shared, place: Place::Public };
            let seen = agent.observe(vec![public]).await?;
            Ok((Vec::new(), seen.into_iter().next()))
        });
        let (mut hosts, mut public, mut others) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for (name, (all, shown)) in looked.await? {
            for (of, seen) in Shared::ALL.into_iter().zip(all) {
                if of == shared {
                    hosts.insert(name.clone(), seen);
                } else if seen.record.is_some() {
                    others.insert(of);
                }
            }
            match shown {
                // The cluster's authority is the only one that other hosts have.
                Some(Observed::Fingerprint(hash)) if shared == Shared::CLUSTER => drop(public.insert(name, Some(hash))),
                Some(_) if shared == Shared::CLUSTER => drop(public.insert(name, None)),
                _ => {}
            }
        }
        Ok(Rotating { shared, goal: options.goal, hosts, public, others, settled })
    }

    /// What speaks against beginning: nothing is changed yet.
    pub async fn is_fit_for_rotation(&mut self) -> Result<()> {
        self.hosts.need_all()?;
        let mut troubles = Vec::new();
        let said = self.etcd().await;
        for host in self.wanted.cluster.hosts(Role::ControlPlane) {
            match said.get(&host.name) {
                None => troubles.push(format!("etcd on {} does not answer", host.name)),
                Some(status) if status.leader == 0 => troubles.push(format!("etcd on {} has no leader", host.name)),
                Some(status) => {
                    troubles.extend(status.alarms.iter().map(|alarm| format!("etcd has an alarm: {alarm:?}")));
                }
            }
        }
        if self.client.is_none() {
            troubles.push("the API does not answer".to_owned());
        }
        let ready = operation::nodes(self.client.as_ref()).await?;
        for host in self.wanted.cluster.spec.hosts.iter().filter(|host| host.is_node()) {
            if !ready.get(&host.name).is_some_and(|node| node.ready) {
                troubles.push(format!("node {} is not Ready", host.name));
            }
        }
        let plan = self.plan().await?;
        let differs = plan.steps().filter(|step| step.change.changes).take(3);
        troubles.extend(differs.map(|step| {
            format!("{}: to {} is left (`kinit apply` first)", step.host.as_deref().unwrap_or("cluster"), step.change)
        }));
        if troubles.is_empty() {
            return Ok(());
        }
        Err(RotationStopped(format!("the cluster is not as it should be:\n  {}", troubles.join("\n  "))).into())
    }

    /// Brings about what follows from a stage that is in force on all hosts, and checks it everywhere. Then, where the
    /// rotation is to go on, what speaks against that.
    pub async fn settle_rotation(
        &mut self,
        options: &RotationOptions,
        stage: RotationStage,
        listener: &dyn Listener,
    ) -> Result<()> {
        self.renew_access().await?;
        let plan = self.plan().await?;
        self.execute(&plan, listener).await?;
        self.renew_access().await?;
        self.everything_follows().await?;
        let api = access::masters(&self.hosts, &self.wanted.cluster).await?;
        verify::stage(self, &api, options, stage).await.with_context(|| format!("check stage {stage:?}"))?;
        if options.goal == RotationStage::Old {
            return verify::may_go_back(self, &api, options, stage).await;
        }
        if stage >= options.goal {
            return Ok(());
        }
        verify::may_go_on(self, &api, options, stage).await
    }

    /// The API is asked as somebody whom its servers know now.
    async fn renew_access(&mut self) -> Result<()> {
        self.client = access::client_if_up(&self.hosts, &self.wanted.cluster).await?;
        Ok(())
    }

    /// Every file, every program that reads it, and every object is as the stage wants it.
    async fn everything_follows(&self) -> Result<()> {
        let plan = self.plan().await?;
        let left: Vec<String> = plan
            .steps()
            .filter(|step| step.change.changes)
            .map(|step| format!("{}: {}", step.host.as_deref().unwrap_or("cluster"), step.change))
            .collect();
        anyhow::ensure!(left.is_empty(), "this is left to do, though it was done: {}", left.join("; "));
        Ok(())
    }
}
