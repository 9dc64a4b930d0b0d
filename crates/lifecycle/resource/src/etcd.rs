//! What a host's etcd says of itself and of its cluster.

use serde::{Deserialize, Serialize};

/// A member as etcd lists it (`etcdserverpb.Member`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdMember {
    /// Its ID; people write it in hexadecimal.
    pub id: u64,
    /// Its name; empty until it has started for the first time.
    pub name: String,
    /// `https://IP:2380`.
    pub peer_urls: Vec<String>,
    /// `https://IP:2379`; none until it has started for the first time.
    pub client_urls: Vec<String>,
    /// It follows the log and has no vote.
    pub learner: bool,
}

impl EtcdMember {
    /// Whether it has ever started.
    pub fn has_started(&self) -> bool {
        !self.client_urls.is_empty()
    }

    /// Its ID as etcdctl prints it.
    pub fn hex(&self) -> String {
        format!("{:x}", self.id)
    }
}

/// One member's own view of the cluster (`etcdserverpb.StatusResponse` and the member list).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdStatus {
    /// The member that answered.
    pub id: u64,
    /// The members that it knows.
    pub members: Vec<EtcdMember>,
    /// The leader's ID; 0 without one.
    pub leader: u64,
    /// etcd's version.
    pub version: String,
    /// Bytes of its database on disk.
    pub db_size: u64,
    /// Bytes of it in use: what a defragmentation leaves.
    pub db_size_in_use: u64,
    /// The term of the current leader.
    pub raft_term: u64,
    /// The last entry that it has.
    pub raft_index: u64,
    /// The last entry that it has applied.
    pub raft_applied_index: u64,
    /// Revision of the key space.
    pub revision: i64,
    /// Alarms that are raised, as `NOSPACE` and the member's ID.
    pub alarms: Vec<(String, u64)>,
    /// Errors that it reports.
    pub errors: Vec<String>,
}

impl EtcdStatus {
    /// The member with this peer URL.
    pub fn by_peer_url(&self, url: &str) -> Option<&EtcdMember> {
        self.members.iter().find(|member| member.peer_urls.iter().any(|own| own == url))
    }
}
