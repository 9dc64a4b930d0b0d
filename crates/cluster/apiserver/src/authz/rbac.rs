//! RBAC, evaluated from the watch cache: roles and bindings are parsed once per change.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use kinit_apimachinery::meta::{Meta, strings};
use kinit_storage::Store;
use parking_lot::Mutex;
use serde_json::Value;

use super::Attributes;
use crate::authn::User;

const PREFIXES: [&str; 4] = ["roles/", "clusterroles/", "rolebindings/", "clusterrolebindings/"];

/// One rule of a role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// Verbs.
    pub verbs: Vec<String>,
    /// API groups.
    pub groups: Vec<String>,
    /// Resources, with subresources after a slash.
    pub resources: Vec<String>,
    /// Names; empty for all.
    pub names: Vec<String>,
    /// Paths of what is no resource.
    pub urls: Vec<String>,
}

impl Rule {
    /// From a `PolicyRule`.
    pub fn from_value(value: &Value) -> Self {
        Self {
            verbs: strings(value.get("verbs")),
            groups: strings(value.get("apiGroups")),
            resources: strings(value.get("resources")),
            names: strings(value.get("resourceNames")),
            urls: strings(value.get("nonResourceURLs")),
        }
    }

    /// The rules of a role object.
    pub fn list(role: &Value) -> Vec<Self> {
        role.get("rules")
            .and_then(Value::as_array)
            .map(|l| l.iter().map(Self::from_value).collect())
            .unwrap_or_default()
    }

    /// Whether the rule answers yes.
    pub fn allows(&self, attributes: &Attributes) -> bool {
        let has = |list: &[String], value: &str| list.iter().any(|x| x == "*" || x == value);
        if !has(&self.verbs, &attributes.verb) {
            return false;
        }
        if !attributes.is_resource {
            return self.urls.iter().any(|u| {
                u == "*" || *u == attributes.path || u.strip_suffix('*').is_some_and(|p| attributes.path.starts_with(p))
            });
        }
        has(&self.groups, &attributes.group)
            && self.matches_resource(&attributes.resource, &attributes.subresource)
            && (self.names.is_empty() || self.names.contains(&attributes.name))
    }

    fn matches_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|r| match r.split_once('/') {
            None => r == "*" || (subresource.is_empty() && r == resource),
            Some(("*", sub)) => sub == subresource,
            Some((main, sub)) => main == resource && sub == subresource,
        })
    }
}

#[derive(Debug, Clone)]
struct Subject {
    kind: String,
    namespace: String,
    name: String,
}

impl Subject {
    fn is(&self, user: &User) -> bool {
        match self.kind.as_str() {
            "User" => self.name == user.name,
            "Group" => user.in_group(&self.name),
            "ServiceAccount" => {
                user.name.strip_prefix("system:serviceaccount:").and_then(|r| r.split_once(':'))
                    == Some((self.namespace.as_str(), self.name.as_str()))
            }
            _ => false,
        }
    }
}

#[derive(Debug, Clone)]
struct Binding {
    name: String,
    cluster_role: bool,
    role: String,
    subjects: Vec<Subject>,
}

/// All roles and bindings at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    roles: HashMap<String, Arc<Vec<Rule>>>,
    cluster_roles: HashMap<String, Arc<Vec<Rule>>>,
    bindings: HashMap<String, Vec<Binding>>,
    cluster_bindings: Vec<Binding>,
}

impl Snapshot {
    fn read(store: &Store) -> Self {
        // RBAC only ever grants: who is not known to have a right has none.
        let all = |prefix: &str| store.cache(prefix).map(|c| c.all_last_known("", |_| true).0).unwrap_or_default();
        let mut out = Self::default();
        for entry in all("roles/") {
            out.roles.insert(entry.key.to_string(), Arc::new(Rule::list(&entry.value())));
        }
        for entry in all("clusterroles/") {
            out.cluster_roles.insert(entry.key.to_string(), Arc::new(Rule::list(&entry.value())));
        }
        for entry in all("rolebindings/") {
            let binding = Binding::from_value(&entry.value());
            out.bindings.entry(entry.namespace().to_owned()).or_default().push(binding);
        }
        for entry in all("clusterrolebindings/") {
            out.cluster_bindings.push(Binding::from_value(&entry.value()));
        }
        out
    }

    /// Upstream's reason when the user may, `None` otherwise.
    pub fn allows(&self, user: &User, attributes: &Attributes) -> Option<String> {
        let mut reason = None;
        self.visit(user, &attributes.namespace, |binding, namespace, rule, subject| {
            if rule.allows(attributes) {
                let (kind, at) = match namespace {
                    None => ("ClusterRoleBinding", String::new()),
                    Some(ns) => ("RoleBinding", format!("/{ns}")),
                };
                let role = if binding.cluster_role { "ClusterRole" } else { "Role" };
                let subject = match subject.kind.as_str() {
                    "ServiceAccount" => format!("ServiceAccount \"{}/{}\"", subject.name, subject.namespace),
                    kind => format!("{kind} \"{}\"", subject.name),
                };
                reason = Some(format!(
                    "RBAC: allowed by {kind} \"{}{at}\" of {role} \"{}\" to {subject}",
                    binding.name, binding.role
                ));
                return false;
            }
            true
        });
        reason
    }

    /// Every rule that holds for a user in a namespace ("" for the cluster's alone).
    pub fn rules(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let mut out = Vec::new();
        self.visit(user, namespace, |_, _, rule, _| {
            out.push(rule.clone());
            true
        });
        out
    }

    /// The rules of a role a binding refers to.
    pub fn role(&self, cluster: bool, namespace: &str, name: &str) -> Option<Arc<Vec<Rule>>> {
        if cluster {
            self.cluster_roles.get(name).cloned()
        } else {
            self.roles.get(&format!("{namespace}/{name}")).cloned()
        }
    }

    fn visit(
        &self,
        user: &User,
        namespace: &str,
        mut see: impl FnMut(&Binding, Option<&str>, &Rule, &Subject) -> bool,
    ) {
        for binding in &self.cluster_bindings {
            let Some(subject) = binding.subjects.iter().find(|s| s.is(user)) else { continue };
            let Some(rules) = self.cluster_roles.get(&binding.role) else { continue };
            for rule in rules.iter() {
                if !see(binding, None, rule, subject) {
                    return;
                }
            }
        }
        if namespace.is_empty() {
            return;
        }
        for binding in self.bindings.get(namespace).into_iter().flatten() {
            let Some(subject) = binding.subjects.iter().find(|s| s.is(user)) else { continue };
            let Some(rules) = self.role(binding.cluster_role, namespace, &binding.role) else { continue };
            for rule in rules.iter() {
                if !see(binding, Some(namespace), rule, subject) {
                    return;
                }
            }
        }
    }
}

impl Binding {
    fn from_value(value: &Value) -> Self {
        let namespace = value.namespace();
        let subjects = value.get("subjects").and_then(Value::as_array).into_iter().flatten().map(|s| Subject {
            kind: s.str_at(&["kind"]).into(),
            namespace: match s.str_at(&["namespace"]) {
                "" => namespace.into(),
                given => given.into(),
            },
            name: s.str_at(&["name"]).into(),
        });
        Self {
            name: value.name().into(),
            cluster_role: value.str_at(&["roleRef", "kind"]) == "ClusterRole",
            role: value.str_at(&["roleRef", "name"]).into(),
            subjects: subjects.collect(),
        }
    }
}

/// The current snapshot, read again when one of the four caches has changed.
#[derive(Default)]
pub struct Rbac {
    current: ArcSwap<Snapshot>,
    changes: Mutex<Vec<tokio::sync::watch::Receiver<()>>>,
}

impl Rbac {
    /// The snapshot of now.
    pub fn current(&self, store: &Store) -> Arc<Snapshot> {
        let mut changes = self.changes.lock();
        let first = changes.is_empty();
        if first {
            *changes = PREFIXES.iter().filter_map(|p| store.cache(p)).map(|c| c.changes()).collect();
        }
        let mut stale = first;
        for receiver in changes.iter_mut() {
            if receiver.has_changed().unwrap_or(false) {
                receiver.borrow_and_update();
                stale = true;
            }
        }
        if stale {
            self.current.store(Arc::new(Snapshot::read(store)));
        }
        self.current.load_full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> Rule {
        let words = |t: &str| t.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let groups = words(groups).into_iter().map(|g| if g == "core" { String::new() } else { g }).collect();
        Rule { verbs: words(verbs), groups, resources: words(resources), names: words(names), urls: vec![] }
    }

    #[test]
    fn rules_match_as_upstream_matches() {
        let attributes = |verb: &str, group: &str, resource: &str, sub: &str, name: &str| {
            Attributes::resource(verb, group, "v1", resource, sub, "ns", name)
        };
        for (rule, attributes, want) in [
            (rule("get", "core", "pods", ""), attributes("get", "", "pods", "", "x"), true),
            (rule("get", "core", "pods", ""), attributes("get", "", "pods", "log", "x"), false),
            (rule("get", "core", "pods/log", ""), attributes("get", "", "pods", "log", "x"), true),
            (rule("*", "*", "*", ""), attributes("get", "apps", "deployments", "scale", "x"), true),
            (rule("get", "*", "*/scale", ""), attributes("get", "apps", "deployments", "scale", "x"), true),
            (rule("get", "core", "secrets", "a"), attributes("get", "", "secrets", "", "b"), false),
            (rule("get", "core", "secrets", "a"), attributes("list", "", "secrets", "", ""), false),
            (rule("get", "apps", "pods", ""), attributes("get", "", "pods", "", "x"), false),
        ] {
            assert_eq!(rule.allows(&attributes), want, "{rule:?} {attributes:?}");
        }
        let urls = Rule { verbs: vec!["get".into()], urls: vec!["/healthz/*".into()], ..Rule::default() };
        let path = Attributes { verb: "get".into(), path: "/healthz/ping".into(), ..Attributes::default() };
        assert!(urls.allows(&path));
    }
}
