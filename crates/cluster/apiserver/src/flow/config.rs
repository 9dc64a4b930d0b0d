//! FlowSchemas and PriorityLevelConfigurations, as requests are matched with them.

use kinit_apimachinery::meta::{Meta, strings};
use serde_json::Value;

use super::queues::Shape;

/// What a request is matched by.
#[derive(Debug, Clone, Copy)]
pub struct Digest<'a> {
    /// User name.
    pub user: &'a str,
    /// The user's groups.
    pub groups: &'a [String],
    /// Verb; of paths the method in lower case.
    pub verb: &'a str,
    /// Whether it is about a resource.
    pub is_resource: bool,
    /// API group.
    pub group: &'a str,
    /// `RESOURCE` or `RESOURCE/SUBRESOURCE`.
    pub resource: &'a str,
    /// Namespace, "" for objects of the cluster and for all namespaces.
    pub namespace: &'a str,
    /// The path, for what is no resource.
    pub path: &'a str,
}

/// By what the requests of a FlowSchema are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distinguisher {
    /// They are one flow.
    None,
    /// A flow per user.
    User,
    /// A flow per namespace.
    Namespace,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
    /// Namespace and name; the name may be `*`.
    ServiceAccount(String, String),
}

impl Subject {
    fn of(subject: &Value) -> Option<Self> {
        let text = |path: &[&str]| subject.str_at(path).to_owned();
        match subject.str_at(&["kind"]) {
            "User" => Some(Self::User(text(&["user", "name"]))),
            "Group" => Some(Self::Group(text(&["group", "name"]))),
            "ServiceAccount" => {
                Some(Self::ServiceAccount(text(&["serviceAccount", "namespace"]), text(&["serviceAccount", "name"])))
            }
            _ => None,
        }
    }

    fn matches(&self, digest: &Digest<'_>) -> bool {
        match self {
            Self::User(name) => name == "*" || name == digest.user,
            Self::Group(name) => name == "*" || digest.groups.contains(name),
            Self::ServiceAccount(namespace, name) => digest
                .user
                .strip_prefix("system:serviceaccount:")
                .and_then(|rest| rest.split_once(':'))
                .is_some_and(|(in_namespace, called)| in_namespace == namespace && (name == "*" || name == called)),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    cluster_scope: bool,
    namespaces: Vec<String>,
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|entry| entry == "*" || entry == wanted)
}

impl ResourceRule {
    fn of(rule: &Value) -> Self {
        let list = |key: &str| strings(rule.get(key));
        Self {
            verbs: list("verbs"),
            groups: list("apiGroups"),
            resources: list("resources"),
            cluster_scope: rule.get("clusterScope").and_then(Value::as_bool).unwrap_or_default(),
            namespaces: list("namespaces"),
        }
    }

    fn matches(&self, digest: &Digest<'_>) -> bool {
        has(&self.verbs, digest.verb)
            && has(&self.groups, digest.group)
            && has(&self.resources, digest.resource)
            && match digest.namespace {
                "" => self.cluster_scope,
                namespace => has(&self.namespaces, namespace),
            }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PathRule {
    verbs: Vec<String>,
    paths: Vec<String>,
}

impl PathRule {
    fn of(rule: &Value) -> Self {
        Self { verbs: strings(rule.get("verbs")), paths: strings(rule.get("nonResourceURLs")) }
    }

    fn matches(&self, digest: &Digest<'_>) -> bool {
        let covers = |entry: &String| match entry.strip_suffix('*') {
            Some(prefix) => digest.path.starts_with(prefix),
            None => entry == digest.path,
        };
        has(&self.verbs, digest.verb) && self.paths.iter().any(covers)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

impl Rule {
    fn matches(&self, digest: &Digest<'_>) -> bool {
        self.subjects.iter().any(|subject| subject.matches(digest))
            && match digest.is_resource {
                true => self.resources.iter().any(|rule| rule.matches(digest)),
                false => self.paths.iter().any(|rule| rule.matches(digest)),
            }
    }
}

fn items<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    value.at(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A FlowSchema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The lowest that matches decides.
    pub precedence: i64,
    /// The level that it sends requests to.
    pub level: String,
    /// By what flows are told apart.
    pub distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

impl Schema {
    /// Reads a FlowSchema that the API server has validated.
    pub fn of(object: &Value) -> Self {
        let rule = |rule: &Value| Rule {
            subjects: items(rule, &["subjects"]).iter().filter_map(Subject::of).collect(),
            resources: items(rule, &["resourceRules"]).iter().map(ResourceRule::of).collect(),
            paths: items(rule, &["nonResourceRules"]).iter().map(PathRule::of).collect(),
        };
        Self {
            name: object.name().to_owned(),
            uid: object.uid().to_owned(),
            precedence: object.at(&["spec", "matchingPrecedence"]).and_then(Value::as_i64).unwrap_or(1000),
            level: object.str_at(&["spec", "priorityLevelConfiguration", "name"]).to_owned(),
            distinguisher: match object.str_at(&["spec", "distinguisherMethod", "type"]) {
                "ByUser" => Distinguisher::User,
                "ByNamespace" => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: items(object, &["spec", "rules"]).iter().map(rule).collect(),
        }
    }

    /// Whether a request is one of its.
    pub fn matches(&self, digest: &Digest<'_>) -> bool {
        self.rules.iter().any(|rule| rule.matches(digest))
    }

    /// The flow that a request belongs to.
    pub fn flow<'a>(&self, digest: &Digest<'a>) -> &'a str {
        match self.distinguisher {
            Distinguisher::None => "",
            Distinguisher::User => digest.user,
            Distinguisher::Namespace => digest.namespace,
        }
    }
}

/// A PriorityLevelConfiguration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LevelConfig {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its requests never wait.
    pub exempt: bool,
    /// Its part of the server's seats.
    pub shares: u32,
    /// Percentage of its seats that others may use while it does not.
    pub lendable: u32,
    /// How much it may take from others, in percent of its own seats; without a value as much as they lend.
    pub borrowing: Option<u32>,
    /// Its queues.
    pub shape: Shape,
}

impl LevelConfig {
    /// Reads a PriorityLevelConfiguration that the API server has validated.
    pub fn of(object: &Value) -> Self {
        let exempt = object.str_at(&["spec", "type"]) == "Exempt";
        let part = if exempt { "exempt" } else { "limited" };
        let number = |path: &[&str]| {
            let at = [&["spec", part], path].concat();
            object.at(&at).and_then(Value::as_u64).map(|n| u32::try_from(n).unwrap_or(u32::MAX))
        };
        let queued = object.str_at(&["spec", "limited", "limitResponse", "type"]) == "Queue";
        let queuing = |key: &str, default: u32| {
            let value = number(&["limitResponse", "queuing", key]).unwrap_or(default);
            if queued { usize::try_from(value).unwrap_or(usize::MAX) } else { 0 }
        };
        Self {
            name: object.name().to_owned(),
            uid: object.uid().to_owned(),
            exempt,
            shares: number(&["nominalConcurrencyShares"]).unwrap_or(if exempt { 0 } else { 30 }),
            lendable: number(&["lendablePercent"]).unwrap_or(0).min(100),
            borrowing: number(&["borrowingLimitPercent"]),
            shape: Shape {
                queues: queuing("queues", 64).min(10_000),
                hand: queuing("handSize", 8),
                longest: queuing("queueLengthLimit", 50),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Schema {
        Schema::of(&json!({"metadata": {"name": "s", "uid": "u"}, "spec": {"matchingPrecedence": 7,
            "priorityLevelConfiguration": {"name": "l"}, "distinguisherMethod": {"type": "ByNamespace"},
            "rules": [
                {"subjects": [{"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": "*"}},
                        {"kind": "User", "user": {"name": "ann"}}],
                    "resourceRules": [
                        {"verbs": ["get", "update"], "apiGroups": [""], "resources": ["nodes", "nodes/status"], "clusterScope": true},
                        {"verbs": ["*"], "apiGroups": ["coordination.k8s.io"], "resources": ["*"], "namespaces": ["a"]}]},
                {"subjects": [{"kind": "Group", "group": {"name": "ops"}}],
                    "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/debug/*"]}]}]}}))
    }

    #[test]
    fn requests_match_as_the_api_describes() {
        let schema = schema();
        assert_eq!((schema.precedence, schema.level.as_str()), (7, "l"));
        let groups = ["ops".to_owned()];
        let ask = |user, verb, group, resource, namespace| {
            schema.matches(&Digest { user, groups: &[], verb, is_resource: true, group, resource, namespace, path: "" })
        };
        for (user, verb, group, resource, namespace, expected) in [
            ("ann", "get", "", "nodes", "", true),
            ("ann", "get", "", "nodes/status", "", true),
            ("ann", "get", "", "nodes/proxy", "", false),
            ("ann", "list", "", "nodes", "", false),
            ("bob", "get", "", "nodes", "", false),
            ("system:serviceaccount:kube-system:x", "update", "", "nodes", "", true),
            ("system:serviceaccount:default:x", "update", "", "nodes", "", false),
            ("ann", "delete", "coordination.k8s.io", "leases", "a", true),
            ("ann", "delete", "coordination.k8s.io", "leases", "b", false),
            ("ann", "list", "coordination.k8s.io", "leases", "", false),
        ] {
            assert_eq!(ask(user, verb, group, resource, namespace), expected, "{user} {verb} {resource} {namespace}");
        }
        for (path, expected) in [("/healthz", true), ("/healthz/ping", false), ("/debug/x", true), ("/", false)] {
            let of_path = Digest {
                user: "x",
                groups: &groups,
                verb: "get",
                is_resource: false,
                group: "",
                resource: "",
                namespace: "",
                path,
            };
            assert_eq!(schema.matches(&of_path), expected, "{path}");
        }
    }

    #[test]
    fn levels_have_the_documented_defaults() {
        let queued = LevelConfig::of(&json!({"metadata": {"name": "a"}, "spec": {"type": "Limited",
            "limited": {"nominalConcurrencyShares": 5, "borrowingLimitPercent": 0, "limitResponse": {"type": "Queue"}}}}));
        assert_eq!((queued.shares, queued.borrowing, queued.exempt), (5, Some(0), false));
        assert_eq!(queued.shape, Shape { queues: 64, hand: 8, longest: 50 });
        let rejecting = LevelConfig::of(&json!({"metadata": {"name": "a"}, "spec": {"type": "Limited",
            "limited": {"limitResponse": {"type": "Reject"}}}}));
        assert_eq!((rejecting.shares, rejecting.shape.queues), (30, 0));
        let exempt = LevelConfig::of(&json!({"metadata": {"name": "a"}, "spec": {"type": "Exempt"}}));
        assert!(exempt.exempt && exempt.shares == 0);
    }
}
