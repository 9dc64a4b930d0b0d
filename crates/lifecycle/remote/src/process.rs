//! A program on a host.

use std::sync::Arc;
use std::sync::Mutex;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Exit status; `None` when the connection ended first.
    pub status: Option<u32>,
}

/// A running program. Dropping it closes its stdin.
pub struct Process {
    /// To the program.
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    /// From the program.
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// Known once it has ended.
    pub outcome: watch::Receiver<Option<Outcome>>,
    pub(crate) stderr: Tail,
}

impl Process {
    /// The end of what it printed to stderr, for error texts.
    pub fn complaint(&self) -> String {
        self.stderr.text()
    }
}

/// The last kilobytes of a stream.
#[derive(Clone, Default, Debug)]
pub(crate) struct Tail(Arc<Mutex<Vec<u8>>>);

const KEEP: usize = 4096;

impl Tail {
    pub(crate) fn push(&self, bytes: &[u8]) {
        let Ok(mut kept) = self.0.lock() else { return };
        kept.extend_from_slice(bytes);
        let surplus = kept.len().saturating_sub(KEEP);
        kept.drain(..surplus);
    }

    fn text(&self) -> String {
        let kept = self.0.lock().map(|k| k.clone()).unwrap_or_default();
        String::from_utf8_lossy(&kept).trim().to_owned()
    }
}
