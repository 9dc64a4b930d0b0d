//! The default roles and bindings, from `data/bootstrap-policy.txt`.

use serde_json::{Value, json};

static TEXT: &str = include_str!("../../data/bootstrap-policy.txt");
const RBAC: &str = "rbac.authorization.k8s.io";

/// Upstream's `DefaultClusterRoles` and the rest, as API objects.
#[derive(Debug, Default)]
pub struct Policy {
    /// `ClusterRole`.
    pub cluster_roles: Vec<Value>,
    /// `ClusterRoleBinding`.
    pub cluster_bindings: Vec<Value>,
    /// `Role`.
    pub roles: Vec<Value>,
    /// `RoleBinding`.
    pub bindings: Vec<Value>,
}

fn metadata(name: &str, namespace: Option<&str>) -> Value {
    let mut meta = json!({"name": name,
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}});
    if let Some(namespace) = namespace {
        meta["namespace"] = namespace.into();
    }
    meta
}

fn role(kind: &str, name: &str, namespace: Option<&str>) -> Value {
    json!({"apiVersion": format!("{RBAC}/v1"), "kind": kind, "metadata": metadata(name, namespace), "rules": []})
}

fn words(text: &str) -> Vec<Value> {
    text.split_whitespace().map(|w| if w == "core" { "".into() } else { w.into() }).collect()
}

fn rule(line: &str) -> Value {
    if let Some((verbs, urls)) = line.split_once('@') {
        return json!({"nonResourceURLs": words(urls), "verbs": words(verbs)});
    }
    let mut parts = line.split('|');
    let mut next = || words(parts.next().unwrap_or_default());
    let (verbs, groups, resources, names) = (next(), next(), next(), next());
    let mut out = json!({"apiGroups": groups, "resources": resources, "verbs": verbs});
    if !names.is_empty() {
        out["resourceNames"] = names.into();
    }
    out
}

fn subject(word: &str) -> Value {
    match word.split_once(':') {
        Some(("g", name)) => json!({"apiGroup": RBAC, "kind": "Group", "name": name}),
        Some(("s", rest)) => {
            let (namespace, name) = rest.split_once(':').unwrap_or((rest, ""));
            json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
        }
        _ => json!({"apiGroup": RBAC, "kind": "User", "name": word.trim_start_matches("u:")}),
    }
}

fn binding(kind: &str, name: &str, namespace: Option<&str>, role_kind: &str, role: &str, subjects: &[&str]) -> Value {
    let subjects: Vec<Value> = subjects.iter().map(|s| subject(s)).collect();
    let mut out = json!({"apiVersion": format!("{RBAC}/v1"), "kind": kind, "metadata": metadata(name, namespace),
        "roleRef": {"apiGroup": RBAC, "kind": role_kind, "name": role}});
    if !subjects.is_empty() {
        out["subjects"] = subjects.into();
    }
    out
}

/// Parses the table; controllers' roles get their bindings to the service account of the same name.
pub fn policy() -> Policy {
    let mut out = Policy::default();
    let mut in_namespace = false;
    for line in TEXT.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
        let parts: Vec<&str> = line.split_whitespace().collect();
        if line.starts_with(' ') {
            let target = if in_namespace { out.roles.last_mut() } else { out.cluster_roles.last_mut() };
            let Some(target) = target else { continue };
            if let ["aggregate", label] = parts.as_slice() {
                target["aggregationRule"] =
                    json!({"clusterRoleSelectors": [{"matchLabels": {format!("{RBAC}/{label}"): "true"}}]});
            } else if let Some(rules) = target["rules"].as_array_mut() {
                rules.push(rule(line));
            }
            continue;
        }
        match parts.as_slice() {
            ["clusterrole", name, labels @ ..] => {
                in_namespace = false;
                let mut value = role("ClusterRole", name, None);
                for (key, v) in labels.iter().filter_map(|l| l.split_once('=')) {
                    value["metadata"]["labels"][key] = v.into();
                }
                out.cluster_roles.push(value);
                if let Some(controller) = name.strip_prefix("system:controller:") {
                    let account = format!("s:kube-system:{controller}");
                    out.cluster_bindings.push(binding(
                        "ClusterRoleBinding",
                        name,
                        None,
                        "ClusterRole",
                        name,
                        &[&account],
                    ));
                }
            }
            ["role", namespace, name] => {
                in_namespace = true;
                out.roles.push(role("Role", name, Some(namespace)));
            }
            ["clusterbinding", name, role, subjects @ ..] => {
                out.cluster_bindings.push(binding("ClusterRoleBinding", name, None, "ClusterRole", role, subjects));
            }
            ["binding", namespace, name, kind, role, subjects @ ..] => {
                out.bindings.push(binding("RoleBinding", name, Some(namespace), kind, role, subjects));
            }
            _ => {}
        }
    }
    resolve_aggregates(&mut out.cluster_roles);
    out
}

/// The aggregation controller's work, done once for the defaults so that they are complete from the start.
fn resolve_aggregates(roles: &mut [Value]) {
    // view feeds edit, edit feeds admin: as many rounds as there are levels.
    for _ in 0..3 {
        let snapshot = roles.to_vec();
        for target in roles.iter_mut() {
            let Some(rules) = aggregated(target, snapshot.iter()) else { continue };
            target["rules"] = rules.into();
        }
    }
}

/// The rules an aggregated role should have, `None` for a plain role.
pub fn aggregated<'a>(role: &Value, all: impl Iterator<Item = &'a Value> + Clone) -> Option<Vec<Value>> {
    use kinit_apimachinery::meta::Meta;
    use kinit_apimachinery::selector::LabelSelector;
    let selectors = role.at(&["aggregationRule", "clusterRoleSelectors"])?.as_array()?;
    let mut rules: Vec<Value> = Vec::new();
    for selector in selectors {
        let Some(selector) = LabelSelector::from_object(Some(selector)) else { continue };
        for other in all.clone() {
            if other.name() == role.name() || !selector.matches(|k| other.label(k)) {
                continue;
            }
            for rule in other.get("rules").and_then(Value::as_array).into_iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinit_apimachinery::meta::Meta;

    #[test]
    fn the_table_is_complete() {
        let p = policy();
        let role = |name: &str| p.cluster_roles.iter().find(|r| r.name() == name).unwrap();
        assert!(p.cluster_roles.len() > 60);
        let view = role("view")["rules"].as_array().unwrap().len();
        let admin = role("admin")["rules"].as_array().unwrap().len();
        assert!(view > 5 && admin > view, "{view} {admin}");
        for b in p.cluster_bindings.iter() {
            role(b.str_at(&["roleRef", "name"]));
        }
        for r in p.roles.iter().chain(&p.cluster_roles) {
            assert!(!r["rules"].as_array().unwrap().is_empty(), "{}", r.name());
        }
    }
}
