//! How hosts are reached.
//!
//! What the file leaves open comes from OpenSSH's client configuration on the desk (`~/.ssh/config`), and then from the
//! defaults named here.

use serde::{Deserialize, Serialize};

use crate::syntax::{is_jump, is_public_key, is_ssh_address, is_ssh_user};
use crate::validate::Errors;

/// How hosts are reached.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ssh {
    /// User. Another one than root becomes root by sudo. Default root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Port. Default 22.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Private key on the desk, or its public half when the SSH agent has it; no other key is tried. Default: what
    /// `~/.ssh/config` says, the SSH agent's keys, `~/.ssh/id_ed25519`, `id_ecdsa` and `id_rsa`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_file: Option<String>,
    /// Host keys on the desk, in OpenSSH's format. Default `~/.ssh/known_hosts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_hosts_file: Option<String>,
    /// Hosts on the way: `[USER@]HOST[:PORT][,...]`, or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_jump: Option<String>,
    /// The OpenSSH client's configuration on the desk, or `none`. Default `~/.ssh/config`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_file: Option<String>,
}

/// What differs from `spec.ssh` for one host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostSsh {
    /// Name or address for SSH, where it is not the host's `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// User.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Private key on the desk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_file: Option<String>,
    /// The host's public key (`ssh-ed25519 AAAA...`): no other is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_key: Option<String>,
    /// Hosts on the way: `[USER@]HOST[:PORT][,...]`, or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_jump: Option<String>,
}

pub(crate) fn validate(ssh: &Ssh, errors: &mut Errors) {
    let path = "spec.ssh";
    login(path, ssh.user.as_deref(), ssh.port, errors);
    jumps(path, ssh.proxy_jump.as_deref(), errors);
    for (name, file) in [
        ("identityFile", &ssh.identity_file),
        ("knownHostsFile", &ssh.known_hosts_file),
        ("configFile", &ssh.config_file),
    ] {
        desk_file(&format!("{path}.{name}"), file.as_deref(), errors);
    }
}

pub(crate) fn validate_host(path: &str, ssh: &HostSsh, errors: &mut Errors) {
    if let Some(address) = ssh.address.as_deref().filter(|a| !is_ssh_address(a)) {
        errors.add(format!("{path}.address"), format!("{address:?} is neither an address nor a host's name"));
    }
    login(path, ssh.user.as_deref(), ssh.port, errors);
    jumps(path, ssh.proxy_jump.as_deref(), errors);
    desk_file(&format!("{path}.identityFile"), ssh.identity_file.as_deref(), errors);
    if ssh.host_key.as_deref().is_some_and(|k| !is_public_key(k)) {
        errors.add(format!("{path}.hostKey"), "is not a public key as in a .pub file (ssh-ed25519 AAAA...)");
    }
}

fn login(path: &str, user: Option<&str>, port: Option<u16>, errors: &mut Errors) {
    if let Some(user) = user.filter(|u| !is_ssh_user(u)) {
        errors.add(format!("{path}.user"), format!("{user:?} is not the name of a user"));
    }
    if port == Some(0) {
        errors.add(format!("{path}.port"), "0 is not a port");
    }
}

fn jumps(path: &str, jumps: Option<&str>, errors: &mut Errors) {
    for jump in jumps.filter(|j| *j != "none").into_iter().flat_map(|j| j.split(',')) {
        if !is_jump(jump.trim()) {
            errors.add(format!("{path}.proxyJump"), format!("{jump:?} is not [USER@]HOST[:PORT]"));
        }
    }
}

fn desk_file(path: &str, file: Option<&str>, errors: &mut Errors) {
    if file.is_some_and(|f| f.is_empty() || f.contains(char::is_control)) {
        errors.add(path, "is empty or holds control characters");
    }
}
