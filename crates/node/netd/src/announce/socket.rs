//! A socket that hears and sends ARP on all interfaces.

use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::sys::socket::{LinkAddr, MsgFlags, recvfrom, sendto};
use rustix::net::{AddressFamily, SocketFlags, SocketType, eth, socket_with};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::arp::Packet;

/// The socket. The kernel hands it ARP frames alone, which are few.
///
/// Tokio has a safe way to watch a socket of datagrams only in the shape of UDP's; nothing of UDP is done with it.
pub struct ArpSocket(UdpSocket);

impl ArpSocket {
    /// Opens it, in the network namespace of the calling thread.
    pub fn open() -> Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(eth::ARP))
            .context("open a socket for ARP (needs CAP_NET_RAW)")?;
        Ok(Self(UdpSocket::from_std(socket.into()).context("watch the socket for ARP")?))
    }

    /// The next packet, with the number of the interface that it came by.
    pub async fn hear(&self) -> Result<(usize, Packet)> {
        let mut buffer = [0; 128];
        loop {
            let heard = self.0.async_io(Interest::READABLE, || {
                recvfrom::<LinkAddr>(self.0.as_raw_fd(), &mut buffer).map_err(io::Error::from)
            });
            let (length, from) = match heard.await {
                Ok(heard) => heard,
                // An interface that went down says so once on every socket.
                Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENETDOWN as i32) => continue,
                Err(error) => return Err(error).context("hear ARP"),
            };
            let frame = buffer.get(..length).unwrap_or_default();
            if let (Some(from), Some(packet)) = (from, Packet::parse(frame)) {
                return Ok((from.ifindex(), packet));
            }
        }
    }

    /// Sends a frame by an interface. What the kernel cannot take at once is lost, as on any cable.
    pub fn send(&self, link: &LinkAddr, frame: &[u8]) -> Result<()> {
        match sendto(self.0.as_raw_fd(), frame, link, MsgFlags::MSG_DONTWAIT) {
            Ok(_) | Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::ENOBUFS) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("send ARP by interface number {}", link.ifindex())),
        }
    }
}
