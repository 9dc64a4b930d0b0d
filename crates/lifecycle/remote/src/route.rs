//! From what the cluster file and the desk's OpenSSH configuration say of a host to the connections that lead there.
//!
//! Explicit values of the cluster file win over the configuration, and that over the defaults. A jump host is looked up
//! in the configuration under its own name, as ssh(1) does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::hostkey::{HostKeyPolicy, OnUnknown};
use crate::ssh_config::SshConfig;
use crate::ssh_settings::{Asked, HostSettings, Proxy};

/// What the cluster file says of reaching a host. Names of files are as they stand there; `~/` is the home directory.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Name or address.
    pub address: String,
    /// Port.
    pub port: Option<u16>,
    /// User.
    pub user: Option<String>,
    /// Private key: no other is tried.
    pub identity_file: Option<String>,
    /// Host keys on the desk.
    pub known_hosts: Option<String>,
    /// The one host key that is right.
    pub host_key: Option<String>,
    /// `[USER@]HOST[:PORT][,...]`, or `none`.
    pub proxy_jump: Option<String>,
}

/// Keys to log in with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identities {
    /// Configured private keys, in the order in which they are tried. One that is in the SSH agent is used from there.
    pub files: Vec<PathBuf>,
    /// Whether these were named; otherwise they are OpenSSH's defaults.
    pub named: bool,
    /// Other keys of the SSH agent are not tried.
    pub only: bool,
    /// A key of `files` that cannot be read is an error, and not just left out.
    pub required: bool,
    /// The SSH agent's socket, if there is one to be asked.
    pub agent: Option<PathBuf>,
}

/// One SSH connection.
#[derive(Clone)]
pub struct Hop {
    /// Name or address.
    pub address: String,
    /// Port.
    pub port: u16,
    /// User.
    pub user: String,
    /// Keys.
    pub identities: Identities,
    /// Whom to believe.
    pub host_key: HostKeyPolicy,
}

/// Where to connect, through what, as whom.
#[derive(Clone)]
pub struct Target {
    /// Hosts on the way, each reached through the one before.
    pub jumps: Vec<Hop>,
    /// The host.
    pub host: Hop,
    /// A program whose standard input and output are the connection to the first of them.
    pub proxy_command: Option<String>,
    /// How long connecting may take, handshakes and logins included.
    pub timeout: Duration,
}

/// What is the same for all hosts: the desk.
#[derive(Clone)]
pub struct Routes {
    /// The OpenSSH client's configuration.
    pub config: SshConfig,
    /// The desk user's home.
    pub home: PathBuf,
    /// The desk user's name.
    pub local_user: String,
    /// The SSH agent's socket, of the environment.
    pub agent: Option<PathBuf>,
    /// What to do about hosts that are not known.
    pub on_unknown: OnUnknown,
    /// How long a connection may take.
    pub timeout: Duration,
}

/// Files that ssh(1) tries when none is named (ssh_config(5), IdentityFile), the strongest kinds first.
const DEFAULT_IDENTITIES: &[&str] = &["~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa"];
/// More are a circle.
const MOST_JUMPS: usize = 8;

impl Routes {
    /// The way to a host.
    pub fn to(&self, wanted: &Wanted) -> Result<Target> {
        let settings = self.settings(&wanted.address, wanted.user.as_deref(), "root")?;
        let host = self.hop(wanted, &settings, "root")?;
        let proxy = match &wanted.proxy_jump {
            Some(jump) if jump == "none" => Proxy::None,
            Some(jump) => Proxy::Jump(jump.clone()),
            None => settings.proxy.unwrap_or(Proxy::None),
        };
        let mut target = Target { jumps: Vec::new(), host, proxy_command: None, timeout: self.timeout };
        self.through(proxy, wanted, &mut target)?;
        Ok(target)
    }

    fn settings(&self, host: &str, user: Option<&str>, default_user: &str) -> Result<HostSettings> {
        let asked = Asked { host, user, default_user, local_user: &self.local_user };
        Ok(self.config.settings_for(&asked)?)
    }

    /// Puts the jump hosts before what is there already. The first one's own settings say how it is reached.
    fn through(&self, proxy: Proxy, wanted: &Wanted, target: &mut Target) -> Result<()> {
        let mut proxy = proxy;
        loop {
            let jumps = match proxy {
                Proxy::None => return Ok(()),
                Proxy::Command(command) => {
                    let first = target.jumps.first().unwrap_or(&target.host);
                    let tokens = [('h', first.address.as_str()), ('p', &first.port.to_string()), ('r', &first.user)];
                    target.proxy_command = Some(self.expand(&command, &tokens).context("ProxyCommand")?);
                    return Ok(());
                }
                Proxy::Jump(jumps) => jumps,
            };
            proxy = Proxy::None;
            let mut hops = Vec::new();
            for (n, jump) in jumps.split(',').enumerate() {
                let (user, address, port) =
                    parse_jump(jump.trim()).ok_or_else(|| anyhow!("{jump:?} is not [USER@]HOST[:PORT]"))?;
                let settings = self.settings(&address, user.as_deref(), &self.local_user)?;
                // Its keys are its own, or else those of the host behind it; a key of the host is never the jump's.
                let own = settings.identity_files.is_empty();
                let jump = Wanted {
                    address,
                    port,
                    user,
                    identity_file: wanted.identity_file.clone().filter(|_| own),
                    known_hosts: wanted.known_hosts.clone(),
                    ..Wanted::default()
                };
                hops.push(self.hop(&jump, &settings, &self.local_user)?);
                if n == 0 {
                    proxy = settings.proxy.unwrap_or(Proxy::None);
                }
            }
            hops.append(&mut target.jumps);
            target.jumps = hops;
            if target.jumps.len() > MOST_JUMPS {
                bail!("more than {MOST_JUMPS} jump hosts: does ProxyJump lead back to itself?");
            }
        }
    }

    fn hop(&self, wanted: &Wanted, settings: &HostSettings, default_user: &str) -> Result<Hop> {
        let typed = wanted.address.as_str();
        let address = match &settings.host_name {
            Some(name) => self.expand(name, &[('h', typed)]).context("HostName")?,
            None => typed.to_owned(),
        };
        let user = wanted.user.clone().or_else(|| settings.user.clone()).unwrap_or_else(|| default_user.to_owned());
        let port = wanted.port.or(settings.port).unwrap_or(22);
        let tokens = [('h', address.as_str()), ('n', typed), ('p', &port.to_string()), ('r', &user)];
        let path = |text: &str| self.path(text, &tokens);
        let known_hosts = match (&wanted.known_hosts, &settings.known_hosts) {
            (Some(file), _) => vec![self.home_path(file)],
            (None, Some(files)) if files.concat().eq_ignore_ascii_case("none") => Vec::new(),
            (None, Some(files)) => {
                files.iter().map(|f| path(f)).collect::<Result<_>>().context("UserKnownHostsFile")?
            }
            (None, None) => vec![self.home.join(".ssh/known_hosts")],
        };
        let identities = self.identities(wanted, settings, path)?;
        let host_key = HostKeyPolicy {
            pinned: wanted.host_key.clone(),
            known_hosts,
            alias: settings.host_key_alias.clone(),
            on_unknown: self.on_unknown.clone(),
        };
        Ok(Hop { address, port, user, identities, host_key })
    }

    fn identities(
        &self,
        wanted: &Wanted,
        settings: &HostSettings,
        path: impl Fn(&str) -> Result<PathBuf>,
    ) -> Result<Identities> {
        let agent = match settings.identity_agent.as_deref() {
            None | Some("SSH_AUTH_SOCK") => self.agent.clone(),
            Some("none") => None,
            Some(socket) => Some(path(socket).context("IdentityAgent")?),
        };
        if let Some(file) = &wanted.identity_file {
            let files = vec![self.home_path(file)];
            return Ok(Identities { files, named: true, only: true, required: true, agent });
        }
        let named = !settings.identity_files.is_empty();
        let files = match named {
            true => {
                let files = settings.identity_files.iter().filter(|f| !f.eq_ignore_ascii_case("none"));
                files.map(|f| path(f)).collect::<Result<_>>().context("IdentityFile")?
            }
            false => DEFAULT_IDENTITIES.iter().map(|f| self.home_path(f)).collect(),
        };
        Ok(Identities { files, named, only: settings.identities_only.unwrap_or(false), required: false, agent })
    }

    fn home_path(&self, text: &str) -> PathBuf {
        match text.strip_prefix("~/") {
            Some(rest) => self.home.join(rest),
            None => PathBuf::from(text),
        }
    }

    /// `~/`, tokens and `${VARIABLE}`, as in ssh_config(5), TOKENS.
    fn path(&self, text: &str, tokens: &[(char, &str)]) -> Result<PathBuf> {
        Ok(self.home_path(&self.expand(text, tokens)?))
    }

    fn expand(&self, text: &str, tokens: &[(char, &str)]) -> Result<String> {
        let home = self.home.display().to_string();
        let (mut expanded, mut characters) = (String::new(), text.chars().peekable());
        while let Some(c) = characters.next() {
            match c {
                '%' => {
                    let token = characters.next().unwrap_or(' ');
                    expanded += match token {
                        '%' => "%",
                        'd' => &home,
                        'u' => &self.local_user,
                        other => tokens
                            .iter()
                            .find(|(name, _)| *name == other)
                            .map(|(_, value)| *value)
                            .with_context(|| format!("{text:?}: %{other} is not supported"))?,
                    };
                }
                '$' if characters.peek() == Some(&'{') => {
                    let name: String = characters.by_ref().skip(1).take_while(|c| *c != '}').collect();
                    expanded += &std::env::var(&name).map_err(|_| anyhow!("{text:?}: {name} is not set"))?;
                }
                other => expanded.push(other),
            }
        }
        Ok(expanded)
    }
}

/// `[USER@]HOST[:PORT]` or `ssh://[USER@]HOST[:PORT]`; an IPv6 address with a port stands in brackets.
fn parse_jump(text: &str) -> Option<(Option<String>, String, Option<u16>)> {
    let text = text.strip_prefix("ssh://").unwrap_or(text).trim_end_matches('/');
    let (user, rest) = match text.rsplit_once('@') {
        Some((user, rest)) => (Some(user.to_owned()).filter(|u| !u.is_empty()), rest),
        None => (None, text),
    };
    let (host, port) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, port.strip_prefix(':').or(port.is_empty().then_some(""))?)
        }
        None if rest.matches(':').count() > 1 => (rest, ""),
        None => rest.split_once(':').unwrap_or((rest, "")),
    };
    let port = match port {
        "" => None,
        port => Some(port.parse().ok().filter(|p| *p > 0)?),
    };
    (!host.is_empty()).then(|| (user, host.to_owned(), port))
}

/// The desk user's name: as the environment says, or as `/etc/passwd` does.
pub fn local_user() -> String {
    let named = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()).filter(|n| !n.is_empty());
    named.or_else(|| user_in(Path::new("/etc/passwd"))).unwrap_or_else(|| "root".to_owned())
}

fn user_in(passwd: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let uid = std::fs::metadata("/proc/self").ok()?.uid().to_string();
    let text = std::fs::read_to_string(passwd).ok()?;
    let line = text.lines().find(|line| line.split(':').nth(2) == Some(&uid))?;
    line.split(':').next().map(str::to_owned)
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
