//! A run of kinit that is interrupted after a chosen step.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::lab::{Lab, eventually};

/// How a run is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// kinit is killed with SIGKILL.
    Kill,
    /// The host at work loses power, and gets it back when kinit has ended.
    PowerOff,
}

/// What was interrupted.
#[derive(Debug, Clone)]
pub struct Interrupted {
    /// The host whose step was the last that ended; empty for a step of the cluster.
    pub host: String,
    /// That step.
    pub step: String,
}

/// Longer than kinit takes to notice that a host is gone.
const NOTICED: Duration = Duration::from_secs(180);

impl Lab {
    /// Runs kinit with `--output jsonl` to its end, and counts its steps.
    pub fn steps(&self, arguments: &[&str]) -> Result<usize> {
        let ran = self.kinit(&[arguments, &["--output", "jsonl"]].concat())?.ok(&arguments.join(" "))?;
        Ok(ran.lines().filter(|line| step(line).is_some()).count())
    }

    /// Runs kinit and interrupts it after its step number `after`, the first being 0; `None` when it had fewer.
    pub fn interrupt(&self, arguments: &[&str], after: usize, how: Interruption) -> Result<Option<Interrupted>> {
        let mut command = self.kinit_command(&[arguments, &["--output", "jsonl"]].concat());
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut kinit = command.spawn().context("start kinit")?;
        let lines = BufReader::new(kinit.stdout.take().context("kinit has no output")?).lines();
        let mut steps = lines.map_while(std::result::Result::ok).filter_map(|line| step(&line));
        let Some(reached) = steps.nth(after) else {
            let status = kinit.wait().context("wait for kinit")?;
            ensure!(status.success(), "{}: {status}", arguments.join(" "));
            return Ok(None);
        };
        match how {
            Interruption::PowerOff if !reached.host.is_empty() => {
                self.playground("power-off", &[&reached.host])?.ok("power off")?;
                // A full pipe would stop it.
                for _ in steps {}
                end(&mut kinit)?;
                self.playground("power-on", &[&reached.host])?.ok("power on")?;
                eventually(Duration::from_secs(60), || self.ssh(&reached.host, "true"))?;
            }
            _ => {
                kinit.kill().context("kill kinit")?;
                kinit.wait().context("wait for kinit")?;
            }
        }
        Ok(Some(reached))
    }
}

/// The step that a line of output says has ended.
fn step(line: &str) -> Option<Interrupted> {
    let event: Value = serde_json::from_str(line).ok()?;
    let text = |field: &str| Some(event[field].as_str()?.to_owned());
    (event["event"] == "stepDone").then_some(())?;
    Some(Interrupted { host: text("host")?, step: text("step")? })
}

/// Waits for a kinit that has lost a host.
fn end(kinit: &mut Child) -> Result<()> {
    let ended = eventually(NOTICED, || match kinit.try_wait()? {
        Some(_) => Ok(()),
        None => bail!("kinit has not noticed that the host is gone"),
    });
    if ended.is_err() {
        kinit.kill().context("kill kinit")?;
        kinit.wait().context("wait for kinit")?;
    }
    ended
}
