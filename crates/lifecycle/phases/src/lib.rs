//! What each step of a plan does, cluster-wide, and the four moves of every verb: observe, plan, execute, verify.
//!
//! ```text
//! Request ─► Run: Hosts (an agent each), what is wanted ─► preflight, Situation, plan
//!              └─► execute: workflow engine ─► Steps: agents, certificates, etcd's members, API objects
//! ```

mod access;
mod api;
mod backup;
mod bundle;
mod certs;
mod cis;
mod desk_client;
mod desk_steps;
mod discovery;
mod doctor;
mod drain;
mod etcd;
mod execute;
mod history;
mod hosts;
mod joining;
mod joining_control_plane;
mod keyring;
mod kubeconfig;
mod node_signer;
mod nodes;
mod objects;
mod operation;
mod packages;
mod pod_dns;
mod reach;
mod record;
mod request;
mod requests;
mod reset;
mod rotation;
mod route;
mod status;
mod support;
mod token;
mod upgrade;
mod upgrade_path;
mod uploaded;
mod user;
mod wait;

pub use backup::{
    CreateOptions, Created, Opened, Restoration, Snapshot, Unfit, create as create_backup, fits, look_here,
    look_on_host, open as open_backup,
};
pub use bundle::{BundleSource, LocalBundle};
pub use certs::{CertificateStatus, Renewal, certificates, desk_certificate, renewable};
pub use cis::assess;
pub use desk_client::client as desk_client;
pub use discovery::Pin;
pub use doctor::{Diagnosis, diagnose};
pub use drain::DrainOptions;
pub use etcd::{EtcdOverview, defragment, disarm, repair_space, snapshot};
pub use history::{HostRun, history};
pub use hosts::{ConnectOptions, Hosts, Unreachable};
pub use joining::{JoinOptions, Joining, Machine};
pub use keyring::{Keyring, Locked, Unlock};
pub use kubeconfig::{Entry, KubeconfigFile};
pub use node_signer::NodeSigner;
pub use operation::{DrainBlocked, Run};
pub use packages::PackageRow;
pub use request::{Impossible, Request};
pub use requests::{NothingToRequest, SignedFile, State, Wanting};
pub use reset::{Incomplete, Reset, Strangers};
pub use rotation::{Pods, RotationOptions, RotationStopped};
pub use status::{Expiry, HostStatus, MemberStatus, NodeStatus, Status, status, units};
pub use support::{REDACTED, Support, gather as gather_support, redact};
pub use token::{Token, TokenInfo, TokenOptions, create_token, delete_token, list_tokens};
pub use upgrade::{UpgradeOptions, UpgradeReport, budgets, health, prepare as prepare_upgrade};
pub use upgrade_path::{later_hops, passed};
pub use uploaded::{CertificateKey, LIFE as UPLOAD_LIFE, upload_certificates};
pub use user::{Credentials, NewUser, new_user};

/// Hosts worked on at once.
pub const PARALLELISM: usize = 16;
