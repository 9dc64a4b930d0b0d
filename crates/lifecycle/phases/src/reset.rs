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

/// Resets all hosts of the cluster with this authority at once, and reports what is left. A host that fails is reported
/// beside the others, and hides none of them.
pub async fn reset(hosts: &Hosts, authority: Option<&str>) -> ResetReport {
    report(hosts.try_each(|agent| async move { agent.reset(authority).await }).await)
}

fn report(outcomes: BTreeMap<String, Result<Vec<String>>>) -> ResetReport {
    let lines = |outcome: Result<Vec<String>>| outcome.unwrap_or_else(|error| vec![format!("not reset: {error:#}")]);
    outcomes.into_iter().map(|(host, outcome)| (host, lines(outcome))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_fails_hides_no_others_residue() {
        let outcomes = BTreeMap::from([
            ("cp1".to_owned(), Err(anyhow::anyhow!("Input/output error").context("read the ledger"))),
            ("cp2".to_owned(), Err(anyhow::anyhow!("the connection was lost"))),
            ("w1".to_owned(), Ok(vec!["/x is left".to_owned()])),
            ("w2".to_owned(), Ok(Vec::new())),
        ]);
        let report = report(outcomes);
        assert_eq!(report["cp1"], ["not reset: read the ledger: Input/output error"]);
        assert_eq!(report["cp2"], ["not reset: the connection was lost"]);
        assert_eq!((report["w1"].len(), report["w2"].len()), (1, 0));
    }
}
