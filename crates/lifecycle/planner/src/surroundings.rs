//! Checks of what is around the hosts: firewalls, clocks, disks, hardware.

use std::collections::{BTreeMap, BTreeSet};

use kinit_config::{Balancing, Cluster, HostSpec, Role};
use kinit_resource::{Facts, Firewall};

use crate::preflight::Finding;

/// etcd's own limit for the 99th percentile (Hardware recommendations, Disks), in microseconds.
const SLOW_FSYNC: u64 = 10_000;
/// Clocks of two hosts, in seconds. Facts are gathered within seconds, not at once.
const APART: i64 = 10;

/// What is around one host: warnings, but for what kinit itself would destroy.
pub(crate) fn of_host(cluster: &Cluster, host: &HostSpec, facts: &Facts) -> Vec<Finding> {
    let warning = |check: &str, message: String, remedy| Finding {
        host: host.name.clone(),
        check: check.to_owned(),
        message,
        remedy,
        warning: true,
    };
    let mut found = Vec::new();
    for firewall in &facts.firewalls {
        if let Some(ports) = closed(cluster, host, firewall) {
            let message =
                format!("{} is active and is not known to open TCP {ports}, which others need", firewall.name);
            found.push(warning("Firewall", message, "open these ports to the other hosts (6443 to clients too)"));
        }
        if firewall.forward && host.is_node() {
            let message = format!("{} drops forwarded packets: pods' among them unless it accepts them", firewall.name);
            found.push(warning("FirewallForward", message, "accept forwarded packets from and to the pod subnet"));
        }
    }
    if facts.inline_registries && host.is_node() {
        let message =
            "/etc/containerd/config.toml names mirrors or credentials of registries; kinit replaces that file";
        let remedy = "move them to /etc/containerd/certs.d/REGISTRY/hosts.toml, which is kept and read";
        found.push(Finding { warning: false, ..warning("ContainerdRegistries", message.to_owned(), remedy) });
    }
    if facts.clock_synchronized == Some(false) {
        let message = "the clock is not synchronized".to_owned();
        found.push(warning("TimeSync", message, "run systemd-timesyncd, chrony or ntpd"));
    }
    if let Some(slow) = facts.fsync_p99.filter(|p99| host.is(Role::ControlPlane) && *p99 > SLOW_FSYNC) {
        let message = format!(
            "a write to the disk of {} takes {:.1} ms (99th percentile); etcd wants less than {} ms",
            cluster.spec.etcd.data_dir,
            slow as f64 / 1000.0,
            SLOW_FSYNC / 1000
        );
        found.push(warning("EtcdDisk", message, "put etcd's data on a faster disk (SSD), or on one of its own"));
    }
    found
}

/// TCP ports that other hosts use, and that the firewall is not known to open; `None` when there is none.
fn closed(cluster: &Cluster, host: &HostSpec, firewall: &Firewall) -> Option<String> {
    let mut ports = BTreeSet::new();
    if host.is(Role::ControlPlane) {
        ports.extend([2379, 2380, 6443]);
    }
    if cluster.balances(host) && cluster.balancing() != Balancing::NodeLocal {
        ports.insert(cluster.balancer_port());
    }
    if host.is_node() {
        ports.insert(10250);
    }
    let is_open = |port: &u16| firewall.open.iter().any(|(first, last)| (first..=last).contains(&port));
    let closed: Vec<String> = ports.iter().filter(|port| !is_open(port)).map(u16::to_string).collect();
    (firewall.input && !closed.is_empty()).then(|| closed.join(", "))
}

/// What is wrong between hosts.
pub(crate) fn between(facts: &BTreeMap<String, Facts>) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut machines: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (host, facts) in facts {
        if let Some(uuid) = &facts.product_uuid {
            machines.entry(uuid).or_default().push(host);
        }
    }
    for hosts in machines.into_values().filter(|hosts| hosts.len() > 1) {
        found.push(Finding {
            host: hosts.last().copied().unwrap_or_default().to_owned(),
            check: "ProductUuid".to_owned(),
            message: format!("{} have the same product_uuid: they are clones, or one machine", hosts.join(" and ")),
            remedy: "give each virtual machine its own (kubeadm: verify the product_uuid is unique for every node)",
            warning: true,
        });
    }
    let by_time = |(_, facts): &(&String, &Facts)| facts.unix_time;
    if let (Some((early, first)), Some((late, last))) =
        (facts.iter().min_by_key(by_time), facts.iter().max_by_key(by_time))
        && last.unix_time.saturating_sub(first.unix_time) > APART
    {
        found.push(Finding {
            host: late.clone(),
            check: "ClockSkew".to_owned(),
            message: format!("the clock is {} s ahead of {early}'s", last.unix_time.saturating_sub(first.unix_time)),
            remedy: "set up time synchronization on both",
            warning: true,
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(change: impl Fn(&mut BTreeMap<String, Facts>)) -> Vec<String> {
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        let mut facts: BTreeMap<String, Facts> =
            cluster.spec.hosts.iter().map(|h| (h.name.clone(), Facts::default())).collect();
        change(&mut facts);
        let hosts = cluster.spec.hosts.iter().flat_map(|h| of_host(&cluster, h, &facts[&h.name]));
        let all: Vec<Finding> = hosts.chain(between(&facts)).collect();
        assert!(all.iter().all(|f| f.warning == (f.check != "ContainerdRegistries")));
        all.into_iter().map(|f| format!("{}: {}: {}", f.host, f.check, f.message)).collect()
    }

    #[test]
    fn good_surroundings_are_not_mentioned() {
        assert_eq!(checks(|_| ()), Vec::<String>::new());
        let good = |facts: &mut BTreeMap<String, Facts>| {
            for (host, facts) in facts.iter_mut() {
                facts.product_uuid = Some(host.clone());
                facts.clock_synchronized = Some(true);
                facts.fsync_p99 = Some(if host.starts_with('w') { 50_000 } else { 900 });
                let open = vec![(2379, 2380), (6443, 6443), (10250, 10259)];
                facts.firewalls = vec![Firewall { name: "ufw".into(), open, input: true, forward: false }];
            }
        };
        assert_eq!(checks(good), Vec::<String>::new());
    }

    #[test]
    fn each_fault_has_its_words() {
        let firewall =
            |open: &[(u16, u16)], forward| Firewall { name: "ufw".into(), open: open.to_vec(), input: true, forward };
        let all = checks(|facts| {
            facts.get_mut("cp1").unwrap().firewalls = vec![firewall(&[(22, 22), (2379, 2380)], false)];
            facts.get_mut("lb1").unwrap().firewalls = vec![firewall(&[], true)];
            facts.get_mut("w1").unwrap().firewalls = vec![Firewall { input: false, ..firewall(&[], true) }];
            facts.get_mut("cp2").unwrap().clock_synchronized = Some(false);
            facts.get_mut("cp3").unwrap().fsync_p99 = Some(12_340);
            for host in ["w1", "w2"] {
                facts.get_mut(host).unwrap().product_uuid = Some("same".into());
            }
            facts.get_mut("w2").unwrap().unix_time = 11;
            facts.get_mut("w2").unwrap().inline_registries = true;
        });
        let expected = [
            "lb1: Firewall: ufw is active and is not known to open TCP 6443, which others need",
            "cp1: Firewall: ufw is active and is not known to open TCP 6443, 10250, which others need",
            "cp2: TimeSync: the clock is not synchronized",
            "cp3: EtcdDisk: a write to the disk of /var/lib/etcd takes 12.3 ms (99th percentile); etcd wants less than 10 ms",
            "w1: FirewallForward: ufw drops forwarded packets: pods' among them unless it accepts them",
            "w2: ContainerdRegistries: /etc/containerd/config.toml names mirrors or credentials of registries; kinit replaces that file",
            "w2: ProductUuid: w1 and w2 have the same product_uuid: they are clones, or one machine",
            "w2: ClockSkew: the clock is 11 s ahead of cp1's",
        ];
        assert_eq!(all, expected);
    }
}
