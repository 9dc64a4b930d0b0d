//! The plan itself.

use kinit_manifests::Phase;
use kinit_resource::{Change, LeafSpec, Place, Resource, Shared};

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Brings a resource of the host about.
    Apply(Resource),
    /// Makes a shared secret on the host.
    Generate(Shared),
    /// Copies a shared secret to the host.
    Copy {
        /// Which.
        shared: Shared,
        /// From which host.
        from: String,
        /// How much of it.
        place: Place,
    },
    /// Makes a key on the host, has it signed on `by`, and writes both.
    Issue {
        /// What.
        leaf: Box<LeafSpec>,
        /// The host with the authority.
        by: String,
    },
    /// Waits until the API answers through the endpoint.
    WaitForApi,
    /// Creates or changes an API object, known by `Kind namespace/name`.
    Object(String),
    /// Makes a token and keeps it for this run.
    BootstrapToken,
    /// Labels a control plane's Node.
    MarkNode(String),
    /// Waits until all nodes are Ready.
    WaitForNodes,
    /// Waits until DNS has an endpoint.
    WaitForDns,
}

/// One action on one host, or on the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The host; `None` for the cluster.
    pub host: Option<String>,
    /// What to do.
    pub action: Action,
    /// How it reads.
    pub change: Change,
}

/// Steps that end in a barrier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanStage {
    /// The phase it belongs to.
    pub phase: Phase,
    /// Hosts one after the other.
    pub serial: bool,
    /// Steps, those of one host in order.
    pub steps: Vec<Step>,
}

/// Everything that will be done, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The stages.
    pub stages: Vec<PlanStage>,
}

impl Plan {
    /// Steps that change something; waiting does not.
    pub fn changes(&self) -> usize {
        self.stages.iter().flat_map(|s| &s.steps).filter(|s| s.change.changes).count()
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut last = None;
        for stage in &self.stages {
            if last != Some(stage.phase) {
                writeln!(f, "{}", stage.phase.name())?;
                last = Some(stage.phase);
            }
            let note = if stage.serial { "  (one host after the other)" } else { "" };
            for step in &stage.steps {
                writeln!(f, "  {:<10} {}{note}", step.host.as_deref().unwrap_or("cluster"), step.change)?;
            }
        }
        let changes = self.changes();
        writeln!(f, "{changes} change{}", if changes == 1 { "" } else { "s" })
    }
}
