//! A program on a host.

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

    /// Waits until it has ended; what it printed to stderr is complete then.
    pub(crate) async fn ended(&mut self) -> Outcome {
        match self.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_default(),
            Err(_) => Outcome::default(),
        }
    }
}

/// The last kilobytes of a stream.
#[derive(Clone, Debug)]
pub(crate) struct Tail(watch::Sender<Vec<u8>>);

impl Default for Tail {
    fn default() -> Self {
        Self(watch::Sender::new(Vec::new()))
    }
}

const KEEP: usize = 4096;

impl Tail {
    pub(crate) fn push(&self, bytes: &[u8]) {
        self.0.send_modify(|kept| {
            kept.extend_from_slice(bytes);
            let surplus = kept.len().saturating_sub(KEEP);
            kept.drain(..surplus);
        });
    }

    /// Forgets everything up to the first occurrence of `marker`, itself included, and returns what stood before it.
    pub(crate) fn take(&self, marker: &str) -> Option<String> {
        let mut before = None;
        self.0.send_if_modified(|kept| {
            let found = kept.windows(marker.len()).position(|w| w == marker.as_bytes());
            before = found.map(|at| String::from_utf8_lossy(kept.get(..at).unwrap_or_default()).trim().to_owned());
            found.map(|at| kept.drain(..at + marker.len())).is_some()
        });
        before
    }

    /// Hears of every change.
    pub(crate) fn watch(&self) -> watch::Receiver<Vec<u8>> {
        self.0.subscribe()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.borrow()).trim().to_owned()
    }
}
