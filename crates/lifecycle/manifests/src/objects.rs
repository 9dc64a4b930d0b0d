//! API objects that a cluster has from the start: kubeadm's, and kinit's own add-ons.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kinit_config::Cluster;
use serde::Serialize;
use serde_json::{Value, json};

pub(crate) const SYSTEM: &str = "kube-system";
const PUBLIC: &str = "kube-public";
const RBAC: &str = "rbac.authorization.k8s.io";
/// The group of kinit itself towards the API, and the role and binding that give it its rights.
pub const OPERATORS: &str = "kinit:operators";
/// The group of kubeadm's bootstrap tokens.
pub const TOKENS: &str = "system:bootstrappers:kubeadm:default-node-token";

pub(crate) fn meta(namespace: Option<&str>, name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), namespace: namespace.map(str::to_owned), ..ObjectMeta::default() }
}

/// With `apiVersion` and `kind`, which k8s-openapi's types write by themselves.
pub(crate) fn value(object: impl Serialize) -> Value {
    // A typed object of ours always has a JSON form.
    serde_json::to_value(object).unwrap_or(Value::Null)
}

pub(crate) fn subject(kind: &str, name: &str) -> Subject {
    let (api_group, namespace) = match kind {
        "ServiceAccount" => (None, Some(SYSTEM.to_owned())),
        _ => (Some(RBAC.to_owned()), None),
    };
    Subject { kind: kind.to_owned(), name: name.to_owned(), api_group, namespace }
}

pub(crate) fn bind(name: &str, role: &str, subject: Subject) -> Value {
    bind_all(name, role, vec![subject])
}

fn bind_all(name: &str, role: &str, subjects: Vec<Subject>) -> Value {
    let role_ref = RoleRef { api_group: Some(RBAC.to_owned()), kind: "ClusterRole".to_owned(), name: role.to_owned() };
    value(ClusterRoleBinding { metadata: meta(None, name), role_ref, subjects: Some(subjects) })
}

pub(crate) fn bind_in(namespace: &str, name: &str, role: &str, subjects: Vec<Subject>) -> Value {
    let role_ref = RoleRef { api_group: Some(RBAC.to_owned()), kind: "Role".to_owned(), name: role.to_owned() };
    value(RoleBinding { metadata: meta(Some(namespace), name), role_ref, subjects: Some(subjects) })
}

pub(crate) fn rule(group: &str, resources: &[&str], verbs: &[&str], names: &[&str]) -> PolicyRule {
    let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(own(resources)),
        verbs: own(verbs),
        resource_names: (!names.is_empty()).then(|| own(names)),
        non_resource_urls: None,
    }
}

/// RBAC and ConfigMaps of kubeadm's phases upload-config and bootstrap-token, the rights of kinit itself and of its
/// node components. `record` is what kinit keeps of the cluster in ConfigMap `kube-system/kinit-config`.
pub fn cluster_objects(cluster: &Cluster, record: BTreeMap<String, String>, ca_pem: &str) -> Vec<Value> {
    let data = |key: &str, text: String| Some(BTreeMap::from([(key.to_owned(), text)]));
    let configs = [
        value(ConfigMap { metadata: meta(Some(SYSTEM), "kinit-config"), data: Some(record), ..Default::default() }),
        value(ConfigMap {
            metadata: meta(Some(PUBLIC), "cluster-info"),
            data: data("kubeconfig", cluster_info(cluster, ca_pem)),
            ..Default::default()
        }),
    ];
    let rights = [administrators(), tokens(), joining(), nodes()].into_iter().flatten();
    let rights = rights.chain(crate::load_balancer::objects(cluster));
    let rights = rights.chain(crate::metrics_server::objects(cluster, ca_pem));
    rights.chain(configs).chain(crate::kubeadm::configs(cluster)).chain(public()).collect()
}

/// Rights of kinit itself and of those who hold admin.conf.
fn administrators() -> Vec<Value> {
    let operators =
        ClusterRole { metadata: meta(None, OPERATORS), rules: Some(operator_rules()), ..Default::default() };
    vec![
        value(operators),
        bind(OPERATORS, OPERATORS, subject("Group", OPERATORS)),
        bind("kubeadm:cluster-admins", "cluster-admin", subject("Group", "kubeadm:cluster-admins")),
    ]
}

/// Rights of bootstrap tokens: what a machine needs to become a node.
fn tokens() -> Vec<Value> {
    let read_nodes = ClusterRole {
        metadata: meta(None, "kubeadm:get-nodes"),
        rules: Some(vec![rule("", &["nodes"], &["get"], &[])]),
        ..Default::default()
    };
    let config_role = Role {
        metadata: meta(Some(SYSTEM), "kubeadm:nodes-kubeadm-config"),
        rules: Some(vec![rule("", &["configmaps"], &["get"], &["kubeadm-config"])]),
    };
    vec![
        bind("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", subject("Group", TOKENS)),
        bind(
            "kubeadm:node-autoapprove-bootstrap",
            "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
            subject("Group", TOKENS),
        ),
        value(read_nodes),
        bind("kubeadm:get-nodes", "kubeadm:get-nodes", subject("Group", TOKENS)),
        value(config_role),
        bind_in(
            SYSTEM,
            "kubeadm:nodes-kubeadm-config",
            "kubeadm:nodes-kubeadm-config",
            vec![subject("Group", TOKENS), subject("Group", "system:nodes")],
        ),
    ]
}

/// What a machine reads that joins by itself: kubeadm's objects, and kinit's own file. kubeadm asks for kube-proxy's
/// too and goes on when there is none, but not when it may not look.
fn joining() -> Vec<Value> {
    let readable = [
        ("kubeadm:kubelet-config", "kubelet-config"),
        ("kube-proxy", "kube-proxy"),
        ("kinit:join-config", "kinit-config"),
    ];
    let mut objects = Vec::new();
    for (role, name) in readable {
        let rules = Some(vec![rule("", &["configmaps"], &["get"], &[name])]);
        objects.push(value(Role { metadata: meta(Some(SYSTEM), role), rules }));
        let subjects = vec![subject("Group", TOKENS), subject("Group", "system:nodes")];
        objects.push(bind_in(SYSTEM, role, role, subjects));
    }
    // The service proxy and the pod network have client certificates of their own.
    let components = "kinit:node-component-certificates";
    let requests = "certificatesigningrequests/nodecomponentclient";
    let rules = Some(vec![rule("certificates.k8s.io", &[requests], &["create"], &[])]);
    objects.push(value(ClusterRole { metadata: meta(None, components), rules, ..Default::default() }));
    // Nodes renew them with their own identity; a node has certificates of these two names anyway.
    objects.push(bind_all(components, components, vec![subject("Group", TOKENS), subject("Group", "system:nodes")]));
    objects.push(bind(
        "kinit:node-component-approver",
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        subject("ServiceAccount", "certificate-controller"),
    ));
    objects
}

/// What the pod network reads, and the addresses of load balancers with it.
pub(crate) fn netd_rules() -> Vec<PolicyRule> {
    let read = &["get", "list", "watch"];
    vec![
        rule("", &["nodes", "pods", "namespaces"], read, &[]),
        rule("networking.k8s.io", &["networkpolicies"], read, &[]),
        rule("events.k8s.io", &["events"], &["create", "patch", "update"], &[]),
        rule("", &["events"], &["create", "patch", "update"], &[]),
        rule("", &["services"], read, &[]),
        rule("discovery.k8s.io", &["endpointslices"], read, &[]),
    ]
}

/// Rights of nodes and of what runs on them.
fn nodes() -> Vec<Value> {
    let netd =
        ClusterRole { metadata: meta(None, "system:kube-netd"), rules: Some(netd_rules()), ..Default::default() };
    vec![
        bind(
            "kubeadm:node-autoapprove-certificate-rotation",
            "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
            subject("Group", "system:nodes"),
        ),
        // The controller manager approves serving certificates too, which upstream leaves to people.
        bind(
            "kinit:kubelet-serving-approver",
            "system:certificates.k8s.io:kubelet-serving-approver",
            subject("ServiceAccount", "certificate-controller"),
        ),
        bind("kubeadm:node-proxier", "system:node-proxier", subject("User", "system:kube-proxy")),
        value(netd),
        bind("system:kube-netd", "system:kube-netd", subject("User", "system:kube-netd")),
    ]
}

/// What everybody may read: which cluster this is.
fn public() -> Vec<Value> {
    let info_role = Role {
        metadata: meta(Some(PUBLIC), "kubeadm:bootstrap-signer-clusterinfo"),
        rules: Some(vec![rule("", &["configmaps"], &["get"], &["cluster-info"])]),
    };
    vec![
        value(info_role),
        bind_in(
            PUBLIC,
            "kubeadm:bootstrap-signer-clusterinfo",
            "kubeadm:bootstrap-signer-clusterinfo",
            vec![subject("User", "system:anonymous")],
        ),
    ]
}

/// What kinit does in the API: its own objects, and looking after nodes. It makes roles that give more than it has
/// itself, which needs `bind` and `escalate`; it is recognizable in the audit log all the same, and reads no Secret.
fn operator_rules() -> Vec<PolicyRule> {
    let objects = &["get", "list", "watch", "create", "update", "patch", "delete"];
    vec![
        rule("", &["nodes"], &["get", "list", "watch", "patch", "delete"], &[]),
        rule("", &["pods"], &["get", "list", "watch", "delete"], &[]),
        rule("", &["pods/eviction"], &["create"], &[]),
        rule("", &["configmaps", "services", "serviceaccounts"], objects, &[]),
        rule("", &["secrets"], &["create", "patch", "delete"], &[]),
        rule("", &["namespaces"], &["get", "create", "patch"], &[]),
        rule("apps", &["deployments", "daemonsets"], objects, &[]),
        rule("policy", &["poddisruptionbudgets"], &["get", "list", "watch"], &[]),
        rule("discovery.k8s.io", &["endpointslices"], &["get", "list", "watch"], &[]),
        rule("storage.k8s.io", &["storageclasses"], objects, &[]),
        rule("apiregistration.k8s.io", &["apiservices"], objects, &[]),
        rule(RBAC, &["roles", "rolebindings", "clusterroles", "clusterrolebindings"], objects, &[]),
        rule(RBAC, &["roles", "clusterroles"], &["bind", "escalate"], &[]),
    ]
}

/// A kubeconfig that names the cluster and nobody.
fn cluster_info(cluster: &Cluster, ca_pem: &str) -> String {
    let ca = json!(ByteString(ca_pem.as_bytes().to_vec()));
    format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: https://{}\n  name: \"\"\ncontexts: null\ncurrent-context: \"\"\nkind: Config\npreferences: {{}}\nusers: null\n",
        ca.as_str().unwrap_or_default(),
        cluster.spec.control_plane_endpoint
    )
}

/// A bootstrap token.
#[derive(Clone)]
pub struct BootstrapToken<'a> {
    /// Six letters and digits.
    pub id: &'a str,
    /// Sixteen.
    pub secret: &'a str,
    /// Until when it is valid, RFC 3339; for ever when absent.
    pub expires: Option<String>,
    /// Words for people.
    pub description: &'a str,
    /// `signing`, `authentication`.
    pub usages: &'a [String],
    /// Groups of who uses it; the API server takes those that begin with `system:bootstrappers:`.
    pub groups: &'a [String],
}

/// A bootstrap token's Secret.
pub fn bootstrap_token(token: &BootstrapToken<'_>) -> Value {
    let text = |s: &str| s.to_owned();
    let mut data = BTreeMap::from([
        (text("token-id"), text(token.id)),
        (text("token-secret"), text(token.secret)),
        (text("auth-extra-groups"), token.groups.join(",")),
    ]);
    data.extend(token.usages.iter().map(|usage| (format!("usage-bootstrap-{usage}"), text("true"))));
    data.extend(token.expires.clone().map(|end| (text("expiration"), end)));
    if !token.description.is_empty() {
        data.insert(text("description"), text(token.description));
    }
    let metadata = meta(Some(SYSTEM), &format!("bootstrap-token-{}", token.id));
    value(Secret {
        metadata,
        string_data: Some(data),
        type_: Some("bootstrap.kubernetes.io/token".to_owned()),
        ..Default::default()
    })
}

/// The kubeconfig with which a node asks for its certificate.
pub fn kubeconfig_for_token(cluster: &str, server: &str, ca_pem: &str, token: &str) -> String {
    let ca = json!(ByteString(ca_pem.as_bytes().to_vec()));
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: \"{cluster}\"\n  cluster:\n    certificate-authority-data: {}\n    server: {server}\n\
         contexts:\n- name: tls-bootstrap-token-user@{cluster}\n  context:\n    cluster: \"{cluster}\"\n    user: tls-bootstrap-token-user\n\
         current-context: tls-bootstrap-token-user@{cluster}\nusers:\n- name: tls-bootstrap-token-user\n  user:\n    token: {token}\n",
        ca.as_str().unwrap_or_default()
    )
}
