//! Whether hosts get through to each other, on the ports that they will need: a firewall between them shows before
//! anything is changed.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use kinit_agent::Reached;
use kinit_config::{Cluster, HostSpec, Role};
use kinit_planner::Finding;

use crate::hosts::Hosts;

/// Who needs which port of whom.
fn ports(from: &HostSpec, to: &HostSpec) -> &'static [u16] {
    let (server, balancer) = (from.is(Role::ControlPlane), from.is(Role::LoadBalancer));
    match (to.is(Role::ControlPlane), to.is_node()) {
        (true, true) if server => &[2379, 2380, 6443, 10250],
        (true, true) if balancer || from.is_node() => &[6443],
        (false, true) if server => &[10250],
        _ => &[],
    }
}

/// Tries every port that a host needs of another, both of which are connected: who does not get through, and whereto.
pub(crate) async fn findings(hosts: &Hosts, cluster: &Cluster) -> Result<Vec<Finding>> {
    let is_connected = |host: &&HostSpec| hosts.agent(&host.name).is_ok();
    let connected: Vec<&HostSpec> = cluster.spec.hosts.iter().filter(is_connected).collect();
    let mut wanted: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for from in &connected {
        let others = connected.iter().filter(|to| to.name != from.name);
        let addresses = others
            .flat_map(|to| ports(from, to).iter().map(|port| (to.name.clone(), format!("{}:{port}", to.address))));
        wanted.insert(from.name.clone(), addresses.collect());
    }
    let tried = hosts.each(|agent| {
        let addresses: Vec<String> =
            wanted.get(agent.host()).into_iter().flatten().map(|(_, address)| address.clone()).collect();
        async move { agent.reach(addresses).await }
    });
    let tried = tried.await.context("try the ports between hosts")?;
    Ok(tried.iter().flat_map(|(from, reached)| lost(from, wanted.get(from), reached)).collect())
}

/// A host's findings: one for each other host, with all ports.
fn lost(from: &str, wanted: Option<&Vec<(String, String)>>, reached: &[Reached]) -> Vec<Finding> {
    let mut by_host: BTreeMap<&str, (Vec<&str>, &str)> = BTreeMap::new();
    for ((to, address), reached) in wanted.into_iter().flatten().zip(reached) {
        if let Reached::Lost(why) = reached {
            by_host.entry(to).or_insert((Vec::new(), why)).0.push(address);
        }
    }
    let finding = |(to, (addresses, why)): (&str, (Vec<&str>, &str))| Finding {
        host: from.to_owned(),
        check: "HostToHost".to_owned(),
        message: format!("does not get through to {to} at {}: {why}", addresses.join(", ")),
        remedy: "open these ports between the hosts: docs/operate.md lists who needs which",
        warning: false,
    };
    by_host.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_need_what_their_roles_say() {
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        let host = |name: &str| cluster.spec.hosts.iter().find(|host| host.name == name).unwrap();
        for (from, to, expected) in [
            ("cp1", "cp2", &[2379, 2380, 6443, 10250][..]),
            ("cp1", "w1", &[10250]),
            ("w1", "cp1", &[6443]),
            ("lb1", "cp1", &[6443]),
            ("w1", "w2", &[]),
            ("cp1", "lb1", &[]),
        ] {
            assert_eq!(ports(host(from), host(to)), expected, "{from} to {to}");
        }
    }

    #[test]
    fn what_is_lost_is_told_once_for_each_host() {
        let wanted = [("cp2", "a:2379"), ("cp2", "a:2380"), ("w1", "b:10250"), ("w2", "c:10250")]
            .map(|(host, address)| (host.to_owned(), address.to_owned()))
            .to_vec();
        let gone = || Reached::Lost("no answer within 3 s".to_owned());
        let found = lost("cp1", Some(&wanted), &[gone(), gone(), Reached::Refused, Reached::Accepted]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].message, "does not get through to cp2 at a:2379, a:2380: no answer within 3 s");
    }
}
