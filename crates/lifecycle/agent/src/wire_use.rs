//! What a conversation with an agent costs the line: how often the desk waited for an answer, and how many bytes went
//! each way.

use std::io::Result;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The cost so far. Bytes are those of the agent's protocol, before SSH compresses and encrypts them; the copy of kinit
/// itself, which a host gets once per build, is not among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WireUse {
    /// Requests that were answered, each a round trip.
    pub round_trips: u64,
    /// Bytes to the host.
    pub sent: u64,
    /// Bytes from the host.
    pub received: u64,
}

/// Counts for one agent.
#[derive(Debug, Default)]
pub(crate) struct WireCounters {
    round_trips: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl WireCounters {
    /// A request is about to be sent.
    pub(crate) fn ask(&self) {
        self.round_trips.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> WireUse {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WireUse { round_trips: of(&self.round_trips), sent: of(&self.sent), received: of(&self.received) }
    }
}

/// A half of the channel whose bytes are counted.
pub(crate) struct Counted<T> {
    pub(crate) inner: T,
    pub(crate) counters: Arc<WireCounters>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.counters.received.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = polled {
            self.counters.sent.fetch_add(written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_of_both_ways_are_counted() {
        let counters = Arc::new(WireCounters::default());
        let (desk, mut host) = tokio::io::duplex(64);
        let mut desk = Counted { inner: desk, counters: counters.clone() };
        counters.ask();
        desk.write_all(b"how are you").await.unwrap();
        host.write_all(b"well").await.unwrap();
        drop(host);
        let mut text = String::new();
        desk.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "well");
        assert_eq!(counters.read(), WireUse { round_trips: 1, sent: 11, received: 4 });
    }
}
