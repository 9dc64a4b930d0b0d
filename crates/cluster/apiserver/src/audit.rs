//! The audit log: JSON lines (`audit.k8s.io/v1 Event`), by the rules of a policy.

mod log;
mod policy;

use anyhow::Result;
use jiff::Timestamp;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::time;
use serde_json::{Value, json};

use crate::authn::User;
use crate::http::RequestInfo;
use crate::options::Options;
pub use policy::Level;

/// The log and its policy; off without a policy.
pub struct Audit {
    policy: Option<policy::Policy>,
    log: Option<log::Log>,
}

/// One request, from its start.
pub struct Record {
    event: Value,
    level: Level,
    omitted: Vec<String>,
}

/// What a record starts from.
pub struct Start<'a> {
    /// What is asked for.
    pub info: &'a RequestInfo,
    /// The URI with its query.
    pub uri: String,
    /// Who asks.
    pub user: &'a User,
    /// As whom.
    pub as_user: Option<&'a User>,
    /// Where from.
    pub source: String,
    /// With what.
    pub agent: &'a str,
    /// The answer's `Audit-Id`.
    pub id: &'a str,
}

impl Audit {
    /// Opens the log.
    pub fn open(options: &Options) -> Result<Self> {
        let policy = options.audit_policy_file.as_deref().map(policy::Policy::load).transpose()?;
        let log = match (&policy, &options.audit_log_path) {
            (Some(_), Some(path)) => Some(log::Log::open(path, options)?),
            _ => None,
        };
        Ok(Self { policy, log })
    }

    /// Starts a record, when the policy wants one.
    pub fn begin(&self, start: &Start<'_>) -> Option<Record> {
        self.log.as_ref()?;
        let (level, omitted) = self.policy.as_ref()?.level(start.info, start.as_user.unwrap_or(start.user));
        if level == Level::None {
            return None;
        }
        let info = start.info;
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": level.name(), "auditID": start.id,
            "stage": "ResponseComplete", "requestURI": start.uri, "verb": info.verb, "user": start.user.to_info(),
            "sourceIPs": [start.source], "userAgent": start.agent,
            "requestReceivedTimestamp": time::format_micro(Timestamp::now()),
        });
        if let Some(user) = start.as_user {
            event["impersonatedUser"] = user.to_info();
        }
        if info.is_resource {
            let mut object = json!({"resource": info.resource, "apiVersion": info.version});
            for (key, value) in [
                ("namespace", &info.namespace),
                ("name", &info.name),
                ("apiGroup", &info.group),
                ("subresource", &info.subresource),
            ] {
                if !value.is_empty() {
                    object[key] = value.clone().into();
                }
            }
            event["objectRef"] = object;
        }
        Some(Record { event, level, omitted })
    }

    /// Writes a record for a stage.
    pub fn write(&self, record: &Record, stage: &str, code: u16) {
        if record.omitted.iter().any(|s| s == stage) {
            return;
        }
        let Some(log) = &self.log else { return };
        let mut event = record.event.clone();
        event["stage"] = stage.into();
        event["stageTimestamp"] = time::format_micro(Timestamp::now()).into();
        if code > 0 {
            event["responseStatus"] = json!({"metadata": {}, "code": code});
        }
        log.line(&event);
    }
}

impl Record {
    /// Notes what the authorizers decided (`WithAuthorization`).
    pub fn decided(&mut self, allowed: bool, reason: &str) {
        self.annotate("authorization.k8s.io/decision", if allowed { "allow" } else { "forbid" });
        self.annotate("authorization.k8s.io/reason", reason);
    }

    /// Annotates the event with what was found out on the way.
    pub fn annotate(&mut self, key: &str, value: impl Into<Value>) {
        if let Some(annotations) = self.event.object_at(&["annotations"]) {
            annotations.insert(key.to_owned(), value.into());
        }
    }

    /// Keeps the request's body, when the level wants it; secrets are never logged beyond their metadata by a sane policy.
    pub fn request_body(&mut self, body: &[u8]) {
        if matches!(self.level, Level::Request | Level::RequestResponse)
            && let Ok(value) = serde_json::from_slice::<Value>(body)
        {
            self.event["requestObject"] = value;
        }
    }

    /// Whether bodies are wanted at all.
    pub fn wants_body(&self) -> bool {
        matches!(self.level, Level::Request | Level::RequestResponse)
    }
}
