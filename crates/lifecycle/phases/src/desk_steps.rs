//! Steps with the authorities' keys that are kept on the desk.

use std::sync::Arc;

use anyhow::{Context, Result};
use kinit_config::{Cluster, Role};
use kinit_pki::{Authority, Pair};
use kinit_planner::{Action, DESK, Plan, Step};
use kinit_resource::{LeafSpec, Place, Shared};

use crate::execute::Steps;
use crate::hosts::Hosts;
use crate::keyring::Keyring;

/// Whether a plan needs the keys on the desk.
pub(crate) fn needs_keys(plan: &Plan) -> bool {
    plan.steps().any(|step| match &step.action {
        Action::Keep { .. } => true,
        Action::Generate(_) => step.host.is_none(),
        Action::Copy { from, .. } => from == DESK,
        Action::Issue { by, .. } => by == DESK,
        _ => false,
    })
}

/// Opens the keys, which somebody may have to type a passphrase for, and compares them with the authorities that
/// control planes have: before anything is changed.
pub(crate) async fn open(keys: Arc<Keyring>, hosts: &Hosts, cluster: &Cluster) -> Result<()> {
    let opening = keys.clone();
    tokio::task::spawn_blocking(move || opening.open()).await.context("open the authorities' keys")??;
    for host in cluster.hosts(Role::ControlPlane) {
        let Ok(agent) = hosts.agent(&host.name) else { continue };
        for authority in Authority::ALL {
            // A host that is new has none.
            if let Ok(shown) = agent.read_public(Shared::Authority(authority)).await {
                keys.is_of(authority, &host.name, &shown.cert)?;
            }
        }
    }
    Ok(())
}

impl Steps {
    /// Carries out a step that is one with the desk's keys; `None` for every other.
    pub(crate) async fn with_desks_keys(&self, step: &Step) -> Option<Result<()>> {
        let host = step.host.as_deref().unwrap_or_default();
        match &step.action {
            Action::Generate(shared) if step.host.is_none() => Some(self.generate(*shared)),
            Action::Keep { shared, from } => Some(self.keep(*shared, from).await),
            Action::Copy { shared, from, place } if from == DESK => Some(self.hand_out(host, *shared, *place).await),
            Action::Issue { leaf, by } if by == DESK => Some(self.sign(host, leaf).await),
            _ => None,
        }
    }

    fn keyring(&self) -> Result<&Keyring> {
        self.keys.as_deref().context("nobody said where the authorities' keys are kept on this desk")
    }

    fn generate(&self, shared: Shared) -> Result<()> {
        let certificates = &self.wanted.cluster.spec.certificates;
        self.keyring()?.generate(authority(shared)?, certificates.encryption_algorithm, certificates.ca_validity_days)
    }

    async fn keep(&self, shared: Shared, from: &str) -> Result<()> {
        let pair = self.hosts.agent(from)?.read_shared(shared).await;
        self.keyring()?.keep(authority(shared)?, pair.with_context(|| format!("read {} of {from}", shared.name()))?)
    }

    async fn hand_out(&self, host: &str, shared: Shared, place: Place) -> Result<()> {
        let pair = self.keyring()?.pair(authority(shared)?)?;
        let public_only = place == Place::Public;
        let key = if public_only { String::new() } else { pair.key };
        self.hosts.agent(host)?.write_shared(shared, Pair { cert: pair.cert, key }, public_only).await
    }

    async fn sign(&self, host: &str, leaf: &LeafSpec) -> Result<()> {
        let agent = self.hosts.agent(host)?;
        let request = agent.request_leaf(leaf).await?;
        let certificate = self.keyring()?.sign(leaf.leaf.authority(), &request, &leaf.subject)?;
        agent.install_leaf(leaf, certificate).await
    }
}

fn authority(shared: Shared) -> Result<Authority> {
    match shared {
        Shared::Authority(authority) => Ok(authority),
        _ => anyhow::bail!("{} is not kept on the desk", shared.name()),
    }
}
