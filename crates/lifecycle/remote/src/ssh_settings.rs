//! What the OpenSSH client's configuration says of one host: as with ssh(1), the first value wins.

use crate::pattern;
use crate::ssh_config::{Condition, ConfigProblem, Setting, SshConfig};

/// How to get to a host that is not reached directly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proxy {
    /// `ProxyJump none` or `ProxyCommand none`.
    None,
    /// `ProxyJump`, as it stands there.
    Jump(String),
    /// `ProxyCommand`, as it stands there.
    Command(String),
}

/// Settings of one host; names of files are as they stand there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostSettings {
    pub(crate) host_name: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) user: Option<String>,
    pub(crate) identity_files: Vec<String>,
    pub(crate) identities_only: Option<bool>,
    pub(crate) identity_agent: Option<String>,
    pub(crate) proxy: Option<Proxy>,
    pub(crate) known_hosts: Option<Vec<String>>,
    pub(crate) host_key_alias: Option<String>,
}

/// What is honoured. The rest is about interactive sessions, forwarding and algorithms, and is left to ssh(1);
/// `StrictHostKeyChecking` too: kinit never accepts a changed key.
const HONOURED: &[&str] = &[
    "hostname",
    "port",
    "user",
    "identityfile",
    "identitiesonly",
    "identityagent",
    "proxyjump",
    "proxycommand",
    "userknownhostsfile",
    "hostkeyalias",
];

/// Who asks: for `Match` lines.
pub(crate) struct Asked<'a> {
    /// The host as the cluster file names it.
    pub(crate) host: &'a str,
    /// The user, if it is decided already.
    pub(crate) user: Option<&'a str>,
    /// The user when nothing decides it.
    pub(crate) default_user: &'a str,
    /// The user at the desk.
    pub(crate) local_user: &'a str,
}

impl SshConfig {
    /// The settings for a host.
    pub(crate) fn settings_for(&self, asked: &Asked<'_>) -> Result<HostSettings, ConfigProblem> {
        let mut found = HostSettings::default();
        for setting in self.settings.iter().filter(|s| HONOURED.contains(&s.keyword.as_str())) {
            let mut counts = true;
            for condition in &setting.conditions {
                counts = counts && holds(condition, asked, &found).map_err(|m| setting.problem(&m))?;
            }
            if counts {
                found.take(setting)?;
            }
        }
        Ok(found)
    }
}

impl Setting {
    fn problem(&self, message: &str) -> ConfigProblem {
        ConfigProblem { place: self.place.clone(), message: message.to_owned() }
    }

    fn yes_or_no(&self) -> Result<bool, ConfigProblem> {
        match self.arguments.concat().to_lowercase().as_str() {
            "yes" | "true" => Ok(true),
            "no" | "false" => Ok(false),
            other => Err(self.problem(&format!("{} is yes or no, not {other:?}", self.keyword))),
        }
    }
}

fn holds(condition: &Condition, asked: &Asked<'_>, found: &HostSettings) -> Result<bool, String> {
    let typed = asked.host.to_lowercase();
    let criteria = match condition {
        Condition::Host(patterns) => return Ok(pattern::in_list(patterns.iter().map(String::as_str), &typed)),
        Condition::Match(criteria) => criteria,
    };
    for (name, negated, argument) in criteria {
        let in_list = |value: &str| pattern::in_list(argument.split(','), &value.to_lowercase());
        let holds = match name.as_str() {
            "all" => true,
            "originalhost" => in_list(&typed),
            "host" => in_list(found.host_name.as_deref().unwrap_or(&typed)),
            "user" => in_list(asked.user.or(found.user.as_deref()).unwrap_or(asked.default_user)),
            "localuser" => in_list(asked.local_user),
            // Names are not canonicalized here.
            "canonical" => false,
            other => {
                return Err(format!(
                    "`Match {other}` is not supported for settings that kinit honours; use `Host`, or set ssh.configFile"
                ));
            }
        };
        if holds == *negated {
            return Ok(false);
        }
    }
    Ok(true)
}

impl HostSettings {
    fn take(&mut self, setting: &Setting) -> Result<(), ConfigProblem> {
        let one = || setting.arguments.first().cloned().unwrap_or_default();
        match setting.keyword.as_str() {
            "hostname" if self.host_name.is_none() => self.host_name = Some(one()),
            "port" if self.port.is_none() => {
                let port = one().parse().ok().filter(|p| *p > 0);
                self.port = Some(port.ok_or_else(|| setting.problem(&format!("{:?} is not a port", one())))?);
            }
            "user" if self.user.is_none() => self.user = Some(one()),
            // The one that adds up.
            "identityfile" => self.identity_files.push(one()),
            "identitiesonly" if self.identities_only.is_none() => self.identities_only = Some(setting.yes_or_no()?),
            "identityagent" if self.identity_agent.is_none() => self.identity_agent = Some(one()),
            "proxyjump" | "proxycommand" if self.proxy.is_none() => {
                self.proxy = Some(match (setting.keyword.as_str(), one().to_lowercase().as_str()) {
                    (_, "none") => Proxy::None,
                    ("proxyjump", _) => Proxy::Jump(one()),
                    _ => Proxy::Command(setting.rest.clone()),
                });
            }
            "userknownhostsfile" if self.known_hosts.is_none() => self.known_hosts = Some(setting.arguments.clone()),
            "hostkeyalias" if self.host_key_alias.is_none() => self.host_key_alias = Some(one()),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str, host: &str) -> Result<HostSettings, ConfigProblem> {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("config");
        std::fs::write(&file, text).unwrap();
        let config = SshConfig::read(&file, home.path())?;
        config.settings_for(&Asked { host, user: None, default_user: "root", local_user: "me" })
    }

    const EXAMPLE: &str = "
        ForwardAgent yes
        User first
        Host cp* !cp9
            HostName %h.example.org
            User second
            Port 2222
            IdentityFile ~/.ssh/a
        Host *
            Port 22
            IdentityFile ~/.ssh/b
            ProxyCommand nc %h %p # with a comment
            ProxyJump bastion
        Match originalhost w1,w2 !host *.lan
            ProxyJump never
            HostKeyAlias w
        Match user first
            IdentityAgent /run/first
        Match user root
            IdentitiesOnly yes
    ";

    #[test]
    fn the_first_value_wins_and_identities_add_up() {
        let found = settings(EXAMPLE, "cp1").unwrap();
        assert_eq!((found.host_name.as_deref(), found.user.as_deref()), (Some("%h.example.org"), Some("first")));
        assert_eq!((found.port, found.identity_files.concat()), (Some(2222), "~/.ssh/a~/.ssh/b".to_owned()));
        assert_eq!(found.proxy, Some(Proxy::Command("nc %h %p # with a comment".to_owned())));
        assert_eq!((found.identities_only, found.host_key_alias), (None, None));
        assert_eq!(found.identity_agent.as_deref(), Some("/run/first"));
        assert_eq!(settings("Match user root\nIdentitiesOnly yes", "x").unwrap().identities_only, Some(true));
        let found = settings(EXAMPLE, "cp9").unwrap();
        assert_eq!((found.host_name, found.port), (None, Some(22)));
        assert_eq!(settings(EXAMPLE, "w2").unwrap().host_key_alias.as_deref(), Some("w"));
    }

    #[test]
    fn what_a_match_leaves_open_is_refused_only_where_it_matters() {
        let text = "Match originalhost a exec \"test -f x\"\n  Port 1\nMatch final\n  ForwardAgent no\n";
        assert_eq!(settings(text, "b").unwrap(), HostSettings::default());
        let error = settings(text, "a").unwrap_err().to_string();
        assert!(error.contains("config line 2: `Match exec` is not supported"), "{error}");
        for wrong in ["Port 0", "Port ssh", "IdentitiesOnly maybe"] {
            assert!(settings(wrong, "a").is_err(), "{wrong}");
        }
    }
}
