//! A pod's resolver configuration (`pkg/kubelet/network/dns`).

use k8s_openapi::api::core::v1::Pod;
use kinit_cri::v1::DnsConfig;

const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_LENGTH: usize = 2048;

/// What pods inherit.
#[derive(Debug, Clone, Default)]
pub struct Resolver {
    /// Addresses of the cluster's DNS service.
    pub cluster_dns: Vec<String>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// The host's resolver file, as text.
    pub host: String,
}

/// Merges policy, the host's file and the pod's own dnsConfig.
pub fn pod_dns(pod: &Pod, resolver: &Resolver) -> Result<DnsConfig, String> {
    let Some(spec) = &pod.spec else { return Ok(DnsConfig::default()) };
    let host_network = spec.host_network == Some(true);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "None" => None,
        "Default" => Some(false),
        "ClusterFirst" => Some(!host_network && !resolver.cluster_dns.is_empty()),
        "ClusterFirstWithHostNet" => Some(!resolver.cluster_dns.is_empty()),
        other => return Err(format!("dnsPolicy {other:?} is not known")),
    };
    let mut dns = match cluster {
        None => DnsConfig::default(),
        Some(false) => parse(&resolver.host),
        Some(true) => {
            let host = parse(&resolver.host);
            let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
            let domain = &resolver.cluster_domain;
            let mut searches = Vec::new();
            if !domain.is_empty() {
                searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            }
            push_new(&mut searches, host.searches);
            DnsConfig { servers: resolver.cluster_dns.clone(), searches, options: vec!["ndots:5".to_owned()] }
        }
    };
    if let Some(own) = &spec.dns_config {
        push_new(&mut dns.servers, own.nameservers.clone().unwrap_or_default());
        push_new(&mut dns.searches, own.searches.clone().unwrap_or_default());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            dns.options.retain(|o| o.split(':').next() != Some(name));
            dns.options.push(match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.clone(),
            });
        }
    }
    dns.servers.truncate(MAX_SERVERS);
    dns.searches.truncate(MAX_SEARCHES);
    while dns.searches.join(" ").len() > MAX_SEARCH_LENGTH {
        dns.searches.pop();
    }
    Ok(dns)
}

fn push_new(list: &mut Vec<String>, more: Vec<String>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

fn parse(text: &str) -> DnsConfig {
    let mut dns = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split(['#', ';']).next().unwrap_or("").split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
            // The last search line wins, as in resolv.conf(5).
            Some("search") => {
                dns.searches = words.map(|w| w.trim_end_matches('.').to_owned()).filter(|w| !w.is_empty()).collect()
            }
            Some("options") => dns.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        let resolver = Resolver {
            cluster_dns: vec!["10.96.0.10".into()],
            cluster_domain: "cluster.local".into(),
            host: "nameserver 1.1.1.1\nsearch lan.\n".into(),
        };
        for (policy, host_network, server, first) in [
            ("ClusterFirst", false, "10.96.0.10", "ns.svc.cluster.local"),
            ("ClusterFirst", true, "1.1.1.1", "lan"),
            ("ClusterFirstWithHostNet", true, "10.96.0.10", "ns.svc.cluster.local"),
            ("Default", false, "1.1.1.1", "lan"),
        ] {
            let pod: Pod = serde_json::from_value(serde_json::json!({
                "metadata": {"namespace": "ns"},
                "spec": {"containers": [], "dnsPolicy": policy, "hostNetwork": host_network}}))
            .unwrap();
            let dns = pod_dns(&pod, &resolver).unwrap();
            assert_eq!((dns.servers[0].as_str(), dns.searches[0].as_str()), (server, first), "{policy} {host_network}");
        }
    }

    #[test]
    fn own_configuration_is_merged() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {}, "spec": {"containers": [], "dnsPolicy": "None",
            "dnsConfig": {"nameservers": ["9.9.9.9"], "searches": ["a"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}})).unwrap();
        let dns = pod_dns(&pod, &Resolver::default()).unwrap();
        assert_eq!(
            (dns.servers, dns.searches, dns.options),
            (vec!["9.9.9.9".to_owned()], vec!["a".to_owned()], vec!["ndots:2".to_owned(), "edns0".to_owned()])
        );
    }
}
