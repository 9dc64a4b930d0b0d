//! Who else changes a table: the kernel's notices of ruleset changes (`NFNLGRP_NFTABLES`).

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, Socket, SocketAddr, TokioSocket};

use crate::encode::SUBSYSTEM;
use crate::model::Family;
use crate::netlink::{Received, find, text};
use crate::socket::Error;

const NFNLGRP_NFTABLES: u32 = 7;
/// `NFT_MSG_NEWGEN` and `NFT_MSG_GETGEN`: they name no table.
const NEWGEN: u16 = 15;
const DATAGRAM: usize = 1 << 16;

/// Notices of changes to one table.
pub struct Monitor {
    socket: TokioSocket,
    family: Family,
    table: String,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").field("table", &self.table).finish_non_exhaustive()
    }
}

impl Monitor {
    /// Subscribes, in the network namespace of the calling thread; changes from then on are noticed.
    pub fn open(family: Family, table: &str) -> Result<Self, Error> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER).map_err(Error::Socket)?;
        let inner: &mut Socket = socket.socket_mut();
        inner.bind(&SocketAddr::new(0, 0)).map_err(Error::Socket)?;
        inner.add_membership(NFNLGRP_NFTABLES).map_err(Error::Socket)?;
        Ok(Self { socket, family, table: table.to_owned() })
    }

    /// Waits until somebody but `own` (the netlink port of a socket, [`crate::Nftables::port`]) changed the table. Also
    /// returns when notices were lost: then it may have changed. Cancelling loses nothing that was not yet returned.
    pub async fn changed(&mut self, own: Option<u32>) -> Result<(), Error> {
        loop {
            let mut buffer = Vec::with_capacity(DATAGRAM);
            match self.socket.recv(&mut buffer).await {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::Socket(error)),
            }
            if Received::all(&buffer).iter().any(|m| self.concerns(m, own)) {
                return Ok(());
            }
        }
    }

    fn concerns(&self, message: &Received<'_>, own: Option<u32>) -> bool {
        let foreign = own.is_none_or(|port| message.port != port);
        let ours = message.kind >> 8 == SUBSYSTEM && (message.kind & 0xff) < NEWGEN;
        // The first attribute of every message is the name of its table.
        foreign
            && ours
            && message.payload.first() == Some(&self.family.number())
            && find(&message.attributes(), 1).is_some_and(|name| text(name) == self.table)
    }
}
