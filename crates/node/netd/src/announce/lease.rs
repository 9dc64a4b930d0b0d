//! The Leases by which nodes settle who answers for which address: names and contents. No IO.
//!
//! `address.192.0.2.10` is held by the node that answers for it, until that gives it up or is declared dead;
//! `node.NAME` is a node's sign of life, and empty when it has nothing or was declared dead.

use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;

/// The namespace of these Leases alone, so that a node's program may write no other.
pub const NAMESPACE: &str = "kinit-load-balancer";
const ADDRESS: &str = "address.";
const NODE: &str = "node.";

/// The name of an address's Lease.
pub fn of_address(address: Ipv4Addr) -> String {
    format!("{ADDRESS}{address}")
}

/// The name of a node's Lease.
pub fn of_node(node: &str) -> String {
    format!("{NODE}{node}")
}

/// The address of a Lease of this name.
pub fn address(name: &str) -> Option<Ipv4Addr> {
    name.strip_prefix(ADDRESS)?.parse().ok()
}

/// The node of a Lease of this name.
pub fn node(name: &str) -> Option<&str> {
    name.strip_prefix(NODE)
}

/// Who holds it, if anybody does.
pub fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// The version as a number (resource versions can be compared since v1.35, KEP-5504); 0 when it is none.
pub fn version(lease: &Lease) -> u64 {
    lease.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// A Lease that `holder` holds from now on.
pub fn new(name: &str, holder: &str, lasts: Duration, owner: Option<OwnerReference>) -> Lease {
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(NAMESPACE.to_owned()),
        owner_references: owner.map(|owner| vec![owner]),
        ..ObjectMeta::default()
    };
    let lasts = i32::try_from(lasts.as_secs()).unwrap_or(i32::MAX);
    let spec = LeaseSpec { lease_duration_seconds: Some(lasts), ..LeaseSpec::default() };
    renewed(&Lease { metadata, spec: Some(spec) }, holder)
}

/// The same, held by `holder`.
pub fn renewed(lease: &Lease, holder: &str) -> Lease {
    let now = MicroTime(Timestamp::now());
    let mut lease = lease.clone();
    let spec = lease.spec.get_or_insert_default();
    if spec.holder_identity.as_deref() != Some(holder) {
        let before = spec.lease_transitions;
        spec.lease_transitions = Some(before.map_or(0, |count| count.saturating_add(1)));
        spec.acquire_time = Some(now.clone());
        spec.holder_identity = Some(holder.to_owned());
    }
    spec.renew_time = Some(now);
    lease
}

/// The same, held by nobody.
pub fn emptied(lease: &Lease) -> Lease {
    let mut lease = lease.clone();
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = Some(String::new());
    spec.renew_time = Some(MicroTime(Timestamp::now()));
    lease
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_holders() {
        let ip = Ipv4Addr::new(192, 0, 2, 10);
        assert_eq!((address(&of_address(ip)), node(&of_node("w1.example.org"))), (Some(ip), Some("w1.example.org")));
        assert_eq!((address("node.x"), address("address.x"), node("address.1.2.3.4")), (None, None, None));
        let first = new("node.a", "a", Duration::from_secs(2), None);
        let (again, empty) = (renewed(&first, "a"), emptied(&first));
        let back = renewed(&empty, "b");
        let transitions = |l: &Lease| l.spec.as_ref().unwrap().lease_transitions;
        assert_eq!(
            [&first, &again, &empty, &back].map(|l| holder(l).map(str::to_owned)),
            [Some("a".to_owned()), Some("a".to_owned()), None, Some("b".to_owned())]
        );
        assert_eq!([&first, &again, &back].map(transitions), [Some(0), Some(0), Some(1)]);
    }
}
