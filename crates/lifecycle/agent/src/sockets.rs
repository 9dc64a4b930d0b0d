//! Ends TCP connections of this host to a machine that is gone, by `sock_diag(7)`.
//!
//! A machine that loses power closes nothing: the connections to it stay until the kernel gives up, after a quarter of
//! an hour. etcd waits for them when the machine's member is removed, and its leader does nothing else meanwhile.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendmsg, socket};

/// Message types and flags of `linux/netlink.h`, `linux/sock_diag.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// Where `struct inet_diag_sockid` begins in `inet_diag_msg` and, after four bytes more, in `inet_diag_req_v2`.
const ID: usize = 4;
const ID_LENGTH: usize = 48;
/// All states but TIME_WAIT and LISTEN.
const STATES: u32 = 0xfff & !(1 << 6) & !(1 << 10);

/// `struct inet_diag_sockid`: who is connected to whom.
#[derive(Clone)]
struct Id([u8; ID_LENGTH]);

impl Id {
    fn port(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    fn peer(&self, family: AddressFamily) -> IpAddr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.0[20..36]);
        match family {
            AddressFamily::Inet => IpAddr::from([octets[0], octets[1], octets[2], octets[3]]),
            // A socket of both families has its peer mapped.
            _ => Ipv6Addr::from(octets).to_canonical(),
        }
    }

    fn is_with(&self, family: AddressFamily, peer: IpAddr, port: u16) -> bool {
        self.peer(family) == peer && (self.port(0) == port || self.port(2) == port)
    }
}

/// Ends the connections with `peer` of which one end is `port`; how many there were. A kernel that cannot do that
/// (without `CONFIG_INET_DIAG_DESTROY`) ends none, which is no error: they end later.
pub(crate) fn end(peer: IpAddr, port: u16) -> Result<usize> {
    let mut ended = 0;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let found = dump(family).context("list the TCP connections of this host")?;
        for id in found.iter().filter(|id| id.is_with(family, peer, port)) {
            match destroy(family, id) {
                Ok(()) => ended += 1,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    tracing::warn!("this kernel cannot end connections of others");
                    return Ok(ended);
                }
                Err(error) => return Err(error).with_context(|| format!("end a connection with {peer}")),
            }
        }
    }
    Ok(ended)
}

fn dump(family: AddressFamily) -> io::Result<Vec<Id>> {
    let diag = open()?;
    send(&diag, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, STATES, &Id([0; ID_LENGTH]))?;
    let mut found = Vec::new();
    loop {
        for (kind, body) in &receive(&diag)? {
            match *kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return Err(error_of(body)),
                _ => {
                    if let Some(id) = body.get(ID..ID + ID_LENGTH).and_then(|id| id.try_into().ok()) {
                        found.push(Id(id));
                    }
                }
            }
        }
    }
}

fn destroy(family: AddressFamily, id: &Id) -> io::Result<()> {
    let diag = open()?;
    send(&diag, SOCK_DESTROY, NLM_F_ACK, family, STATES, id)?;
    for (kind, body) in &receive(&diag)? {
        if *kind == NLMSG_ERROR {
            let error = error_of(body);
            return if error.raw_os_error() == Some(0) { Ok(()) } else { Err(error) };
        }
    }
    Err(io::Error::other("the kernel did not acknowledge"))
}

fn open() -> io::Result<OwnedFd> {
    let protocol = SockProtocol::NetlinkSockDiag;
    Ok(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?)
}

/// A request with `struct inet_diag_req_v2`.
fn send(diag: &OwnedFd, kind: u16, flags: u16, family: AddressFamily, states: u32, id: &Id) -> io::Result<()> {
    let tcp = u8::try_from(libc::IPPROTO_TCP).unwrap_or(6);
    let family = u8::try_from(family as i32).unwrap_or_default();
    let length = u32::try_from(HEADER + 8 + ID_LENGTH).unwrap_or_default();
    let mut message = Vec::with_capacity(HEADER + 8 + ID_LENGTH);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    // Sequence number and sender.
    message.extend([0; 8]);
    message.extend([family, tcp, 0, 0]);
    message.extend(states.to_ne_bytes());
    message.extend(id.0);
    let kernel = NetlinkAddr::new(0, 0);
    sendmsg(diag.as_raw_fd(), &[IoSlice::new(&message)], &[], MsgFlags::empty(), Some(&kernel))?;
    Ok(())
}

/// The next messages: type and body.
fn receive(diag: &OwnedFd) -> io::Result<Vec<(u16, Vec<u8>)>> {
    let mut buffer = vec![0; 64 * 1024];
    let length = recv(diag.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let (mut rest, mut out) = (&buffer[..length], Vec::new());
    while let Some(header) = rest.get(..HEADER) {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(body) = rest.get(HEADER..length) else {
            return Err(io::Error::other("a message of the kernel is cut off"));
        };
        out.push((u16::from_ne_bytes([header[4], header[5]]), body.to_vec()));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(out)
}

/// What `struct nlmsgerr` says; 0 is an acknowledgement.
fn error_of(body: &[u8]) -> io::Error {
    let code = body.get(..4).and_then(|code| code.try_into().ok()).map_or(libc::EIO, i32::from_ne_bytes);
    io::Error::from_raw_os_error(-code)
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    fn pair() -> (TcpStream, TcpStream, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        }
        (client, server, port)
    }

    #[test]
    fn connections_with_a_peer_end_and_no_others() {
        let (mut client, mut server, port) = pair();
        let (mut other, mut served, _) = pair();
        let local = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(end(IpAddr::from([127, 0, 0, 2]), port).unwrap(), 0, "another machine");
        server.write_all(b"a").unwrap();
        client.read_exact(&mut [0]).unwrap();
        // Both ends are here, and the end of one may be the other's.
        assert!((1..=2).contains(&end(local, port).unwrap()));
        let ended = [ErrorKind::ConnectionAborted, ErrorKind::ConnectionReset];
        assert!(ended.contains(&client.read(&mut [0]).unwrap_err().kind()));
        served.write_all(b"a").unwrap();
        other.read_exact(&mut [0]).unwrap();
    }
}
