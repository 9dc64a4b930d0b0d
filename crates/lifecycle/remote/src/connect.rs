//! The way to a host: jump hosts, each reached through the one before, shared by all hosts behind them.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use russh::client::Handle;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, OnceCell};

use crate::Transport;
use crate::desk::{Prompt, Questions};
use crate::keyring::Keyring;
use crate::process::Tail;
use crate::route::{Hop, Target};
use crate::ssh::{Access, Check, Ssh, Stream, open, within};
use crate::sudo::{Sudo, SudoPassword};

/// The desk's end of all connections of a run: what it was told once is not asked for again, and a jump host is
/// connected to once (its sshd limits logins that are under way, `MaxStartups`).
#[derive(Clone)]
pub struct Desk {
    access: Access,
    sudo_password: SudoPassword,
    jumps: Jumps,
}

/// Jump hosts by the way to them; a cell, so that the first of several hosts connects and the others wait for it.
type Jumps = Arc<Mutex<HashMap<String, Arc<OnceCell<Arc<Link>>>>>>;

/// A jump host, or the program in its place.
pub(crate) struct Link {
    handle: Option<Handle<Check>>,
    /// What this one runs through.
    _through: Option<Arc<Link>>,
    /// Ends with the link.
    _program: Option<Child>,
}

impl Link {
    fn is_closed(&self) -> bool {
        self.handle.as_ref().is_some_and(Handle::is_closed)
    }
}

impl Desk {
    /// `prompt` is asked for secrets when a host or a key wants one.
    pub fn new(prompt: Arc<dyn Prompt>) -> Self {
        let questions = Questions::default();
        let keyring = Arc::new(Keyring::new(prompt.clone(), questions.clone()));
        let sudo_password = SudoPassword::new(prompt, questions.clone());
        Self { access: Access { keyring, questions }, sudo_password, jumps: Arc::default() }
    }

    /// Connects and logs in. Programs are started by sudo unless the user is root.
    pub async fn connect(&self, target: &Target) -> Result<Box<dyn Transport>> {
        let questions = &self.access.questions;
        let connected = questions.patient(target.timeout, self.reach(target)).await;
        let ssh: Box<dyn Transport> = Box::new(connected.unwrap_or_else(|| {
            let (address, port) = (&target.host.address, target.host.port);
            let way: String = target.jumps.iter().map(|j| format!(" through {}:{}", j.address, j.port)).collect();
            Err(anyhow!("connect to {address}:{port}{way}: no answer within {} s", target.timeout.as_secs()))
        })?);
        if target.host.user == "root" {
            return Ok(ssh);
        }
        let (password, questions) = (self.sudo_password.clone(), questions.clone());
        Ok(Box::new(Sudo { inner: ssh, user: target.host.user.clone(), password, questions }))
    }

    async fn reach(&self, target: &Target) -> Result<Ssh> {
        let (mut through, mut way) = (None, target.proxy_command.clone().unwrap_or_default());
        let mut command = target.proxy_command.as_deref();
        for jump in &target.jumps {
            way += &format!(" {}@{}:{}", jump.user, jump.address, jump.port);
            let link = self.jump(&way, jump, through, command.take()).await;
            through = Some(link.with_context(|| format!("jump host {}:{}", jump.address, jump.port))?);
        }
        let link = self.link(&target.host, through, command).await;
        let link = link.with_context(|| format!("connect to {}:{}", target.host.address, target.host.port))?;
        let Link { handle, _through, _program } = link;
        let handle = handle.context("no connection")?;
        let rest = Link { handle: None, _through, _program };
        Ok(Ssh { handle, _through: Some(Arc::new(rest)) })
    }

    /// The connection to a jump host that is there, or a new one; hosts that need it at once wait for the first.
    async fn jump(
        &self,
        way: &str,
        jump: &Hop,
        through: Option<Arc<Link>>,
        command: Option<&str>,
    ) -> Result<Arc<Link>> {
        let cell = {
            let mut jumps = self.jumps.lock().await;
            let cell = jumps.entry(way.to_owned()).or_default();
            if cell.get().is_some_and(|link| link.is_closed()) {
                *cell = Arc::default();
            }
            cell.clone()
        };
        let link = cell.get_or_try_init(|| async { self.link(jump, through, command).await.map(Arc::new) }).await?;
        Ok(link.clone())
    }

    async fn link(&self, hop: &Hop, through: Option<Arc<Link>>, command: Option<&str>) -> Result<Link> {
        if let Some(command) = command {
            let (stream, program, said) = spawn(command)?;
            let opened = open(hop, Some(stream), &self.access).await;
            let handle = opened.with_context(|| format!("through the program {command:?} {}", said.text()))?;
            return Ok(Link { handle: Some(handle), _through: None, _program: Some(program) });
        }
        let stream: Option<Box<dyn Stream>> = match through.as_ref().and_then(|link| link.handle.as_ref()) {
            Some(jump) => {
                let opening = jump.channel_open_direct_tcpip(hop.address.clone(), hop.port.into(), "127.0.0.1", 0);
                let what = "ask the jump host for a connection there (does it reach it, and does its sshd allow AllowTcpForwarding?)";
                Some(Box::new(within(what, opening).await?.into_stream()))
            }
            None => None,
        };
        let handle = open(hop, stream, &self.access).await?;
        Ok(Link { handle: Some(handle), _through: through, _program: None })
    }
}

/// Starts a `ProxyCommand`: as with ssh(1) it replaces a shell.
fn spawn(command: &str) -> Result<(Box<dyn Stream>, Child, Tail)> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", &format!("exec {command}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start the program {command:?}"))?;
    let (to, from) = (child.stdin.take().context("no stdin")?, child.stdout.take().context("no stdout")?);
    let mut errors = child.stderr.take().context("no stderr")?;
    let said = Tail::default();
    let tail = said.clone();
    tokio::spawn(async move {
        let mut buffer = [0u8; 1024];
        while let Ok(n @ 1..) = errors.read(&mut buffer).await {
            tail.push(buffer.get(..n).unwrap_or_default());
        }
    });
    Ok((Box::new(tokio::io::join(from, to)), child, said))
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
