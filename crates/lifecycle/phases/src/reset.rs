//! `kinit reset`: hosts are given back as they were.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kinit_config::Cluster;
use kinit_planner::{Action, Plan, Step, Stranger, authority, reset_plan, strangers};
use kinit_workflow::{Executor, Lane, Listener, RunError, StepError};

use crate::hosts::Hosts;
use crate::operation;

/// Hosts that belong to another cluster.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Strangers(pub Vec<Stranger>);

/// What is left after a reset, or why there was none, a line each with its host.
#[derive(Debug, thiserror::Error)]
#[error("the reset is not complete; this is left on the hosts:\n{}", .0.join("\n"))]
pub struct Incomplete(pub Vec<String>);

/// A reset that has begun: its hosts are connected, and are this cluster's.
pub struct Reset {
    hosts: Arc<Hosts>,
    authority: Option<String>,
    plan: Plan,
}

impl Reset {
    /// Asks the hosts what they would undo. `known` is the cluster's authority as the desk knows it; hosts of another
    /// cluster are an error: an address in the file is wrong, or the file itself is.
    pub async fn begin(hosts: Hosts, cluster: &Cluster, known: Option<&str>) -> Result<Self> {
        let facts = hosts.facts(cluster).await?;
        let others = strangers(cluster, &facts, known);
        if !others.is_empty() {
            return Err(Strangers(others).into());
        }
        let undone = hosts.each(|agent| async move { agent.reset_plan().await });
        let plan = reset_plan(&undone.await.context("ask the hosts what was changed")?);
        let authority = authority(cluster, &facts, known).map(|(authority, _)| authority);
        Ok(Self { hosts: Arc::new(hosts), authority, plan })
    }

    /// What will be done.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The authority of the cluster whose hosts they are.
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// Resets all hosts at once. One that fails is reported beside the others, and hides none of them.
    pub async fn execute(&self, listener: &dyn Listener) -> Result<(), Incomplete> {
        let steps = Steps { hosts: self.hosts.clone(), authority: self.authority.clone() };
        let all = self.hosts.names().count().max(1);
        kinit_workflow::run(&operation::stages(&self.plan), &steps, listener, all).await.map_err(report)
    }
}

struct Steps {
    hosts: Arc<Hosts>,
    authority: Option<String>,
}

impl Steps {
    async fn single(&self, host: &str, step: &Step) -> Result<()> {
        ensure!(step.action == Action::ResetHost, "a step that is none of a reset's");
        let left = self.hosts.agent(host)?.reset(self.authority.as_deref()).await.context("not reset")?;
        ensure!(left.is_empty(), "{}", left.join("\n"));
        Ok(())
    }
}

#[async_trait::async_trait]
impl Executor<Step> for Steps {
    fn describe(&self, step: &Step) -> String {
        step.change.to_string()
    }

    async fn run(&self, lane: &Lane<Step>, report: &(dyn Fn(usize, Duration) + Sync)) -> Result<(), StepError> {
        for (index, step) in lane.steps.iter().enumerate() {
            let started = Instant::now();
            self.single(&lane.name, step).await.map_err(|error| StepError { index, error })?;
            report(index, started.elapsed());
        }
        Ok(())
    }
}

fn report(RunError(failures): RunError) -> Incomplete {
    let lines = |failure: &kinit_workflow::Failure| {
        failure.error.lines().map(|line| format!("{}: {line}", failure.host)).collect::<Vec<_>>()
    };
    Incomplete(failures.iter().flat_map(lines).collect())
}

#[cfg(test)]
mod tests {
    use kinit_workflow::Failure;

    use super::*;

    #[test]
    fn a_host_that_fails_hides_no_others_residue() {
        let failure = |host: &str, error: &str| Failure {
            phase: "cleanup-node",
            host: host.to_owned(),
            step: "reset the host".to_owned(),
            error: error.to_owned(),
        };
        let failures = vec![
            failure("cp1", "not reset: read the ledger: Input/output error"),
            failure("w1", "/x is left\n/y is left"),
        ];
        assert_eq!(
            report(RunError(failures)).to_string(),
            "the reset is not complete; this is left on the hosts:\ncp1: not reset: read the ledger: Input/output error\n\
             w1: /x is left\nw1: /y is left"
        );
    }
}
