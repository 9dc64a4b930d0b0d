//! `kinit reset`: hosts are given back as they were.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use kinit_config::Cluster;
use kinit_planner::{Stranger, authority, strangers};

use crate::hosts::Hosts;

/// What is left on each host after a reset; empty lists are what everybody wants.
pub type ResetReport = BTreeMap<String, Vec<String>>;

/// Hosts that belong to another cluster.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Strangers(pub Vec<Stranger>);

/// What a reset would undo, per host, and the authority of the cluster whose hosts they are. Hosts of another cluster
/// are an error: an address in the file is wrong, or the file itself is.
pub async fn reset_plan(
    hosts: &Hosts,
    cluster: &Cluster,
    known: Option<&str>,
) -> Result<(BTreeMap<String, Vec<String>>, Option<String>)> {
    let facts = hosts.facts(cluster).await?;
    let others = strangers(cluster, &facts, known);
    if !others.is_empty() {
        return Err(Strangers(others).into());
    }
    let plan = hosts.each(|agent| async move { agent.reset_plan().await });
    let plan = plan.await.context("ask the hosts what was changed")?;
    Ok((plan, authority(cluster, &facts, known).map(|(authority, _)| authority)))
}

/// Resets all hosts of the cluster with this authority at once, and reports what is left.
pub async fn reset(hosts: &Hosts, authority: Option<&str>) -> Result<ResetReport> {
    hosts.each(|agent| async move { agent.reset(authority).await }).await.context("reset the hosts")
}
