//! The node's certificates: asked for through the API, renewed before they end, kept as files
//! (`client-go/util/certificate`, kubeadm's layout of `/var/lib/kubelet/pki`).
//!
//! ```text
//! bootstrap-kubelet.conf (token) ─► CSR kube-apiserver-client-kubelet ─► kubelet-client-current.pem ─► kubelet.conf
//! kubelet.conf                   ─► CSR kubelet-serving               ─► kubelet-server-current.pem
//! ```

pub mod bootstrap;
pub mod rotate;
pub mod serving;
pub mod signing;
pub mod store;
