//! From the cluster file to where a host is reached, as whom.

use std::path::PathBuf;

use kinit_config::{Cluster, HostSpec};
use kinit_remote::{HostKeyPolicy, Target};

use crate::hosts::ConnectOptions;

/// A host's own settings win over those for all.
pub(crate) fn target(cluster: &Cluster, host: &HostSpec, options: &ConnectOptions) -> Target {
    let (all, own) = (&cluster.spec.ssh, host.ssh.clone().unwrap_or_default());
    let expand = |path: &str| match path.strip_prefix("~/") {
        Some(rest) => options.home.join(rest),
        None => PathBuf::from(path),
    };
    let known_hosts = all.known_hosts_file.as_deref().unwrap_or("~/.ssh/known_hosts");
    Target {
        address: own.address.unwrap_or_else(|| host.address.clone()),
        port: own.port.or(all.port).unwrap_or(22),
        user: own.user.or_else(|| all.user.clone()).unwrap_or_else(|| "root".to_owned()),
        identity: own.identity_file.as_deref().or(all.identity_file.as_deref()).map(expand),
        host_key: HostKeyPolicy {
            pinned: own.host_key,
            known_hosts: expand(known_hosts),
            on_unknown: options.on_unknown.clone(),
        },
        timeout: options.timeout,
    }
}
