//! The phases of all operations, by kubeadm's names where it has them.

use serde::{Deserialize, Serialize};

/// What a user sees and can name, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Checks, before anything is changed.
    Preflight,
    /// Packages, kernel settings, folders.
    PrepareHosts,
    /// kinit's own binaries and images.
    Binaries,
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
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 19] = [
        Self::Preflight,
        Self::PrepareHosts,
        Self::Binaries,
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
        Self::MarkControlPlane,
        Self::Addon,
        Self::Verify,
        Self::Drain,
        Self::RemoveEtcdMember,
        Self::CleanupNode,
    ];

    /// Its name on the command line and in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::PrepareHosts => "prepare-hosts",
            Self::Binaries => "binaries",
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
            Self::MarkControlPlane => "mark-control-plane",
            Self::Addon => "addon",
            Self::Verify => "verify",
            Self::Drain => "drain",
            Self::RemoveEtcdMember => "remove-etcd-member",
            Self::CleanupNode => "cleanup-node",
        }
    }
}
