//! A connection with its streams.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::codec::{FramedRead, FramedWrite};
use tokio_util::sync::CancellationToken;

use super::codec::{Codec, Frame};

/// Frames that may wait for a stream's reader before the whole connection waits: there is no flow control in the
/// protocol as spoken.
const QUEUE: usize = 64;

/// What was said before the end is given this long to be taken.
const LINGER: Duration = Duration::from_secs(1);

type Readers = Arc<Mutex<HashMap<u32, mpsc::Sender<Bytes>>>>;

struct Shared {
    data: mpsc::Sender<Frame>,
    control: mpsc::UnboundedSender<Frame>,
    readers: Readers,
    next: AtomicU32,
    closed: CancellationToken,
}

/// One end of a connection. Dropping all handles and streams closes it.
#[derive(Clone)]
pub struct Session(Arc<Shared>);

/// A stream that the peer opened.
#[derive(Debug)]
pub struct Incoming {
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The stream; accepted already.
    pub stream: Stream,
}

impl Incoming {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// A stream: bytes both ways, each way ended on its own.
pub struct Stream {
    id: u32,
    session: Arc<Shared>,
    reader: mpsc::Receiver<Bytes>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The sending half of a stream.
#[derive(Clone)]
pub struct Sender {
    id: u32,
    session: Arc<Shared>,
}

impl Sender {
    /// Sends bytes; false when the connection is gone.
    pub async fn send(&self, bytes: Bytes) -> bool {
        bytes.is_empty() || self.session.data.send(Frame::Data { id: self.id, fin: false, bytes }).await.is_ok()
    }

    /// Says that nothing more will be sent.
    pub async fn finish(&self) {
        let _ = self.session.data.send(Frame::Data { id: self.id, fin: true, bytes: Bytes::new() }).await;
    }

    /// Ends the stream both ways.
    pub fn reset(&self) {
        let _ = self.session.control.send(Frame::Reset { id: self.id, status: 5 });
        self.session.readers.lock().remove(&self.id);
    }
}

impl Stream {
    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.reader.recv().await
    }

    /// A handle for sending.
    pub fn sender(&self) -> Sender {
        Sender { id: self.id, session: self.session.clone() }
    }
}

impl Session {
    /// Speaks SPDY over `io`; streams that the peer opens come out of the receiver.
    pub fn start(io: impl AsyncRead + AsyncWrite + Send + 'static, client: bool) -> (Self, mpsc::Receiver<Incoming>) {
        let (read, write) = tokio::io::split(io);
        let (data, data_out) = mpsc::channel(QUEUE);
        let (control, control_out) = mpsc::unbounded_channel();
        let (incoming, incoming_out) = mpsc::channel(16);
        let shared = Arc::new(Shared {
            data,
            control,
            readers: Readers::default(),
            next: AtomicU32::new(if client { 1 } else { 2 }),
            closed: CancellationToken::new(),
        });
        tokio::spawn(write_frames(write, data_out, control_out, shared.closed.clone()));
        let (weak, readers, closed) = (Arc::downgrade(&shared), shared.readers.clone(), shared.closed.clone());
        tokio::spawn(async move {
            let done =
                closed.clone().run_until_cancelled_owned(read_frames(read, weak, readers.clone(), incoming)).await;
            if let Some(Err(error)) = done {
                tracing::debug!(%error, "SPDY connection");
            }
            readers.lock().clear();
            closed.cancel();
        });
        (Self(shared), incoming_out)
    }

    /// Opens a stream.
    pub async fn open(&self, headers: &[(&str, &str)]) -> io::Result<Stream> {
        let id = self.0.next.fetch_add(2, Ordering::Relaxed);
        let (sender, reader) = mpsc::channel(QUEUE);
        self.0.readers.lock().insert(id, sender);
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let open = Frame::Open { id, fin: false, headers };
        self.0.data.send(open).await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(Stream { id, session: self.0.clone(), reader })
    }

    /// Ends the connection.
    pub fn close(&self) {
        self.0.closed.cancel();
    }

    /// Ends when the connection has ended.
    pub async fn closed(&self) {
        self.0.closed.cancelled().await;
    }
}

async fn write_frames(
    write: impl AsyncWrite + Unpin,
    mut data: mpsc::Receiver<Frame>,
    mut control: mpsc::UnboundedReceiver<Frame>,
    closed: CancellationToken,
) {
    let mut sink = FramedWrite::new(write, Codec::default());
    loop {
        let frame = tokio::select! {
            biased;
            Some(frame) = control.recv() => frame,
            frame = data.recv() => match frame { Some(frame) => frame, None => break },
            () = closed.cancelled() => {
                // What was said before the end is still sent.
                let rest = async {
                    while let Ok(frame) = data.try_recv() {
                        if sink.feed(frame).await.is_err() { break }
                    }
                };
                let _ = tokio::time::timeout(LINGER, rest).await;
                break;
            }
        };
        // A peer that does not read must not keep the connection once it is to end.
        let sent = tokio::select! {
            sent = sink.send(frame) => sent.is_ok(),
            () = stuck(&closed) => false,
        };
        if !sent {
            break;
        }
    }
    closed.cancel();
    let _ = tokio::time::timeout(LINGER, sink.close()).await;
}

/// Ends a while after the connection is to end.
async fn stuck(closed: &CancellationToken) {
    closed.cancelled().await;
    tokio::time::sleep(LINGER).await;
}

async fn read_frames(
    read: impl AsyncRead + Unpin,
    session: std::sync::Weak<Shared>,
    readers: Readers,
    incoming: mpsc::Sender<Incoming>,
) -> io::Result<()> {
    let mut frames = FramedRead::new(read, Codec::default());
    while let Some(frame) = frames.next().await {
        match frame? {
            Frame::Open { id, fin, headers } => {
                let Some(shared) = session.upgrade() else { return Ok(()) };
                let (sender, reader) = mpsc::channel(QUEUE);
                if !fin {
                    readers.lock().insert(id, sender);
                }
                let _ = shared.control.send(Frame::Reply { id, fin: false });
                let stream = Stream { id, session: shared, reader };
                if incoming.send(Incoming { headers, stream }).await.is_err() {
                    return Ok(());
                }
            }
            Frame::Data { id, fin, bytes } => {
                let reader = readers.lock().get(&id).cloned();
                if let Some(reader) = reader
                    && !bytes.is_empty()
                    && reader.send(bytes).await.is_err()
                {
                    readers.lock().remove(&id);
                }
                if fin {
                    readers.lock().remove(&id);
                }
            }
            Frame::Reply { id, fin: true } | Frame::Reset { id, .. } => {
                readers.lock().remove(&id);
            }
            Frame::Ping { id } => {
                // Even numbers are the server's, odd ones the client's; an answer to our own would be dropped (we send
                // none).
                if let Some(shared) = session.upgrade() {
                    let _ = shared.control.send(Frame::Ping { id });
                }
            }
            Frame::Reply { .. } | Frame::GoAway { .. } | Frame::Other => {}
        }
    }
    Ok(())
}
