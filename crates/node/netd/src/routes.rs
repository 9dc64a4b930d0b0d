//! The kernel's routing table, by rtnetlink.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use futures::channel::mpsc::UnboundedReceiver;
use futures::{StreamExt, TryStreamExt};
use ipnet::Ipv4Net;
use kinit_component_base::supervise;
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection};

use crate::plan::Routes;

/// Marks routes as ours: a number that neither the kernel nor a routing daemon known to iproute2 uses.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(107);

/// Messages about changes in the kernel's tables.
pub type Changes = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

/// A connection to the kernel.
#[derive(Clone)]
pub struct Table(Handle);

impl Table {
    /// Connects; the second half tells of changed routes, links and addresses.
    pub fn open() -> Result<(Self, Changes)> {
        let groups = [MulticastGroup::Ipv4Route, MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr];
        let (connection, handle, changes) = new_multicast_connection(&groups).context("open a netlink socket")?;
        supervise::spawn("netlink", connection);
        Ok((Self(handle), changes))
    }

    /// Routes that carry our mark.
    pub async fn ours(&self) -> Result<Routes> {
        let all = self.all().await?;
        let ours = all.iter().filter(|m| m.header.protocol == PROTOCOL);
        Ok(ours.filter_map(|m| Some((destination(m)?, gateway(m)?))).collect())
    }

    async fn all(&self) -> Result<Vec<RouteMessage>> {
        let request = RouteMessageBuilder::<Ipv4Addr>::new().build();
        self.0.route().get(request).execute().try_collect().await.context("list routes")
    }

    /// Adds a route or gives it another gateway.
    pub async fn set(&self, destination: Ipv4Net, gateway: Ipv4Addr) -> Result<()> {
        let message = message(destination, gateway);
        let done = self.0.route().add(message).replace().execute().await;
        done.with_context(|| format!("route {destination} via {gateway}"))
    }

    /// Removes a route.
    pub async fn remove(&self, destination: Ipv4Net, gateway: Ipv4Addr) -> Result<()> {
        let done = self.0.route().del(message(destination, gateway)).execute().await;
        done.with_context(|| format!("remove route {destination} via {gateway}"))
    }

    /// The MTU of the interface that holds `address`.
    pub async fn mtu(&self, address: Ipv4Addr) -> Result<Option<u32>> {
        let held = self.0.address().get().set_address_filter(address.into()).execute();
        let held: Vec<_> = held.try_collect().await.context("list addresses")?;
        let Some(index) = held.first().map(|a| a.header.index) else { return Ok(None) };
        let link = self.0.link().get().match_index(index).execute().try_next().await.context("look up an interface")?;
        Ok(link.and_then(|l| {
            l.attributes.into_iter().find_map(|a| if let LinkAttribute::Mtu(mtu) = a { Some(mtu) } else { None })
        }))
    }
}

/// Waits for the next change and swallows all that are queued.
pub async fn changed(changes: &mut Changes) {
    if changes.next().await.is_none() {
        std::future::pending::<()>().await;
    }
    while let Ok(_more) = changes.try_recv() {}
}

fn message(destination: Ipv4Net, gateway: Ipv4Addr) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(destination.network(), destination.prefix_len())
        .gateway(gateway)
        .protocol(PROTOCOL)
        .build()
}

fn destination(message: &RouteMessage) -> Option<Ipv4Net> {
    let address = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    })?;
    Ipv4Net::new(address, message.header.destination_prefix_length).ok()
}

fn gateway(message: &RouteMessage) -> Option<Ipv4Addr> {
    message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Gateway(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    })
}
