//! What Services of type LoadBalancer need: the pools as the cloud controller manager reads them, and the rights of it
//! and of the nodes that answer for its addresses.

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use kinit_config::Cluster;
use serde_json::{Value, json};

use crate::objects::{SYSTEM, bind, bind_in, meta, rule, subject, value};

/// Where nodes settle who answers for which address (kube-netd): Leases in a namespace of their own, so that a node's
/// program may write no other Lease.
const NAMESPACE: &str = "kinit-load-balancer";
const USER: &str = "system:cloud-controller-manager";
const LEASES: &str = "coordination.k8s.io";

/// The file of `--cloud-config`: JSON, which is YAML.
pub(crate) fn cloud_config(cluster: &Cluster) -> String {
    let pools: Vec<Value> = cluster
        .spec
        .load_balancer_pools
        .iter()
        .map(|pool| json!({"name": pool.name, "addresses": pool.addresses, "autoAssign": pool.auto_assign}))
        .collect();
    let config = json!({"apiVersion": "kinit.dev/v1alpha1", "kind": "LoadBalancerPools", "pools": pools});
    format!("{config:#}\n")
}

/// The objects; none without pools.
pub(crate) fn objects(cluster: &Cluster) -> Vec<Value> {
    if cluster.spec.load_balancer_pools.is_empty() {
        return Vec::new();
    }
    let netd = "system:kube-netd";
    vec![
        value(Namespace { metadata: meta(None, NAMESPACE), ..Default::default() }),
        value(Role { metadata: meta(Some(NAMESPACE), netd), rules: Some(node_rules()) }),
        bind_in(NAMESPACE, netd, netd, vec![subject("User", netd)]),
        value(ClusterRole { metadata: meta(None, USER), rules: Some(controller_rules()), ..Default::default() }),
        bind(USER, USER, subject("User", USER)),
        value(Role { metadata: meta(Some(SYSTEM), USER), rules: Some(election_rules()) }),
        bind_in(SYSTEM, USER, USER, vec![subject("User", USER)]),
    ]
}

fn node_rules() -> Vec<PolicyRule> {
    vec![rule(LEASES, &["leases"], &["get", "list", "watch", "create", "update", "delete"], &[])]
}

fn controller_rules() -> Vec<PolicyRule> {
    vec![
        rule("", &["services"], &["get", "list", "watch", "patch"], &[]),
        rule("", &["services/status"], &["patch"], &[]),
        rule("events.k8s.io", &["events"], &["create", "patch", "update"], &[]),
        rule("authentication.k8s.io", &["tokenreviews"], &["create"], &[]),
        rule("authorization.k8s.io", &["subjectaccessreviews"], &["create"], &[]),
    ]
}

fn election_rules() -> Vec<PolicyRule> {
    vec![
        rule(LEASES, &["leases"], &["create"], &[]),
        rule(LEASES, &["leases"], &["get", "update"], &["cloud-controller-manager"]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bundle, HostFacts, desired, retired};
    use serde_json::to_value;

    fn with_pools() -> Cluster {
        let pools = "  loadBalancerPools: [{name: default, addresses: [192.0.2.100-192.0.2.120]}]\n  hosts:\n";
        kinit_config::load(&kinit_config::example().replacen("  hosts:\n", pools, 1)).unwrap()
    }

    #[test]
    fn pools_become_a_file_and_rights() {
        let cluster = with_pools();
        let config: Value = serde_json::from_str(&cloud_config(&cluster)).unwrap();
        let pool = json!({"name": "default", "addresses": ["192.0.2.100-192.0.2.120"], "autoAssign": true});
        assert_eq!(config["pools"], json!([pool]));
        let names: Vec<String> = objects(&cluster)
            .iter()
            .map(|o| format!("{} {}", o["kind"], o["metadata"]["name"]).replace('"', ""))
            .collect();
        assert_eq!(names[0], "Namespace kinit-load-balancer", "before what is in it");
        assert_eq!(names.len(), 7);
        assert!(objects(&kinit_config::load(kinit_config::example()).unwrap()).is_empty());
    }

    /// What a host has, and what is taken from it.
    fn on(cluster: &Cluster, host: usize) -> (String, String) {
        let (host, facts, bundle) = (&cluster.spec.hosts[host], HostFacts::default(), Bundle::sample());
        let has = desired(cluster, host, &facts, &bundle).unwrap();
        (format!("{has:?}"), format!("{:?}", retired(cluster, host, &facts, &bundle).unwrap()))
    }

    #[test]
    fn the_controller_comes_and_goes_with_the_pools() {
        let (unit, files) =
            ("cloud-controller-manager.service", [crate::CLOUD_CONFIG, "cloud-controller-manager.conf"]);
        let plain = kinit_config::load(kinit_config::example()).unwrap();
        for (cluster, host, expected) in
            [(&with_pools(), 1, true), (&with_pools(), 0, false), (&with_pools(), 4, false), (&plain, 1, false)]
        {
            let (has, gone) = on(cluster, host);
            for name in files.iter().chain([&unit]) {
                assert_eq!((has.contains(name), gone.contains(name)), (expected, !expected), "{name} of host {host}");
            }
        }
        let (has, _) = on(&with_pools(), 1);
        assert!(has.contains("--cloud-config=/etc/kubernetes/cloud-config.yaml"));
    }

    #[test]
    fn a_bundle_may_lack_it() {
        let mut bundle = Bundle::sample();
        assert_eq!(bundle.lacks(&with_pools()), None);
        bundle.programs.remove("cloud-controller-manager");
        assert_eq!(bundle.lacks(&with_pools()), Some("cloud-controller-manager"));
        assert_eq!(bundle.lacks(&kinit_config::load(kinit_config::example()).unwrap()), None);
    }

    /// The components' own tests run with what these files grant: neither more nor less.
    #[test]
    fn rights_are_those_that_the_components_were_tested_with() {
        let controller: Value =
            serde_json::from_str(include_str!("../../../cluster/cloud-baremetal/tests/role.json")).unwrap();
        assert_eq!(to_value(controller_rules()).unwrap(), controller["cluster"]);
        assert_eq!(to_value(election_rules()).unwrap(), controller["kube-system"]);
        let node: Value = serde_json::from_str(include_str!("../../../node/netd/src/announce/role.json")).unwrap();
        assert_eq!(to_value(node_rules()).unwrap(), node[NAMESPACE]);
        assert_eq!(to_value(crate::objects::netd_rules()).unwrap(), node["cluster"]);
    }
}
