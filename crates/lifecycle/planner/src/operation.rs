//! The phases of every operation: their order, what each does, what has to hold after it, and what takes it back. Plans
//! are ordered by it, `--skip-phases` takes its names, and the help texts are made from it.

use std::fmt::Write as _;

use kinit_manifests::Phase;

use crate::plan::{Plan, PlanStage};

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new cluster.
    Init,
    /// A cluster that is there is brought to what its file says.
    Apply,
    /// Hosts are added.
    Join,
    /// A machine adds itself, with a token.
    JoinItself,
    /// Hosts are removed.
    Remove,
    /// Certificates are issued anew.
    Renew,
    /// A stage of a rotation is carried to all that follows from it.
    Rotate,
    /// To later versions.
    Upgrade,
    /// Back to earlier versions.
    Rollback,
    /// A backup's data and secrets, or a survivor's, become the cluster's.
    Restore,
    /// Hosts are given back as they were.
    Reset,
}

/// What has to hold before the phase after it begins, and in a phase whose hosts take turns before the next host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Each step has ended well.
    Done,
    /// Units that were started or restarted pass their health checks.
    Healthy,
    /// The API answers at the endpoint.
    Api,
    /// Nodes are Ready and DNS answers.
    Nodes,
    /// Nothing of the cluster is found on the host.
    Clean,
}

/// What takes a phase back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undo {
    /// It changes nothing that would have to be taken back.
    Nothing,
    /// `kinit reset`, or `kinit remove` for one host.
    Reset,
    /// The host's previous programs are put back when they do not become healthy; later `kinit upgrade rollback`.
    PutBack,
    /// Another host is added, or a backup is restored.
    Never,
}

/// A phase, as the operations that have it carry it out.
#[derive(Debug, Clone, Copy)]
pub struct PhaseInfo {
    /// Which.
    pub phase: Phase,
    /// What it does, for people.
    pub what: &'static str,
    /// What has to hold after it.
    pub gate: Gate,
    /// What takes it back.
    pub undo: Undo,
}

const fn info(phase: Phase, what: &'static str, gate: Gate, undo: Undo) -> PhaseInfo {
    PhaseInfo { phase, what, gate, undo }
}

/// Every phase, described once.
const PHASES: [PhaseInfo; 23] = [
    info(Phase::Preflight, "checks of the hosts, before anything is changed", Gate::Done, Undo::Nothing),
    info(Phase::Backup, "a backup, proven by a restore", Gate::Done, Undo::Nothing),
    info(Phase::PrepareHosts, "packages, kernel settings, folders", Gate::Done, Undo::Reset),
    info(Phase::Binaries, "programs and images of the bundle", Gate::Done, Undo::Reset),
    info(Phase::Restore, "data and secrets of the backup, on one control plane", Gate::Done, Undo::Never),
    info(Phase::Certs, "authorities, keys and certificates", Gate::Done, Undo::Reset),
    info(Phase::Kubeconfig, "kubeconfigs with client certificates", Gate::Done, Undo::Reset),
    info(Phase::Etcd, "etcd's members", Gate::Healthy, Undo::Reset),
    info(Phase::LoadBalancer, "HAProxy, and keepalived where it shares an address", Gate::Healthy, Undo::Reset),
    info(Phase::ControlPlane, "API server, controller managers, scheduler", Gate::Healthy, Undo::PutBack),
    info(Phase::WaitControlPlane, "the API at the endpoint", Gate::Api, Undo::Nothing),
    info(Phase::UploadConfig, "RBAC and ConfigMaps that joining nodes read", Gate::Done, Undo::Never),
    info(Phase::BootstrapToken, "a token for nodes without a certificate", Gate::Done, Undo::Nothing),
    info(Phase::KubeletStart, "containerd and the kubelet", Gate::Healthy, Undo::PutBack),
    info(Phase::Network, "pod network and service proxy", Gate::Healthy, Undo::PutBack),
    info(Phase::UpgradeNode, "nodes, drained where that is needed", Gate::Nodes, Undo::PutBack),
    info(Phase::MarkControlPlane, "labels and taints of roles", Gate::Done, Undo::Never),
    info(Phase::Addon, "DNS", Gate::Done, Undo::Never),
    info(Phase::Verify, "nodes Ready, DNS answering", Gate::Nodes, Undo::Nothing),
    info(Phase::Drain, "pods leave the nodes that go", Gate::Done, Undo::Nothing),
    info(Phase::RemoveEtcdMember, "members of etcd that go", Gate::Done, Undo::Never),
    info(Phase::CleanupNode, "what a host has no more use for; hosts and Nodes that go", Gate::Clean, Undo::Never),
    info(Phase::RecordCluster, "the cluster file as applied, once hosts have left", Gate::Done, Undo::Never),
];

/// A cluster is brought to what its file says.
const CHANGE: [Phase; 20] = [
    Phase::Preflight,
    Phase::PrepareHosts,
    Phase::Binaries,
    Phase::Certs,
    Phase::Kubeconfig,
    Phase::Etcd,
    Phase::LoadBalancer,
    Phase::ControlPlane,
    Phase::WaitControlPlane,
    Phase::UploadConfig,
    Phase::BootstrapToken,
    Phase::KubeletStart,
    Phase::Network,
    Phase::MarkControlPlane,
    Phase::Addon,
    Phase::Verify,
    Phase::Drain,
    Phase::RemoveEtcdMember,
    Phase::CleanupNode,
    Phase::RecordCluster,
];

/// A machine that adds itself changes nothing but itself.
const ITSELF: [Phase; 9] = [
    Phase::Preflight,
    Phase::PrepareHosts,
    Phase::Binaries,
    Phase::Certs,
    Phase::Kubeconfig,
    Phase::LoadBalancer,
    Phase::KubeletStart,
    Phase::Network,
    Phase::Verify,
];

impl Operation {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Init,
        Self::Apply,
        Self::Join,
        Self::JoinItself,
        Self::Remove,
        Self::Renew,
        Self::Rotate,
        Self::Upgrade,
        Self::Rollback,
        Self::Restore,
        Self::Reset,
    ];

    /// Its phases, in order.
    pub fn phases(self) -> Vec<Phase> {
        let change = |without: &[Phase]| CHANGE.into_iter().filter(|phase| !without.contains(phase)).collect();
        let insert = |at: Phase, phase: Phase| {
            let mut phases: Vec<Phase> = change(&[]);
            let index = phases.iter().position(|known| *known == at).unwrap_or(phases.len());
            phases.insert(index, phase);
            phases
        };
        match self {
            // Nobody leaves; an interrupted run with another file may have given a host other roles.
            Self::Init | Self::Join | Self::Renew | Self::Rotate => change(&[Phase::Drain, Phase::RecordCluster]),
            Self::Apply | Self::Remove => change(&[]),
            Self::JoinItself => ITSELF.to_vec(),
            Self::Upgrade | Self::Rollback => {
                // Up: control planes first. Down: nodes first, so that no kubelet is ever newer than an API server.
                let before = if self == Self::Upgrade { Phase::MarkControlPlane } else { Phase::Certs };
                let mut phases = insert(before, Phase::UpgradeNode);
                phases.retain(|phase| !matches!(phase, Phase::KubeletStart | Phase::Network));
                phases.insert(1, Phase::Backup);
                phases
            }
            Self::Restore => insert(Phase::Certs, Phase::Restore),
            Self::Reset => vec![Phase::Preflight, Phase::CleanupNode],
        }
    }

    /// The phase of that name.
    pub fn phase(self, name: &str) -> Option<Phase> {
        self.phases().into_iter().find(|phase| phase.name() == name)
    }

    /// Names of its phases, in order.
    pub fn names(self) -> String {
        self.phases().into_iter().map(Phase::name).collect::<Vec<_>>().join(", ")
    }

    /// Its phases as a text for people, a line each.
    pub fn describe(self) -> String {
        let mut text = String::from("Phases, in order:\n");
        for phase in self.phases() {
            let Some(info) = PhaseInfo::of(phase) else { continue };
            let turns = match info.gate {
                Gate::Healthy => "; each host's health checks pass before the next one's turn",
                Gate::Api | Gate::Nodes | Gate::Done => "",
                Gate::Clean => "; nothing is left on a host that goes",
            };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {:<19} {}{turns}", phase.name(), info.what);
        }
        text.truncate(text.trim_end().len());
        text
    }

    /// Where a stage of a phase belongs in a plan.
    pub(crate) fn place(self, phase: Phase, plan: &Plan) -> usize {
        let order = self.phases();
        let rank = |phase: Phase| order.iter().position(|known| *known == phase);
        let later = |stage: &PlanStage| rank(stage.phase) > rank(phase);
        plan.stages.iter().position(later).unwrap_or(plan.stages.len())
    }

    /// Whether every stage of a plan is of one of its phases, in their order.
    #[cfg(test)]
    pub(crate) fn has_order_of(self, plan: &Plan) -> bool {
        let order = self.phases();
        let ranks: Vec<_> =
            plan.stages.iter().map(|stage| order.iter().position(|known| *known == stage.phase)).collect();
        ranks.iter().all(Option::is_some) && ranks.is_sorted()
    }
}

impl PhaseInfo {
    /// What there is to say of a phase.
    pub fn of(phase: Phase) -> Option<&'static Self> {
        PHASES.iter().find(|info| info.phase == phase)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_is_described_once_and_belongs_to_an_operation() {
        for phase in Phase::ALL {
            assert_eq!(PHASES.iter().filter(|info| info.phase == phase).count(), 1, "{phase:?}");
            assert!(Operation::ALL.iter().any(|operation| operation.phases().contains(&phase)), "{phase:?}");
        }
        for operation in Operation::ALL {
            let mut phases = operation.phases();
            assert_eq!(phases.first(), Some(&Phase::Preflight), "{operation:?}");
            let all = phases.len();
            phases.sort_unstable();
            phases.dedup();
            assert_eq!(phases.len(), all, "{operation:?} has a phase twice");
        }
    }

    #[test]
    fn names_are_those_of_the_operation() {
        assert_eq!(Operation::Init.phase("etcd"), Some(Phase::Etcd));
        for name in ["backup", "restore", "upgrade-node", "drain", "nope", ""] {
            assert_eq!(Operation::Init.phase(name), None, "{name}");
        }
        let up = Operation::Upgrade.names();
        assert!(up.contains("control-plane, wait-control-plane") && up.contains("upgrade-node, mark-control-plane"));
        assert!(Operation::Rollback.names().contains("binaries, upgrade-node, certs"));
        assert!(Operation::Restore.names().contains("binaries, restore, certs"));
        assert!(Operation::Init.describe().contains("\n  etcd                etcd's members; each host's"));
    }
}
