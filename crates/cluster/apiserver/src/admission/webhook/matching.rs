//! Which requests a webhook is about (`k8s.io/apiserver/pkg/admission/plugin/webhook/predicates`): pure.

use kinit_apimachinery::meta::{Meta, strings};
use kinit_apimachinery::selector::LabelSelector;
use serde_json::Value;

/// What of a request rules look at.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    pub operation: &'a str,
    /// API group.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Plural.
    pub resource: &'a str,
    /// "" for the object itself.
    pub subresource: &'a str,
    /// "" for cluster-scoped objects; of a namespace its own name.
    pub namespace: &'a str,
}

/// `RuleWithOperations`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
}

impl Rule {
    /// From a configuration.
    pub fn of(rule: &Value) -> Self {
        let list = |key: &str| strings(rule.get(key));
        Self {
            operations: list("operations"),
            groups: list("apiGroups"),
            versions: list("apiVersions"),
            resources: list("resources"),
            scope: rule.str_at(&["scope"]).to_owned(),
        }
    }

    /// Whether a request is of the rule.
    pub fn matches(&self, target: &Target<'_>) -> bool {
        let any = |list: &[String], wanted: &str| list.iter().any(|x| x == "*" || x == wanted);
        self.in_scope(target)
            && any(&self.operations, target.operation)
            && any(&self.groups, target.group)
            && any(&self.versions, target.version)
            && self.resources.iter().any(|r| {
                let (resource, sub) = r.split_once('/').unwrap_or((r, ""));
                (resource == "*" || resource == target.resource) && (sub == "*" || sub == target.subresource)
            })
    }

    fn in_scope(&self, target: &Target<'_>) -> bool {
        // A namespace is an object of the cluster, although its requests carry its name as their namespace.
        let cluster = is_namespace(target) || target.namespace.is_empty();
        match self.scope.as_str() {
            "Namespaced" => !cluster,
            "Cluster" => cluster,
            _ => true,
        }
    }
}

/// What a policy or a binding is about (`MatchResources`).
#[derive(Debug, Default)]
pub struct Match {
    /// What it is about; everything where there are none.
    pub rules: Vec<(Rule, Vec<String>)>,
    /// What it is not about.
    pub excluded: Vec<(Rule, Vec<String>)>,
    /// Whether other versions of it are meant, too.
    pub equivalent: bool,
    /// Namespaces.
    pub namespaces: LabelSelector,
    /// Objects.
    pub objects: LabelSelector,
}

impl Match {
    /// From a policy or a binding.
    pub fn of(value: &Value) -> Self {
        let rules = |key: &str| {
            let list = value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            list.iter().map(|rule| (Rule::of(rule), strings(rule.get("resourceNames")))).collect()
        };
        let selector = |key: &str| LabelSelector::from_object(value.get(key)).unwrap_or_default();
        Self {
            rules: rules("resourceRules"),
            excluded: rules("excludeResourceRules"),
            equivalent: value.str_at(&["matchPolicy"]) != "Exact",
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
        }
    }
}

/// Whether a request is of one of the rules, and its object's name one of the rule's names.
pub fn any_rule(rules: &[(Rule, Vec<String>)], target: &Target<'_>, name: &str) -> bool {
    rules.iter().any(|(rule, names)| rule.matches(target) && (names.is_empty() || names.iter().any(|n| n == name)))
}

/// Whether the request is about namespaces themselves.
pub fn is_namespace(target: &Target<'_>) -> bool {
    target.group.is_empty() && target.resource == "namespaces"
}

/// Configurations of admission are never sent: a webhook could lock everybody out of its own configuration
/// (`rules.IsExemptAdmissionConfigurationResource`).
pub fn is_exempt(group: &str) -> bool {
    group == "admissionregistration.k8s.io"
}

/// Whether the new or the old object has the labels (`object.Matcher`).
pub fn selects_object(selector: &LabelSelector, object: Option<&Value>, old: Option<&Value>) -> bool {
    selector.is_empty()
        || [object, old]
            .into_iter()
            .flatten()
            .any(|o| o.get("metadata").is_some_and(Value::is_object) && selector.matches(|key| o.label(key)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const POD: Target<'_> = Target {
        operation: "CREATE",
        group: "",
        version: "v1",
        resource: "pods",
        subresource: "",
        namespace: "default",
    };

    #[test]
    fn rules() {
        let exec = Target { operation: "CONNECT", subresource: "exec", ..POD };
        let node = Target { resource: "nodes", namespace: "", ..POD };
        let namespace = Target { resource: "namespaces", namespace: "default", ..POD };
        let scale = Target { operation: "UPDATE", group: "apps", resource: "deployments", subresource: "scale", ..POD };
        for (rule, target, want) in [
            (json!([["CREATE"], [""], ["v1"], ["pods"], "*"]), POD, true),
            (json!([["*"], ["*"], ["*"], ["*"], "*"]), POD, true),
            (json!([["UPDATE"], ["*"], ["*"], ["*"], "*"]), POD, false),
            (json!([["CREATE"], ["apps"], ["v1"], ["pods"], "*"]), POD, false),
            (json!([["CREATE"], [""], ["v2"], ["pods"], "*"]), POD, false),
            (json!([["CREATE"], [""], ["v1"], ["services", "pods"], "Namespaced"]), POD, true),
            (json!([["CREATE"], [""], ["v1"], ["pods"], "Cluster"]), POD, false),
            // Without a slash a resource is only itself, with one it is that subresource.
            (json!([["*"], ["*"], ["*"], ["*"], "*"]), exec, false),
            (json!([["*"], ["*"], ["*"], ["pods"], "*"]), exec, false),
            (json!([["*"], ["*"], ["*"], ["pods/exec"], "*"]), exec, true),
            (json!([["*"], ["*"], ["*"], ["pods/*"], "*"]), exec, true),
            (json!([["*"], ["*"], ["*"], ["*/*"], "*"]), exec, true),
            (json!([["*"], ["*"], ["*"], ["*/*"], "*"]), POD, true),
            (json!([["*"], ["*"], ["*"], ["*/scale"], "*"]), exec, false),
            (json!([["*"], ["*"], ["*"], ["*/scale"], "*"]), scale, true),
            (json!([["CREATE"], ["*"], ["*"], ["*/*"], "*"]), exec, false),
            (json!([["*"], ["*"], ["*"], ["nodes"], "Cluster"]), node, true),
            (json!([["*"], ["*"], ["*"], ["nodes"], "Namespaced"]), node, false),
            (json!([["*"], ["*"], ["*"], ["namespaces"], "Cluster"]), namespace, true),
            (json!([["*"], ["*"], ["*"], ["namespaces"], "Namespaced"]), namespace, false),
            (json!([[], [], [], [], "*"]), POD, false),
        ] {
            let parsed = Rule::of(&json!({"operations": rule[0], "apiGroups": rule[1], "apiVersions": rule[2],
                "resources": rule[3], "scope": rule[4]}));
            assert_eq!(parsed.matches(&target), want, "{rule} {target:?}");
        }
    }

    #[test]
    fn object_selectors_take_either_object() {
        let of = |selector: Value| LabelSelector::from_object(Some(&selector)).unwrap();
        let yes = json!({"metadata": {"labels": {"a": "b"}}});
        let no = json!({"metadata": {}});
        let bare = json!({"kind": "PodExecOptions"});
        let (ab, not_ab) = (
            of(json!({"matchLabels": {"a": "b"}})),
            of(json!({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]})),
        );
        for (selector, object, old, want) in [
            (&ab, Some(&yes), None, true),
            (&ab, Some(&no), None, false),
            (&ab, Some(&no), Some(&yes), true),
            (&ab, None, Some(&yes), true),
            (&ab, None, None, false),
            (&not_ab, Some(&no), None, true),
            (&not_ab, Some(&bare), None, false),
            (&of(json!({})), Some(&bare), None, true),
        ] {
            assert_eq!(selects_object(selector, object, old), want, "{selector:?} {object:?} {old:?}");
        }
    }
}
