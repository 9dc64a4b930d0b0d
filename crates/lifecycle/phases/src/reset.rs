//! `kinit reset`: hosts are given back as they were.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::hosts::Hosts;

/// What is left on each host after a reset; empty lists are what everybody wants.
pub type ResetReport = BTreeMap<String, Vec<String>>;

/// What a reset would undo, per host.
pub async fn reset_plan(hosts: &Hosts) -> Result<BTreeMap<String, Vec<String>>> {
    hosts.each(|agent| async move { agent.reset_plan().await }).await.context("ask the hosts what was changed")
}

/// Resets all hosts at once, and reports what is left.
pub async fn reset(hosts: &Hosts) -> Result<ResetReport> {
    hosts.each(|agent| async move { agent.reset().await }).await.context("reset the hosts")
}
