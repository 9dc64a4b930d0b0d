//! What was done to a cluster's hosts: their journals, put together run by run.

use std::collections::BTreeMap;

use anyhow::Result;
use kinit_agent::{JournalEntry, JournalEvent};
use serde::Serialize;

use crate::hosts::Hosts;

/// One run on one host.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostRun {
    /// The host.
    pub host: String,
    /// When it began there, in seconds since 1970.
    pub time: i64,
    /// Who.
    pub by: String,
    /// The verb.
    pub operation: String,
    /// The plan's hash, where there was a plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Steps that were done.
    pub steps: usize,
    /// How it ended: `done`, `cut off`, or why it failed.
    pub result: String,
}

/// The runs of all hosts that can be reached, oldest first.
pub async fn history(hosts: &Hosts) -> Result<Vec<HostRun>> {
    let journals = hosts.each(|agent| async move { agent.history().await }).await?;
    let mut runs: Vec<HostRun> =
        journals.into_iter().flat_map(|(host, journal)| of_host(&host, journal.entries)).collect();
    runs.sort_by(|a, b| (a.time, &a.host).cmp(&(b.time, &b.host)));
    Ok(runs)
}

fn of_host(host: &str, entries: Vec<JournalEntry>) -> Vec<HostRun> {
    let mut runs: BTreeMap<String, HostRun> = BTreeMap::new();
    for entry in entries {
        let (time, host) = (entry.time, host.to_owned());
        // The beginning of a long journal is cut off.
        let run = runs.entry(entry.run).or_insert_with(|| HostRun {
            host,
            time,
            by: "?".to_owned(),
            operation: "?".to_owned(),
            plan: None,
            steps: 0,
            result: "cut off".to_owned(),
        });
        match entry.event {
            JournalEvent::Begin { caller, plan } => {
                (run.by, run.operation, run.plan) = (caller.by, caller.operation, plan);
            }
            JournalEvent::Step { error: None, .. } => run.steps += 1,
            JournalEvent::Step { what, error: Some(why), .. } => run.result = format!("{what}: {why}"),
            JournalEvent::End { error: None } => run.result = "done".to_owned(),
            JournalEvent::End { error: Some(why) } => run.result = why,
        }
    }
    runs.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinit_agent::Caller;

    #[test]
    fn events_make_runs() {
        let caller = Caller { by: "me@desk".into(), pid: 1, operation: "apply".into() };
        let entry = |time, run: &str, event| JournalEntry { time, run: run.to_owned(), event };
        let step = |error: Option<&str>| JournalEvent::Step {
            what: "/x".into(),
            milliseconds: 1,
            error: error.map(str::to_owned),
        };
        let entries = vec![
            entry(1, "a", JournalEvent::Begin { caller: caller.clone(), plan: None }),
            entry(2, "a", step(None)),
            entry(3, "a", JournalEvent::End { error: None }),
            entry(4, "b", JournalEvent::Begin { caller, plan: None }),
            entry(5, "b", step(None)),
            entry(6, "b", step(Some("no space left"))),
            entry(7, "c", step(None)),
        ];
        let seen: Vec<_> =
            of_host("w1", entries).into_iter().map(|r| (r.time, r.operation, r.steps, r.result)).collect();
        let expected = [(1, "apply", 1, "done"), (4, "apply", 1, "/x: no space left"), (7, "?", 1, "cut off")];
        let expected = expected.map(|(time, op, steps, result)| (time, op.to_owned(), steps, result.to_owned()));
        assert_eq!(seen, expected);
    }
}
