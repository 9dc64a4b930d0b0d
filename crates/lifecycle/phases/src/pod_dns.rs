//! Whether pods can resolve the cluster's names: asked from inside a pod on every node that has one.

use std::net::Ipv4Addr;

use kinit_agent::{PodDns, PodDnsRequest};
use kinit_config::{Cluster, HostSpec};
use kinit_planner::Finding;

use crate::hosts::Hosts;

/// A name that every cluster has.
const NAME: &str = "kubernetes.default.svc";

/// What pods that ask are told, where it is not what it should be.
pub(crate) async fn findings(hosts: &Hosts, cluster: &Cluster) -> Vec<Finding> {
    let request = PodDnsRequest {
        server: cluster.service_ip(10),
        name: format!("{NAME}.{}", cluster.spec.networking.dns_domain),
    };
    let asked = hosts.try_each(|agent| {
        let request = request.clone();
        async move { agent.pod_dns(request).await }
    });
    let said = asked.await;
    let nodes = cluster.spec.hosts.iter().filter(|host| host.is_node());
    let judged = nodes.filter_map(|host| {
        let said = match said.get(&host.name)? {
            Ok(said) => said.clone(),
            Err(error) => PodDns::Failed(format!("{error:#}")),
        };
        judge(host, &request, &said, cluster.service_ip(1))
    });
    judged.collect()
}

fn judge(host: &HostSpec, request: &PodDnsRequest, said: &PodDns, expected: Ipv4Addr) -> Option<Finding> {
    let (server, name) = (request.server, &request.name);
    let message = match said {
        PodDns::NoPod => return None,
        PodDns::Answered(addresses) if addresses.contains(&expected) => return None,
        PodDns::Answered(addresses) => {
            let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            format!("a pod is told by {server} that {name} is {}, not {expected}", shown.join(", "))
        }
        PodDns::Failed(why) => format!("a pod cannot resolve {name} by {server}: {why}"),
    };
    Some(Finding {
        host: host.name.clone(),
        check: "Dns".to_owned(),
        message,
        remedy: "`kubectl -n kube-system get pods -l k8s-app=kube-dns -o wide` shows the servers; `kinit logs HOST kube-proxy` and kube-netd the way to them",
        warning: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_answer_is_told_and_no_pod_is_no_fault() {
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        let host = &cluster.spec.hosts[1];
        let expected = cluster.service_ip(1);
        let request = PodDnsRequest { server: cluster.service_ip(10), name: "kubernetes.default.svc.x".into() };
        let judged = |said: PodDns| judge(host, &request, &said, expected).map(|finding| finding.message);
        assert_eq!(judged(PodDns::NoPod), None);
        assert_eq!(judged(PodDns::Answered(vec![expected])), None);
        assert!(judged(PodDns::Answered(vec![Ipv4Addr::LOCALHOST])).unwrap().contains("is 127.0.0.1, not 10.96.0.1"));
        assert!(judged(PodDns::Failed("NXDOMAIN".into())).unwrap().ends_with("by 10.96.0.10: NXDOMAIN"));
    }
}
