//! A list's body from what the cache holds: in slices, so that a large list is in memory once, and not once a request.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};

/// Small objects are gathered into slices of about this size: a slice costs a frame and a turn of the connection.
const SLICE: usize = 32 * 1024;

/// `head`, the parts with commas between them, `tail`.
pub struct Joined {
    head: Bytes,
    parts: std::vec::IntoIter<Bytes>,
    /// The part that is next, taken before its turn.
    next: Option<Bytes>,
    first: bool,
    tail: Bytes,
    left: u64,
}

impl Joined {
    /// Nothing is copied yet.
    pub fn new(head: impl Into<Bytes>, parts: Vec<Bytes>, tail: &'static str) -> Self {
        let (head, tail) = (head.into(), Bytes::from_static(tail.as_bytes()));
        let commas = parts.len().saturating_sub(1);
        let size = head.len() + tail.len() + commas + parts.iter().map(Bytes::len).sum::<usize>();
        Self { head, parts: parts.into_iter(), next: None, first: true, tail, left: size as u64 }
    }

    fn slice(&mut self) -> Bytes {
        let mut out = BytesMut::with_capacity(SLICE.min(usize::try_from(self.left).unwrap_or(SLICE)));
        out.extend_from_slice(&std::mem::take(&mut self.head));
        while let Some(part) = self.next.take().or_else(|| self.parts.next()) {
            if !out.is_empty() && out.len() + part.len() + 1 > SLICE {
                self.next = Some(part);
                return out.freeze();
            }
            if !std::mem::replace(&mut self.first, false) {
                out.extend_from_slice(b",");
            }
            out.extend_from_slice(&part);
        }
        out.extend_from_slice(&std::mem::take(&mut self.tail));
        out.freeze()
    }
}

impl Body for Joined {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let slice = self.slice();
        self.left = self.left.saturating_sub(slice.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn every_byte_once_in_bounded_slices() {
        for sizes in
            [vec![], vec![1], vec![10; 3], vec![1_000; 500], vec![SLICE - 1, 1, SLICE, SLICE + 1, 3 * SLICE, 2]]
        {
            let parts: Vec<Bytes> = sizes.iter().map(|size| Bytes::from(vec![b'x'; *size])).collect();
            let texts: Vec<String> = sizes.iter().map(|size| "x".repeat(*size)).collect();
            let want = format!("[{}]\n", texts.join(","));
            let mut body = Joined::new("[", parts, "]\n");
            assert_eq!(body.size_hint().exact(), Some(want.len() as u64), "{sizes:?}");
            let mut got = Vec::new();
            while let Some(frame) = body.frame().await {
                let data = frame.unwrap().into_data().unwrap();
                let largest = sizes.iter().max().copied().unwrap_or(0).max(SLICE);
                assert!(!data.is_empty() && data.len() <= largest + 3, "{} of {sizes:?}", data.len());
                got.extend_from_slice(&data);
            }
            assert!(body.is_end_stream());
            assert_eq!(got.len(), want.len(), "{sizes:?}");
            assert_eq!(got, want.into_bytes());
        }
    }
}
