//! Cluster DNS as an add-on: a Deployment behind Service `kube-dns`.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, HTTPGetAction, NodeAffinity, NodeSelectorRequirement,
    NodeSelectorTerm, PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec,
    PreferredSchedulingTerm, Probe, ResourceRequirements, SecurityContext, Service, ServiceAccount, ServicePort,
    ServiceSpec, Sysctl, Toleration, WeightedPodAffinityTerm,
};
use k8s_openapi::api::rbac::v1::{ClusterRole, Role, RoleBinding, RoleRef};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kinit_config::Cluster;
use serde_json::Value;

use crate::bundle::DNS_IMAGE;
use crate::objects::{SYSTEM, bind, meta, rule, subject, value};

const DNS: &str = "kube-dns";

/// DNS as a Deployment behind Service `kube-dns`, with CoreDNS's rights.
pub fn dns_objects(cluster: &Cluster) -> Vec<Value> {
    let role = ClusterRole {
        metadata: meta(None, "system:kube-dns-pods"),
        rules: Some(vec![
            rule("", &["services", "pods", "namespaces"], &["list", "watch"], &[]),
            rule("discovery.k8s.io", &["endpointslices"], &["list", "watch"], &[]),
        ]),
        ..Default::default()
    };
    vec![
        value(ServiceAccount { metadata: meta(Some(SYSTEM), DNS), ..Default::default() }),
        value(role),
        bind("system:kube-dns-pods", "system:kube-dns-pods", subject("ServiceAccount", DNS)),
        value(settings_role()),
        value(settings_binding()),
        value(dns_service(cluster)),
        value(dns_deployment(cluster)),
    ]
}

/// The settings for other domains are an administrator's: this ConfigMap and no other may be read.
fn settings_role() -> Role {
    Role {
        metadata: meta(Some(SYSTEM), DNS),
        rules: Some(vec![rule("", &["configmaps"], &["get", "list", "watch"], &[DNS])]),
    }
}

fn settings_binding() -> RoleBinding {
    RoleBinding {
        metadata: meta(Some(SYSTEM), DNS),
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "Role".to_owned(),
            name: DNS.to_owned(),
        },
        subjects: Some(vec![subject("ServiceAccount", DNS)]),
    }
}

fn dns_labels() -> BTreeMap<String, String> {
    BTreeMap::from([("k8s-app".to_owned(), DNS.to_owned())])
}

fn dns_service(cluster: &Cluster) -> Service {
    let port = |name: &str, port: i32, protocol: &str| ServicePort {
        name: Some(name.to_owned()),
        port,
        protocol: Some(protocol.to_owned()),
        target_port: Some(IntOrString::Int(port)),
        ..Default::default()
    };
    let mut labels = dns_labels();
    labels.extend([
        ("kubernetes.io/name".to_owned(), "KubeDNS".to_owned()),
        ("kubernetes.io/cluster-service".to_owned(), "true".to_owned()),
    ]);
    Service {
        metadata: ObjectMeta { labels: Some(labels), ..meta(Some(SYSTEM), DNS) },
        spec: Some(ServiceSpec {
            cluster_ip: Some(cluster.service_ip(10).to_string()),
            selector: Some(dns_labels()),
            ports: Some(vec![port("dns", 53, "UDP"), port("dns-tcp", 53, "TCP"), port("metrics", 9153, "TCP")]),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn dns_deployment(cluster: &Cluster) -> Deployment {
    let selector = LabelSelector { match_labels: Some(dns_labels()), ..Default::default() };
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(dns_labels()), ..Default::default() }),
        spec: Some(dns_pod(cluster)),
    };
    let strategy = DeploymentStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDeployment {
            max_unavailable: Some(IntOrString::Int(1)),
            max_surge: Some(IntOrString::Int(1)),
        }),
    };
    Deployment {
        metadata: ObjectMeta { labels: Some(dns_labels()), ..meta(Some(SYSTEM), DNS) },
        spec: Some(DeploymentSpec {
            replicas: Some(2),
            selector,
            template,
            strategy: Some(strategy),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn dns_pod(cluster: &Cluster) -> PodSpec {
    let toleration = |key: &str, effect: Option<&str>| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: effect.map(str::to_owned),
        ..Default::default()
    };
    let apart = PodAffinityTerm {
        label_selector: Some(LabelSelector { match_labels: Some(dns_labels()), ..Default::default() }),
        topology_key: "kubernetes.io/hostname".to_owned(),
        ..Default::default()
    };
    // Lookups and the API should not fail together: until a dead host's node is given up, half of what is asked goes to
    // its pod.
    let workers = NodeSelectorTerm {
        match_expressions: Some(vec![NodeSelectorRequirement {
            key: "node-role.kubernetes.io/control-plane".to_owned(),
            operator: "DoesNotExist".to_owned(),
            values: None,
        }]),
        ..Default::default()
    };
    PodSpec {
        service_account_name: Some(DNS.to_owned()),
        priority_class_name: Some("system-cluster-critical".to_owned()),
        dns_policy: Some("Default".to_owned()),
        // Port 53 without root and without a capability: a safe sysctl of the pod's own network namespace.
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(65532),
            sysctls: Some(vec![Sysctl {
                name: "net.ipv4.ip_unprivileged_port_start".to_owned(),
                value: "53".to_owned(),
            }]),
            ..Default::default()
        }),
        tolerations: Some(vec![
            toleration("CriticalAddonsOnly", None),
            toleration("node-role.kubernetes.io/control-plane", Some("NoSchedule")),
        ]),
        affinity: Some(Affinity {
            node_affinity: Some(NodeAffinity {
                preferred_during_scheduling_ignored_during_execution: Some(vec![PreferredSchedulingTerm {
                    weight: 50,
                    preference: workers,
                }]),
                ..Default::default()
            }),
            pod_anti_affinity: Some(PodAntiAffinity {
                preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
                    weight: 100,
                    pod_affinity_term: apart,
                }]),
                ..Default::default()
            }),
            ..Default::default()
        }),
        containers: vec![dns_container(cluster)],
        ..Default::default()
    }
}

fn dns_container(cluster: &Cluster) -> Container {
    let port = |name: &str, port: i32, protocol: &str| ContainerPort {
        name: Some(name.to_owned()),
        container_port: port,
        protocol: Some(protocol.to_owned()),
        ..Default::default()
    };
    let probe = |path: &str, port: i32| Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(port),
            scheme: Some("HTTP".to_owned()),
            ..Default::default()
        }),
        period_seconds: Some(2),
        failure_threshold: Some(5),
        ..Default::default()
    };
    let amounts = |pairs: &[(&str, &str)]| {
        Some(pairs.iter().map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned()))).collect())
    };
    Container {
        name: DNS.to_owned(),
        image: Some(DNS_IMAGE.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(vec![format!("--cluster-domain={}", cluster.spec.networking.dns_domain)]),
        ports: Some(vec![port("dns", 53, "UDP"), port("dns-tcp", 53, "TCP"), port("metrics", 9153, "TCP")]),
        liveness_probe: Some(Probe { initial_delay_seconds: Some(10), ..probe("/health", 8080) }),
        readiness_probe: Some(probe("/ready", 8181)),
        resources: Some(ResourceRequirements {
            requests: amounts(&[("cpu", "50m"), ("memory", "32Mi")]),
            limits: amounts(&[("memory", "170Mi")]),
            ..Default::default()
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                add: Some(vec!["NET_BIND_SERVICE".to_owned()]),
                drop: Some(vec!["ALL".to_owned()]),
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}
