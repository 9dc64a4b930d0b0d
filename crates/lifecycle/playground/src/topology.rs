//! What a playground consists of: pure data.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// What a host is for. The playground only uses it for names and for the cluster file it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs HAProxy in front of the API servers.
    #[serde(rename = "loadbalancer")]
    LoadBalancer,
    /// Runs etcd and the control plane.
    ControlPlane,
    /// Runs pods.
    Worker,
}

/// One host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its host name: `lb1`, `cp1`, `w1`, ...
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its place in the subnet: address 10.77.INDEX.NUMBER, interface `k<index>-<number>`.
    pub number: u8,
}

/// A playground's hosts and its subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Distinguishes playgrounds that stand side by side: bridge `kinit<index>`, subnet 10.77.`index`.0/24.
    pub index: u8,
    /// The hosts have neither a route to anywhere nor a source of packages.
    #[serde(default)]
    pub offline: bool,
    /// All hosts, in the order of their numbers.
    pub hosts: Vec<Host>,
}

impl Topology {
    /// Names and numbers `counts` hosts; numbers start at 11 and at most 200 hosts fit.
    pub fn new(index: u8, loadbalancers: u8, control_planes: u8, workers: u8) -> Result<Self> {
        let total = u32::from(loadbalancers) + u32::from(control_planes) + u32::from(workers);
        ensure!((1..=200).contains(&total), "a playground has 1 to 200 hosts, not {total}");
        let names = [
            (Role::LoadBalancer, "lb", loadbalancers),
            (Role::ControlPlane, "cp", control_planes),
            (Role::Worker, "w", workers),
        ];
        let named = names
            .into_iter()
            .flat_map(|(role, prefix, count)| (1..=count).map(move |i| (role, format!("{prefix}{i}"))));
        let hosts = named.zip(11u8..).map(|((role, name), number)| Host { name, role, number }).collect();
        Ok(Self { index, offline: false, hosts })
    }

    /// The subnet's first three bytes with `last`.
    fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.index, last)
    }

    /// The machine's own address on the bridge, the hosts' gateway.
    pub fn gateway(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// An address of the subnet that nobody has.
    pub fn unused(&self) -> Ipv4Addr {
        self.address(9)
    }

    /// A host's address.
    pub fn address_of(&self, host: &Host) -> Ipv4Addr {
        self.address(host.number)
    }

    /// The bridge's interface name.
    pub fn bridge(&self) -> String {
        format!("kinit{}", self.index)
    }

    /// A host's interface on the machine's side.
    pub fn interface(&self, host: &Host) -> String {
        format!("k{}-{}", self.index, host.number)
    }

    /// A host's hardware address: locally administered, unique on the machine.
    pub fn mac(&self, host: &Host) -> [u8; 6] {
        [0x02, 0x6b, 0x69, 0x6e, self.index, host.number]
    }

    /// The host of that name.
    pub fn host(&self, name: &str) -> Result<&Host> {
        let known = || self.hosts.iter().map(|h| h.name.as_str()).collect::<Vec<_>>().join(", ");
        self.hosts
            .iter()
            .find(|h| h.name == name)
            .ok_or_else(|| anyhow::anyhow!("no host {name} in this playground; there are {}", known()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_named_and_numbered_by_role() {
        let t = Topology::new(3, 1, 3, 2).unwrap();
        let names: Vec<_> = t.hosts.iter().map(|h| (h.name.as_str(), t.address_of(h).to_string())).collect();
        assert_eq!(names.first().unwrap(), &("lb1", "10.77.3.11".to_string()));
        assert_eq!(names.last().unwrap(), &("w2", "10.77.3.16".to_string()));
        assert_eq!(t.interface(t.host("cp2").unwrap()), "k3-13");
        assert!(t.host("cp9").is_err());
    }

    #[test]
    fn a_playground_has_at_least_one_host() {
        assert!(Topology::new(0, 0, 0, 0).is_err());
        assert!(Topology::new(0, 0, 200, 200).is_err());
    }
}
