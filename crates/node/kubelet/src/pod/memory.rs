//! What a pod's worker knows that neither the API nor the runtime does.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;

use super::backoff::BackOff;
use crate::resources::{Kernel, PodLimits};

/// A container that must die and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Text of the `Killing` event.
    pub message: String,
    /// Grace period of the probe, if it has its own.
    pub grace: Option<i64>,
}

/// An attempt that failed and when to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Reason as the container's waiting state shows it.
    pub reason: String,
    /// What happened.
    pub message: String,
    /// When.
    pub at: Timestamp,
    /// Not before.
    pub until: Timestamp,
}

/// What only this process knows.
#[derive(Debug, Clone)]
pub struct Memory {
    /// The pod's volumes are in place.
    pub volumes_ready: bool,
    /// Volumes are being set up.
    pub mounting: bool,
    /// A sandbox is being made.
    pub creating_sandbox: bool,
    /// Containers that are being started.
    pub starting: BTreeSet<String>,
    /// Ids of containers that are being killed, with the grace they got.
    pub killing: BTreeMap<String, i64>,
    /// Ids of sandboxes that are being stopped.
    pub stopping: BTreeSet<String>,
    /// Ids of containers whose liveness or startup probe failed.
    pub condemned: BTreeMap<String, Verdict>,
    /// Ids of running containers that have passed their startup probe (or have none).
    pub started: BTreeSet<String>,
    /// Failed attempts by container name; `""` stands for the volumes, `"/"` for the sandbox, `"="` for a resize.
    pub failures: BTreeMap<String, Failure>,
    /// Restart pauses by container name.
    pub backoff: BackOff,
    /// Ids of containers that were ended to be made anew, whatever their restart policy says.
    pub renewed: BTreeSet<String>,
    /// Limits of the pod's cgroup.
    pub limits: Option<PodLimits>,
    /// Limits are being changed.
    pub resizing: bool,
    /// What running containers were last given, by id.
    pub given: BTreeMap<String, Kernel>,
}

impl Memory {
    /// Nothing known yet.
    pub fn new(longest: std::time::Duration) -> Self {
        Self {
            volumes_ready: false,
            mounting: false,
            creating_sandbox: false,
            starting: BTreeSet::new(),
            killing: BTreeMap::new(),
            stopping: BTreeSet::new(),
            condemned: BTreeMap::new(),
            started: BTreeSet::new(),
            failures: BTreeMap::new(),
            backoff: BackOff::new(longest),
            renewed: BTreeSet::new(),
            limits: None,
            resizing: false,
            given: BTreeMap::new(),
        }
    }

    /// Something is under way.
    pub fn busy(&self) -> bool {
        self.mounting
            || self.creating_sandbox
            || self.resizing
            || !self.starting.is_empty()
            || !self.killing.is_empty()
            || !self.stopping.is_empty()
    }
}

/// Key of [`Memory::failures`] for volumes.
pub const VOLUMES: &str = "";
/// Key of [`Memory::failures`] for changes of limits.
pub const RESIZE: &str = "=";
/// Key of [`Memory::failures`] for the sandbox.
pub const SANDBOX: &str = "/";
