//! Who else changes a table: the kernel's notices of ruleset changes (`NFNLGRP_NFTABLES`).
//!
//! A transaction's notices come before the one of its generation, all on one socket and in order. So a monitor that has
//! read the notice of a generation, lost none before and saw nobody else at the table, vouches for the table at that
//! generation, whatever happened to other tables: nothing needs to be read back.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, Socket, SocketAddr, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};

use crate::encode::SUBSYSTEM;
use crate::model::Family;
use crate::netlink::{Received, be32, find, text};
use crate::socket::Error;

const NFNLGRP_NFTABLES: u32 = 7;
/// `NFT_MSG_NEWGEN` and `NFT_MSG_GETGEN`: they name no table.
const NEWGEN: u16 = 15;
const DATAGRAM: usize = 1 << 16;
/// Room for the notices of a burst; memory is used only as they come.
const BUFFER: usize = 8 << 20;

/// Notices of changes to one table.
pub struct Monitor {
    socket: TokioSocket,
    family: Family,
    table: String,
    /// Somebody else changed the table, or notices were lost, and nobody has asked yet.
    touched: bool,
    /// The last generation of which all notices were read.
    generation: Option<u32>,
}

/// What a monitor can say of its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vouched {
    /// Nobody else changed it, up to the generation that was asked for.
    Untouched,
    /// Somebody else did, or may have.
    Unknown,
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
        if let Err(error) = setsockopt(inner, sockopt::RcvBufForce, &BUFFER) {
            tracing::debug!(%error, "size the buffer of nftables' notices");
        }
        inner.add_membership(NFNLGRP_NFTABLES).map_err(Error::Socket)?;
        Ok(Self { socket, family, table: table.to_owned(), touched: false, generation: None })
    }

    /// Waits until somebody but `own` (the netlink port of a socket, [`crate::Nftables::port`]) changed the table. Also
    /// returns when notices were lost: then it may have changed. Cancelling loses nothing that was not yet returned.
    pub async fn changed(&mut self, own: Option<u32>) -> Result<(), Error> {
        while !self.touched {
            let mut buffer = Vec::with_capacity(DATAGRAM);
            let received = self.socket.recv(&mut buffer).await;
            self.take(received, &buffer, own)?;
        }
        self.touched = false;
        Ok(())
    }

    /// Reads what notices there are, without waiting, and says whether the table is at `generation` what `own` made
    /// of it.
    pub fn vouch(&mut self, own: Option<u32>, generation: u32) -> Result<Vouched, Error> {
        let mut buffer = Vec::with_capacity(DATAGRAM);
        loop {
            buffer.clear();
            let received = self.socket.socket_mut().recv(&mut buffer, libc::MSG_DONTWAIT).map(drop);
            if received.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                break;
            }
            self.take(received, &buffer, own)?;
        }
        let untouched = !std::mem::take(&mut self.touched) && self.generation == Some(generation);
        Ok(if untouched { Vouched::Untouched } else { Vouched::Unknown })
    }

    fn take(&mut self, received: io::Result<()>, datagram: &[u8], own: Option<u32>) -> Result<(), Error> {
        match received {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                self.touched = true;
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(Error::Socket(error)),
        }
        for message in Received::all(datagram) {
            if message.kind == SUBSYSTEM << 8 | NEWGEN {
                self.generation = find(&message.attributes(), 1).map(be32);
            }
            self.touched |= self.concerns(&message, own);
        }
        Ok(())
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
