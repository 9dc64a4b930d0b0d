//! A program that goes on talking: `get -w`, `logs -f`, `exec -it`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A running program and what it has said; ended when dropped.
pub struct Follow {
    child: Child,
    input: Option<Box<dyn Write + Send>>,
    lines: Receiver<String>,
    heard: Vec<String>,
}

impl Follow {
    /// Reads its output through a pipe.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().context("start")?;
        let output = child.stdout.take().context("no output")?;
        Ok(Self { child, input: None, lines: read(output), heard: Vec::new() })
    }

    /// Gives it a terminal.
    pub fn on_terminal(command: &mut Command) -> Result<Self> {
        let pty = nix::pty::openpty(None, None).context("open a terminal")?;
        let side = || pty.slave.try_clone().map(Stdio::from);
        command.stdin(side()?).stdout(side()?).stderr(side()?);
        let child = command.spawn().context("start on a terminal")?;
        // Ours of the program's side must close, or its end is never seen.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        drop(pty.slave);
        let master = File::from(pty.master);
        let input = Box::new(master.try_clone()?);
        Ok(Self { child, input: Some(input), lines: read(master), heard: Vec::new() })
    }

    /// Types a line.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("it has no input")?;
        Ok(writeln!(input, "{line}")?)
    }

    /// Waits for a line with `text` in it and returns that line.
    pub fn expect(&mut self, text: &str, within: Duration) -> Result<String> {
        let deadline = Instant::now() + within;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.heard.push(line.clone());
                    if line.contains(text) {
                        return Ok(line);
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("no {text:?} within {within:?}; heard {:#?}", self.heard),
                Err(RecvTimeoutError::Disconnected) => bail!("it ended without {text:?}; heard {:#?}", self.heard),
            }
        }
    }

    /// Waits for its end; its exit status.
    pub fn end(mut self, within: Duration) -> Result<i32> {
        drop(self.input.take());
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code().unwrap_or(-1));
            }
            if Instant::now() > deadline {
                bail!("it did not end within {within:?}; heard {:#?}", self.heard);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Lines as they come. A terminal's end is an error of reading, a pipe's its end: both end the thread.
fn read(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}
