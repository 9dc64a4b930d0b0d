//! The Node authorizer: a kubelet may read what its own pods refer to (`plugin/pkg/auth/authorizer/node`).

use std::sync::Arc;

use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::Ask;
use super::policy;
use super::rbac::Rule;
use crate::authn::User;
use crate::server::Server;

/// What the authorizer says.
pub enum Verdict {
    /// Yes.
    Allow,
    /// Nothing, perhaps with a reason why not.
    NoOpinion(Option<String>),
}

/// The node a user is, if it is one.
pub fn node_of(user: &User) -> Option<&str> {
    let name = user.name.strip_prefix("system:node:")?;
    (user.in_group("system:nodes") && !name.is_empty()).then_some(name)
}

/// The rules of `system:node`, which apply to every node beyond what is checked object by object.
pub fn rules() -> Vec<Rule> {
    policy::policy().cluster_roles.iter().find(|r| r.name() == "system:node").map(Rule::list).unwrap_or_default()
}

/// Decides.
pub fn decide(server: &Arc<Server>, user: &User, ask: &Ask) -> Verdict {
    let Some(node) = node_of(user) else { return Verdict::NoOpinion(None) };
    if ask.is_resource {
        match (ask.group.as_str(), ask.resource.as_str()) {
            ("", "secrets" | "configmaps") => return read_referenced(server, node, ask, &["get", "list", "watch"]),
            ("", "persistentvolumeclaims") if ask.subresource.is_empty() => {
                return read_referenced(server, node, ask, &["get"]);
            }
            ("", "persistentvolumes") => return read_referenced(server, node, ask, &["get"]),
            ("resource.k8s.io", "resourceclaims") => return read_referenced(server, node, ask, &["get"]),
            ("", "serviceaccounts") if ask.subresource == "token" => return token(server, node, ask),
            ("", "serviceaccounts") => return read_referenced(server, node, ask, &["get", "list", "watch"]),
            ("coordination.k8s.io", "leases") => {
                return own(
                    node,
                    ask,
                    ask.namespace == "kube-node-lease",
                    "can only access node lease with the same name as the requesting node",
                );
            }
            ("storage.k8s.io", "csinodes") => {
                return own(node, ask, true, "can only access CSINode with the same name as the requesting node");
            }
            ("", "nodes") if matches!(ask.verb.as_str(), "get" | "list" | "watch") && ask.subresource.is_empty() => {
                return own(node, ask, true, "node cannot read other nodes").or_services(node, ask);
            }
            ("", "pods") if ask.verb == "get" && ask.subresource.is_empty() => {
                return pod(server, node, ask);
            }
            _ => {}
        }
    }
    if server.node_rules.iter().any(|r| r.allows(ask)) { Verdict::Allow } else { Verdict::NoOpinion(None) }
}

impl Verdict {
    /// A kubelet reads its own node; without a name the selector of its watch names it.
    fn or_services(self, node: &str, ask: &Ask) -> Self {
        if ask.name == node { Self::Allow } else { self }
    }
}

fn own(node: &str, ask: &Ask, place: bool, otherwise: &str) -> Verdict {
    let creates = ask.verb == "create" && ask.name.is_empty();
    if place && (ask.name == node || creates) {
        return Verdict::Allow;
    }
    Verdict::NoOpinion(Some(otherwise.to_owned()))
}

fn pods_of(server: &Server, node: &str) -> Vec<Arc<kinit_storage::Entry>> {
    server.store.cache("pods/").map(|c| c.list("", |e| e.field("spec.nodeName") == Some(node)).0).unwrap_or_default()
}

fn pod(server: &Server, node: &str, ask: &Ask) -> Verdict {
    let key = format!("{}/{}", ask.namespace, ask.name);
    let entry = server.store.cache("pods/").and_then(|c| c.get(&key));
    match entry {
        Some(entry) if entry.field("spec.nodeName") != Some(node) => {
            Verdict::NoOpinion(Some(format!("no relationship found between node '{node}' and this object")))
        }
        // A pod that is gone is a 404 for its kubelet, not a 403.
        _ => Verdict::Allow,
    }
}

fn read_referenced(server: &Server, node: &str, ask: &Ask, verbs: &[&str]) -> Verdict {
    if !verbs.contains(&ask.verb.as_str()) {
        return Verdict::NoOpinion(Some("can only read resources of this type".into()));
    }
    if ask.name.is_empty() {
        return Verdict::NoOpinion(Some("No Object name found".into()));
    }
    let found = pods_of(server, node).iter().any(|entry| {
        (ask.namespace.is_empty() || entry.namespace() == ask.namespace) && refers(server, &entry.value(), ask)
    });
    if found {
        return Verdict::Allow;
    }
    Verdict::NoOpinion(Some(format!("no relationship found between node '{node}' and this object")))
}

fn refers(server: &Server, pod: &Value, ask: &Ask) -> bool {
    match ask.resource.as_str() {
        "secrets" => references(pod, &ask.name, true),
        "configmaps" => references(pod, &ask.name, false),
        "serviceaccounts" => pod.str_at(&["spec", "serviceAccountName"]) == ask.name,
        "persistentvolumeclaims" => claims(pod).contains(&ask.name),
        "resourceclaims" => {
            let statuses = pod.at(&["status", "resourceClaimStatuses"]).and_then(Value::as_array);
            let specs = pod.at(&["spec", "resourceClaims"]).and_then(Value::as_array);
            statuses.into_iter().chain(specs).flatten().any(|c| c.str_at(&["resourceClaimName"]) == ask.name)
        }
        "persistentvolumes" => claims(pod).iter().any(|claim| {
            let key = format!("{}/{claim}", pod.namespace());
            let claim = server.store.cache("persistentvolumeclaims/").and_then(|c| c.get(&key));
            claim.is_some_and(|c| c.value().str_at(&["spec", "volumeName"]) == ask.name)
        }),
        _ => false,
    }
}

fn claims(pod: &Value) -> Vec<String> {
    pod.at(&["spec", "volumes"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|v| {
            if v.get("ephemeral").is_some() {
                return Some(format!("{}-{}", pod.name(), v.str_at(&["name"])));
            }
            v.at(&["persistentVolumeClaim", "claimName"]).and_then(Value::as_str).map(str::to_owned)
        })
        .collect()
}

/// Looks through the pod for a reference by name: environment, volumes, pull secrets.
fn references(pod: &Value, name: &str, secret: bool) -> bool {
    let spec = &pod["spec"];
    if secret && spec["imagePullSecrets"].as_array().into_iter().flatten().any(|s| s.str_at(&["name"]) == name) {
        return true;
    }
    let (env_ref, key_ref) = if secret { ("secretRef", "secretKeyRef") } else { ("configMapRef", "configMapKeyRef") };
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in spec[list].as_array().into_iter().flatten() {
            let from =
                container["envFrom"].as_array().into_iter().flatten().any(|e| e.str_at(&[env_ref, "name"]) == name);
            let keys = container["env"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|e| e.str_at(&["valueFrom", key_ref, "name"]) == name);
            if from || keys {
                return true;
            }
        }
    }
    spec["volumes"].as_array().into_iter().flatten().any(|v| volume_refers(v, name, secret))
}

fn volume_refers(volume: &Value, name: &str, secret: bool) -> bool {
    let projected = volume.at(&["projected", "sources"]).and_then(Value::as_array).into_iter().flatten();
    if secret {
        volume.str_at(&["secret", "secretName"]) == name
            || projected.clone().any(|s| s.str_at(&["secret", "name"]) == name)
            || ["csi", "cephfs", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos", "azureFile", "cinder"]
                .iter()
                .any(|kind| {
                    ["nodePublishSecretRef", "secretRef"].iter().any(|r| volume.str_at(&[kind, r, "name"]) == name)
                        || volume.str_at(&[kind, "secretName"]) == name
                })
    } else {
        volume.str_at(&["configMap", "name"]) == name
            || projected.clone().any(|s| s.str_at(&["configMap", "name"]) == name)
    }
}

/// A kubelet gets tokens for the service accounts of its pods.
fn token(server: &Server, node: &str, ask: &Ask) -> Verdict {
    if ask.verb != "create" {
        return Verdict::NoOpinion(Some("can only create tokens for individual service accounts".into()));
    }
    let found = pods_of(server, node)
        .iter()
        .any(|e| e.namespace() == ask.namespace && e.field("spec.serviceAccountName") == Some(ask.name.as_str()));
    if found {
        return Verdict::Allow;
    }
    Verdict::NoOpinion(Some(format!("no relationship found between node '{node}' and this object")))
}
