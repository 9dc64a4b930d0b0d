//! What the metrics server needs of the API: its rights, and the API group that leads to it.
//!
//! API servers call the metrics server on their own host, at 127.0.0.1: the Service is of type ExternalName and names
//! that address. So there are no endpoints to keep, nothing depends on the service network, and a control plane that is
//! switched off takes nobody's metrics with it. The certificate is verified by the name of the Service.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceSpec, ServiceReference};
use kinit_config::Cluster;
use serde_json::Value;

use crate::objects::{SYSTEM, bind, bind_in, meta, rule, subject, value};
use crate::phase::Phase;

/// Where it listens, on 127.0.0.1.
pub(crate) const PORT: u16 = 10260;
const USER: &str = "system:metrics-server";
const NAME: &str = "metrics-server";
const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";
/// Who made an object: others may have brought their own.
const MANAGED: (&str, &str) = ("app.kubernetes.io/managed-by", "kinit");

/// The objects; none where it does not run.
pub(crate) fn objects(cluster: &Cluster, ca_pem: &str) -> Vec<Value> {
    if !cluster.spec.metrics_server.enabled {
        return Vec::new();
    }
    vec![
        value(ClusterRole { metadata: meta(None, USER), rules: Some(rules()), ..Default::default() }),
        bind(USER, USER, subject("User", USER)),
        value(Role { metadata: meta(Some(SYSTEM), USER), rules: Some(system_rules()) }),
        bind_in(SYSTEM, USER, USER, vec![subject("User", USER)]),
        value(readers()),
        value(service()),
        value(api_service(ca_pem)),
    ]
}

/// What of them is in the way where it does not run, if it is kinit's: an API group that nobody serves holds up clients
/// and the deletion of namespaces.
pub fn unwanted(cluster: &Cluster) -> Vec<(Phase, Value)> {
    if cluster.spec.metrics_server.enabled {
        return Vec::new();
    }
    let objects = [value(api_service("")), value(service())];
    objects.into_iter().map(|object| (Phase::UploadConfig, object)).collect()
}

/// As metrics-server's own manifest has them (`system:metrics-server`, `system:auth-delegator`).
fn rules() -> Vec<PolicyRule> {
    vec![
        rule("", &["nodes/metrics"], &["get"], &[]),
        rule("", &["nodes", "pods"], &["get", "list", "watch"], &[]),
        rule("authentication.k8s.io", &["tokenreviews"], &["create"], &[]),
        rule("authorization.k8s.io", &["subjectaccessreviews"], &["create"], &[]),
    ]
}

/// As Role `extension-apiserver-authentication-reader` has them.
fn system_rules() -> Vec<PolicyRule> {
    vec![rule("", &["configmaps"], &["get", "list", "watch"], &["extension-apiserver-authentication"])]
}

/// Who may look at pods may see what they use.
fn readers() -> ClusterRole {
    let aggregate = |role: &str| (format!("rbac.authorization.k8s.io/aggregate-to-{role}"), "true".to_owned());
    let labels = ["admin", "edit", "view"].map(aggregate);
    ClusterRole {
        metadata: ObjectMeta { labels: Some(labels.into()), ..meta(None, "system:aggregated-metrics-reader") },
        rules: Some(vec![rule(GROUP, &["pods", "nodes"], &["get", "list", "watch"], &[])]),
        ..Default::default()
    }
}

fn managed(metadata: ObjectMeta) -> ObjectMeta {
    let labels = BTreeMap::from([(MANAGED.0.to_owned(), MANAGED.1.to_owned())]);
    ObjectMeta { labels: Some(labels), ..metadata }
}

fn service() -> Service {
    let spec = ServiceSpec {
        type_: Some("ExternalName".to_owned()),
        external_name: Some("127.0.0.1".to_owned()),
        ..Default::default()
    };
    Service { metadata: managed(meta(Some(SYSTEM), NAME)), spec: Some(spec), status: None }
}

fn api_service(ca_pem: &str) -> APIService {
    let service = ServiceReference {
        namespace: Some(SYSTEM.to_owned()),
        name: Some(NAME.to_owned()),
        port: Some(i32::from(PORT)),
    };
    let spec = APIServiceSpec {
        group: Some(GROUP.to_owned()),
        version: Some(VERSION.to_owned()),
        service: Some(service),
        ca_bundle: (!ca_pem.is_empty()).then(|| ByteString(ca_pem.as_bytes().to_vec())),
        group_priority_minimum: 100,
        version_priority: 100,
        insecure_skip_tls_verify: None,
    };
    APIService { metadata: managed(meta(None, &format!("{VERSION}.{GROUP}"))), spec: Some(spec), status: None }
}

/// Whether an object that is there is one that kinit made.
pub fn is_managed(object: &Value) -> bool {
    object.get("metadata").and_then(|m| m.get("labels")?.get(MANAGED.0)) == Some(&Value::from(MANAGED.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bundle, HostFacts, desired, retired};
    use serde_json::{json, to_value};

    fn cluster(enabled: bool) -> Cluster {
        let mut cluster = kinit_config::load(kinit_config::example()).unwrap();
        cluster.spec.metrics_server.enabled = enabled;
        cluster
    }

    #[test]
    fn the_group_leads_to_each_servers_own_host() {
        let all = objects(&cluster(true), "PEM");
        let of = |kind: &str| all.iter().find(|o| o["kind"] == kind).unwrap();
        assert_eq!(of("Service")["spec"], json!({"type": "ExternalName", "externalName": "127.0.0.1"}));
        let spec = &of("APIService")["spec"];
        assert_eq!((&spec["caBundle"], &spec["service"]["port"]), (&json!("UEVN"), &json!(10260)));
        assert_eq!(spec["insecureSkipTLSVerify"], Value::Null, "its certificate is verified");
        assert!(is_managed(of("Service")) && is_managed(of("APIService")));
        assert!(objects(&cluster(false), "PEM").is_empty() && unwanted(&cluster(true)).is_empty());
        let ids: Vec<_> = unwanted(&cluster(false)).iter().map(|(_, o)| o["kind"].clone()).collect();
        assert_eq!(ids, ["APIService", "Service"]);
    }

    #[test]
    fn it_comes_and_goes() {
        let (facts, mut bundle) = (HostFacts::default(), Bundle::sample());
        let unit = "metrics-server.service";
        let of = |cluster: &Cluster, host: usize, bundle: &Bundle| {
            let host = &cluster.spec.hosts[host];
            let has = format!("{:?}", desired(cluster, host, &facts, bundle).unwrap());
            let gone = format!("{:?}", retired(cluster, host, &facts, bundle).unwrap());
            (has.contains(unit), gone.contains(unit), has, gone)
        };
        for (enabled, host, expected) in [(true, 1, true), (true, 0, false), (true, 4, false), (false, 1, false)] {
            let (has, gone, ..) = of(&cluster(enabled), host, &bundle);
            assert_eq!((has, gone), (expected, !expected), "{enabled} host {host}");
        }
        let (_, _, has, _) = of(&cluster(true), 1, &bundle);
        for part in ["metrics-server-serving", "metrics-server.conf", "--secure-port=10260", "--bind-address=127.0.0.1"]
        {
            assert!(has.contains(part), "{part}");
        }
        // A rollback to a bundle without it.
        bundle.programs.remove("metrics-server");
        let (_, _, _, gone) = of(&cluster(false), 1, &bundle);
        for part in [unit, "/usr/local/bin/metrics-server", "metrics-server-serving.key", "metrics-server.conf"] {
            assert!(gone.contains(part), "{part}");
        }
    }

    /// The server's own tests run with what these files grant: neither more nor less.
    #[test]
    fn rights_are_those_that_the_server_was_tested_with() {
        let tested: Value =
            serde_json::from_str(include_str!("../../../cluster/metrics-server/tests/role.json")).unwrap();
        assert_eq!(to_value(rules()).unwrap(), tested["cluster"]);
        assert_eq!(to_value(system_rules()).unwrap(), tested["kube-system"]);
    }
}
