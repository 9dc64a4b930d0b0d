//! A pod's sandbox as the runtime wants it described.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kinit_cri::v1::{LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol};

use super::security;
use crate::dns;
use crate::kubelet::Kubelet;
use crate::names::{self, PodKey};

/// Labels of everything that belongs to a pod.
pub fn labels(pod: &Pod, key: &PodKey) -> BTreeMap<String, String> {
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.insert(names::POD_NAME.into(), key.name.clone());
    labels.insert(names::POD_NAMESPACE.into(), key.namespace.clone());
    labels.insert(names::POD_UID.into(), key.uid.clone());
    labels
}

/// The host name containers see, and the pod's domain if it has one (`kubelet.GeneratePodHostNameAndDomain`).
pub fn hostname(pod: &Pod, cluster_domain: &str) -> Result<(String, String), String> {
    let spec = pod.spec.as_ref();
    if let Some(own) = spec.and_then(|s| s.hostname_override.as_deref()).filter(|h| !h.is_empty()) {
        return Ok((own.to_owned(), String::new()));
    }
    let name = spec.and_then(|s| s.hostname.clone()).filter(|h| !h.is_empty());
    let mut name = name.unwrap_or_else(|| pod.metadata.name.clone().unwrap_or_default());
    name.truncate(63);
    let name = name.trim_end_matches(['-', '.']).to_owned();
    let subdomain = spec.and_then(|s| s.subdomain.as_deref()).filter(|s| !s.is_empty());
    let domain = subdomain.map_or(String::new(), |s| {
        format!("{s}.{}.svc.{cluster_domain}", pod.metadata.namespace.as_deref().unwrap_or("default"))
    });
    if spec.and_then(|s| s.set_hostname_as_fqdn) == Some(true) && !domain.is_empty() {
        let full = format!("{name}.{domain}");
        if full.len() > 64 {
            return Err(format!("pod FQDN {full:?} has more than 64 characters"));
        }
        return Ok((full, domain));
    }
    Ok((name, domain))
}

/// The whole description.
pub fn config(kubelet: &Kubelet, pod: &Pod, key: &PodKey, attempt: u32) -> Result<PodSandboxConfig, String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let host_network = spec.host_network == Some(true);
    let hostname = if host_network { String::new() } else { hostname(pod, &kubelet.config.cluster_domain)?.0 };
    let ports =
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).flat_map(|c| c.ports.iter().flatten());
    let port_mappings = ports
        .filter(|p| !host_network && p.host_port.is_some_and(|h| h > 0))
        .map(|p| PortMapping {
            protocol: match p.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            } as i32,
            container_port: p.container_port,
            host_port: p.host_port.unwrap_or(0),
            host_ip: p.host_ip.clone().unwrap_or_default(),
        })
        .collect();
    let sysctls = spec.security_context.iter().flat_map(|c| c.sysctls.iter().flatten());
    let seccomp_root = kubelet.paths.root.join("seccomp");
    Ok(PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: key.name.clone(),
            namespace: key.namespace.clone(),
            uid: key.uid.clone(),
            attempt,
        }),
        hostname,
        log_directory: kubelet.paths.log_directory(key).display().to_string(),
        dns_config: Some(dns::pod_dns(pod, &kubelet.resolver)?),
        port_mappings,
        labels: labels(pod, key),
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: kubelet.cgroups.parent(pod, key),
            security_context: Some(security::sandbox(pod, kubelet.config.seccomp_default, &seccomp_root)),
            sysctls: sysctls.map(|s| (s.name.clone(), s.value.clone())).collect(),
            ..Default::default()
        }),
        windows: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names() {
        for (spec, expected) in [
            (serde_json::json!({"containers": []}), ("web-0", "")),
            (
                serde_json::json!({"containers": [], "hostname": "db", "subdomain": "sub"}),
                ("db", "sub.ns.svc.cluster.local"),
            ),
            (
                serde_json::json!({"containers": [], "subdomain": "sub", "setHostnameAsFQDN": true}),
                ("web-0.sub.ns.svc.cluster.local", "sub.ns.svc.cluster.local"),
            ),
        ] {
            let pod: Pod = serde_json::from_value(
                serde_json::json!({"metadata": {"name": "web-0", "namespace": "ns"}, "spec": spec}),
            )
            .unwrap();
            let (name, domain) = hostname(&pod, "cluster.local").unwrap();
            assert_eq!((name.as_str(), domain.as_str()), expected);
        }
    }
}
