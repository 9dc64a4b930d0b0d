//! Named checks, all run, all reported, each ignorable by its name (kubeadm's where it has one).

use std::collections::{BTreeMap, BTreeSet};

use kinit_config::{Balancing, Cluster, HostSpec, Role};
use kinit_resource::Facts;

use crate::identity::strangers;
use crate::surroundings;

/// A check that did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The host; empty for the cluster.
    pub host: String,
    /// Name of the check, for `--ignore-preflight-errors`.
    pub check: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: &'static str,
    /// Told, but no reason to stop.
    pub warning: bool,
}

const GIB: u64 = 1 << 30;
/// kubeadm's minimum for a control plane.
const CONTROL_PLANE_MEMORY: u64 = 1700 << 20;
const CLOCK_TOLERANCE: i64 = 30;

/// Checks all hosts' facts. `now` is the desk's clock, in seconds since 1970, at the time the facts were gathered;
/// `known` is the authority of the cluster as the desk knows it.
pub fn preflight(cluster: &Cluster, facts: &BTreeMap<String, Facts>, now: i64, known: Option<&str>) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(strangers(cluster, facts, known).into_iter().map(|stranger| Finding {
        check: "OtherCluster".to_owned(),
        message: stranger.to_string(),
        host: stranger.host,
        remedy: "correct the address in the cluster file, or reset that host with its own cluster's file; if the kubeconfig on this desk is of a cluster that is gone, move it away",
        warning: false,
    }));
    for host in &cluster.spec.hosts {
        if let Some(facts) = facts.get(&host.name) {
            let mut add = |check: &str, message: String, remedy: &'static str, warning: bool| {
                findings.push(Finding { host: host.name.clone(), check: check.to_owned(), message, remedy, warning });
            };
            system(facts, &mut add);
            capacity(host, facts, &mut add);
            disk(cluster, host, facts, &mut add);
            ports(cluster, host, facts, &mut add);
            identity(cluster, host, facts, now, &mut add);
            findings.extend(surroundings::of_host(cluster, host, facts));
        }
    }
    findings.extend(machine_ids(facts));
    let members = cluster.hosts(Role::ControlPlane).count();
    if members > 0 && members.is_multiple_of(2) {
        findings.push(Finding {
            host: String::new(),
            check: "EtcdMembers".to_owned(),
            message: format!(
                "{members} control planes make {members} etcd members, which survive no more failures than {}",
                members - 1
            ),
            remedy: "an odd number is better, but for the time of a change",
            warning: true,
        });
    }
    findings.extend(surroundings::between(facts));
    findings.extend(balancing(cluster));
    findings
}

/// What happens to the API when one machine is lost.
fn balancing(cluster: &Cluster) -> Option<Finding> {
    let (balancers, members) = (cluster.hosts(Role::LoadBalancer).count(), cluster.hosts(Role::ControlPlane).count());
    let (check, message) = match cluster.balancing() {
        Balancing::Hosts if balancers == 1 => (
            "SingleLoadBalancer",
            "the one load balancer is a single point of failure: without it clients and workers lose the API (pods go on)",
        ),
        Balancing::None if members > 1 => (
            "NoLoadBalancer",
            "clients and workers reach the API at one control plane only: without it they lose the API (pods go on)",
        ),
        _ => return None,
    };
    Some(Finding {
        host: String::new(),
        check: check.to_owned(),
        message: message.to_owned(),
        remedy: "set spec.loadBalancer: a virtualAddress on two balancers or on the control planes, or type node-local",
        warning: true,
    })
}

type Add<'a> = &'a mut dyn FnMut(&str, String, &'static str, bool);

fn system(facts: &Facts, add: Add<'_>) {
    if facts.uid != 0 {
        add(
            "IsPrivilegedUser",
            format!("kinit runs there with uid {}, not 0", facts.uid),
            "log in as root, or as a user who may become root by sudo",
            false,
        );
    }
    if !["debian", "ubuntu"].contains(&facts.os_id.as_str()) {
        add("SystemVerification", format!("{:?} is not supported", facts.os_name), "use Debian or Ubuntu", false);
    }
    if facts.machine != "x86_64" {
        add(
            "SystemVerification-Architecture",
            format!("CPU type {} is not supported", facts.machine),
            "use an x86-64 machine",
            false,
        );
    }
    if !facts.systemd {
        add("Service-Systemd", "systemd is not the first process".to_owned(), "boot the host with systemd", false);
    }
}

fn capacity(host: &HostSpec, facts: &Facts, add: Add<'_>) {
    if host.is(Role::ControlPlane) {
        if facts.cpus < 2 {
            add(
                "NumCPU",
                format!("{} CPU is less than the 2 that a control plane needs", facts.cpus),
                "use a larger machine",
                false,
            );
        }
        if facts.memory < CONTROL_PLANE_MEMORY {
            add(
                "Mem",
                format!("{} MiB of memory are less than the 1700 that a control plane needs", facts.memory >> 20),
                "use a larger machine",
                false,
            );
        }
    }
}

fn disk(cluster: &Cluster, host: &HostSpec, facts: &Facts, add: Add<'_>) {
    let (free, size) = (facts.disk_free, facts.disk_size);
    if free < 2 * GIB {
        let message = format!("{} MiB are free on the disk of /var/lib; 2048 are needed", free >> 20);
        return add("DiskFree", message, "make room", false);
    }
    let kubelet = &cluster.spec.kubelet;
    let wanted = kubelet.free_percent("nodefs.available").max(kubelet.free_percent("imagefs.available"));
    if host.is_node() && u128::from(free) * 100 <= u128::from(size) * u128::from(wanted) {
        let free = u128::from(free) * 100 / u128::from(size.max(1));
        add(
            "DiskFree",
            format!(
                "{free} % of the disk of /var/lib are free; the kubelet takes no pods unless more than {wanted} % are"
            ),
            "make room, or set other limits in spec.kubelet.evictionHard",
            false,
        );
    }
}

/// Ports that a role needs, with the units of kinit's that may hold them already.
fn needed_ports(cluster: &Cluster, host: &HostSpec) -> BTreeMap<u16, BTreeSet<&'static str>> {
    let mut ports: BTreeMap<u16, BTreeSet<&'static str>> = BTreeMap::new();
    let mut add = |list: &[(u16, &'static str)]| {
        for (port, unit) in list {
            ports.entry(*port).or_default().insert(unit);
        }
    };
    if host.is(Role::ControlPlane) {
        add(&[
            (2379, "etcd.service"),
            (2380, "etcd.service"),
            (2381, "etcd.service"),
            (6443, "kube-apiserver.service"),
            (10257, "kube-controller-manager.service"),
            (10259, "kube-scheduler.service"),
        ]);
    }
    if host.is(Role::ControlPlane) && !cluster.spec.load_balancer_pools.is_empty() {
        add(&[(10258, "cloud-controller-manager.service")]);
    }
    if host.is(Role::ControlPlane) && cluster.spec.metrics_server.enabled {
        add(&[(10260, "metrics-server.service")]);
    }
    if cluster.balances(host) {
        add(&[(cluster.balancer_port(), "haproxy.service"), (8404, "haproxy.service")]);
    }
    if host.is_node() {
        add(&[
            (10250, "kubelet.service"),
            (10248, "kubelet.service"),
            (10256, "kube-proxy.service"),
            (10247, "kube-netd.service"),
        ]);
    }
    ports
}

fn ports(cluster: &Cluster, host: &HostSpec, facts: &Facts, add: Add<'_>) {
    for (port, ours) in needed_ports(cluster, host) {
        let other = |(p, holder): &&(u16, String)| *p == port && !ours.contains(holder.as_str());
        // An API server becomes a balancer, and the other way round, within one run.
        let kinits =
            |holder: &str| facts.cluster.is_some() && ["haproxy.service", "kube-apiserver.service"].contains(&holder);
        if let Some((_, holder)) = facts.listening.iter().find(other).filter(|(_, holder)| !kinits(holder)) {
            let who = if holder.is_empty() { "somebody" } else { holder };
            add(
                &format!("Port-{port}"),
                format!("{who} listens on port {port}"),
                "stop it, or move it to another port",
                false,
            );
        }
    }
}

fn identity(cluster: &Cluster, host: &HostSpec, facts: &Facts, now: i64, add: Add<'_>) {
    if facts.interface_of(&host.address).is_none() {
        let own = facts.addresses.iter().map(|(address, _)| address.as_str()).filter(|a| !a.starts_with("127."));
        let has = own.collect::<Vec<_>>().join(", ");
        add(
            "HostAddress",
            format!("the host has no interface with address {}; it has {has}", host.address),
            "correct the address in the cluster file",
            false,
        );
    }
    if facts.hostname != host.name {
        add(
            "Hostname",
            format!("the host calls itself {:?}; its node will be {:?}", facts.hostname, host.name),
            "set the host name, or leave it",
            true,
        );
    }
    let apart = (facts.unix_time - now).abs();
    if apart > CLOCK_TOLERANCE {
        add("Clock", format!("the host's clock is {apart} s off"), "set up time synchronization", false);
    }
    for path in &facts.taken {
        let is_data = path.starts_with("/var/lib/etcd/");
        if is_data && !host.is(Role::ControlPlane) {
            continue;
        }
        // kubeadm's names of these checks.
        let check = match is_data {
            true => "DirAvailable--var-lib-etcd".to_owned(),
            false => format!("FileAvailable-{}", path.replace('/', "-")),
        };
        let message = format!("{path} exists: the host is, or was, part of another cluster");
        add(&check, message, "reset that cluster with its own tool, or move its files away", false);
    }
    if let Some(other) = facts.cluster.as_ref().filter(|c| **c != cluster.metadata.name) {
        add("OtherCluster", format!("the host belongs to cluster {other:?}"), "reset it first: kinit reset", false);
    }
}

fn machine_ids(facts: &BTreeMap<String, Facts>) -> Vec<Finding> {
    let mut seen: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (host, facts) in facts {
        seen.entry(facts.machine_id.as_str()).or_default().insert(host);
    }
    let shared = seen.into_iter().filter(|(_, hosts)| hosts.len() > 1);
    shared
        .map(|(_, hosts)| Finding {
            host: hosts.iter().next_back().copied().unwrap_or_default().to_owned(),
            check: "MachineId".to_owned(),
            message: format!(
                "{} have the same machine-id: they are clones",
                hosts.into_iter().collect::<Vec<_>>().join(" and ")
            ),
            remedy: "give each its own: rm /etc/machine-id && systemd-machine-id-setup, then reboot",
            warning: false,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(cluster: &Cluster) -> BTreeMap<String, Facts> {
        let facts = |host: &HostSpec| Facts {
            os_id: "debian".into(),
            machine: "x86_64".into(),
            hostname: host.name.clone(),
            machine_id: host.name.clone(),
            cpus: 2,
            memory: 4 * GIB,
            disk_free: 10 * GIB,
            disk_size: 20 * GIB,
            systemd: true,
            unix_time: 1000,
            addresses: vec![(host.address.clone(), "eth0".into())],
            ..Facts::default()
        };
        cluster.spec.hosts.iter().map(|h| (h.name.clone(), facts(h))).collect()
    }

    fn checks(change: impl Fn(&mut Facts)) -> Vec<(String, String)> {
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        let mut facts = good(&cluster);
        change(facts.get_mut("cp1").unwrap());
        preflight(&cluster, &facts, 1000, None).into_iter().filter(|f| !f.warning).map(|f| (f.host, f.check)).collect()
    }

    #[test]
    fn good_hosts_pass_and_each_fault_has_a_name() {
        assert_eq!(checks(|_| ()), []);
        type Fault = Box<dyn Fn(&mut Facts)>;
        let table: Vec<(Fault, &str)> = vec![
            (Box::new(|f| f.uid = 1000), "IsPrivilegedUser"),
            (Box::new(|f| f.os_id = "fedora".into()), "SystemVerification"),
            (Box::new(|f| f.machine = "aarch64".into()), "SystemVerification-Architecture"),
            (Box::new(|f| f.cpus = 1), "NumCPU"),
            (Box::new(|f| f.memory = GIB), "Mem"),
            (Box::new(|f| f.disk_free = GIB), "DiskFree"),
            (Box::new(|f| f.disk_size = 100 * GIB), "DiskFree"),
            (Box::new(|f| f.listening = vec![(6443, "nginx.service".into())]), "Port-6443"),
            (Box::new(|f| f.addresses.clear()), "HostAddress"),
            (Box::new(|f| f.unix_time = 2000), "Clock"),
            (Box::new(|f| f.cluster = Some("other".into())), "OtherCluster"),
            (Box::new(|f| f.systemd = false), "Service-Systemd"),
            (Box::new(|f| f.taken = vec!["/var/lib/etcd/member".into()]), "DirAvailable--var-lib-etcd"),
            (
                Box::new(|f| f.taken = vec!["/etc/kubernetes/kubelet.conf".into()]),
                "FileAvailable--etc-kubernetes-kubelet.conf",
            ),
        ];
        for (change, check) in table {
            assert_eq!(checks(change), [("cp1".to_owned(), check.to_owned())]);
            assert!(crate::is_check(check), "{check} is not in CHECKS, which --help lists");
        }
    }

    #[test]
    fn our_own_units_may_hold_their_ports() {
        assert_eq!(
            checks(|f| f.listening = vec![(6443, "kube-apiserver.service".into()), (22, "ssh.service".into())]),
            []
        );
    }

    #[test]
    fn clones_are_found() {
        assert_eq!(checks(|f| f.machine_id = "w2".into()), [("w2".to_owned(), "MachineId".to_owned())]);
    }
}
