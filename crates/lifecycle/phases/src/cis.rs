//! `kinit doctor --cis`: what hosts show, held against the CIS Kubernetes Benchmark.

use anyhow::{Context, Result};
use kinit_config::Cluster;
use kinit_planner::{Assessed, CIS_PROGRAMS, cis, cis_paths};

use crate::hosts::Hosts;

/// Every control, by number and host. Hosts that cannot be reached are left out.
pub async fn assess(hosts: &Hosts, cluster: &Cluster) -> Result<Vec<Assessed>> {
    let paths = cis_paths(cluster);
    let seen = hosts.each(|agent| {
        let paths = paths.clone();
        async move { agent.evidence(paths, CIS_PROGRAMS).await }
    });
    Ok(cis(cluster, &seen.await.context("look at files and programs")?))
}
