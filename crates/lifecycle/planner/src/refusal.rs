//! Why there can be no plan: all reasons at once.

use kinit_resource::Shared;

/// Why there can be no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Two hosts hold different secrets of the same name.
    #[error("{} differs between {one} and {other}: they belong to different clusters. Reset one of them (`kinit reset`), or copy the right /etc/kubernetes/pki to it", .shared.name())]
    Conflict {
        /// Which.
        shared: Shared,
        /// A host that has it.
        one: String,
        /// A host that has another.
        other: String,
    },
    /// A secret of a cluster that exists is nowhere whole: one made anew would not be it.
    #[error("{} is lost: {host} {sign}, and no control plane has it whole. Put {} back into /etc/kubernetes/pki of a control plane, or give the cluster up (`kinit reset`)", .shared.name(), files(*.shared))]
    Lost {
        /// Which.
        shared: Shared,
        /// A host that shows that there is a cluster.
        host: String,
        /// What it shows.
        sign: String,
    },
    /// An authority is kept elsewhere, and something needs its signature.
    #[error("{} is on no control plane ({host} has its certificate: an external authority), and these need its signature:\n{}\n`kinit certs csr -f FILE -o DIR` writes their requests; have that authority sign them, and hand the certificates in (`kinit certs import -f FILE DIR`); or put {} into /etc/kubernetes/pki of a control plane", .shared.files().1, .unsigned.join("\n"), .shared.files().1)]
    External {
        /// Which.
        shared: Shared,
        /// A host with its certificate.
        host: String,
        /// Everything that needs a signature: host, what, and why.
        unsigned: Vec<String>,
    },
    /// A host whose state matters cannot be reached.
    #[error(
        "{host} cannot be reached: {why}. Repair it; or limit the run to other hosts (--host); or, if it is gone for good, remove it (`kinit remove {host}`)"
    )]
    Unreachable {
        /// Which.
        host: String,
        /// Why.
        why: String,
    },
    /// Control planes come or go, and a load balancer cannot be told.
    #[error(
        "{host} cannot be reached ({why}), but as a load balancer it has to know which control planes there are. Repair it, or remove it first (`kinit remove {host}`)"
    )]
    LoadBalancerUnreachable {
        /// Which.
        host: String,
        /// Why.
        why: String,
    },
    /// No control plane can be reached.
    #[error("no control plane can be reached: without one nothing can be signed, and etcd cannot be asked")]
    NoControlPlane,
    /// etcd has no leader, so that its members cannot be changed.
    #[error("{host} cannot become a member of etcd: etcd has no leader. {} Start etcd on the hosts that have its data first", .why)]
    NoLeader {
        /// Which.
        host: String,
        /// What is known.
        why: String,
    },
    /// Too few members would be left.
    #[error("removing etcd's member on {host} would leave {healthy} healthy of {voters} members with a vote, and {} are needed to go on. Repair or replace one of the others first", .voters / 2 + 1)]
    Quorum {
        /// Which.
        host: String,
        /// Healthy members without it.
        healthy: usize,
        /// Members without it.
        voters: usize,
    },
    /// The last control plane.
    #[error(
        "{host} is the last control plane: without it there is no cluster. To delete the cluster and all its data: `kinit reset`"
    )]
    LastControlPlane {
        /// Which.
        host: String,
    },
}

/// All reasons why there can be no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Refused(pub Vec<PlanError>);

/// The files of a secret, for people.
fn files(shared: Shared) -> String {
    let (public, private) = shared.files();
    public.into_iter().chain([private]).collect::<Vec<_>>().join(" and ")
}
