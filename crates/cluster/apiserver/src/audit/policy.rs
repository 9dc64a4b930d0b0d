//! `audit.k8s.io/v1 Policy`: the first rule that matches gives the level.

use std::path::Path;

use anyhow::{Context, Result, bail};
use kinit_apimachinery::meta::strings;
use serde_json::Value;

use crate::authn::User;
use crate::http::RequestInfo;

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Nothing.
    None,
    /// Who, what, when.
    Metadata,
    /// And the request's object.
    Request,
    /// And the response's object, unless it is a stream.
    RequestResponse,
}

impl Level {
    /// As in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "None" => Self::None,
            "Metadata" => Self::Metadata,
            "Request" => Self::Request,
            "RequestResponse" => Self::RequestResponse,
            other => bail!("level {other:?} is none of None, Metadata, Request, RequestResponse"),
        })
    }
}

#[derive(Debug)]
struct Rule {
    level: Level,
    users: Vec<String>,
    groups: Vec<String>,
    verbs: Vec<String>,
    namespaces: Vec<String>,
    urls: Vec<String>,
    resources: Vec<(String, Vec<String>, Vec<String>)>,
    omit: Vec<String>,
    omit_managed_fields: bool,
}

/// What the policy says of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// How much is logged.
    pub level: Level,
    /// Stages without an event.
    pub omitted: Vec<String>,
    /// Whether objects are shown without `metadata.managedFields`.
    pub omit_managed_fields: bool,
}

/// The rules.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Rule>,
}

impl Policy {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let value = crate::http::body::yaml(&text).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
        Self::from_value(&value).with_context(|| format!("use {}", path.display()))
    }

    fn from_value(value: &Value) -> Result<Self> {
        if value.get("kind").and_then(Value::as_str) != Some("Policy") {
            bail!("not an audit.k8s.io Policy");
        }
        let everywhere = strings(value.get("omitStages"));
        let unmanaged = value["omitManagedFields"].as_bool().unwrap_or(false);
        let mut rules = Vec::new();
        for (i, rule) in value["rules"].as_array().context("rules is missing")?.iter().enumerate() {
            let level =
                Level::parse(rule["level"].as_str().unwrap_or_default()).with_context(|| format!("rules[{i}]"))?;
            let resources = rule["resources"].as_array().into_iter().flatten().map(|r| {
                (
                    r["group"].as_str().unwrap_or_default().to_owned(),
                    strings(r.get("resources")),
                    strings(r.get("resourceNames")),
                )
            });
            let mut omit = strings(rule.get("omitStages"));
            omit.extend(everywhere.iter().cloned());
            rules.push(Rule {
                level,
                users: strings(rule.get("users")),
                groups: strings(rule.get("userGroups")),
                verbs: strings(rule.get("verbs")),
                namespaces: strings(rule.get("namespaces")),
                urls: strings(rule.get("nonResourceURLs")),
                resources: resources.collect(),
                omit,
                omit_managed_fields: rule["omitManagedFields"].as_bool().unwrap_or(unmanaged),
            });
        }
        Ok(Self { rules })
    }

    /// What is logged of a request; nothing, when no rule is about it.
    pub fn rule(&self, info: &RequestInfo, user: &User) -> Chosen {
        let nothing = Chosen { level: Level::None, omitted: Vec::new(), omit_managed_fields: false };
        self.rules.iter().find(|r| r.matches(info, user)).map_or(nothing, |r| Chosen {
            level: r.level,
            omitted: r.omit.clone(),
            omit_managed_fields: r.omit_managed_fields,
        })
    }
}

impl Rule {
    fn matches(&self, info: &RequestInfo, user: &User) -> bool {
        let any = |list: &[String], hit: &dyn Fn(&str) -> bool| list.is_empty() || list.iter().any(|x| hit(x));
        if !any(&self.users, &|u| u == user.name)
            || !any(&self.groups, &|g| user.in_group(g))
            || !any(&self.verbs, &|v| v == "*" || v == info.verb)
        {
            return false;
        }
        if info.is_resource {
            let named = !self.namespaces.is_empty() || !self.resources.is_empty();
            if !named {
                return self.urls.is_empty();
            }
            any(&self.namespaces, &|n| n == info.namespace) && self.resource(info)
        } else {
            if !self.namespaces.is_empty() || !self.resources.is_empty() {
                return false;
            }
            any(&self.urls, &|u| {
                u == info.path || u == "*" || u.strip_suffix('*').is_some_and(|p| info.path.starts_with(p))
            })
        }
    }

    fn resource(&self, info: &RequestInfo) -> bool {
        let full = if info.subresource.is_empty() {
            info.resource.clone()
        } else {
            format!("{}/{}", info.resource, info.subresource)
        };
        self.resources.is_empty()
            || self.resources.iter().any(|(group, resources, names)| {
                (group == &info.group || group == "*")
                    && (resources.is_empty()
                        || resources.iter().any(|r| {
                            *r == full
                                || r == "*"
                                || r.strip_suffix("/*").is_some_and(|m| m == info.resource)
                                || r.strip_prefix("*/").is_some_and(|s| s == info.subresource)
                        }))
                    && (names.is_empty() || names.contains(&info.name))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_matching_rule_counts() {
        let policy = Policy::from_value(&json!({"kind":"Policy","omitStages":["RequestReceived"],"rules":[
            {"level":"None","nonResourceURLs":["/healthz*"]},
            {"level":"Metadata","resources":[{"group":"","resources":["secrets"]}]},
            {"level":"Request","verbs":["create"]}, {"level":"Metadata"}]}))
        .unwrap();
        let info = |method: &str, path: &str| RequestInfo::parse(&method.parse().unwrap(), path, "");
        let level = |i: &RequestInfo| policy.rule(i, &User::default()).level;
        assert_eq!(level(&info("GET", "/healthz/x")), Level::None);
        assert_eq!(level(&info("POST", "/api/v1/namespaces/a/secrets")), Level::Metadata);
        assert_eq!(level(&info("POST", "/api/v1/namespaces/a/pods")), Level::Request);
        assert_eq!(level(&info("GET", "/api/v1/namespaces/a/pods")), Level::Metadata);
    }
}
