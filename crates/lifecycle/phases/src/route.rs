//! From the cluster file to where a host is reached, as whom.

use std::path::PathBuf;

use anyhow::{Context, Result};
use kinit_config::{Cluster, HostSpec, Ssh};
use kinit_remote::{Routes, SshConfig, Target, Wanted, local_user};

use crate::hosts::ConnectOptions;

/// A host's own settings win over those for all; what both leave open is the desk's OpenSSH configuration's.
pub(crate) fn target(cluster: &Cluster, host: &HostSpec, options: &ConnectOptions) -> Result<Target> {
    let (all, own) = (&cluster.spec.ssh, host.ssh.clone().unwrap_or_default());
    let routes = Routes {
        config: ssh_config(all, options)?,
        home: options.home.clone(),
        local_user: local_user(),
        agent: std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty()).map(PathBuf::from),
        on_unknown: options.on_unknown.clone(),
        timeout: options.timeout,
    };
    routes.to(&Wanted {
        address: own.address.unwrap_or_else(|| host.address.clone()),
        port: own.port.or(all.port),
        user: own.user.or_else(|| all.user.clone()),
        identity_file: own.identity_file.or_else(|| all.identity_file.clone()),
        known_hosts: all.known_hosts_file.clone(),
        host_key: own.host_key,
        proxy_jump: own.proxy_jump.or_else(|| all.proxy_jump.clone()),
    })
}

fn ssh_config(ssh: &Ssh, options: &ConnectOptions) -> Result<SshConfig> {
    let file = match ssh.config_file.as_deref() {
        Some("none") => return Ok(SshConfig::default()),
        Some(named) => {
            let file = named.strip_prefix("~/").map_or_else(|| PathBuf::from(named), |rest| options.home.join(rest));
            // One that is named must be there.
            std::fs::metadata(&file).with_context(|| format!("read spec.ssh.configFile {}", file.display()))?;
            file
        }
        None => options.home.join(".ssh/config"),
    };
    Ok(SshConfig::read(&file, &options.home)?)
}
