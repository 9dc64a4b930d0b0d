//! What the kubelet's own process is given: files and a place when memory runs out; and what of the host it refuses to
//! run on.

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::cgroup;
use crate::config::KubeletConfig;

/// Checks the host and sets the process up.
pub fn prepare(config: &KubeletConfig) -> Result<()> {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    ensure!(
        config.fail_swap_on == Some(false) || swaps.lines().count() <= 1,
        "swap is on; turn it off or set failSwapOn: false"
    );
    ensure!(
        config.fail_cgroup_v1 != Some(true) || cgroup::is_v2(),
        "the host has cgroup v1 and failCgroupV1 is set; use cgroup v2 or set failCgroupV1: false"
    );
    let files = u64::try_from(config.max_open_files).context("maxOpenFiles")?;
    // As upstream: a host that does not allow it is no reason not to run.
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum: Some(files) }) {
        tracing::warn!(files, %error, "set the limit of open files (maxOpenFiles)");
    }
    let score = config.oom_score_adj.unwrap_or(-999);
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        tracing::warn!(score, %error, "set the OOM score (oomScoreAdj)");
    }
    Ok(())
}
