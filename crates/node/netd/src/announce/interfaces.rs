//! The host's Ethernet interfaces and their networks.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::LinkAddr;

use super::arp::Mac;

/// ARPHRD_ETHER.
const ETHERNET: u16 = 1;

/// An interface that ARP works on.
#[derive(Debug, Clone)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Where frames for it are handed to the kernel.
    pub link: LinkAddr,
    /// Its addresses with their networks.
    pub networks: Vec<Ipv4Net>,
}

impl PartialEq for Interface {
    fn eq(&self, other: &Self) -> bool {
        (self.index(), self.mac) == (other.index(), other.mac)
    }
}

impl Interface {
    /// Its number.
    pub fn index(&self) -> usize {
        self.link.ifindex()
    }
}

/// All that are up and have their cable plugged in.
pub fn scan() -> Result<Vec<Interface>> {
    let all: Vec<_> = getifaddrs().context("list the network interfaces")?.collect();
    let wanted = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING | InterfaceFlags::IFF_BROADCAST;
    let unwanted = InterfaceFlags::IFF_LOOPBACK | InterfaceFlags::IFF_NOARP | InterfaceFlags::IFF_POINTOPOINT;
    let mut found: Vec<Interface> = Vec::new();
    for one in &all {
        let link = one.address.as_ref().and_then(|address| address.as_link_addr()).copied();
        let Some(link) = link.filter(|link| link.hatype() == ETHERNET) else { continue };
        let Some(mac) = link.addr() else { continue };
        if one.flags.contains(wanted) && !one.flags.intersects(unwanted) {
            let name = one.interface_name.clone();
            found.push(Interface { name, mac: Mac(mac), link, networks: Vec::new() });
        }
    }
    for one in &all {
        let ipv4 = |a: &Option<nix::sys::socket::SockaddrStorage>| Some(a.as_ref()?.as_sockaddr_in()?.ip());
        let (Some(address), Some(mask)) = (ipv4(&one.address), ipv4(&one.netmask)) else { continue };
        let Ok(network) = Ipv4Net::with_netmask(address, mask) else { continue };
        // A label of an old address form stands behind the interface's name: `eth0:1`.
        let name = one.interface_name.split(':').next().unwrap_or_default();
        if let Some(interface) = found.iter_mut().find(|i| i.name == name) {
            interface.networks.push(network);
        }
    }
    Ok(found)
}

/// The interface in whose network the address lies: that with the narrowest. Its neighbours are who asks for it.
pub fn serving(all: &[Interface], address: Ipv4Addr) -> Option<&Interface> {
    let width = |interface: &&Interface| {
        let of = |network: &Ipv4Net| network.contains(&address) && (1..32).contains(&network.prefix_len());
        interface.networks.iter().filter(|network| of(network)).map(Ipv4Net::prefix_len).max()
    };
    // Of equals the first.
    all.iter().rev().filter(|interface| width(interface).is_some()).max_by_key(width)
}

/// The interface that has the address itself: the kernel answers for it already.
pub fn owner(all: &[Interface], address: Ipv4Addr) -> Option<&Interface> {
    all.iter().find(|interface| interface.networks.iter().any(|network| network.addr() == address))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Any link of this host's; only its place in the list matters.
    pub fn interface(name: &str, networks: &[&str]) -> Interface {
        let links = getifaddrs().unwrap().filter_map(|one| one.address?.as_link_addr().copied());
        let link = links.into_iter().next().unwrap();
        let networks = networks.iter().map(|text| text.parse().unwrap()).collect();
        Interface { name: name.to_owned(), mac: Mac([2, 0, 0, 0, 0, 1]), link, networks }
    }

    #[test]
    fn an_address_belongs_to_the_narrowest_network() {
        let all = [
            interface("wide", &["10.0.0.5/8"]),
            interface("eth0", &["192.0.2.5/24"]),
            interface("eth1", &["10.1.0.5/16", "198.51.100.5/24"]),
            interface("twin", &["192.0.2.6/24"]),
            interface("pod", &["203.0.113.1/32"]),
        ];
        for (address, name) in [
            ("192.0.2.77", Some("eth0")),
            ("198.51.100.7", Some("eth1")),
            ("10.1.2.3", Some("eth1")),
            ("10.2.2.3", Some("wide")),
            ("203.0.113.1", None),
            ("172.16.0.1", None),
        ] {
            let found = serving(&all, address.parse().unwrap()).map(|i| i.name.as_str());
            assert_eq!(found, name, "{address}");
        }
        assert_eq!(owner(&all, "192.0.2.6".parse().unwrap()).map(|i| i.name.as_str()), Some("twin"));
        assert!(owner(&all, "192.0.2.7".parse().unwrap()).is_none());
    }
}
