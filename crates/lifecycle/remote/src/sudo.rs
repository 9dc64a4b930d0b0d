//! Root by sudo, for hosts that are reached as another user.
//!
//! ```text
//! desk                                host, stderr                     host, stdin
//! sudo -S -k -p PROMPT -- sh ... ───►
//!      (only when sudo asks)     ◄─── PROMPT
//!      password, a line          ─────────────────────────────────────► read by sudo alone
//!                                ◄─── STARTED: the program has begun
//!      the program's own input   ─────────────────────────────────────►
//! ```
//!
//! A password is sent when sudo has asked for it and never otherwise: where sudo needs none, it would be the first line
//! of what the program reads. `-k` makes sudo ask every time, so that what happens does not depend on an earlier login.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use tokio::io::AsyncWriteExt;
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use crate::desk::{Prompt, Questions, Secret};
use crate::ssh::STALL;
use crate::{Process, Transport, upload};

/// sudo's prompt. One word: it passes through the login shell.
const PROMPT: &str = "kinit-wants-the-sudo-password:";
/// Said by the shell that sudo started, before it becomes the program.
const STARTED: &str = "kinit-runs-by-sudo\n";

/// Why sudo started nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SudoProblem {
    /// The password is not the user's.
    #[error("sudo does not take this password of {0}")]
    WrongPassword(String),
    /// sudoers does not know the user.
    #[error("sudo: {0} may not become root on this host: {1}")]
    NotAllowed(String, String),
    /// `Defaults requiretty`.
    #[error("sudo on this host wants a terminal (requiretty); allow {0} to do without: `Defaults:{0} !requiretty`")]
    WantsTerminal(String),
    /// There is no sudo.
    #[error("sudo is not installed on this host; {0} cannot become root by it")]
    NotInstalled(String),
    /// Anything else it said.
    #[error("sudo did not start a program for {0}: {1}")]
    Other(String, String),
}

/// The password, asked for once for all hosts and only if one wants it.
#[derive(Clone)]
pub(crate) struct SudoPassword {
    prompt: Arc<dyn Prompt>,
    known: Arc<OnceCell<Result<Secret, String>>>,
    questions: Questions,
}

impl SudoPassword {
    pub(crate) fn new(prompt: Arc<dyn Prompt>, questions: Questions) -> Self {
        Self { prompt, known: Arc::default(), questions }
    }

    async fn get(&self, user: &str) -> Result<Secret> {
        let ask = async {
            let (prompt, user) = (self.prompt.clone(), user.to_owned());
            let answer = self.questions.ask(move || prompt.sudo_password(&user)).await;
            answer.and_then(|a| a).map_err(|error| format!("{error:#}"))
        };
        self.known.get_or_init(|| ask).await.clone().map_err(|why| anyhow!(why))
    }
}

/// A host where everything is done by sudo.
pub(crate) struct Sudo {
    pub(crate) inner: Box<dyn Transport>,
    pub(crate) user: String,
    pub(crate) password: SudoPassword,
    pub(crate) questions: Questions,
}

#[async_trait::async_trait]
impl Transport for Sudo {
    async fn exec(&self, command: &str) -> Result<Process> {
        // `env`, because not every login shell takes an assignment before a command; sudo's words are read below.
        let line = format!(
            "env LC_ALL=C sudo -S -k -p {PROMPT} -- /bin/sh -c 'echo {} >&2; exec \"$@\"' kinit {command}",
            STARTED.trim_end()
        );
        let mut process = self.inner.exec(&line).await?;
        let begun = self.questions.patient(STALL, self.begin(&mut process)).await;
        begun.unwrap_or_else(|| {
            let problem = SudoProblem::Other(
                self.user.clone(),
                format!("no answer within {} s; it said: {}", STALL.as_secs(), process.complaint()),
            );
            Err(problem.into())
        })?;
        Ok(process)
    }

    async fn put(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        upload::put(self, path, bytes, mode, STALL).await
    }
}

impl Sudo {
    /// Talks with sudo until the program has begun.
    async fn begin(&self, process: &mut Process) -> Result<()> {
        let (mut said, mut outcome, mut answered) = (process.stderr.watch(), process.outcome.clone(), false);
        loop {
            // Marked as seen first: what comes after the look below wakes the wait.
            said.borrow_and_update();
            let ended = outcome.borrow_and_update().is_some();
            if process.stderr.take(STARTED).is_some() {
                return Ok(());
            }
            if process.stderr.take(PROMPT).is_some() {
                if answered {
                    return Err(SudoProblem::WrongPassword(self.user.clone()).into());
                }
                let password = self.password.get(&self.user).await;
                let password = password.with_context(|| format!("sudo wants the password of {}", self.user))?;
                let line = Zeroizing::new(format!("{}\n", password.reveal()));
                process.stdin.write_all(line.as_bytes()).await.context("answer sudo")?;
                process.stdin.flush().await.context("answer sudo")?;
                answered = true;
                continue;
            }
            if ended {
                return Err(classify(&self.user, &process.complaint()).into());
            }
            tokio::select! {
                changed = said.changed() => changed.context("listen to sudo")?,
                changed = outcome.changed() => {
                    if changed.is_err() {
                        bail!("the connection ended while sudo started a program");
                    }
                }
            }
        }
    }
}

/// sudo's messages in the C locale (`sudo.c`, `plugins/sudoers`), and that of env(1) when there is none.
fn classify(user: &str, said: &str) -> SudoProblem {
    let user = user.to_owned();
    let says = |words: &[&str]| words.iter().any(|w| said.contains(w));
    if says(&["sudoers file", "may not run sudo", "is not allowed to execute", "not allowed to run sudo"]) {
        return SudoProblem::NotAllowed(user, said.to_owned());
    }
    if says(&["must have a tty", "a terminal is required"]) {
        return SudoProblem::WantsTerminal(user);
    }
    if says(&["'sudo': No such file", "sudo: not found", "sudo: command not found"]) {
        return SudoProblem::NotInstalled(user);
    }
    if says(&["incorrect password attempt", "no password was provided"]) {
        return SudoProblem::WrongPassword(user);
    }
    SudoProblem::Other(user, said.to_owned())
}

#[cfg(test)]
#[path = "sudo_tests.rs"]
mod tests;
