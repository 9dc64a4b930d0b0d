//! How clients and nodes find an API server that lives: the forms of load balancing.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::types::{Cluster, HostSpec, Role};
use crate::validate::{Errors, is_of_a_host};

/// Where the API servers' load balancer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balancing {
    /// HAProxy on the hosts of the role `loadbalancer`; two or more share a virtual address.
    Hosts,
    /// HAProxy on every control plane, behind a virtual address.
    ControlPlanes,
    /// HAProxy on every node that is no control plane, for that node alone.
    NodeLocal,
    /// Somebody else's, at `controlPlaneEndpoint`.
    External,
    /// None: everybody talks to the endpoint's own API server.
    None,
}

/// The load balancer in front of the API servers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadBalancer {
    /// Where it is. Default: `hosts` if there are hosts of the role `loadbalancer`, else `none`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub balancing: Option<Balancing>,
    /// The address that keepalived keeps on one of the balancers (IPv4): with two or more of the type `hosts`, and
    /// always with `control-planes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_address: Option<String>,
    /// VRRP's number of the virtual address, 1 to 255: no other group in the same network segment has it. Default 51.
    #[serde(default, rename = "virtualRouterID", skip_serializing_if = "Option::is_none")]
    pub virtual_router_id: Option<u8>,
}

impl LoadBalancer {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Cluster {
    /// Where the load balancer is.
    pub fn balancing(&self) -> Balancing {
        let of_role = || self.hosts(Role::LoadBalancer).next().map(|_| Balancing::Hosts);
        self.spec.load_balancer.balancing.or_else(of_role).unwrap_or(Balancing::None)
    }

    /// Whether HAProxy runs on this host.
    pub fn balances(&self, host: &HostSpec) -> bool {
        match self.balancing() {
            Balancing::Hosts => host.is(Role::LoadBalancer),
            Balancing::ControlPlanes => host.is(Role::ControlPlane),
            Balancing::NodeLocal => host.is_node() && !host.is(Role::ControlPlane),
            Balancing::External | Balancing::None => false,
        }
    }

    /// The virtual address, if keepalived runs on this host.
    pub fn virtual_address(&self, host: &HostSpec) -> Option<&str> {
        let shared = matches!(self.balancing(), Balancing::Hosts | Balancing::ControlPlanes);
        self.spec.load_balancer.virtual_address.as_deref().filter(|_| shared && self.balances(host))
    }

    /// The port of the endpoint on a balancer of this cluster.
    pub fn balancer_port(&self) -> u16 {
        // What is on the node itself has nothing to do with where others find the cluster.
        if self.balancing() == Balancing::NodeLocal { 6443 } else { self.endpoint().1 }
    }

    /// Where this host's components find the API: their own server on a control plane, else a balancer.
    pub fn api_for(&self, host: &HostSpec) -> String {
        if host.is(Role::ControlPlane) {
            return format!("https://{}:6443", host.address);
        }
        match self.balancing() {
            Balancing::NodeLocal => format!("https://127.0.0.1:{}", self.balancer_port()),
            _ => format!("https://{}", self.spec.control_plane_endpoint),
        }
    }

    /// Names and addresses besides the endpoint under which balancers are reached.
    pub(crate) fn balancer_names(&self) -> Vec<String> {
        let hosts = self.spec.hosts.iter().filter(|host| host.is(Role::LoadBalancer) && self.balances(host));
        let mut names: Vec<String> = hosts.map(|host| host.address.clone()).collect();
        names.extend(self.spec.load_balancer.virtual_address.clone());
        if self.balancing() == Balancing::NodeLocal {
            names.push(Ipv4Addr::LOCALHOST.to_string());
        }
        names
    }

    /// The host part of the endpoint where the file names none.
    pub(crate) fn default_endpoint(&self) -> Option<&str> {
        if let Some(address) = &self.spec.load_balancer.virtual_address {
            return Some(address);
        }
        let balancer = self.hosts(Role::LoadBalancer).next().filter(|_| self.balancing() == Balancing::Hosts);
        match self.balancing() {
            Balancing::External => None,
            _ => balancer.or_else(|| self.first_control_plane()).map(|host| host.address.as_str()),
        }
    }
}

pub(crate) fn validate(cluster: &Cluster, errors: &mut Errors) {
    let path = "spec.loadBalancer";
    let balancers = cluster.hosts(Role::LoadBalancer).count();
    let kind = cluster.balancing();
    let address = cluster.spec.load_balancer.virtual_address.as_deref();
    match kind {
        Balancing::Hosts if balancers == 0 => {
            errors.add(format!("{path}.type"), "`hosts` needs a host with the role loadbalancer")
        }
        Balancing::Hosts if balancers > 1 && address.is_none() => {
            errors.add(
                format!("{path}.virtualAddress"),
                format!("{balancers} load balancers need an address that they share, unused so far, in their network"),
            );
        }
        Balancing::ControlPlanes if address.is_none() => {
            errors.add(
                format!("{path}.virtualAddress"),
                "`control-planes` needs an address that the control planes share, unused so far, in their network",
            );
        }
        Balancing::External if cluster.spec.control_plane_endpoint.is_empty() => {
            errors.add("spec.controlPlaneEndpoint", "with an external load balancer this is its HOST[:PORT]");
        }
        _ => {}
    }
    if kind != Balancing::Hosts && balancers > 0 {
        errors.add(format!("{path}.type"), "hosts with the role loadbalancer have nothing to do: they need `hosts`");
    }
    if address.is_some() && !matches!(kind, Balancing::Hosts | Balancing::ControlPlanes) {
        errors.add(format!("{path}.virtualAddress"), "only `hosts` and `control-planes` have one");
    }
    if cluster.spec.load_balancer.virtual_router_id.is_some_and(|id| id == 0 || address.is_none()) {
        errors.add(format!("{path}.virtualRouterID"), "is 1 to 255, and goes with a virtualAddress");
    }
    if let Some(text) = address {
        virtual_address(cluster, text, errors);
    }
    endpoint(cluster, kind, address, errors);
}

fn virtual_address(cluster: &Cluster, text: &str, errors: &mut Errors) {
    let path = "spec.loadBalancer.virtualAddress";
    let Some(address) = text.parse::<Ipv4Addr>().ok().filter(|address| is_of_a_host(*address)) else {
        return errors.add(path, format!("{text:?} is not an IPv4 address that a host can have"));
    };
    if let Some(host) = cluster.spec.hosts.iter().find(|host| host.address == text) {
        errors.add(path, format!("{text} is the address of {} already", host.name));
    }
    crate::validate::in_subnets(cluster, path, address, errors);
}

/// The endpoint leads to the balancer.
fn endpoint(cluster: &Cluster, kind: Balancing, shared: Option<&str>, errors: &mut Errors) {
    let path = "spec.controlPlaneEndpoint";
    let (host, _) = cluster.endpoint();
    if host.parse::<Ipv4Addr>().is_err() {
        return; // A name leads where its zone says.
    }
    let owner = cluster.spec.hosts.iter().find(|h| h.address == host);
    match (kind, owner) {
        (Balancing::External, Some(owner)) => {
            errors.add(path, format!("{host} is {}'s own address, not an external load balancer's", owner.name))
        }
        (Balancing::Hosts | Balancing::ControlPlanes, _) if shared.is_some_and(|shared| shared != host) => {
            errors.add(path, format!("{host} is not spec.loadBalancer.virtualAddress"))
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{example, load};

    const BALANCER: &str = "  - name: lb1\n    address: 192.0.2.10\n    roles: [loadbalancer]\n";

    fn file(section: &str, more: &str) -> String {
        let text = if more.contains("without lb1") { example().replace(BALANCER, "") } else { example().to_owned() };
        let second =
            if more.contains("lb2") { BALANCER.replace("lb1", "lb2").replace("2.10", "2.9") } else { String::new() };
        text.replacen("  hosts:\n", &format!("  loadBalancer: {section}\n  hosts:\n{second}"), 1)
    }

    #[test]
    fn the_endpoint_follows_from_the_form() {
        for (section, more, endpoint, kind) in [
            ("{}", "", "192.0.2.10:6443", Balancing::Hosts),
            ("{}", "without lb1", "192.0.2.11:6443", Balancing::None),
            ("{virtualAddress: 192.0.2.8}", "lb2", "192.0.2.8:6443", Balancing::Hosts),
            (
                "{type: control-planes, virtualAddress: 192.0.2.8}",
                "without lb1",
                "192.0.2.8:6443",
                Balancing::ControlPlanes,
            ),
            ("{type: node-local}", "without lb1", "192.0.2.11:6443", Balancing::NodeLocal),
            (
                "{type: external}\n  controlPlaneEndpoint: api.example.com",
                "without lb1",
                "api.example.com:6443",
                Balancing::External,
            ),
        ] {
            let cluster = load(&file(section, more)).unwrap();
            assert_eq!(
                (cluster.spec.control_plane_endpoint.as_str(), cluster.balancing()),
                (endpoint, kind),
                "{section}"
            );
            assert_eq!(load(&crate::print(&cluster).unwrap()).unwrap(), cluster, "{section}");
        }
    }

    #[test]
    fn what_cannot_balance_is_refused() {
        for (section, more, expected) in [
            ("{}", "lb2", "spec.loadBalancer.virtualAddress: 2 load balancers need an address"),
            ("{type: hosts}", "without lb1", "spec.loadBalancer.type: `hosts` needs a host"),
            ("{type: node-local}", "", "spec.loadBalancer.type: hosts with the role loadbalancer have nothing to do"),
            (
                "{type: control-planes}",
                "without lb1",
                "spec.loadBalancer.virtualAddress: `control-planes` needs an address",
            ),
            ("{type: external}", "without lb1", "spec.controlPlaneEndpoint: with an external load balancer"),
            ("{type: external}\n  controlPlaneEndpoint: 192.0.2.11", "without lb1", "192.0.2.11 is cp1's own address"),
            (
                "{type: node-local, virtualAddress: 192.0.2.8}",
                "without lb1",
                "only `hosts` and `control-planes` have one",
            ),
            ("{virtualAddress: 192.0.2.11}", "lb2", "192.0.2.11 is the address of cp1 already"),
            ("{virtualAddress: 10.96.0.9}", "lb2", "10.96.0.9 lies in serviceSubnet"),
            ("{virtualAddress: 127.0.0.1}", "lb2", "is not an IPv4 address that a host can have"),
            ("{virtualAddress: \"fd00::1\"}", "lb2", "is not an IPv4 address that a host can have"),
            (
                "{virtualAddress: 192.0.2.8}\n  controlPlaneEndpoint: 192.0.2.10",
                "lb2",
                "192.0.2.10 is not spec.loadBalancer.virtualAddress",
            ),
            (
                "{virtualAddress: 192.0.2.8, virtualRouterID: 0}",
                "lb2",
                "spec.loadBalancer.virtualRouterID: is 1 to 255",
            ),
            (
                "{virtualAddress: 192.0.2.8, virtualRouterID: 256}",
                "lb2",
                "spec.loadBalancer.virtualRouterID: invalid value",
            ),
            ("{virtualRouterID: 7}", "", "goes with a virtualAddress"),
            ("{type: magic}", "", "spec.loadBalancer.type: unknown variant"),
        ] {
            let error = load(&file(section, more)).unwrap_err().to_string();
            assert!(error.contains(expected), "{section}: {expected} is missing in: {error}");
        }
    }
}
