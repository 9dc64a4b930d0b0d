//! The phases of all operations, by kubeadm's names where it has them.

use serde::{Deserialize, Serialize};

/// What a user sees and can name, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Checks, before anything is changed.
    Preflight,
    /// A backup, before versions change.
    Backup,
    /// Packages, kernel settings, folders.
    PrepareHosts,
    /// kinit's own binaries and images.
    Binaries,
    /// Data and secrets of a backup, when one is restored.
    Restore,
    /// The certificate tree.
    Certs,
    /// Kubeconfigs with client certificates.
    Kubeconfig,
    /// etcd's members.
    Etcd,
    /// HAProxy.
    LoadBalancer,
    /// API servers, controller managers, schedulers.
    ControlPlane,
    /// The API answers through the endpoint.
    WaitControlPlane,
    /// RBAC and ConfigMaps that kubeadm's clusters have.
    UploadConfig,
    /// A token for nodes that have no certificate yet.
    BootstrapToken,
    /// containerd and the kubelet.
    KubeletStart,
    /// Pod network and service proxy.
    Network,
    /// Nodes that go to another version, each drained where that is needed.
    UpgradeNode,
    /// Labels and taints of control planes.
    MarkControlPlane,
    /// DNS.
    Addon,
    /// Nodes Ready, DNS answering.
    Verify,
    /// Pods leave the nodes of hosts that are removed.
    Drain,
    /// etcd's members of hosts that are removed, or that are no control planes any more.
    RemoveEtcdMember,
    /// What a host has no more use for; whole hosts that are removed; their Nodes.
    CleanupNode,
    /// The cluster file as it was applied, changed last when hosts leave.
    RecordCluster,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 23] = [
        Self::Preflight,
        Self::Backup,
        Self::PrepareHosts,
        Self::Binaries,
        Self::Restore,
        Self::Certs,
        Self::Kubeconfig,
        Self::Etcd,
        Self::LoadBalancer,
        Self::ControlPlane,
        Self::WaitControlPlane,
        Self::UploadConfig,
        Self::BootstrapToken,
        Self::KubeletStart,
        Self::Network,
        Self::UpgradeNode,
        Self::MarkControlPlane,
        Self::Addon,
        Self::Verify,
        Self::Drain,
        Self::RemoveEtcdMember,
        Self::CleanupNode,
        Self::RecordCluster,
    ];

    /// Its name on the command line and in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Backup => "backup",
            Self::PrepareHosts => "prepare-hosts",
            Self::Binaries => "binaries",
            Self::Restore => "restore",
            Self::Certs => "certs",
            Self::Kubeconfig => "kubeconfig",
            Self::Etcd => "etcd",
            Self::LoadBalancer => "load-balancer",
            Self::ControlPlane => "control-plane",
            Self::WaitControlPlane => "wait-control-plane",
            Self::UploadConfig => "upload-config",
            Self::BootstrapToken => "bootstrap-token",
            Self::KubeletStart => "kubelet-start",
            Self::Network => "network",
            Self::UpgradeNode => "upgrade-node",
            Self::MarkControlPlane => "mark-control-plane",
            Self::Addon => "addon",
            Self::Verify => "verify",
            Self::Drain => "drain",
            Self::RemoveEtcdMember => "remove-etcd-member",
            Self::CleanupNode => "cleanup-node",
            Self::RecordCluster => "record-cluster",
        }
    }
}
