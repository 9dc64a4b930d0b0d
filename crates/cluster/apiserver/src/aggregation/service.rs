//! An APIService as it is used.

use kinit_apimachinery::meta::Meta;
use serde_json::Value;

/// The indexed field that is "true" where a Service answers.
pub const REMOTE: &str = "spec.service";

/// An APIService.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiService {
    /// `VERSION.GROUP`.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Its version.
    pub version: String,
    /// Of which state this is.
    pub revision: u64,
    /// Where the group stands among groups, at least.
    pub group_priority: i64,
    /// Where the version stands within its group.
    pub version_priority: i64,
    /// Who answers; `None` for this server.
    pub target: Option<Target>,
    /// Whether its condition Available is True.
    pub is_available: bool,
    /// Whether it has that condition at all.
    pub is_judged: bool,
}

/// A Service that answers, and whom to believe that it does.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub namespace: String,
    pub name: String,
    pub port: u16,
    /// Base64 of PEM, "" for the host's own authorities.
    pub authority: String,
    pub unverified: bool,
}

impl ApiService {
    /// From the object.
    pub fn of(object: &Value, revision: u64) -> Self {
        let text = |path: &[&str]| object.str_at(path).to_owned();
        let number = |path: &[&str]| object.at(path).and_then(Value::as_i64).unwrap_or_default();
        let target = object.at(&["spec", "service"]).filter(|s| s.is_object()).map(|service| Target {
            namespace: service.str_at(&["namespace"]).to_owned(),
            name: service.str_at(&["name"]).to_owned(),
            port: service.get("port").and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok()).unwrap_or(443),
            authority: text(&["spec", "caBundle"]),
            unverified: object.at(&["spec", "insecureSkipTLSVerify"]) == Some(&Value::Bool(true)),
        });
        Self {
            name: object.name().to_owned(),
            group: text(&["spec", "group"]),
            version: text(&["spec", "version"]),
            revision,
            group_priority: number(&["spec", "groupPriorityMinimum"]),
            version_priority: number(&["spec", "versionPriority"]),
            target,
            is_judged: condition(object).is_some(),
            is_available: condition(object).is_some_and(|c| c.str_at(&["status"]) == "True"),
        }
    }

    /// `GROUP/VERSION`.
    pub fn api_version(&self) -> String {
        crate::resources::descriptor::api_version(&self.group, &self.version)
    }

    /// Where its discovery is.
    pub fn path(&self) -> String {
        format!("/apis/{}", self.api_version())
    }
}

/// The condition Available of an APIService.
pub fn condition(object: &Value) -> Option<&Value> {
    let list = object.at(&["status", "conditions"])?.as_array()?;
    list.iter().find(|c| c.str_at(&["type"]) == "Available")
}
