//! What the person at the desk is asked for, and the time that answering takes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::sync::watch;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// A password or a passphrase. It has no form that can be printed, and its memory is overwritten at its end.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// Takes the text over.
    pub fn new(text: String) -> Self {
        Self(Arc::new(Zeroizing::new(text)))
    }

    /// The text, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Where secrets come from: a terminal, a file descriptor, a file. Calls block; the error says how the secret could
/// have been given.
pub trait Prompt: Send + Sync {
    /// The passphrase of a private key on the desk; `wrong` is how many were wrong before. An error ends the attempts.
    fn passphrase(&self, key: &Path, wrong: u32) -> Result<Secret>;
    /// The password that sudo on the hosts wants of this user. One for all hosts.
    fn sudo_password(&self, user: &str) -> Result<Secret>;
}

/// Nobody is there to be asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPrompt;

impl Prompt for NoPrompt {
    fn passphrase(&self, _: &Path, _: u32) -> Result<Secret> {
        Err(anyhow!("it has a passphrase, and there is nobody to ask"))
    }

    fn sudo_password(&self, _: &str) -> Result<Secret> {
        Err(anyhow!("there is nobody to ask"))
    }
}

/// Counts the questions that are open, so that time limits for hosts do not run while a person thinks.
#[derive(Clone, Debug)]
pub(crate) struct Questions(watch::Sender<usize>);

impl Default for Questions {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

struct Open(watch::Sender<usize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open = open.saturating_sub(1));
    }
}

impl Questions {
    /// Does what may ask on a thread of its own: the runtime's go on with heartbeats to other hosts.
    pub(crate) async fn ask<T: Send + 'static>(&self, question: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        self.0.send_modify(|open| *open += 1);
        let open = Open(self.0.clone());
        let answered = tokio::task::spawn_blocking(move || {
            let answer = question();
            drop(open);
            answer
        });
        answered.await.context("ask")
    }

    /// Works for at most `limit`, not counting the time in which any question is open; `None` when that is over.
    pub(crate) async fn patient<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        let (mut left, mut open) = (limit, self.0.subscribe());
        tokio::pin!(work);
        loop {
            let asking = *open.borrow_and_update() > 0;
            let started = Instant::now();
            tokio::select! {
                result = &mut work => return Some(result),
                _ = open.changed() => {}
                () = tokio::time::sleep(left), if !asking => return None,
            }
            if !asking {
                left = left.saturating_sub(started.elapsed());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_person_may_think_longer_than_a_host() {
        let questions = Questions::default();
        let (limit, thinking) = (Duration::from_millis(200), Duration::from_millis(600));
        let asked = questions.ask(move || std::thread::sleep(thinking));
        assert!(questions.patient(limit, asked).await.is_some());
        assert!(questions.patient(limit, tokio::time::sleep(thinking)).await.is_none());
    }

    #[test]
    fn secrets_have_no_printed_form() {
        assert_eq!(format!("{:?}", Secret::new("hunter2".into())), "Secret");
    }
}
