//! The cgroups of pods: `kubepods` / class / pod, named for systemd or for plain cgroupfs (`pkg/kubelet/cm`).

mod fs;
pub mod qos;
mod systemd;

use std::path::PathBuf;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kinit_component_helpers::qos::Qos;

use crate::names::PodKey;
use crate::resources::{MIN_SHARES, PodLimits};
use qos::Top;

/// The cgroup of all pods.
const KUBEPODS: &str = "kubepods";

/// Who makes cgroups.
#[derive(Debug, Clone)]
pub enum Driver {
    /// Slices, asked for over D-Bus.
    Systemd,
    /// Directories.
    Cgroupfs,
}

/// The node's pod cgroups.
#[derive(Debug, Clone)]
pub struct Cgroups {
    driver: Driver,
    /// `cgroupRoot`, without slashes at its ends.
    root: String,
    pids: Option<i64>,
}

impl Cgroups {
    /// From the configuration.
    pub fn new(systemd: bool, root: &str, pids: Option<i64>) -> Self {
        let driver = if systemd { Driver::Systemd } else { Driver::Cgroupfs };
        Self { driver, root: root.trim_matches('/').to_owned(), pids: pids.filter(|p| *p > 0) }
    }

    /// Names from `kubepods` down to the pod, as `cm.CgroupName`.
    fn chain(pod: &Pod, key: &PodKey) -> Vec<String> {
        let class = class_name(kinit_component_helpers::qos::of_pod(pod));
        let names = std::iter::once(KUBEPODS).chain(class).map(str::to_owned);
        names.chain([format!("pod{}", key.uid)]).collect()
    }

    fn chain_path(&self, chain: &[String]) -> String {
        match self.driver {
            Driver::Systemd => systemd_path(&self.root, chain),
            Driver::Cgroupfs => {
                let root = if self.root.is_empty() { String::new() } else { format!("/{}", self.root) };
                format!("{root}/{}", chain.join("/"))
            }
        }
    }

    /// The path that sandboxes and containers of the pod are made under.
    pub fn parent(&self, pod: &Pod, key: &PodKey) -> String {
        self.chain_path(&Self::chain(pod, key))
    }

    /// Makes the pod's cgroup with its limits.
    pub async fn create(&self, pod: &Pod, key: &PodKey) -> Result<()> {
        self.set(pod, key, crate::resources::pod(pod)).await
    }

    /// Gives the pod's cgroup these limits; makes it if it is not there.
    pub async fn set(&self, pod: &Pod, key: &PodKey, limits: PodLimits) -> Result<()> {
        self.make(&Self::chain(pod, key), &limits, self.pids).await
    }

    /// Removes the pod's cgroup; it is an error only if something still runs in it.
    pub async fn remove(&self, pod: &Pod, key: &PodKey) -> Result<()> {
        let path = self.parent(pod, key);
        match self.driver {
            Driver::Cgroupfs => fs::remove(&PathBuf::from(path)),
            Driver::Systemd => systemd::remove(&slice_of(&path)).await,
        }
    }

    /// How many processes and threads a pod has; `None` when its cgroup cannot be read.
    pub fn processes(&self, pod: &Pod, key: &PodKey) -> Option<u64> {
        fs::processes(&PathBuf::from(self.parent(pod, key)))
    }

    /// Makes `kubepods` and the classes below it. A memory limit that the kernel refuses, because pods have more in
    /// use, is left to [`Self::set_top`].
    pub async fn create_top(&self, top: &Top) -> Result<()> {
        if let Err(error) = self.set_top(top).await {
            tracing::warn!(error = format!("{error:#}"), "limit the cgroup of all pods");
            let limits = PodLimits { memory: None, ..top.limits };
            self.set_top(&Top { limits, ..*top }).await?;
        }
        self.set_class(Qos::Burstable, MIN_SHARES).await?;
        self.set_class(Qos::BestEffort, MIN_SHARES).await
    }

    /// Gives `kubepods` its limits.
    pub async fn set_top(&self, top: &Top) -> Result<()> {
        self.make(&[KUBEPODS.to_owned()], &top.limits, top.pids).await
    }

    /// Gives a class below `kubepods` its CPU shares; guaranteed pods have no class of their own.
    pub async fn set_class(&self, class: Qos, shares: i64) -> Result<()> {
        let Some(name) = class_name(class) else { return Ok(()) };
        let limits = PodLimits { shares, ..PodLimits::default() };
        self.make(&[KUBEPODS.to_owned(), name.to_owned()], &limits, None).await
    }

    async fn make(&self, chain: &[String], limits: &PodLimits, pids: Option<i64>) -> Result<()> {
        let path = self.chain_path(chain);
        match self.driver {
            Driver::Cgroupfs => fs::create(&PathBuf::from(path), limits, pids),
            Driver::Systemd => systemd::create(&slice_of(&path), limits, pids).await,
        }
    }
}

/// Whether the host's unified hierarchy is the only one.
pub fn is_v2() -> bool {
    fs::is_v2()
}

/// Directory of a class.
fn class_name(class: Qos) -> Option<&'static str> {
    match class {
        Qos::Guaranteed => None,
        Qos::Burstable => Some("burstable"),
        Qos::BestEffort => Some("besteffort"),
    }
}

/// `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice` (`CgroupName.ToSystemd`).
fn systemd_path(root: &str, chain: &[String]) -> String {
    let mut path = String::new();
    let mut stem = String::new();
    let roots = root.split('/').filter(|p| !p.is_empty()).map(str::to_owned);
    for part in roots.chain(chain.iter().cloned()) {
        let part = part.trim_end_matches(".slice").replace('-', "_");
        if !stem.is_empty() {
            stem.push('-');
        }
        stem.push_str(&part);
        path.push_str(&format!("/{stem}.slice"));
    }
    path
}

fn slice_of(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_upstream() {
        let pod: Pod =
            serde_json::from_value(serde_json::json!({"metadata": {}, "spec": {"containers": [{"name": "c"}]}}))
                .unwrap();
        let key = PodKey { namespace: "n".into(), name: "p".into(), uid: "1-2".into() };
        let parent = |systemd, root| Cgroups::new(systemd, root, None).parent(&pod, &key);
        assert_eq!(parent(true, ""), "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice");
        assert_eq!(parent(false, ""), "/kubepods/besteffort/pod1-2");
        assert_eq!(parent(false, "/a/"), "/a/kubepods/besteffort/pod1-2");
    }
}
