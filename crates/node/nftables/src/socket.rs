//! The conversation with the kernel.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};

use crate::diff::{Change, diff};
use crate::encode;
use crate::model::{Family, Table};
use crate::netlink::{NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, Received};

/// A transaction is tried again this often when others write at the same time.
const ATTEMPTS: usize = 5;
const RECEIVE_BUFFER: usize = 4 << 20;
const DATAGRAM: usize = 1 << 18;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket.
    #[error("talk to the kernel over netlink")]
    Socket(#[source] io::Error),
    /// The kernel refused. What `change` was, where it is known.
    #[error("the kernel refused {change}")]
    Refused {
        /// The message that was refused.
        change: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    fn errno(&self) -> Option<i32> {
        match self {
            Self::Socket(error) | Self::Refused { source: error, .. } => error.raw_os_error(),
        }
    }

    /// Somebody else was writing; the same again may succeed.
    pub fn is_clash(&self) -> bool {
        const ERESTART: i32 = 85;
        matches!(self.errno(), Some(libc::EBUSY | libc::EINTR | libc::EAGAIN | ERESTART))
    }

    /// Something that was thought to be there is not, or the other way round: somebody changed the table.
    pub fn is_surprise(&self) -> bool {
        matches!(self.errno(), Some(libc::ENOENT | libc::EEXIST))
    }
}

/// A connection to nftables. Calls block, for microseconds mostly.
pub struct Nftables {
    socket: Socket,
}

impl Nftables {
    /// Opens it, in the network namespace of the calling thread.
    pub fn open() -> Result<Self, Error> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(Error::Socket)?;
        socket.bind_auto().map_err(Error::Socket)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(Error::Socket)?;
        // Each failed message is answered with itself; this leaves only its header. Old kernels cannot, and need not.
        let _ = socket.set_cap_ack(true);
        let this = Self { socket };
        this.force(RECEIVE_BUFFER, Buffer::Receive);
        Ok(this)
    }

    /// The socket's netlink port: who caused a change, in the kernel's notices of it.
    pub fn port(&self) -> Result<u32, Error> {
        let mut address = SocketAddr::new(0, 0);
        self.socket.get_address(&mut address).map_err(Error::Socket)?;
        Ok(address.port_number())
    }

    /// The FORCE options pass the system's limit but want CAP_NET_ADMIN in the first user namespace; the plain ones are
    /// the second best.
    fn force(&self, bytes: usize, buffer: Buffer) {
        let fd = &self.socket;
        let forced = match buffer {
            Buffer::Send => setsockopt(fd, sockopt::SndBufForce, &bytes),
            Buffer::Receive => setsockopt(fd, sockopt::RcvBufForce, &bytes),
        };
        if forced.is_err() {
            let plain = match buffer {
                Buffer::Send => setsockopt(fd, sockopt::SndBuf, &bytes),
                Buffer::Receive => setsockopt(fd, sockopt::RcvBuf, &bytes),
            };
            if let Err(error) = plain {
                tracing::debug!(%error, bytes, "size a netlink buffer");
            }
        }
    }

    /// Makes the kernel's table what `new` says, given that it is `old` now; all at once.
    ///
    /// When the table is not what `old` says ([`Error::is_surprise`]) it is made anew. Returns how many changes were
    /// sent.
    pub fn apply(&self, old: Option<&Table>, new: &Table) -> Result<usize, Error> {
        let changes = diff(old, new);
        match self.commit(new.family, &new.name, &changes) {
            Err(error) if old.is_some() && error.is_surprise() => {
                tracing::warn!(table = new.name, %error, "somebody changed the table: making it anew");
                let changes = diff(None, new);
                self.commit(new.family, &new.name, &changes)?;
                Ok(changes.len())
            }
            Err(error) => Err(error),
            Ok(()) => Ok(changes.len()),
        }
    }

    /// Deletes a table, if it is there.
    pub fn delete(&self, family: Family, table: &str) -> Result<(), Error> {
        self.commit(family, table, &[Change::AddTable, Change::DropTable])
    }

    /// Sends one transaction.
    pub fn commit(&self, family: Family, table: &str, changes: &[Change]) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        let batch = encode::batch(family, table, changes, None);
        let mut attempt = 1;
        loop {
            match self.send_batch(batch.bytes(), changes) {
                Err(error) if error.is_clash() && attempt < ATTEMPTS => {
                    tracing::debug!(table, attempt, %error, "another writer was faster");
                    attempt += 1;
                    std::thread::sleep(std::time::Duration::from_millis(5 << attempt));
                }
                result => return result,
            }
        }
    }

    pub(crate) fn send_batch(&self, bytes: &[u8], changes: &[Change]) -> Result<(), Error> {
        // The kernel counts more than the bytes: twice the size is what libnftnl's users ask for, too.
        self.force((bytes.len() * 2).max(1 << 20), Buffer::Send);
        self.drain();
        self.socket.send(bytes, 0).map_err(Error::Socket)?;
        // The kernel worked through the batch within send: all answers are there.
        let mut failure = None;
        let mut buffer = Vec::with_capacity(DATAGRAM);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(Error::Socket(error)),
            }
            for message in Received::all(&buffer) {
                if message.kind == NLMSG_ERROR && message.error() != 0 && failure.is_none() {
                    failure = Some(Error::Refused {
                        change: describe(changes, message.sequence, bytes),
                        source: io::Error::from_raw_os_error(message.error()),
                    });
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Reads all answers of a dump. A dump that a writer interrupted is read again.
    pub(crate) fn dump(&self, request: &[u8], each: &mut dyn FnMut(&Received<'_>)) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            let mut bodies: Vec<Vec<u8>> = Vec::new();
            if self.dump_once(request, &mut bodies)? {
                for body in &bodies {
                    Received::all(body).iter().filter(|m| m.kind > NLMSG_DONE).for_each(&mut *each);
                }
                return Ok(());
            }
        }
        Err(Error::Socket(io::Error::from_raw_os_error(libc::EINTR)))
    }

    fn dump_once(&self, request: &[u8], bodies: &mut Vec<Vec<u8>>) -> Result<bool, Error> {
        self.drain();
        self.socket.send(request, 0).map_err(Error::Socket)?;
        let mut whole = true;
        loop {
            let mut buffer = Vec::with_capacity(DATAGRAM);
            self.socket.recv(&mut buffer, 0).map_err(Error::Socket)?;
            let mut done = false;
            for message in Received::all(&buffer) {
                whole &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE => done = true,
                    NLMSG_ERROR if message.error() == libc::EINTR => return Ok(false),
                    NLMSG_ERROR if message.error() != 0 => {
                        let source = io::Error::from_raw_os_error(message.error());
                        return Err(Error::Refused { change: "a question".into(), source });
                    }
                    NLMSG_ERROR => done = true,
                    _ => {}
                }
            }
            bodies.push(buffer);
            if done {
                return Ok(whole);
            }
        }
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) fn request(&self, bytes: &[u8]) -> Result<(), Error> {
        self.drain();
        self.socket.send(bytes, 0).map_err(Error::Socket)?;
        let mut buffer = Vec::with_capacity(DATAGRAM);
        self.socket.recv(&mut buffer, 0).map_err(Error::Socket)?;
        match Received::all(&buffer).iter().find(|m| m.kind == NLMSG_ERROR).map(Received::error) {
            Some(0) | None => Ok(()),
            Some(errno) => {
                Err(Error::Refused { change: "a request".into(), source: io::Error::from_raw_os_error(errno) })
            }
        }
    }

    /// Forgets late answers to an earlier, failed conversation.
    fn drain(&self) {
        let mut buffer = Vec::with_capacity(DATAGRAM);
        while self.socket.recv(&mut buffer, libc::MSG_DONTWAIT).is_ok() {
            buffer.clear();
        }
    }
}

#[derive(Clone, Copy)]
enum Buffer {
    Send,
    Receive,
}

/// Which change a sequence number belongs to: elements may take several messages, so this counts them again.
fn describe(changes: &[Change], sequence: u32, bytes: &[u8]) -> String {
    let kind = Received::all(bytes).iter().find(|m| m.sequence == sequence).map(|m| m.kind & 0xff);
    let mut left = sequence.saturating_sub(1);
    for change in changes {
        let messages = match change {
            Change::AddElements(_, set) | Change::DeleteElements(_, set) => {
                set.elements.len().div_ceil(400) + set.ranges.len().div_ceil(200)
            }
            _ => 1,
        };
        let messages = u32::try_from(messages).unwrap_or(u32::MAX);
        if left <= messages {
            let mut text = format!("{change:?}");
            let cut = text.char_indices().nth(300).map_or(text.len(), |(i, _)| i);
            text.truncate(cut);
            return text;
        }
        left -= messages;
    }
    format!("message {sequence} (type {kind:?})")
}
