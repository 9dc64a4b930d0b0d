//! KubeletConfiguration (`kubelet.config.k8s.io/v1beta1`): what is honoured, what is known and refused, what is
//! unknown.

mod check;
mod defaults;
mod duration;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kinit_component_base::ciphers::TlsArgs;
use serde::Deserialize;
use serde_json::Value;

/// Who may talk to the kubelet's server.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Authentication {
    /// Client certificates.
    pub x509: X509,
    /// Bearer tokens by TokenReview.
    pub webhook: Webhook,
    /// Requests without credentials.
    pub anonymous: Toggle,
}

/// Client certificate authentication.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct X509 {
    /// CA file of client certificates.
    #[serde(rename = "clientCAFile")]
    pub client_ca_file: String,
}

/// Token authentication by TokenReview.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Webhook {
    /// Default true.
    pub enabled: Option<bool>,
    /// How long answers are kept; default 2m.
    #[serde(rename = "cacheTTL", deserialize_with = "duration::deserialize")]
    pub cache_ttl: Duration,
}

/// Something that is on or off.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Toggle {
    /// Whether it is on; the default is upstream's.
    pub enabled: Option<bool>,
}

/// Authorization of requests to the kubelet's server.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Authorization {
    /// `Webhook` is the only mode: there is no switch that skips authorization.
    pub mode: String,
    /// Cache times.
    pub webhook: AuthorizationWebhook,
}

/// Cache times of SubjectAccessReviews.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct AuthorizationWebhook {
    /// Default 5m.
    #[serde(rename = "cacheAuthorizedTTL", deserialize_with = "duration::deserialize")]
    pub cache_authorized_ttl: Duration,
    /// Default 30s.
    #[serde(rename = "cacheUnauthorizedTTL", deserialize_with = "duration::deserialize")]
    pub cache_unauthorized_ttl: Duration,
}

/// The fields that are honoured. Zero and empty mean upstream's default, which [`KubeletConfig::load`] fills in.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct KubeletConfig {
    /// Must be `kubelet.config.k8s.io/v1beta1`.
    pub api_version: String,
    /// Must be `KubeletConfiguration`.
    pub kind: String,
    /// Who may connect.
    pub authentication: Authentication,
    /// What they may do.
    pub authorization: Authorization,
    /// Address of the server; default the node's IP (upstream's is 0.0.0.0).
    pub address: String,
    /// Port of the server; default 10250.
    pub port: u16,
    /// Address of /healthz; default 127.0.0.1.
    pub healthz_bind_address: String,
    /// Port of /healthz; default 10248, 0 in the file turns it off.
    pub healthz_port: Option<u16>,
    /// `systemd` or `cgroupfs`; default cgroupfs.
    pub cgroup_driver: String,
    /// Parent of `kubepods`; default the root.
    pub cgroup_root: String,
    /// Name servers of pods with dnsPolicy ClusterFirst.
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Vec<String>,
    /// Search domain of the cluster.
    pub cluster_domain: String,
    /// The runtime's socket; default unix:///run/containerd/containerd.sock.
    pub container_runtime_endpoint: String,
    /// Directory of static pods.
    pub static_pod_path: String,
    /// The host's resolver file, for pods that use the host's DNS; default /etc/resolv.conf.
    pub resolv_conf: Option<String>,
    /// Rotate the client certificate.
    pub rotate_certificates: bool,
    /// Ask the API for a serving certificate.
    #[serde(rename = "serverTLSBootstrap")]
    pub server_tls_bootstrap: bool,
    /// Serving certificate given by file.
    pub tls_cert_file: String,
    /// Its key.
    pub tls_private_key_file: String,
    /// Pods a node may run; default 110.
    pub max_pods: i32,
    /// Cipher suites of TLS 1.2, by Go's names; all that are known when empty.
    pub tls_cipher_suites: Vec<String>,
    /// `VersionTLS12` or `VersionTLS13`.
    pub tls_min_version: String,
    /// Processes a pod may have; default no limit.
    pub pod_pids_limit: Option<i64>,
    /// How often the node's status is computed; default 10s.
    #[serde(deserialize_with = "duration::deserialize")]
    pub node_status_update_frequency: Duration,
    /// How often an unchanged status is sent; default 5m.
    #[serde(deserialize_with = "duration::deserialize")]
    pub node_status_report_frequency: Duration,
    /// Duration of the node's lease; default 40.
    pub node_lease_duration_seconds: i32,
    /// Longest pause between restarts of a container; default 5m.
    pub crash_loop_back_off: CrashLoopBackOff,
    /// Register the node; default true.
    pub register_node: Option<bool>,
    /// Give containers RuntimeDefault seccomp when they name none.
    pub seccomp_default: bool,
    /// Refuse to run on cgroup v1; default false, both versions are served (upstream's default is true).
    #[serde(rename = "failCgroupV1")]
    pub fail_cgroup_v1: Option<bool>,
    /// Refuse to start with swap on; default true.
    pub fail_swap_on: Option<bool>,
    /// Dead containers kept per container; upstream's flag default is 1.
    pub max_per_pod_container: Option<i32>,
    /// Size at which a container's log is rotated; default 10Mi.
    pub container_log_max_size: String,
    /// Rotated logs kept; default 5.
    pub container_log_max_files: Option<i32>,
    /// CPU, memory and so on kept from pods for the system.
    pub system_reserved: std::collections::BTreeMap<String, String>,
    /// CPU, memory and so on kept from pods for Kubernetes' own programs.
    pub kube_reserved: std::collections::BTreeMap<String, String>,
    /// `pods` limits all pods together to what is not reserved; `none` or an empty list does not. Default `pods`.
    pub enforce_node_allocatable: Option<Vec<String>>,
    /// Image pulls a second; default 5, 0 is no limit.
    #[serde(rename = "registryPullQPS")]
    pub registry_pull_qps: Option<i32>,
    /// Image pulls at once above that; default 10.
    pub registry_burst: i32,
    /// Events a second; default 50, 0 is no limit.
    #[serde(rename = "eventRecordQPS")]
    pub event_record_qps: Option<i32>,
    /// Events at once above that; default 100.
    pub event_burst: i32,
    /// One image pull at a time; default true.
    pub serialize_image_pulls: Option<bool>,
    /// Image pulls at a time when they are not serialized; default no limit.
    pub max_parallel_image_pulls: Option<i32>,
    /// Files the kubelet may have open; default 1000000.
    pub max_open_files: i64,
    /// The kubelet's own OOM score; default -999.
    pub oom_score_adj: Option<i32>,
    /// Per cent of the images' file system from which on images are removed; default 85, 100 turns it off.
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: Option<u8>,
    /// Per cent down to which they are removed; default 80.
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: Option<u8>,
    /// Younger images stay; default 2m.
    #[serde(rename = "imageMinimumGCAge", deserialize_with = "duration::deserialize")]
    pub image_minimum_gc_age: Duration,
    /// Images that were not used for longer are removed; default never.
    #[serde(rename = "imageMaximumGCAge", deserialize_with = "duration::deserialize")]
    pub image_maximum_gc_age: Duration,
    /// How long a pressure condition stays after its signal was last seen; default 5m.
    #[serde(deserialize_with = "duration::deserialize")]
    pub eviction_pressure_transition_period: Duration,
    /// Thresholds at which pods are evicted; upstream's defaults.
    pub eviction_hard: std::collections::BTreeMap<String, String>,
    /// Directory of certificates and so on is the flags' affair; this is where pods' logs go. Default /var/log/pods.
    pub pod_logs_dir: String,
    /// The HTTPS server; default on.
    pub enable_server: Option<bool>,
    /// exec, attach, port-forward and logs; default on.
    pub enable_debugging_handlers: Option<bool>,
    /// An idle stream is closed after this; default 4h.
    #[serde(deserialize_with = "duration::deserialize")]
    pub streaming_connection_idle_timeout: Duration,
    /// Taints at registration.
    pub register_with_taints: Vec<k8s_openapi::api::core::v1::Taint>,
}

/// Tuning of restarts.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct CrashLoopBackOff {
    /// Default 5m.
    #[serde(deserialize_with = "duration::deserialize")]
    pub max_container_restart_period: Duration,
}

impl KubeletConfig {
    /// Upstream's defaults, for a kubelet without a file.
    pub fn defaults() -> Self {
        let mut config = Self::default();
        config.fill();
        config
    }

    /// Versions and suites of TLS that the kubelet's server takes.
    pub fn tls(&self) -> TlsArgs {
        TlsArgs { tls_cipher_suites: self.tls_cipher_suites.clone(), tls_min_version: self.tls_min_version.clone() }
    }

    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("kubelet configuration {}", path.display()))
    }

    /// Decodes strictly, fills in defaults, validates.
    pub fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_saphyr::from_str(text).context("parse YAML")?;
        let Value::Object(mut fields) = value else { bail!("not a mapping") };
        defaults::strip(&mut fields)?;
        let mut config: Self = serde_json::from_value(Value::Object(fields)).context("decode")?;
        ensure!(
            config.api_version == "kubelet.config.k8s.io/v1beta1" && config.kind == "KubeletConfiguration",
            "{} {} is not kubelet.config.k8s.io/v1beta1 KubeletConfiguration",
            config.api_version,
            config.kind
        );
        config.fill();
        config.validate()?;
        Ok(config)
    }

    fn fill(&mut self) {
        let text = |field: &mut String, value: &str| {
            if field.is_empty() {
                *field = value.to_owned();
            }
        };
        let time = |field: &mut Duration, seconds: u64| {
            if field.is_zero() {
                *field = Duration::from_secs(seconds);
            }
        };
        text(&mut self.healthz_bind_address, "127.0.0.1");
        text(&mut self.cgroup_driver, "cgroupfs");
        text(&mut self.container_runtime_endpoint, "unix:///run/containerd/containerd.sock");
        text(&mut self.authorization.mode, "Webhook");
        text(&mut self.pod_logs_dir, "/var/log/pods");
        text(&mut self.container_log_max_size, "10Mi");
        time(&mut self.authentication.webhook.cache_ttl, 120);
        time(&mut self.authorization.webhook.cache_authorized_ttl, 300);
        time(&mut self.authorization.webhook.cache_unauthorized_ttl, 30);
        time(&mut self.node_status_update_frequency, 10);
        time(&mut self.node_status_report_frequency, 300);
        time(&mut self.crash_loop_back_off.max_container_restart_period, 300);
        time(&mut self.streaming_connection_idle_timeout, 4 * 3600);
        time(&mut self.image_minimum_gc_age, 120);
        time(&mut self.eviction_pressure_transition_period, 300);
        if self.port == 0 {
            self.port = 10250;
        }
        if self.registry_burst == 0 {
            self.registry_burst = 10;
        }
        if self.event_burst == 0 {
            self.event_burst = 100;
        }
        if self.max_open_files == 0 {
            self.max_open_files = 1_000_000;
        }
        if self.max_pods == 0 {
            self.max_pods = 110;
        }
        if self.node_lease_duration_seconds == 0 {
            self.node_lease_duration_seconds = 40;
        }
        if self.eviction_hard.is_empty() {
            for (signal, threshold) in [
                ("memory.available", "100Mi"),
                ("nodefs.available", "10%"),
                ("nodefs.inodesFree", "5%"),
                ("imagefs.available", "15%"),
                ("imagefs.inodesFree", "5%"),
            ] {
                self.eviction_hard.insert(signal.into(), threshold.into());
            }
        }
    }

    /// Whether all pods together are limited.
    pub fn enforces_pods(&self) -> bool {
        self.enforce_node_allocatable.as_ref().is_none_or(|list| list.iter().any(|what| what == "pods"))
    }

    /// Image pulls at a time; `None` is no limit.
    pub fn parallel_pulls(&self) -> Option<usize> {
        match self.serialize_image_pulls {
            Some(false) => self.max_parallel_image_pulls.and_then(|n| usize::try_from(n).ok()),
            _ => Some(1),
        }
    }

    /// Directory of static pods, if there is one.
    pub fn static_pods(&self) -> Option<PathBuf> {
        (!self.static_pod_path.is_empty()).then(|| PathBuf::from(&self.static_pod_path))
    }

    /// Whether cgroups are made by systemd.
    pub fn systemd_cgroups(&self) -> bool {
        self.cgroup_driver == "systemd"
    }

    /// The host's resolver file; `None` when pods are not to inherit it.
    pub fn resolver_file(&self) -> Option<PathBuf> {
        match self.resolv_conf.as_deref() {
            None => Some(PathBuf::from("/etc/resolv.conf")),
            Some("") => None,
            Some(path) => Some(PathBuf::from(path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

    #[test]
    fn accepts_what_kubeadm_writes() {
        let text = format!(
            "{HEAD}authentication:\n  anonymous:\n    enabled: false\n  webhook:\n    cacheTTL: 0s\n    enabled: true\n  x509:\n    clientCAFile: /etc/kubernetes/pki/ca.crt\nauthorization:\n  mode: Webhook\n  webhook:\n    cacheAuthorizedTTL: 0s\n    cacheUnauthorizedTTL: 0s\ncgroupDriver: systemd\nclusterDNS:\n- 10.96.0.10\nclusterDomain: cluster.local\ncontainerRuntimeEndpoint: \"\"\ncpuManagerReconcilePeriod: 0s\ncrashLoopBackOff: {{}}\nevictionPressureTransitionPeriod: 0s\nfileCheckFrequency: 0s\nhealthzBindAddress: 127.0.0.1\nhealthzPort: 10248\nhttpCheckFrequency: 0s\nimageMaximumGCAge: 0s\nimageMinimumGCAge: 0s\nlogging:\n  flushFrequency: 0\n  options:\n    json:\n      infoBufferSize: \"0\"\n    text:\n      infoBufferSize: \"0\"\n  verbosity: 0\nmemorySwap: {{}}\nnodeStatusReportFrequency: 0s\nnodeStatusUpdateFrequency: 0s\nrotateCertificates: true\nruntimeRequestTimeout: 0s\nshutdownGracePeriod: 0s\nshutdownGracePeriodCriticalPods: 0s\nstaticPodPath: /etc/kubernetes/manifests\nstreamingConnectionIdleTimeout: 0s\nsyncFrequency: 0s\nvolumeStatsAggPeriod: 0s\n"
        );
        let config = KubeletConfig::parse(&text).unwrap();
        assert_eq!((config.cgroup_driver.as_str(), config.port, config.max_pods), ("systemd", 10250, 110));
        assert_eq!(config.node_status_report_frequency, Duration::from_secs(300));
    }

    #[test]
    fn refuses_what_it_would_not_honour() {
        for (line, word) in [
            ("nonsense: 1", "nonsense"),
            ("cpuManagerPolicy: static", "cpuManagerPolicy"),
            ("readOnlyPort: 10255", "readOnlyPort"),
            ("authorization: {mode: AlwaysAllow}", "AlwaysAllow"),
            ("authentication: {anonymous: {enabled: true}}", "anonymous"),
            ("cgroupDriver: other", "cgroupDriver"),
            ("address: nowhere", "address"),
            ("healthzBindAddress: here", "healthzBindAddress"),
            ("kubeReserved: {memory: lots}", "lots"),
            ("kubeReserved: {gpu: \"1\"}", "gpu"),
            ("enforceNodeAllocatable: [kube-reserved]", "kube-reserved"),
            ("maxParallelImagePulls: 3", "serializeImagePulls"),
            ("maxOpenFiles: -1", "maxOpenFiles"),
            ("makeIPTablesUtilChains: true", "makeIPTablesUtilChains"),
            ("contentType: application/vnd.kubernetes.protobuf", "contentType"),
        ] {
            let error = format!("{:#}", KubeletConfig::parse(&format!("{HEAD}{line}\n")).unwrap_err());
            assert!(error.contains(word), "{line}: {error}");
        }
    }
}
