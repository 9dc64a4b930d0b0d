//! Everything that can be wrong with a cluster file, found at once.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use crate::syntax::{is_label, is_label_value, is_name_or_ipv4, is_plain_path, is_qualified_name, is_subdomain};
use crate::types::{Arg, Cluster, HostSpec, Kubelet, Role};
use crate::{backup, balancing, bundles, certificates, pools, ssh};

/// One wrong value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// `spec.hosts[2].address`.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

#[derive(Default)]
pub(crate) struct Errors(Vec<FieldError>);

impl Errors {
    pub(crate) fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(FieldError { path: path.into(), message: message.into() });
    }
}

/// A longer value would not fit into a program's arguments (Linux's MAX_ARG_STRLEN is 128 KiB).
const LONGEST_VALUE: usize = 64 << 10;

/// Checks a defaulted cluster.
pub fn validate(cluster: &Cluster) -> Vec<FieldError> {
    let mut errors = Errors::default();
    if !is_label(&cluster.metadata.name) {
        errors.add("metadata.name", format!("{:?} is not a DNS label", cluster.metadata.name));
    }
    if let Some(version) = cluster.spec.kubernetes_version.as_ref().filter(|version| **version != version.release()) {
        let release = version.release();
        errors.add("spec.kubernetesVersion", format!("{version}: write {release}; the bundle says which build it is"));
    }
    endpoint(cluster, &mut errors);
    balancing::validate(cluster, &mut errors);
    pools::validate(cluster, &mut errors);
    networking(cluster, &mut errors);
    hosts(cluster, &mut errors);
    components(cluster, &mut errors);
    certificates::validate(&cluster.spec.certificates, &mut errors);
    if let Some(backup) = &cluster.spec.backup {
        backup::validate(backup, &mut errors);
    }
    bundles::validate(&cluster.spec.bundles, &mut errors);
    ssh::validate(&cluster.spec.ssh, &mut errors);
    if !is_plain_path(&cluster.spec.etcd.data_dir) {
        let dir = &cluster.spec.etcd.data_dir;
        errors.add("spec.etcd.dataDir", format!("{dir:?} is not an absolute path of letters, digits, `-`, `_`, `.`"));
    }
    errors.0
}

fn endpoint(cluster: &Cluster, errors: &mut Errors) {
    let path = "spec.controlPlaneEndpoint";
    let text = &cluster.spec.control_plane_endpoint;
    if text.is_empty() {
        return; // Its default needs a control plane; that none is there is said elsewhere.
    }
    let parts = text.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>().unwrap_or(0)));
    let Some((host, port)) = parts.filter(|(host, port)| is_name_or_ipv4(host) && *port > 0) else {
        return errors.add(path, format!("{text:?} is not HOST or HOST:PORT (IPv6 is not supported)"));
    };
    let Ok(address) = host.parse::<Ipv4Addr>() else { return };
    if !is_of_a_host(address) {
        return errors.add(path, format!("{address} cannot be a host's address"));
    }
    match cluster.spec.hosts.iter().find(|h| h.address == host) {
        Some(h) if h.is(Role::LoadBalancer) => {}
        Some(h) if h.is(Role::ControlPlane) && port == 6443 => {}
        Some(h) if h.is(Role::ControlPlane) => {
            errors.add(path, format!("{text}: the API server of {} listens on port 6443", h.name));
        }
        Some(h) => errors.add(path, format!("{text}: {} is neither a load balancer nor a control plane", h.name)),
        None => {}
    }
}

/// Not unspecified, loopback, link-local, multicast, broadcast or reserved.
pub(crate) fn is_of_a_host(ip: Ipv4Addr) -> bool {
    let first = ip.octets()[0];
    first != 0 && first < 224 && !ip.is_loopback() && !ip.is_link_local()
}

fn networking(cluster: &Cluster, errors: &mut Errors) {
    let net = &cluster.spec.networking;
    if !is_subdomain(&net.dns_domain) {
        errors.add("spec.networking.dnsDomain", format!("{:?} is not a DNS name", net.dns_domain));
    }
    let pods = subnet("spec.networking.podSubnet", &net.pod_subnet, 8..=22, errors);
    let services = subnet("spec.networking.serviceSubnet", &net.service_subnet, 8..=24, errors);
    let overlap = |a: &Ipv4Net, b: &Ipv4Net| a.contains(b) || b.contains(a);
    if let (Some(pods), Some(services)) = (pods, services)
        && overlap(&pods, &services)
    {
        errors.add("spec.networking", format!("podSubnet {pods} and serviceSubnet {services} overlap"));
    }
    let nodes = cluster.spec.hosts.iter().filter(|h| h.is_node()).count();
    if let Some(pods) = pods.filter(|p| nodes > 1 << 24u8.saturating_sub(p.prefix_len())) {
        errors.add("spec.networking.podSubnet", format!("{pods} has no /24 for each of {nodes} nodes"));
    }
    if let Ok(address) = cluster.endpoint().0.parse::<Ipv4Addr>() {
        in_subnets(cluster, "spec.controlPlaneEndpoint", address, errors);
    }
    for (i, host) in cluster.spec.hosts.iter().enumerate() {
        if let Ok(address) = host.address.parse::<Ipv4Addr>() {
            in_subnets(cluster, &format!("spec.hosts[{i}].address"), address, errors);
        }
    }
}

/// An address of a host lies in no subnet that the cluster gives away.
pub(crate) fn in_subnets(cluster: &Cluster, path: &str, address: Ipv4Addr, errors: &mut Errors) {
    let net = &cluster.spec.networking;
    for (name, text) in [("podSubnet", &net.pod_subnet), ("serviceSubnet", &net.service_subnet)] {
        if let Some(net) = text.parse::<Ipv4Net>().ok().filter(|net| net.contains(&address)) {
            errors.add(path, format!("{address} lies in {name} {net}"));
        }
    }
}

fn subnet(path: &str, text: &str, sizes: std::ops::RangeInclusive<u8>, errors: &mut Errors) -> Option<Ipv4Net> {
    match text.parse::<Ipv4Net>() {
        Ok(net) if net.network() != net.addr() => {
            errors.add(path, format!("{text} has host bits set; did you mean {}?", net.trunc()))
        }
        Ok(net) if !is_of_a_host(net.network()) => {
            errors.add(path, format!("{text} is loopback, link-local, multicast or reserved"))
        }
        Ok(net) if sizes.contains(&net.prefix_len()) => return Some(net),
        Ok(_) => errors.add(path, format!("{text}: the prefix must be /{} to /{}", sizes.start(), sizes.end())),
        Err(_) => errors.add(path, format!("{text:?} is not an IPv4 subnet (IPv6 and dual-stack are not supported)")),
    }
    None
}

fn hosts(cluster: &Cluster, errors: &mut Errors) {
    let control_planes = cluster.hosts(Role::ControlPlane).count();
    match control_planes {
        0 => errors.add("spec.hosts", "no host has the role control-plane"),
        n if n > 7 => errors.add("spec.hosts", format!("{n} etcd members are more than etcd supports well (7)")),
        _ => {}
    }
    let (mut names, mut addresses) = (BTreeMap::new(), BTreeMap::new());
    for (i, host) in cluster.spec.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{i}]");
        one_host(&path, host, errors);
        if let Some(other) = names.insert(&host.name, i) {
            errors.add(format!("{path}.name"), format!("{:?} is the name of spec.hosts[{other}] too", host.name));
        }
        if let Some(other) = addresses.insert(&host.address, i) {
            errors
                .add(format!("{path}.address"), format!("{} is the address of spec.hosts[{other}] too", host.address));
        }
    }
}

fn one_host(path: &str, host: &HostSpec, errors: &mut Errors) {
    // A Node's name is the value of its label kubernetes.io/hostname too, so that 63 is the limit.
    if !is_subdomain(&host.name) || host.name.len() > 63 {
        errors.add(
            format!("{path}.name"),
            format!("{:?} is not a DNS name of at most 63 lower-case letters, digits, dashes, dots", host.name),
        );
    }
    match host.address.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) if is_of_a_host(ip) => {}
        Ok(IpAddr::V6(_)) => {
            errors.add(format!("{path}.address"), format!("{} is IPv6, which is not supported", host.address))
        }
        _ => errors.add(format!("{path}.address"), format!("{:?} is not an IPv4 address of a host", host.address)),
    }
    if host.roles.is_empty() {
        errors.add(format!("{path}.roles"), "a host needs a role: control-plane, worker or loadbalancer");
    }
    if host.is(Role::LoadBalancer) && host.is(Role::ControlPlane) {
        errors.add(
            format!("{path}.roles"),
            "a control plane takes no role loadbalancer; spec.loadBalancer.type: control-planes puts one on each",
        );
    }
    for (key, value) in &host.labels {
        if !is_qualified_name(key) || !is_label_value(value) {
            errors.add(format!("{path}.labels"), format!("{key:?}: {value:?} is not a label"));
        }
    }
    if let Some(ssh) = &host.ssh {
        ssh::validate_host(&format!("{path}.ssh"), ssh, errors);
    }
    for (j, taint) in host.taints.iter().enumerate() {
        if !is_qualified_name(&taint.key) {
            errors.add(format!("{path}.taints[{j}].key"), format!("{:?} is not the key of a taint", taint.key));
        }
        if !is_label_value(&taint.value) {
            errors.add(format!("{path}.taints[{j}].value"), format!("{:?} is not the value of a taint", taint.value));
        }
        if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&taint.effect.as_str()) {
            errors.add(
                format!("{path}.taints[{j}].effect"),
                format!("{:?} is not NoSchedule, PreferNoSchedule or NoExecute", taint.effect),
            );
        }
    }
    let marked = !host.labels.is_empty() || !host.taints.is_empty();
    if marked && !host.is_node() {
        errors.add(path, "labels and taints need a role with a Node: control-plane or worker");
    }
}

fn components(cluster: &Cluster, errors: &mut Errors) {
    let spec = &cluster.spec;
    let all = [
        ("apiServer", &spec.api_server),
        ("controllerManager", &spec.controller_manager),
        ("scheduler", &spec.scheduler),
        ("cloudControllerManager", &spec.cloud_controller_manager),
        ("proxy", &spec.proxy),
        ("network", &spec.network),
    ];
    for (name, component) in all {
        args(&format!("spec.{name}"), &component.extra_args, errors);
        if name != "apiServer" && !component.cert_sans.is_empty() {
            errors.add(format!("spec.{name}.certSANs"), "only apiServer has certSANs");
        }
    }
    args("spec.etcd", &spec.etcd.extra_args, errors);
    args("spec.metricsServer", &spec.metrics_server.extra_args, errors);
    if !spec.metrics_server.enabled && !spec.metrics_server.extra_args.is_empty() {
        errors.add("spec.metricsServer.extraArgs", "the metrics server is not enabled");
    }
    kubelet(&spec.kubelet, errors);
    for (i, name) in spec.api_server.cert_sans.iter().enumerate() {
        if name.parse::<IpAddr>().is_err() && !is_name_or_ipv4(name.strip_prefix("*.").unwrap_or(name)) {
            errors
                .add(format!("spec.apiServer.certSANs[{i}]"), format!("{name:?} is neither an address nor a DNS name"));
        }
    }
}

/// Signals of `evictionHard` (upstream `pkg/kubelet/eviction/api`, on Linux).
const SIGNALS: &[&str] = &[
    "memory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
    "pid.available",
];

fn kubelet(kubelet: &Kubelet, errors: &mut Errors) {
    args("spec.kubelet", &kubelet.extra_args, errors);
    for (signal, threshold) in &kubelet.eviction_hard {
        let path = format!("spec.kubelet.evictionHard[{signal}]");
        if !SIGNALS.contains(&signal.as_str()) {
            errors.add(&path, format!("is not a signal; signals are {}", SIGNALS.join(", ")));
        }
        let number = threshold.trim_end_matches(|c: char| c == '%' || c.is_ascii_alphabetic());
        let percent = threshold.strip_suffix('%').and_then(|p| p.parse::<f64>().ok());
        let is_amount = number.parse::<f64>().is_ok_and(|n| n >= 0.0)
            && matches!(&threshold[number.len()..], "%" | "" | "k" | "M" | "G" | "T" | "Ki" | "Mi" | "Gi" | "Ti");
        if !is_amount || percent.is_some_and(|p| p >= 100.0) {
            errors.add(&path, format!("{threshold:?} is neither a quantity (1Gi) nor a percentage below 100 (10%)"));
        }
    }
    if kubelet.pod_pids_limit.is_some_and(|limit| limit == 0 || limit < -1) {
        errors.add("spec.kubelet.podPidsLimit", "must be -1 (no limit) or more than 0");
    }
    if kubelet.image_gc_high_threshold_percent.is_some_and(|p| !(81..=100).contains(&p)) {
        errors.add(
            "spec.kubelet.imageGCHighThresholdPercent",
            "must be above 80, at which collection ends, and at most 100",
        );
    }
}

fn args(path: &str, args: &[Arg], errors: &mut Errors) {
    for (i, arg) in args.iter().enumerate() {
        let valid = !arg.name.is_empty()
            && arg.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !arg.name.starts_with('-');
        if !valid {
            errors.add(
                format!("{path}.extraArgs[{i}].name"),
                format!("{:?} is not a flag's name (give it without leading dashes)", arg.name),
            );
        }
        if arg.value.contains(char::is_control) || arg.value.len() > LONGEST_VALUE {
            errors.add(format!("{path}.extraArgs[{i}].value"), "holds a control character, or is longer than 64 KiB");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::load::{example, load};

    #[test]
    fn all_mistakes_are_found_at_once() {
        let text = example()
            .replace("192.0.2.12", "10.244.3.4")
            .replace("192.0.2.13", "10.0.0.300")
            .replace("serviceSubnet: 10.96.0.0/12", "serviceSubnet: 10.244.0.0/16")
            .replace("name: w2", "name: W_2");
        let error = load(&text).unwrap_err().to_string();
        for expected in [
            "spec.networking: podSubnet 10.244.0.0/16 and serviceSubnet 10.244.0.0/16 overlap",
            "spec.hosts[2].address: 10.244.3.4 lies in podSubnet",
            "spec.hosts[3].address: \"10.0.0.300\" is not an IPv4 address of a host",
            "spec.hosts[5].name: \"w_2\" is not a DNS name",
        ] {
            assert!(error.contains(expected), "{expected} is missing in:\n{error}");
        }
    }

    /// Strings that would break out of a unit file, a flag's list or a template.
    #[test]
    fn nothing_breaks_out_of_a_string() {
        let with = |place: &str, value: &str| {
            let value = serde_json::json!(value);
            let host = |more: &str| {
                example().replace("    address: 192.0.2.21", &format!("    address: 192.0.2.21\n    {more}"))
            };
            let spec = |more: &str| example().replacen("  hosts:", &format!("  {more}\n  hosts:"), 1);
            match place {
                "label key" => host(&format!("labels: {{{value}: x}}")),
                "label value" => host(&format!("labels: {{x: {value}}}")),
                "taint key" => host(&format!("taints: [{{key: {value}, effect: NoSchedule}}]")),
                "taint value" => host(&format!("taints: [{{key: x, value: {value}, effect: NoSchedule}}]")),
                "ssh address" => host(&format!("ssh: {{address: {value}}}")),
                "ssh user" => spec("").replace("    user: root", &format!("    user: {value}")),
                "host ssh user" => host(&format!("ssh: {{user: {value}}}")),
                "jump" => spec("").replace("    user: root", &format!("    proxyJump: {value}")),
                "host jump" => host(&format!("ssh: {{proxyJump: {value}}}")),
                "host key" => host(&format!("ssh: {{hostKey: {value}}}")),
                "host" => example().replace("name: w1", &format!("name: {value}")),
                "cluster" => example().replace("name: kubernetes", &format!("name: {value}")),
                "domain" => spec("").replace("  networking:", &format!("  networking:\n    dnsDomain: {value}")),
                "endpoint" => spec(&format!("controlPlaneEndpoint: {value}")),
                "etcd" => spec(&format!("etcd: {{dataDir: {value}}}")),
                "version" => spec(&format!("kubernetesVersion: {value}")),
                "san" => spec(&format!("apiServer: {{certSANs: [{value}]}}")),
                "flag" => spec(&format!("kubelet: {{extraArgs: [{{name: {value}, value: x}}]}}")),
                _ => spec(&format!("kubelet: {{evictionHard: {{nodefs.available: {value}}}}}")),
            }
        };
        let places = "label key,label value,taint key,taint value,ssh address,ssh user,host ssh user,jump,host jump,host key,host,cluster,domain,endpoint,etcd,version,san,flag,eviction";
        for place in places.split(',') {
            for value in
                ["a\nExecStartPre=/bin/false", "$(reboot)", "`reboot`", "a;b", "a\"b", "{{ x }}", "a\u{1b}[31m", "a b"]
            {
                let error = load(&with(place, value)).map(drop).unwrap_err().to_string();
                assert!(error.starts_with("spec.") || error.starts_with("metadata."), "{place}: {error}");
                assert!(!error.contains('\u{1b}'), "{place}: {error}");
            }
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for (from, to, expected) in [
            (
                "  hosts:",
                "  controlPlaneEndpoint: 192.0.2.21\n  hosts:",
                "w1 is neither a load balancer nor a control plane",
            ),
            (
                "  hosts:",
                "  controlPlaneEndpoint: 192.0.2.11:8443\n  hosts:",
                "the API server of cp1 listens on port 6443",
            ),
            ("  hosts:", "  controlPlaneEndpoint: 127.0.0.1\n  hosts:", "127.0.0.1 cannot be a host's address"),
            ("  hosts:", "  controlPlaneEndpoint: 10.96.0.1\n  hosts:", "10.96.0.1 lies in serviceSubnet"),
            ("  hosts:", "  controlPlaneEndpoint: 192.0.2.300\n  hosts:", "is not HOST or HOST:PORT"),
            ("  hosts:", "  controlPlaneEndpoint: a:0\n  hosts:", "is not HOST or HOST:PORT"),
            ("10.244.0.0/16", "10.244.0.0/22", "has no /24 for each of 5 nodes"),
            ("10.244.0.0/16", "127.0.0.0/8", "is loopback, link-local, multicast or reserved"),
            ("10.244.0.0/16", "0.0.0.0/0", "is loopback, link-local, multicast or reserved"),
            ("  hosts:", "  certificates: {caValidityDays: 4294967295}\n  hosts:", "must be at most 36525"),
            (
                "  hosts:",
                "  certificates: {caValidityDays: -1}\n  hosts:",
                "spec.certificates.caValidityDays: invalid value",
            ),
            ("192.0.2.21", "255.255.255.255", "is not an IPv4 address of a host"),
            ("    user: root", "    port: 0", "spec.ssh.port: 0 is not a port"),
            ("    user: root", "    port: 70000", "spec.ssh.port: invalid value"),
            ("name: w1", &format!("name: {}", "a".repeat(64).replace("aaaaa", "aaaa.")), "of at most 63"),
        ] {
            let error = load(&example().replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected} is missing in: {error}");
        }
    }

    /// It is what a cluster passes through when it grows, shrinks, or loses a machine.
    #[test]
    fn an_even_number_of_members_is_a_state_too() {
        assert!(load(&example().replacen("roles: [worker]", "roles: [control-plane]", 1)).is_ok());
    }

    #[test]
    fn host_bits_and_ipv6_are_refused() {
        for (from, to, expected) in [
            ("10.96.0.0/12", "10.96.0.1/12", "did you mean 10.96.0.0/12?"),
            ("10.96.0.0/12", "fd00::/108", "IPv6 and dual-stack are not supported"),
            ("192.0.2.21", "2001:db8::1", "is IPv6, which is not supported"),
        ] {
            let error = load(&example().replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
