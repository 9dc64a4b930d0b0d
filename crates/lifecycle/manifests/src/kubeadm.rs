//! The objects that kubeadm keeps its configuration in, for an unmodified `kubeadm join` and for tools that read them
//! (`kubeadm.k8s.io/v1beta4`, `kubelet.config.k8s.io/v1beta1`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kinit_config::{Arg, Cluster};
use serde_json::{Value, json};

use crate::objects::{SYSTEM, meta, value};

/// ConfigMaps `kubeadm-config` and `kubelet-config`. Their texts are JSON, which is YAML.
pub(crate) fn configs(cluster: &Cluster) -> Vec<Value> {
    let map = |name: &str, key: &str, content: &Value| {
        let data = BTreeMap::from([(key.to_owned(), format!("{content:#}\n"))]);
        value(ConfigMap { metadata: meta(Some(SYSTEM), name), data: Some(data), ..Default::default() })
    };
    vec![
        map("kubeadm-config", "ClusterConfiguration", &cluster_configuration(cluster)),
        map("kubelet-config", "kubelet", &kubelet_configuration(cluster)),
    ]
}

fn cluster_configuration(cluster: &Cluster) -> Value {
    let spec = &cluster.spec;
    let args = |args: &[Arg]| -> Vec<Value> {
        args.iter().map(|arg| json!({ "name": arg.name, "value": arg.value })).collect()
    };
    let net = &spec.networking;
    json!({
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "ClusterConfiguration",
        "clusterName": cluster.metadata.name,
        "kubernetesVersion": cluster.kubernetes_version(),
        "controlPlaneEndpoint": spec.control_plane_endpoint,
        "certificatesDir": crate::PKI,
        "encryptionAlgorithm": spec.certificates.encryption_algorithm,
        "certificateValidityPeriod": format!("{}h0m0s", u64::from(spec.certificates.validity_days) * 24),
        "caCertificateValidityPeriod": format!("{}h0m0s", u64::from(spec.certificates.ca_validity_days) * 24),
        "networking": { "dnsDomain": net.dns_domain, "podSubnet": net.pod_subnet, "serviceSubnet": net.service_subnet },
        "etcd": { "local": { "dataDir": spec.etcd.data_dir, "extraArgs": args(&spec.etcd.extra_args) } },
        "apiServer": { "extraArgs": args(&spec.api_server.extra_args), "certSANs": spec.api_server.cert_sans },
        "controllerManager": { "extraArgs": args(&spec.controller_manager.extra_args) },
        "scheduler": { "extraArgs": args(&spec.scheduler.extra_args) },
        // DNS and the service proxy are kinit's own.
        "dns": { "disabled": true },
        "proxy": { "disabled": true },
    })
}

/// What all nodes have in common: nothing of one machine.
fn kubelet_configuration(cluster: &Cluster) -> Value {
    let spec = &cluster.spec;
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": format!("{}/ca.crt", crate::PKI) },
        },
        "authorization": { "mode": "Webhook" },
        "cgroupDriver": "systemd",
        "clusterDNS": [cluster.service_ip(10).to_string()],
        "clusterDomain": spec.networking.dns_domain,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": 10248,
        "podPidsLimit": spec.kubelet.pids_of_a_pod(),
        "readOnlyPort": 0,
        "rotateCertificates": true,
        "seccompDefault": spec.kubelet.seccomp_by_default(),
        "serverTLSBootstrap": true,
        "staticPodPath": "/etc/kubernetes/manifests",
        "tlsCipherSuites": crate::components::CIPHER_SUITES,
    });
    if !spec.kubelet.eviction_hard.is_empty() {
        config["evictionHard"] = json!(spec.kubelet.eviction_hard);
    }
    if let Some(percent) = spec.kubelet.image_gc_high_threshold_percent {
        config["imageGCHighThresholdPercent"] = json!(percent);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubeadm_finds_its_objects() {
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        let found: Vec<(String, Value)> = configs(&cluster)
            .into_iter()
            .map(|map| {
                let (key, text) = map["data"].as_object().unwrap().iter().next().unwrap();
                let name = map["metadata"]["name"].as_str().unwrap();
                (format!("{name}/{key}"), serde_json::from_str(text.as_str().unwrap()).unwrap())
            })
            .collect();
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["kubeadm-config/ClusterConfiguration", "kubelet-config/kubelet"]);
        assert_eq!(found[0].1["controlPlaneEndpoint"], "192.0.2.10:6443");
        assert_eq!(found[0].1["certificateValidityPeriod"], "8760h0m0s");
        assert_eq!(found[1].1["clusterDNS"], json!(["10.96.0.10"]));
    }
}
