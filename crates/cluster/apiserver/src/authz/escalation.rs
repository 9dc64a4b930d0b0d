//! Nobody may grant more than they have (`rbac/escalation_check.go`, `pkg/registry/rbac/validation`).

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::rbac::Rule;
use super::{Attributes, decide};
use crate::authn::MASTERS;
use crate::registry::Request;

/// Refuses a role or binding that grants what the user does not have, unless the user may `escalate` or `bind`.
pub async fn check(request: &Request, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let desc = &request.desc;
    if desc.group != "rbac.authorization.k8s.io" || request.user.in_group(MASTERS) {
        return Ok(());
    }
    let namespace = object.namespace();
    let snapshot = request.server.rbac.current(&request.server.store);
    let is_role = matches!(desc.kind.as_str(), "Role" | "ClusterRole");
    let wanted = if is_role {
        if old.is_some_and(|old| {
            old.get("rules") == object.get("rules") && old.get("aggregationRule") == object.get("aggregationRule")
        }) {
            return Ok(());
        }
        Rule::list(object)
    } else {
        if old.is_some_and(|old| {
            old.get("roleRef") == object.get("roleRef") && old.get("subjects") == object.get("subjects")
        }) {
            return Ok(());
        }
        let cluster = object.str_at(&["roleRef", "kind"]) == "ClusterRole";
        let name = object.str_at(&["roleRef", "name"]);
        match snapshot.role(cluster, namespace, name) {
            Some(rules) => rules.to_vec(),
            None => {
                let resource = if cluster { "clusterroles" } else { "roles" };
                if may(request, "bind", resource, namespace, name).await {
                    return Ok(());
                }
                return Err(ApiError::not_found(&desc.group, resource, name));
            }
        }
    };
    let (verb, resource, name) = if is_role {
        ("escalate", desc.plural.as_str(), object.name())
    } else if object.str_at(&["roleRef", "kind"]) == "ClusterRole" {
        ("bind", "clusterroles", object.str_at(&["roleRef", "name"]))
    } else {
        ("bind", "roles", object.str_at(&["roleRef", "name"]))
    };
    if may(request, verb, resource, namespace, name).await {
        return Ok(());
    }
    let owned = snapshot.rules(&request.user, namespace);
    let missing: Vec<String> =
        wanted.iter().flat_map(split).filter(|one| !owned.iter().any(|r| covers(r, one))).map(|r| show(&r)).collect();
    // Aggregation can grant anything a label says: only somebody with everything may set it up.
    let aggregates = is_role && object.get("aggregationRule").is_some();
    let all =
        Rule { verbs: vec!["*".into()], groups: vec!["*".into()], resources: vec!["*".into()], ..Rule::default() };
    if missing.is_empty() && (!aggregates || owned.iter().any(|r| covers(r, &all))) {
        return Ok(());
    }
    let cause = format!(
        "user \"{}\" (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
        request.user.name,
        request.user.groups,
        missing.join("\n")
    );
    Err(ApiError::forbidden(&desc.group, &desc.plural, object.name(), &cause))
}

async fn may(request: &Request, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
    let attributes = Attributes::resource(verb, "rbac.authorization.k8s.io", "v1", resource, "", namespace, name);
    decide(&request.server, &request.user, &attributes).await.allowed
}

/// A rule as the smallest rules it is made of.
fn split(rule: &Rule) -> Vec<Rule> {
    let mut out = Vec::new();
    for verb in &rule.verbs {
        for url in &rule.urls {
            out.push(Rule { verbs: vec![verb.clone()], urls: vec![url.clone()], ..Rule::default() });
        }
        for group in &rule.groups {
            for resource in &rule.resources {
                let base = Rule {
                    verbs: vec![verb.clone()],
                    groups: vec![group.clone()],
                    resources: vec![resource.clone()],
                    ..Rule::default()
                };
                if rule.names.is_empty() {
                    out.push(base);
                } else {
                    out.extend(rule.names.iter().map(|n| Rule { names: vec![n.clone()], ..base.clone() }));
                }
            }
        }
    }
    out
}

/// Whether an owned rule grants all of a smallest rule.
fn covers(owned: &Rule, one: &Rule) -> bool {
    let has = |list: &[String], value: &str| list.iter().any(|x| x == "*" || x == value);
    let verb = one.verbs.first().is_some_and(|v| has(&owned.verbs, v));
    if let Some(url) = one.urls.first() {
        return verb
            && owned.urls.iter().any(|u| {
                u == "*" || u == url || u.strip_suffix('*').is_some_and(|p| url.trim_end_matches('*').starts_with(p))
            });
    }
    let (Some(group), Some(resource)) = (one.groups.first(), one.resources.first()) else { return false };
    let resource_ok = owned.resources.iter().any(|r| {
        r == "*"
            || r == resource
            || r.strip_prefix("*/").is_some_and(|sub| resource.split_once('/').is_some_and(|(_, s)| s == sub))
    });
    let name_ok = owned.names.is_empty() || one.names.first().is_some_and(|n| owned.names.contains(n));
    verb && has(&owned.groups, group) && resource_ok && name_ok
}

fn show(rule: &Rule) -> String {
    if !rule.urls.is_empty() {
        return format!("{{NonResourceURLs:{:?}, Verbs:{:?}}}", rule.urls, rule.verbs);
    }
    format!("{{APIGroups:{:?}, Resources:{:?}, Verbs:{:?}}}", rule.groups, rule.resources, rule.verbs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], resources: &[&str], names: &[&str]) -> Rule {
        let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
        Rule {
            verbs: own(verbs),
            groups: vec![String::new()],
            resources: own(resources),
            names: own(names),
            urls: vec![],
        }
    }

    #[test]
    fn what_covers_what() {
        let all = |owned: &[Rule], wanted: &Rule| split(wanted).iter().all(|one| owned.iter().any(|r| covers(r, one)));
        let owned = [rule(&["get", "list"], &["pods"], &[]), rule(&["get"], &["secrets"], &["a"])];
        assert!(all(&owned, &rule(&["get"], &["pods"], &["x"])));
        assert!(!all(&owned, &rule(&["delete"], &["pods"], &[])));
        assert!(!all(&owned, &rule(&["get"], &["secrets"], &[])));
        assert!(all(&owned, &rule(&["get"], &["secrets"], &["a"])));
        assert!(!all(&owned, &rule(&["*"], &["pods"], &[])));
    }
}
