//! The command lines of all components: the contract between kinit and its programs (docs/architecture.md).

use kinit_config::{Arg, Cluster, HostSpec, Role};

use crate::units::{args, merge};
use crate::{CLOUD_CONFIG, KUBERNETES, PKI};

/// What servers take of TLS 1.2: the suites that the CIS benchmark calls strong.
pub const CIPHER_SUITES: &[&str] = &[
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
];

fn pki(file: &str) -> String {
    format!("{PKI}/{file}")
}

/// etcd, flags as kubeadm sets them. Who the first members are is no flag: it matters at a member's first start only
/// ([`crate::etcd_start`]).
pub fn etcd(cluster: &Cluster, host: &HostSpec) -> Vec<Arg> {
    let ip = &host.address;
    let ours = args([
        ("name", host.name.clone()),
        ("data-dir", cluster.spec.etcd.data_dir.clone()),
        ("listen-client-urls", format!("https://127.0.0.1:2379,https://{ip}:2379")),
        ("advertise-client-urls", format!("https://{ip}:2379")),
        ("listen-peer-urls", format!("https://{ip}:2380")),
        ("initial-advertise-peer-urls", format!("https://{ip}:2380")),
        ("listen-metrics-urls", "http://127.0.0.1:2381".to_owned()),
        ("initial-cluster-token", cluster.metadata.name.clone()),
        ("client-cert-auth", "true".to_owned()),
        ("trusted-ca-file", pki("etcd/ca.crt")),
        ("cert-file", pki("etcd/server.crt")),
        ("key-file", pki("etcd/server.key")),
        ("peer-client-cert-auth", "true".to_owned()),
        ("peer-trusted-ca-file", pki("etcd/ca.crt")),
        ("peer-cert-file", pki("etcd/peer.crt")),
        ("peer-key-file", pki("etcd/peer.key")),
        ("snapshot-count", "10000".to_owned()),
        ("experimental-initial-corrupt-check", "true".to_owned()),
        ("experimental-watch-progress-notify-interval", "5s".to_owned()),
        ("auto-compaction-retention", "0".to_owned()),
        // A leader that lost power is missed after half a second to a second.
        ("heartbeat-interval", "100".to_owned()),
        ("election-timeout", "1000".to_owned()),
    ]);
    merge(ours, &cluster.spec.etcd.extra_args)
}

/// The API server.
pub fn api_server(cluster: &Cluster, host: &HostSpec) -> Vec<Arg> {
    let net = &cluster.spec.networking;
    let ours = args([
        ("advertise-address", host.address.clone()),
        ("bind-address", host.address.clone()),
        ("secure-port", "6443".to_owned()),
        ("etcd-servers", "https://127.0.0.1:2379".to_owned()),
        ("etcd-cafile", pki("etcd/ca.crt")),
        ("etcd-certfile", pki("apiserver-etcd-client.crt")),
        ("etcd-keyfile", pki("apiserver-etcd-client.key")),
        ("client-ca-file", pki("ca.crt")),
        ("tls-cert-file", pki("apiserver.crt")),
        ("tls-private-key-file", pki("apiserver.key")),
        ("tls-cipher-suites", CIPHER_SUITES.join(",")),
        ("kubelet-client-certificate", pki("apiserver-kubelet-client.crt")),
        ("kubelet-client-key", pki("apiserver-kubelet-client.key")),
        ("kubelet-certificate-authority", pki("ca.crt")),
        ("kubelet-preferred-address-types", "InternalIP,ExternalIP,Hostname".to_owned()),
        ("service-account-issuer", format!("https://kubernetes.default.svc.{}", net.dns_domain)),
        ("service-account-key-file", pki("sa.pub")),
        ("service-account-signing-key-file", pki("sa.key")),
        ("service-account-extend-token-expiration", "false".to_owned()),
        ("service-cluster-ip-range", net.service_subnet.clone()),
        ("service-node-port-range", "30000-32767".to_owned()),
        ("authorization-mode", "Node,RBAC".to_owned()),
        ("enable-admission-plugins", "NodeRestriction".to_owned()),
        ("enable-bootstrap-token-auth", "true".to_owned()),
        ("allow-privileged", "true".to_owned()),
        ("encryption-provider-config", pki("encryption.yaml")),
        ("authentication-config", format!("{KUBERNETES}/authentication.yaml")),
        ("audit-policy-file", format!("{KUBERNETES}/audit-policy.yaml")),
        ("audit-log-path", "/var/log/kubernetes/audit.log".to_owned()),
        ("audit-log-maxage", "30".to_owned()),
        ("audit-log-maxbackup", "10".to_owned()),
        ("audit-log-maxsize", "100".to_owned()),
        ("profiling", "false".to_owned()),
        ("requestheader-client-ca-file", pki("front-proxy-ca.crt")),
        ("requestheader-allowed-names", "front-proxy-client".to_owned()),
        ("requestheader-extra-headers-prefix", "X-Remote-Extra-".to_owned()),
        ("requestheader-group-headers", "X-Remote-Group".to_owned()),
        ("requestheader-username-headers", "X-Remote-User".to_owned()),
        ("proxy-client-cert-file", pki("front-proxy-client.crt")),
        ("proxy-client-key-file", pki("front-proxy-client.key")),
    ]);
    merge(ours, &cluster.spec.api_server.extra_args)
}

/// The controller manager; it `signs` where the key of the cluster's authority is on its host (kubeadm leaves the flags
/// out in its external CA mode, too: `getControllerManagerCommand`).
pub fn controller_manager(cluster: &Cluster, signs: bool) -> Vec<Arg> {
    let kubeconfig = format!("{KUBERNETES}/controller-manager.conf");
    let net = &cluster.spec.networking;
    let mut ours = args([
        ("kubeconfig", kubeconfig.clone()),
        ("authentication-kubeconfig", kubeconfig.clone()),
        ("authorization-kubeconfig", kubeconfig),
        ("bind-address", "127.0.0.1".to_owned()),
        ("leader-elect", "true".to_owned()),
        ("terminated-pod-gc-threshold", "12500".to_owned()),
        ("controllers", "*,bootstrapsigner,tokencleaner".to_owned()),
        ("use-service-account-credentials", "true".to_owned()),
        ("client-ca-file", pki("ca.crt")),
        ("root-ca-file", pki("ca.crt")),
        ("service-account-private-key-file", pki("sa.key")),
        ("requestheader-client-ca-file", pki("front-proxy-ca.crt")),
        ("allocate-node-cidrs", "true".to_owned()),
        ("cluster-cidr", net.pod_subnet.clone()),
        ("service-cluster-ip-range", net.service_subnet.clone()),
        ("cluster-name", cluster.metadata.name.clone()),
        ("node-monitor-grace-period", "40s".to_owned()),
        ("profiling", "false".to_owned()),
    ]);
    if signs {
        ours.extend(args([("cluster-signing-cert-file", pki("ca.crt")), ("cluster-signing-key-file", pki("ca.key"))]));
    }
    merge(ours, &cluster.spec.controller_manager.extra_args)
}

/// The scheduler.
pub fn scheduler(cluster: &Cluster) -> Vec<Arg> {
    let kubeconfig = format!("{KUBERNETES}/scheduler.conf");
    let ours = args([
        ("kubeconfig", kubeconfig.clone()),
        ("authentication-kubeconfig", kubeconfig.clone()),
        ("authorization-kubeconfig", kubeconfig),
        ("bind-address", "127.0.0.1".to_owned()),
        ("leader-elect", "true".to_owned()),
        ("profiling", "false".to_owned()),
    ]);
    merge(ours, &cluster.spec.scheduler.extra_args)
}

/// The cloud controller manager.
pub fn cloud_controller_manager(cluster: &Cluster) -> Vec<Arg> {
    let kubeconfig = format!("{KUBERNETES}/cloud-controller-manager.conf");
    let ours = args([
        ("kubeconfig", kubeconfig.clone()),
        ("authentication-kubeconfig", kubeconfig.clone()),
        ("authorization-kubeconfig", kubeconfig),
        ("bind-address", "127.0.0.1".to_owned()),
        ("leader-elect", "true".to_owned()),
        ("client-ca-file", pki("ca.crt")),
        ("requestheader-client-ca-file", pki("front-proxy-ca.crt")),
        ("cloud-provider", "baremetal".to_owned()),
        ("cloud-config", CLOUD_CONFIG.to_owned()),
        ("cluster-name", cluster.metadata.name.clone()),
        ("profiling", "false".to_owned()),
    ]);
    merge(ours, &cluster.spec.cloud_controller_manager.extra_args)
}

/// The metrics server. API servers call the one on their own host.
pub fn metrics_server(cluster: &Cluster) -> Vec<Arg> {
    let kubeconfig = format!("{KUBERNETES}/metrics-server.conf");
    let ours = args([
        ("kubeconfig", kubeconfig.clone()),
        ("authentication-kubeconfig", kubeconfig.clone()),
        ("authorization-kubeconfig", kubeconfig),
        ("bind-address", "127.0.0.1".to_owned()),
        ("secure-port", crate::metrics_server::PORT.to_string()),
        ("tls-cert-file", pki("metrics-server-serving.crt")),
        ("tls-private-key-file", pki("metrics-server-serving.key")),
        ("tls-cipher-suites", CIPHER_SUITES.join(",")),
        ("metric-resolution", "15s".to_owned()),
        ("kubelet-preferred-address-types", "InternalIP,ExternalIP,Hostname".to_owned()),
        ("kubelet-use-node-status-port", "true".to_owned()),
        ("kubelet-certificate-authority", pki("ca.crt")),
    ]);
    merge(ours, &cluster.spec.metrics_server.extra_args)
}

/// The kubelet.
pub fn kubelet(cluster: &Cluster, host: &HostSpec) -> Vec<Arg> {
    let mut ours = args([
        ("config", "/var/lib/kubelet/config.yaml".to_owned()),
        ("kubeconfig", format!("{KUBERNETES}/kubelet.conf")),
        ("bootstrap-kubeconfig", format!("{KUBERNETES}/bootstrap-kubelet.conf")),
        ("hostname-override", host.name.clone()),
        ("node-ip", host.address.clone()),
    ]);
    let labels: Vec<String> = host.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    if !labels.is_empty() {
        ours.extend(args([("node-labels", labels.join(","))]));
    }
    let taints = taints(host);
    if !taints.is_empty() {
        ours.extend(args([("register-with-taints", taints.join(","))]));
    }
    merge(ours, &cluster.spec.kubelet.extra_args)
}

/// kubeadm's taint for a control plane that is no worker, and the operator's.
fn taints(host: &HostSpec) -> Vec<String> {
    let own = (host.is(Role::ControlPlane) && !host.is(Role::Worker))
        .then(|| "node-role.kubernetes.io/control-plane=:NoSchedule".to_owned());
    own.into_iter().chain(host.taints.iter().map(|t| format!("{}={}:{}", t.key, t.value, t.effect))).collect()
}

/// The service proxy.
pub fn proxy(cluster: &Cluster, host: &HostSpec) -> Vec<Arg> {
    let ours = args([
        ("kubeconfig", format!("{KUBERNETES}/kube-proxy.conf")),
        ("hostname-override", host.name.clone()),
        ("cluster-cidr", cluster.spec.networking.pod_subnet.clone()),
        ("proxy-mode", "nftables".to_owned()),
    ]);
    merge(ours, &cluster.spec.proxy.extra_args)
}

/// The pod network.
pub fn netd(cluster: &Cluster, host: &HostSpec) -> Vec<Arg> {
    let ours = args([
        ("kubeconfig", format!("{KUBERNETES}/kube-netd.conf")),
        ("node-name", host.name.clone()),
        ("cluster-cidr", cluster.spec.networking.pod_subnet.clone()),
        ("cni-conf-dir", "/etc/cni/net.d".to_owned()),
    ]);
    merge(ours, &cluster.spec.network.extra_args)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/architecture.md shows the command lines: each flag that kinit sets is there, under its component.
    #[test]
    fn the_documented_command_lines_have_every_flag() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/architecture.md");
        let text = std::fs::read_to_string(file).unwrap();
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        let host = &cluster.spec.hosts[1];
        let (_, block) = text.split_once("### Command lines").unwrap();
        let of = |component: &str| {
            let (_, rest) = block.split_once(&format!("\n{component} ")).unwrap();
            let lines = rest.lines().enumerate().take_while(|(n, line)| *n == 0 || line.starts_with(' '));
            lines.map(|(_, line)| line).collect::<Vec<_>>().join(" ")
        };
        for (component, flags) in [
            ("kube-apiserver", api_server(&cluster, host)),
            ("kube-controller-manager", controller_manager(&cluster, true)),
            ("kube-scheduler", scheduler(&cluster)),
            ("cloud-controller-manager", cloud_controller_manager(&cluster)),
            ("kubelet", kubelet(&cluster, host)),
            ("kube-proxy", proxy(&cluster, host)),
            ("kube-netd", netd(&cluster, host)),
        ] {
            let shown = of(component);
            for flag in flags {
                // Two that go together are shown as one: `--authentication-, --authorization-kubeconfig`.
                let short = flag.name.replace("authentication-kubeconfig", "authentication-");
                let there = shown.contains(&format!("--{}", flag.name)) || shown.contains(&format!("--{short}"));
                assert!(there, "{component}: --{} is missing in {file}: {shown}", flag.name);
            }
        }
    }
}
