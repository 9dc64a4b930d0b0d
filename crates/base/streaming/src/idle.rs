//! Connections that end when nothing goes through them (`streamingConnectionIdleTimeout`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

type Last = Arc<Mutex<Instant>>;

/// A connection that notes when bytes last went through it.
#[derive(Debug)]
pub struct Noted<S> {
    inner: S,
    last: Last,
}

/// Knows how long a connection has been quiet.
#[derive(Debug, Clone)]
pub struct Quiet(Last);

impl Quiet {
    /// Waits until nothing went through for `time`.
    pub async fn lasts(&self, time: Duration) {
        loop {
            let end = *self.0.lock() + time;
            if Instant::now() >= end {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

impl<S> Noted<S> {
    /// Watches over `inner`.
    pub fn new(inner: S) -> (Self, Quiet) {
        let last = Arc::new(Mutex::new(Instant::now()));
        (Self { inner, last: last.clone() }, Quiet(last))
    }

    fn note(&self) {
        *self.last.lock() = Instant::now();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if polled.is_ready() && buf.filled().len() > before {
            self.note();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        if matches!(polled, Poll::Ready(Ok(written)) if written > 0) {
            self.note();
        }
        polled
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn bytes_either_way_keep_it_up() {
        let (near, mut far) = tokio::io::duplex(64);
        let (mut near, quiet) = Noted::new(near);
        let limit = Duration::from_millis(200);
        let ended = tokio::spawn(async move { quiet.lasts(limit).await });
        for _ in 0..3 {
            tokio::time::sleep(limit / 2).await;
            near.write_all(b"x").await.unwrap();
            far.read_u8().await.unwrap();
            tokio::time::sleep(limit / 2).await;
            far.write_all(b"y").await.unwrap();
            near.read_u8().await.unwrap();
        }
        assert!(!ended.is_finished());
        tokio::time::timeout(limit * 5, ended).await.expect("it stays up although nobody speaks").unwrap();
    }
}
