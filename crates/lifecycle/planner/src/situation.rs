//! What a plan is made from: what is wanted, and everything that was seen.

use std::collections::{BTreeMap, BTreeSet};

use kinit_config::{Cluster, HostSpec, Role};
use kinit_manifests::Phase;
use kinit_resource::{EtcdMember, EtcdStatus, Observed, Place, Resource, Shared};

use crate::plan::ObjectId;

/// What was seen on a host: its resources in the order they are brought about.
pub type HostObservation = Vec<(Phase, Resource, Observed)>;

/// What was seen of an API object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectState {
    /// It is as wanted.
    AsWanted,
    /// It is there but differs.
    Differs,
    /// There is none, or the API does not answer yet.
    Missing,
    /// It is kinit's, and in the way of what is wanted.
    Unwanted,
}

/// What was seen of a Node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeState {
    /// It has the label of control planes.
    pub labelled: bool,
    /// It has the taint of control planes.
    pub tainted: bool,
    /// It is Ready.
    pub ready: bool,
    /// kinit has cordoned it, and nobody has made it schedulable again.
    pub cordoned: bool,
}

/// A host of the cluster that the file does not have any more, or that is to be removed.
#[derive(Debug, Clone, PartialEq)]
pub struct Leaving {
    /// As the cluster knew it.
    pub host: HostSpec,
    /// What was seen of its shared secrets; `None` when it cannot be reached.
    pub seen: Option<HostObservation>,
}

/// Which hosts a plan may change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Scope {
    /// All of the file.
    #[default]
    All,
    /// These, besides load balancers, which have to know of new and lost control planes.
    Hosts(BTreeSet<String>),
}

impl Scope {
    /// Whether this host's resources of a phase are brought about.
    pub fn covers(&self, host: &HostSpec, phase: Phase) -> bool {
        match self {
            Self::All => true,
            Self::Hosts(names) => names.contains(&host.name) || phase == Phase::LoadBalancer,
        }
    }
}

/// Everything that is known.
#[derive(Debug, Clone, Default)]
pub struct Situation {
    /// What was seen on each host of the file that could be reached.
    pub hosts: BTreeMap<String, HostObservation>,
    /// Why the others of the file could not be reached.
    pub unreachable: BTreeMap<String, String>,
    /// Hosts where etcd has data.
    pub with_data: BTreeSet<String>,
    /// What each member of etcd that answers says, by its host.
    pub etcd: BTreeMap<String, EtcdStatus>,
    /// API objects, in order.
    pub objects: Vec<(Phase, ObjectId, ObjectState)>,
    /// Nodes by name; none while the API does not answer.
    pub nodes: BTreeMap<String, NodeState>,
    /// Hosts that leave.
    pub leaving: Vec<Leaving>,
    /// Which hosts may be changed.
    pub scope: Scope,
    /// Whether the desk has a file with the authorities' keys.
    pub keys_on_desk: bool,
}

impl Situation {
    /// What etcd's members are, by a member that has a leader; the leader's own list where it can be asked.
    pub fn etcd_view(&self) -> Option<&EtcdStatus> {
        let with_leader = || self.etcd.values().filter(|status| status.leader != 0);
        with_leader().find(|status| status.leader == status.id).or_else(|| with_leader().next())
    }

    /// Members with a vote that answer and have a leader.
    pub fn healthy_voters(&self) -> BTreeSet<u64> {
        let Some(view) = self.etcd_view() else { return BTreeSet::new() };
        let healthy = |member: &&EtcdMember| {
            !member.learner && self.etcd.values().any(|status| status.id == member.id && status.leader != 0)
        };
        view.members.iter().filter(healthy).map(|member| member.id).collect()
    }

    /// Control planes of the file, then those that leave, as far as they were reached, with what was seen on them.
    pub(crate) fn control_planes<'a>(
        &'a self,
        cluster: &'a Cluster,
    ) -> impl Iterator<Item = (&'a HostSpec, &'a HostObservation)> {
        let own = cluster.hosts(Role::ControlPlane).filter_map(|host| Some((host, self.hosts.get(&host.name)?)));
        let leaving = self.leaving.iter().filter(|leaving| leaving.host.is(Role::ControlPlane));
        own.chain(leaving.filter_map(|leaving| Some((&leaving.host, leaving.seen.as_ref()?))))
    }
}

/// What was seen of a shared secret on a host.
pub(crate) fn seen_shared(seen: &HostObservation, shared: Shared) -> Option<(Place, &Observed)> {
    seen.iter().find_map(|(_, resource, observed)| match resource {
        Resource::Shared { shared: s, place } if *s == shared => Some((*place, observed)),
        _ => None,
    })
}
