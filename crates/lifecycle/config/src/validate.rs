//! Everything that can be wrong with a cluster file, found at once.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use crate::types::{Arg, Cluster, HostSpec, Kubelet, Role};

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
struct Errors(Vec<FieldError>);

impl Errors {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(FieldError { path: path.into(), message: message.into() });
    }
}

/// Checks a defaulted cluster.
pub fn validate(cluster: &Cluster) -> Vec<FieldError> {
    let mut errors = Errors::default();
    if !is_label(&cluster.metadata.name) {
        errors.add("metadata.name", format!("{:?} is not a DNS label", cluster.metadata.name));
    }
    if !cluster.spec.kubernetes_version.starts_with("v1.36.") {
        errors.add("spec.kubernetesVersion", format!("{:?}: this kinit brings v1.36", cluster.spec.kubernetes_version));
    }
    endpoint(cluster, &mut errors);
    networking(cluster, &mut errors);
    hosts(cluster, &mut errors);
    components(cluster, &mut errors);
    let days = &cluster.spec.certificates;
    if days.validity_days == 0 || days.ca_validity_days < days.validity_days {
        errors
            .add("spec.certificates", "validityDays must be at least 1, and caValidityDays no less than validityDays");
    }
    if cluster.spec.ssh.user != "root" {
        errors.add("spec.ssh.user", format!("{:?}: kinit needs root on the hosts", cluster.spec.ssh.user));
    }
    if !cluster.spec.etcd.data_dir.starts_with('/') {
        errors.add("spec.etcd.dataDir", format!("{:?} is not an absolute path", cluster.spec.etcd.data_dir));
    }
    errors.0
}

fn endpoint(cluster: &Cluster, errors: &mut Errors) {
    let path = "spec.controlPlaneEndpoint";
    let text = &cluster.spec.control_plane_endpoint;
    match text.rsplit_once(':') {
        Some((host, port)) if is_subdomain(host) && port.parse::<u16>().is_ok_and(|p| p > 0) => {}
        _ => errors.add(path, format!("{text:?} is not HOST or HOST:PORT (IPv6 is not supported)")),
    }
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
    for (i, host) in cluster.spec.hosts.iter().enumerate() {
        let Ok(address) = host.address.parse::<Ipv4Addr>() else { continue };
        for (name, net) in [("podSubnet", pods), ("serviceSubnet", services)] {
            if let Some(net) = net.filter(|n| n.contains(&address)) {
                errors.add(format!("spec.hosts[{i}].address"), format!("{address} lies in {name} {net}"));
            }
        }
    }
}

fn subnet(path: &str, text: &str, sizes: std::ops::RangeInclusive<u8>, errors: &mut Errors) -> Option<Ipv4Net> {
    match text.parse::<Ipv4Net>() {
        Ok(net) if net.network() != net.addr() => {
            errors.add(path, format!("{text} has host bits set; did you mean {}?", net.trunc()))
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
        n if n % 2 == 0 => {
            errors.add(
                "spec.hosts",
                format!(
                    "{n} control planes would make {n} etcd members; an even number survives no more failures than {}",
                    n - 1
                ),
            );
        }
        n if n > 7 => errors.add("spec.hosts", format!("{n} etcd members are more than etcd supports well (7)")),
        _ => {}
    }
    let balancers = cluster.hosts(Role::LoadBalancer).count();
    if balancers > 1 {
        errors.add("spec.hosts", format!("{balancers} hosts have the role loadbalancer; one is supported"));
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
    if !is_subdomain(&host.name) {
        errors.add(
            format!("{path}.name"),
            format!("{:?} is not a DNS name (lower-case letters, digits, dashes, dots)", host.name),
        );
    }
    match host.address.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) if !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() => {}
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
            "a load balancer on a control plane is not supported: both would listen on port 6443",
        );
    }
    for (j, taint) in host.taints.iter().enumerate() {
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
    kubelet(&spec.kubelet, errors);
    for (i, name) in spec.api_server.cert_sans.iter().enumerate() {
        if name.parse::<IpAddr>().is_err() && !is_subdomain(name.strip_prefix("*.").unwrap_or(name)) {
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
        if arg.value.contains(['\n', '\r', '\0']) {
            errors.add(format!("{path}.extraArgs[{i}].value"), "holds a line break or a null character");
        }
    }
}

/// RFC 1123 label.
fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&text.len()) && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// RFC 1123 subdomain; an IPv4 address is one too.
fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
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

    #[test]
    fn an_even_number_of_members_is_refused() {
        let text = example().replacen("roles: [worker]", "roles: [control-plane]", 1);
        assert!(load(&text).unwrap_err().to_string().contains("4 control planes would make 4 etcd members"));
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
