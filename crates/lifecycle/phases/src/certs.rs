//! Every certificate of a cluster: what it is, when it ends, and who renews it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use kinit_agent::HostCertificate;
use kinit_config::{Cluster, HostSpec, Role};
use kinit_manifests::{KUBERNETES, PKI, Phase};
use kinit_pki::{Authority, CertificateInfo, Leaf};
use kinit_planner::{HostObservation, external_authorities};
use kinit_resource::{Place, Resource, Shared};
use serde::Serialize;

use crate::hosts::Hosts;

const KUBELET: [&str; 2] =
    ["/var/lib/kubelet/pki/kubelet-client-current.pem", "/var/lib/kubelet/pki/kubelet-server-current.pem"];

/// Who sees to it that a certificate does not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Renewal {
    /// `kinit certs renew`, and every `kinit apply` in the last third of its life.
    Kinit,
    /// The kubelet itself.
    Kubelet,
    /// `kinit certs renew` and `kinit apply`, by a person who opens the authorities' keys on the desk.
    Desk,
    /// A person: its authority's key is on no control plane (`kinit certs csr`, `kinit certs import`).
    Elsewhere,
    /// Nobody yet: an authority is replaced by hand.
    Nobody,
}

/// A certificate of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// The host, or `desk`.
    pub host: String,
    /// The name for `kinit certs renew`, or the file's.
    pub name: String,
    /// Its file.
    pub path: String,
    /// What is in it; nothing when it cannot be read.
    #[serde(flatten)]
    pub certificate: Option<CertificateInfo>,
    /// Whole days until its end; negative when it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub days: Option<i64>,
    /// Who renews it.
    pub renewed_by: Renewal,
}

/// Looks at all hosts that can be reached. `now` is in seconds since 1970.
pub async fn certificates(hosts: &Hosts, cluster: &Cluster, now: i64) -> Result<Vec<CertificateStatus>> {
    let mut all = Vec::new();
    let external = external(hosts, cluster).await?;
    for host in &cluster.spec.hosts {
        let Ok(agent) = hosts.agent(&host.name) else { continue };
        let files = files(cluster, host);
        let paths = files.iter().map(|(path, _, _)| path.clone()).collect();
        let found = agent.certificates(paths).await;
        for one in found.with_context(|| format!("read the certificates of {}", host.name))? {
            all.extend(
                files.iter().find(|(path, _, _)| *path == one.path).map(|file| status(&host.name, file, one, now)),
            );
        }
    }
    for one in &mut all {
        if one.renewed_by != Renewal::Nobody && authority_of(&one.name).is_some_and(|of| external.contains(&of)) {
            one.renewed_by = if cluster.signs_on_desk() { Renewal::Desk } else { Renewal::Elsewhere };
        }
    }
    Ok(all)
}

/// Authorities whose certificate is on a control plane that can be reached, and whose key is on none.
async fn external(hosts: &Hosts, cluster: &Cluster) -> Result<BTreeSet<Authority>> {
    let shared = Authority::ALL.map(|of| Resource::Shared { shared: Shared::Authority(of), place: Place::Whole });
    let mut seen: BTreeMap<String, HostObservation> = BTreeMap::new();
    for host in cluster.hosts(Role::ControlPlane) {
        let Ok(agent) = hosts.agent(&host.name) else { continue };
        let observed = agent.observe(shared.to_vec()).await;
        let observed = observed.with_context(|| format!("look at the authorities of {}", host.name))?;
        let own = shared.iter().cloned().zip(observed).map(|(resource, seen)| (Phase::Certs, resource, seen));
        seen.insert(host.name.clone(), own.collect());
    }
    Ok(external_authorities(cluster, &seen))
}

/// Who signs the certificate of this name.
fn authority_of(name: &str) -> Option<Authority> {
    let tree = renewable().into_iter().find(|leaf| leaf.stem() == name).map(Leaf::authority);
    tree.or_else(|| name.starts_with("kubelet-").then_some(Authority::Kubernetes))
}

/// A kubeconfig on the desk.
pub fn desk_certificate(path: String, certificate: CertificateInfo, now: i64) -> CertificateStatus {
    let file = (path.clone(), "admin".to_owned(), Renewal::Kinit);
    status("desk", &file, HostCertificate { path, certificate: Some(certificate) }, now)
}

type File = (String, String, Renewal);

fn status(host: &str, (path, name, renewed_by): &File, found: HostCertificate, now: i64) -> CertificateStatus {
    let days = found.certificate.as_ref().map(|certificate| (certificate.not_after - now).div_euclid(86_400));
    let (host, name, path) = (host.to_owned(), name.clone(), path.clone());
    CertificateStatus { host, name, path, certificate: found.certificate, days, renewed_by: *renewed_by }
}

/// Where a host's certificates are.
fn files(cluster: &Cluster, host: &HostSpec) -> Vec<File> {
    let mut files: Vec<File> = Vec::new();
    let authority = |authority: Authority| {
        (format!("{PKI}/{}.crt", authority.stem()), authority.stem().to_owned(), Renewal::Nobody)
    };
    let kubeconfig =
        |leaf: Leaf| (format!("{KUBERNETES}/{}.conf", leaf.stem()), leaf.stem().to_owned(), Renewal::Kinit);
    if host.is(Role::ControlPlane) {
        files.extend(Authority::ALL.map(authority));
        files.extend(
            Leaf::FILES.map(|leaf| (format!("{PKI}/{}.crt", leaf.stem()), leaf.stem().to_owned(), Renewal::Kinit)),
        );
        files.extend([Leaf::Admin, Leaf::SuperAdmin, Leaf::ControllerManager, Leaf::Scheduler].map(kubeconfig));
        if !cluster.spec.load_balancer_pools.is_empty() {
            files.push(kubeconfig(Leaf::CloudControllerManager));
        }
        if cluster.spec.metrics_server.enabled {
            let serving = Leaf::MetricsServer.stem();
            files.push((format!("{PKI}/{serving}.crt"), serving.to_owned(), Renewal::Kinit));
            files.push(kubeconfig(Leaf::MetricsServerClient));
        }
    } else {
        files.push(authority(Authority::Kubernetes));
    }
    if host.is_node() {
        files.extend([Leaf::Proxy, Leaf::Netd].map(kubeconfig));
        files.extend(KUBELET.map(|path| {
            let name = path.rsplit('/').next().unwrap_or(path).trim_end_matches("-current.pem").to_owned();
            (path.to_owned(), name, Renewal::Kubelet)
        }));
    }
    files
}

/// Every certificate that `kinit certs renew` can name.
pub fn renewable() -> Vec<Leaf> {
    let kubeconfigs = [
        Leaf::Admin,
        Leaf::SuperAdmin,
        Leaf::ControllerManager,
        Leaf::Scheduler,
        Leaf::CloudControllerManager,
        Leaf::MetricsServer,
        Leaf::MetricsServerClient,
        Leaf::Proxy,
        Leaf::Netd,
    ];
    Leaf::FILES.into_iter().chain(kubeconfigs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_host_has_its_certificates() {
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        let names = |host: usize| -> Vec<String> {
            files(&cluster, &cluster.spec.hosts[host]).into_iter().map(|(_, name, _)| name).collect()
        };
        assert_eq!(names(0), ["ca"]);
        assert_eq!(names(4), ["ca", "kube-proxy", "kube-netd", "kubelet-client", "kubelet-server"]);
        let control_plane = names(1);
        for leaf in renewable() {
            // It is there with spec.loadBalancerPools only.
            let expected = leaf != Leaf::CloudControllerManager;
            assert_eq!(control_plane.iter().any(|name| name == leaf.stem()), expected, "{}", leaf.stem());
        }
        assert!(control_plane.contains(&"etcd/ca".to_owned()));
    }

    #[test]
    fn every_certificate_has_an_authority() {
        for leaf in renewable() {
            assert_eq!(authority_of(leaf.stem()), Some(leaf.authority()));
        }
        assert_eq!(authority_of("kubelet-server"), Some(Authority::Kubernetes));
        assert_eq!(authority_of("ca"), None);
    }

    #[test]
    fn days_are_whole_and_negative_after_the_end() {
        let info = |not_after| CertificateInfo {
            subject: String::new(),
            issuer: String::new(),
            names: vec![],
            authority: false,
            not_before: 0,
            not_after,
        };
        for (end, days) in [(86_400 * 3, 3), (86_399, 0), (0, 0), (-1, -1)] {
            assert_eq!(desk_certificate("x".into(), info(end), 0).days, Some(days), "{end}");
        }
    }
}
