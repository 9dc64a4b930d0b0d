//! The plan itself: a value that can be printed, written to a file and read again. It holds no secret.

use kinit_manifests::Phase;
use kinit_resource::{Change, LeafSpec, Place, Resource, RotationStage, Shared};
use serde::{Deserialize, Serialize};

/// Where the authorities' keys are kept in place of a host (`caKeys: desk`): in steps' words, and as the one who signs.
pub const DESK: &str = "the desk";

/// An API object that kinit makes, by its identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectId {
    /// `ConfigMap`.
    pub kind: String,
    /// Empty for objects of the cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for ObjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let separator = if self.namespace.is_empty() { "" } else { "/" };
        write!(f, "{} {}{separator}{}", self.kind, self.namespace, self.name)
    }
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Brings a resource of the host about.
    Apply(Resource),
    /// Makes a shared secret on the host, or on the desk where the authorities' keys are kept there.
    Generate(Shared),
    /// Keeps an authority on the desk that a host had so far.
    Keep {
        /// Which.
        shared: Shared,
        /// The host.
        from: String,
    },
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
    /// Puts a certificate in place that was signed elsewhere and is on the host.
    Install(Box<LeafSpec>),
    /// Adds the host to etcd's members, without a vote.
    EtcdAdd {
        /// The host's peer URL.
        peer_url: String,
        /// The host whose member is asked to.
        via: String,
    },
    /// Gives the host's member its vote once it has caught up.
    EtcdPromote {
        /// The host's peer URL.
        peer_url: String,
        /// The host whose member is asked to.
        via: String,
    },
    /// Removes a member from etcd.
    EtcdRemove {
        /// Its ID.
        id: u64,
        /// Its peer URL, which must be that ID's.
        peer_url: String,
        /// The host whose member is asked to.
        via: String,
    },
    /// Waits until the API answers through the endpoint.
    WaitForApi,
    /// Creates or changes an API object.
    Object(ObjectId),
    /// Makes a token and keeps it for this run.
    BootstrapToken,
    /// Takes back the token of this run.
    RevokeBootstrapToken,
    /// Gives a Node the label and the taint of its roles, and takes away those of roles that it lost.
    MarkNode {
        /// The Node.
        node: String,
        /// Whether it is a control plane.
        control_plane: bool,
        /// Whether it takes workloads.
        worker: bool,
    },
    /// Waits until these nodes are Ready.
    WaitForNodes(Vec<String>),
    /// Waits until DNS has an endpoint.
    WaitForDns,
    /// Cordons a node and evicts its pods.
    Drain(String),
    /// Makes a node schedulable again that kinit has cordoned.
    Uncordon(String),
    /// Makes a backup that is restored before it counts.
    Backup,
    /// Gives the host back as it was.
    ResetHost,
    /// Deletes a Node.
    DeleteNode(String),
    /// Deletes all Nodes but these.
    DeleteOtherNodes {
        /// Names.
        keep: Vec<String>,
    },
    /// Writes a shared secret of the backup to the host.
    RestoreShared(Shared),
    /// Makes the data of etcd's only member on the host.
    RestoreData {
        /// Tells the restore from others.
        id: String,
        /// etcd's data folder.
        data_dir: String,
        /// The member's name.
        name: String,
        /// Its peer URL.
        peer_url: String,
        /// From its own data, not a backup's.
        own: bool,
    },
    /// Puts the data of a member that is none any more aside on the host.
    PutDataAside {
        /// etcd's data folder.
        data_dir: String,
    },
    /// Notes on the host that a restore has been carried out.
    FinishRestore,
    /// Makes a shared secret's successor on the host.
    BeginRotation(Shared),
    /// Copies both generations of a shared secret to the host.
    ShareRotation {
        /// Which.
        shared: Shared,
        /// From which host.
        from: String,
    },
    /// Puts a stage of a rotation in force on the host.
    SetRotation {
        /// Of which secret.
        shared: Shared,
        /// Which.
        stage: RotationStage,
    },
    /// Forgets, on the host, the generation that is not in force.
    EndRotation(Shared),
}

/// One action on one host, or on the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The host; `None` for the cluster.
    pub host: Option<String>,
    /// What to do.
    pub action: Action,
    /// How it reads.
    pub change: Change,
}

impl Step {
    /// A step on a host.
    pub fn on(host: &str, action: Action, change: Change) -> Self {
        Self { host: Some(host.to_owned()), action, change }
    }

    /// A step of the cluster.
    pub fn of_cluster(action: Action, change: Change) -> Self {
        Self { host: None, action, change }
    }
}

/// Steps that end in a barrier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanStage {
    /// The phase it belongs to.
    pub phase: Phase,
    /// Hosts one after the other.
    pub serial: bool,
    /// Steps, those of one host in order.
    pub steps: Vec<Step>,
}

/// Everything that will be done, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The stages.
    pub stages: Vec<PlanStage>,
}

impl Plan {
    /// Steps that change something; waiting does not.
    pub fn changes(&self) -> usize {
        self.steps().filter(|s| s.change.changes).count()
    }

    /// All steps, in order.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.stages.iter().flat_map(|s| &s.steps)
    }

    /// Adds a stage, if there is anything in it.
    pub(crate) fn push(&mut self, phase: Phase, serial: bool, steps: Vec<Step>) {
        if !steps.is_empty() {
            self.stages.push(PlanStage { phase, serial, steps });
        }
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
                for line in step.change.diff.iter().flat_map(|diff| diff.lines()) {
                    writeln!(f, "             {line}")?;
                }
            }
        }
        let changes = self.changes();
        writeln!(f, "{changes} change{}", if changes == 1 { "" } else { "s" })
    }
}
