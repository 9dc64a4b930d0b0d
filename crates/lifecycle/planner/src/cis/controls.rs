//! The controls, as data.

use kinit_resource::FileEvidence;
use serde_json::Value;

use super::On;

/// Where etcd's data are unless the cluster file says otherwise.
pub(super) const ETCD: &str = "/var/lib/etcd";

/// Paths that hosts look at.
pub(super) const PATHS: &[&str] = &[
    "/etc/systemd/system/kube-apiserver.service",
    "/etc/systemd/system/kube-controller-manager.service",
    "/etc/systemd/system/kube-scheduler.service",
    "/etc/systemd/system/etcd.service",
    "/etc/systemd/system/kubelet.service",
    "/etc/cni/net.d",
    "/var/lib/etcd/member",
    "/var/lib/etcd",
    "/etc/kubernetes",
    "/var/lib/kubelet/config.yaml",
];
/// Programs whose command lines they look at.
pub const PROGRAMS: &[&str] =
    &["kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd", "kubelet", "kube-proxy"];

/// Suites that the benchmark calls strong (1.2.29, 4.2.12).
pub(super) const STRONG: &[&str] = &[
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];

/// A control of files.
pub(super) struct File {
    pub id: &'static str,
    pub title: &'static str,
    pub on: On,
    /// The files, or the folder whose files are meant.
    pub paths: &'static [&'static str],
    /// Of the files in a folder those whose names end so.
    pub ends: &'static str,
    /// The most permission bits.
    pub mode: Option<u32>,
    /// `user:group`.
    pub owner: Option<&'static str>,
}

impl File {
    pub(super) fn is_about(&self, file: &FileEvidence) -> bool {
        self.paths.iter().any(|path| {
            if self.ends.is_empty() {
                return file.path == *path;
            }
            let below = file.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
            below && !file.folder && (self.ends == "*" || file.path.ends_with(self.ends))
        })
    }
}

/// What a command line must be like.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rule {
    Is(&'static str, &'static str),
    IsNot(&'static str, &'static str),
    Set(&'static [&'static str]),
    Unset(&'static str),
    /// The first is set, or the second is false.
    SetOrOff(&'static str, &'static str),
    /// It is not set, or an address of the host itself.
    Local(&'static str),
    AtLeast(&'static str, u64),
    Lists(&'static str, &'static str),
    ListsNot(&'static str, &'static str),
    Strong(&'static str),
    /// The flag differs from this one of the API server.
    Differ(&'static str, &'static str),
}

/// A control of a command line.
pub(super) struct Command {
    pub id: &'static str,
    pub title: &'static str,
    pub on: On,
    pub program: &'static str,
    pub rule: Rule,
}

/// A control of the kubelet's configuration.
pub(super) struct Kubelet {
    pub id: &'static str,
    pub title: &'static str,
    pub field: &'static str,
    /// What the kubelet takes when the field is absent, as JSON.
    pub default: &'static str,
    pub good: fn(&Value) -> bool,
}

const fn mode(id: &'static str, title: &'static str, on: On, paths: &'static [&'static str], most: u32) -> File {
    File { id, title, on, paths, ends: "", mode: Some(most), owner: None }
}

const fn owner(
    id: &'static str,
    title: &'static str,
    on: On,
    paths: &'static [&'static str],
    who: &'static str,
) -> File {
    File { id, title, on, paths, ends: "", mode: None, owner: Some(who) }
}

const fn below(file: File, ends: &'static str) -> File {
    File { ends, ..file }
}

const API_UNIT: &[&str] = &["/etc/systemd/system/kube-apiserver.service"];
const MANAGER_UNIT: &[&str] = &["/etc/systemd/system/kube-controller-manager.service"];
const SCHEDULER_UNIT: &[&str] = &["/etc/systemd/system/kube-scheduler.service"];
const ETCD_UNIT: &[&str] = &["/etc/systemd/system/etcd.service"];
const KUBELET_UNIT: &[&str] = &["/etc/systemd/system/kubelet.service"];
const CNI: &[&str] = &["/etc/cni/net.d"];
const ETCD_DATA: &[&str] = &["/var/lib/etcd", "/var/lib/etcd/member"];
const ADMIN: &[&str] = &["/etc/kubernetes/admin.conf", "/etc/kubernetes/super-admin.conf"];
const SCHEDULER_CONF: &[&str] = &["/etc/kubernetes/scheduler.conf"];
const MANAGER_CONF: &[&str] = &["/etc/kubernetes/controller-manager.conf"];
const PKI: &[&str] = &["/etc/kubernetes/pki"];
const PROXY_CONF: &[&str] = &["/etc/kubernetes/kube-proxy.conf"];
const KUBELET_CONF: &[&str] = &["/etc/kubernetes/kubelet.conf"];
const CLIENT_CA: &[&str] = &["/etc/kubernetes/pki/ca.crt"];
const KUBELET_FILE: &[&str] = &["/var/lib/kubelet/config.yaml"];

pub(super) const FILES: &[File] = &[
    mode("1.1.1", "API server unit: permissions 644 or stricter", On::ControlPlane, API_UNIT, 0o644),
    owner("1.1.2", "API server unit: owned by root", On::ControlPlane, API_UNIT, "root:root"),
    mode("1.1.3", "Controller manager unit: permissions 644 or stricter", On::ControlPlane, MANAGER_UNIT, 0o644),
    owner("1.1.4", "Controller manager unit: owned by root", On::ControlPlane, MANAGER_UNIT, "root:root"),
    mode("1.1.5", "Scheduler unit: permissions 644 or stricter", On::ControlPlane, SCHEDULER_UNIT, 0o644),
    owner("1.1.6", "Scheduler unit: owned by root", On::ControlPlane, SCHEDULER_UNIT, "root:root"),
    mode("1.1.7", "etcd unit: permissions 644 or stricter", On::ControlPlane, ETCD_UNIT, 0o644),
    owner("1.1.8", "etcd unit: owned by root", On::ControlPlane, ETCD_UNIT, "root:root"),
    below(mode("1.1.9", "CNI configuration: permissions 600 or stricter", On::Node, CNI, 0o600), "*"),
    below(owner("1.1.10", "CNI configuration: owned by root", On::Node, CNI, "root:root"), "*"),
    mode("1.1.11", "etcd data folder: permissions 700 or stricter", On::ControlPlane, ETCD_DATA, 0o700),
    owner("1.1.12", "etcd data folder: owned by etcd", On::ControlPlane, ETCD_DATA, "etcd:etcd"),
    mode("1.1.13", "Administrators' kubeconfigs: permissions 600", On::ControlPlane, ADMIN, 0o600),
    owner("1.1.14", "Administrators' kubeconfigs: owned by root", On::ControlPlane, ADMIN, "root:root"),
    mode("1.1.15", "scheduler.conf: permissions 600 or stricter", On::ControlPlane, SCHEDULER_CONF, 0o600),
    owner("1.1.16", "scheduler.conf: owned by root", On::ControlPlane, SCHEDULER_CONF, "root:root"),
    mode("1.1.17", "controller-manager.conf: permissions 600 or stricter", On::ControlPlane, MANAGER_CONF, 0o600),
    owner("1.1.18", "controller-manager.conf: owned by root", On::ControlPlane, MANAGER_CONF, "root:root"),
    owner("1.1.19", "PKI folder: owned by root", On::ControlPlane, PKI, "root:root"),
    below(mode("1.1.20", "Certificates: permissions 644 or stricter", On::ControlPlane, PKI, 0o644), ".crt"),
    below(mode("1.1.21", "Keys: permissions 600", On::ControlPlane, PKI, 0o600), ".key"),
    mode("4.1.1", "kubelet unit: permissions 644 or stricter", On::Node, KUBELET_UNIT, 0o644),
    owner("4.1.2", "kubelet unit: owned by root", On::Node, KUBELET_UNIT, "root:root"),
    mode("4.1.3", "kube-proxy.conf: permissions 600 or stricter", On::Node, PROXY_CONF, 0o600),
    owner("4.1.4", "kube-proxy.conf: owned by root", On::Node, PROXY_CONF, "root:root"),
    mode("4.1.5", "kubelet.conf: permissions 600 or stricter", On::Node, KUBELET_CONF, 0o600),
    owner("4.1.6", "kubelet.conf: owned by root", On::Node, KUBELET_CONF, "root:root"),
    mode("4.1.7", "Client CA file: permissions 644 or stricter", On::Node, CLIENT_CA, 0o644),
    owner("4.1.8", "Client CA file: owned by root", On::Node, CLIENT_CA, "root:root"),
    mode("4.1.9", "kubelet configuration: permissions 600 or stricter", On::Node, KUBELET_FILE, 0o600),
    owner("4.1.10", "kubelet configuration: owned by root", On::Node, KUBELET_FILE, "root:root"),
];

const fn api(id: &'static str, title: &'static str, rule: Rule) -> Command {
    Command { id, title, on: On::ControlPlane, program: "kube-apiserver", rule }
}

const fn manager(id: &'static str, title: &'static str, rule: Rule) -> Command {
    Command { id, title, on: On::ControlPlane, program: "kube-controller-manager", rule }
}

const fn scheduler(id: &'static str, title: &'static str, rule: Rule) -> Command {
    Command { id, title, on: On::ControlPlane, program: "kube-scheduler", rule }
}

const fn etcd(id: &'static str, title: &'static str, rule: Rule) -> Command {
    Command { id, title, on: On::ControlPlane, program: "etcd", rule }
}

pub(super) const COMMANDS: &[Command] = &[
    api(
        "1.2.1",
        "Anonymous requests are off, or limited by an authentication configuration",
        Rule::SetOrOff("authentication-config", "anonymous-auth"),
    ),
    api("1.2.2", "No file of static tokens", Rule::Unset("token-auth-file")),
    api(
        "1.2.4",
        "A client certificate towards kubelets",
        Rule::Set(&["kubelet-client-certificate", "kubelet-client-key"]),
    ),
    api("1.2.5", "Kubelets' certificates are verified", Rule::Set(&["kubelet-certificate-authority"])),
    api("1.2.6", "AlwaysAllow is no authorizer", Rule::ListsNot("authorization-mode", "AlwaysAllow")),
    api("1.2.7", "Node is an authorizer", Rule::Lists("authorization-mode", "Node")),
    api("1.2.8", "RBAC is an authorizer", Rule::Lists("authorization-mode", "RBAC")),
    api("1.2.10", "AlwaysAdmit is off", Rule::ListsNot("enable-admission-plugins", "AlwaysAdmit")),
    api("1.2.12", "ServiceAccount is on", Rule::ListsNot("disable-admission-plugins", "ServiceAccount")),
    api("1.2.13", "NamespaceLifecycle is on", Rule::ListsNot("disable-admission-plugins", "NamespaceLifecycle")),
    api("1.2.14", "NodeRestriction is on", Rule::Lists("enable-admission-plugins", "NodeRestriction")),
    api("1.2.15", "Profiling is off", Rule::Is("profiling", "false")),
    api("1.2.16", "There is an audit log", Rule::Set(&["audit-log-path"])),
    api("1.2.17", "Audit logs are kept for 30 days or longer", Rule::AtLeast("audit-log-maxage", 30)),
    api("1.2.18", "10 audit logs or more are kept", Rule::AtLeast("audit-log-maxbackup", 10)),
    api("1.2.19", "Audit logs are rotated at 100 MB or more", Rule::AtLeast("audit-log-maxsize", 100)),
    api("1.2.21", "Service accounts are looked up", Rule::IsNot("service-account-lookup", "false")),
    api("1.2.22", "Keys of service account tokens are named", Rule::Set(&["service-account-key-file"])),
    api("1.2.23", "A client certificate towards etcd", Rule::Set(&["etcd-certfile", "etcd-keyfile"])),
    api("1.2.24", "A serving certificate", Rule::Set(&["tls-cert-file", "tls-private-key-file"])),
    api("1.2.25", "A CA of client certificates", Rule::Set(&["client-ca-file"])),
    api("1.2.26", "etcd's certificate is verified", Rule::Set(&["etcd-cafile"])),
    api("1.2.27", "Encryption at rest is configured", Rule::Set(&["encryption-provider-config"])),
    api("1.2.29", "Only strong cipher suites", Rule::Strong("tls-cipher-suites")),
    api(
        "1.2.30",
        "Tokens of service accounts are not extended",
        Rule::Is("service-account-extend-token-expiration", "false"),
    ),
    manager("1.3.1", "Terminated pods are collected", Rule::Set(&["terminated-pod-gc-threshold"])),
    manager("1.3.2", "Profiling is off", Rule::Is("profiling", "false")),
    manager("1.3.3", "An account for each controller", Rule::Is("use-service-account-credentials", "true")),
    manager("1.3.4", "The key of service account tokens is named", Rule::Set(&["service-account-private-key-file"])),
    manager("1.3.5", "A root CA for pods", Rule::Set(&["root-ca-file"])),
    manager(
        "1.3.6",
        "RotateKubeletServerCertificate is on",
        Rule::ListsNot("feature-gates", "RotateKubeletServerCertificate=false"),
    ),
    manager("1.3.7", "It listens on 127.0.0.1", Rule::Is("bind-address", "127.0.0.1")),
    scheduler("1.4.1", "Profiling is off", Rule::Is("profiling", "false")),
    scheduler("1.4.2", "It listens on 127.0.0.1", Rule::Is("bind-address", "127.0.0.1")),
    etcd("2.1", "A serving certificate", Rule::Set(&["cert-file", "key-file"])),
    etcd("2.2", "Clients need certificates", Rule::Is("client-cert-auth", "true")),
    etcd("2.3", "No certificate of its own making", Rule::IsNot("auto-tls", "true")),
    etcd("2.4", "A certificate towards peers", Rule::Set(&["peer-cert-file", "peer-key-file"])),
    etcd("2.5", "Peers need certificates", Rule::Is("peer-client-cert-auth", "true")),
    etcd("2.6", "No peer certificate of its own making", Rule::IsNot("peer-auto-tls", "true")),
    etcd("2.7", "An authority of its own", Rule::Differ("trusted-ca-file", "client-ca-file")),
    api("3.2.1", "There is an audit policy", Rule::Set(&["audit-policy-file"])),
    Command {
        id: "4.3.1",
        title: "kube-proxy's metrics on 127.0.0.1",
        on: On::Node,
        program: "kube-proxy",
        rule: Rule::Local("metrics-bind-address"),
    },
];

fn off(value: &Value) -> bool {
    *value == false
}

fn on(value: &Value) -> bool {
    *value == true
}

pub(super) const KUBELET: &[Kubelet] = &[
    Kubelet {
        id: "4.2.1",
        title: "Anonymous requests are off",
        field: "authentication.anonymous.enabled",
        default: "false",
        good: off,
    },
    Kubelet {
        id: "4.2.2",
        title: "Authorization is not AlwaysAllow",
        field: "authorization.mode",
        default: "\"Webhook\"",
        good: |value| *value == "Webhook",
    },
    Kubelet {
        id: "4.2.3",
        title: "A CA of client certificates",
        field: "authentication.x509.clientCAFile",
        default: "null",
        good: |value| value.as_str().is_some_and(|file| !file.is_empty()),
    },
    Kubelet { id: "4.2.4", title: "No read-only port", field: "readOnlyPort", default: "0", good: |value| *value == 0 },
    Kubelet {
        id: "4.2.5",
        title: "Idle streams end",
        field: "streamingConnectionIdleTimeout",
        default: "\"4h0m0s\"",
        good: |value| value.as_str().is_some_and(|time| !time.is_empty() && !time.starts_with('0')),
    },
    Kubelet {
        id: "4.2.8",
        title: "Events are limited, and not off",
        field: "eventRecordQPS",
        default: "50",
        good: |value| value.as_i64().is_some_and(|rate| rate >= 0),
    },
    Kubelet {
        id: "4.2.9",
        title: "A serving certificate of the cluster's authority",
        field: "serverTLSBootstrap",
        default: "false",
        good: on,
    },
    Kubelet {
        id: "4.2.10",
        title: "Client certificates are rotated",
        field: "rotateCertificates",
        default: "true",
        good: on,
    },
    Kubelet {
        id: "4.2.12",
        title: "Only strong cipher suites",
        field: "tlsCipherSuites",
        default: "[]",
        good: |value| {
            value.as_array().is_some_and(|list| {
                !list.is_empty() && list.iter().all(|suite| suite.as_str().is_some_and(|suite| STRONG.contains(&suite)))
            })
        },
    },
    Kubelet {
        id: "4.2.13",
        title: "Processes of a pod are limited",
        field: "podPidsLimit",
        default: "-1",
        good: |value| value.as_i64().is_some_and(|limit| limit > 0),
    },
    Kubelet {
        id: "4.2.14",
        title: "The runtime's seccomp profile is the default",
        field: "seccompDefault",
        default: "false",
        good: on,
    },
];

/// Controls that nobody but a person can decide, or that do not fit: number, title, why.
pub(super) const MANUAL: &[(&str, &str, &str)] = &[
    (
        "1.2.3",
        "DenyServiceExternalIPs is on",
        "who may write Services may name external addresses, unless spec.apiServer.extraArgs asks for this plugin",
    ),
    (
        "1.2.9",
        "EventRateLimit is on",
        "kinit's API server does not have this plugin: priority and fairness limits every client (`kubectl get flowschemas`)",
    ),
    ("1.2.11", "AlwaysPullImages is on", "it needs a registry that always answers; kinit's clusters may have none"),
    ("1.2.20", "The request timeout is appropriate", "one minute unless spec.apiServer.extraArgs says otherwise"),
    (
        "1.2.28",
        "Encryption providers are appropriate",
        "kinit makes aescbc; look at /etc/kubernetes/pki/encryption.yaml where you have replaced it",
    ),
    (
        "3.1.1",
        "People do not use client certificates",
        "`kinit kubeconfig user` makes certificates that end by themselves; look at who has them",
    ),
    ("3.1.2", "People do not use service account tokens", "look at who has tokens"),
    ("3.2.2", "The audit policy covers key concerns", "look at /etc/kubernetes/audit-policy.yaml"),
    ("4.2.6", "makeIPTablesUtilChains is on", "kube-proxy works by nftables: there are no chains of the kubelet's"),
    (
        "4.2.7",
        "hostname-override is not set",
        "kinit sets it to the host's name in the cluster file, which certificates carry",
    ),
    ("4.2.11", "RotateKubeletServerCertificate is on", "always on in kinit's kubelet"),
    ("5.1.1", "cluster-admin only where required", "`kubectl get clusterrolebindings -o wide`"),
    ("5.1.2", "Access to Secrets is minimal", "`kubectl auth can-i get secrets --as=USER -A`"),
    ("5.2.1", "Namespaces have a policy for pods", "label namespaces with pod-security.kubernetes.io/enforce"),
    ("5.3.2", "All namespaces have NetworkPolicies", "`kubectl get networkpolicies -A`"),
    ("5.7.1", "Namespaces divide responsibilities", "`kubectl get namespaces`"),
];
