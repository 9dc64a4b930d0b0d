//! The audit log: JSON lines (`audit.k8s.io/v1 Event`), by the rules of a policy.
//!
//! ```text
//! request ── policy: level ──> Record ── RequestReceived ─ ResponseStarted (long-running) ─ Complete | Panic ──> Log
//! ```
//! The answer waits until its event is written (`--audit-log-mode=blocking`).

mod log;
mod metrics;
mod object;
mod policy;
mod record;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use jiff::Timestamp;
use kinit_apimachinery::time;
use serde_json::{Value, json};

use crate::authn::User;
use crate::http::RequestInfo;
use crate::options::Options;
pub use object::of_request;
pub use policy::Level;
pub use record::{Record, Stage, Tunnel};

/// The log and its policy; off without a policy.
pub struct Audit {
    policy: Option<policy::Policy>,
    log: Option<Arc<log::Log>>,
    strict: bool,
}

/// Prefix of the annotations that show what a webhook wrote (`mutating.PatchAuditAnnotationPrefix`).
pub const PATCHES: &str = "patch.webhook.admission.k8s.io";

/// What a record starts from.
pub struct Start<'a> {
    /// What is asked for.
    pub info: &'a RequestInfo,
    /// The URI with its query.
    pub uri: String,
    /// Who asks; nobody, when that could not be found out.
    pub user: Option<&'a User>,
    /// As whom.
    pub as_user: Option<&'a User>,
    /// Where from.
    pub source: String,
    /// With what.
    pub agent: String,
    /// The answer's `Audit-Id`.
    pub id: &'a str,
}

impl Audit {
    /// Opens the log.
    pub fn open(options: &Options) -> Result<Self> {
        let policy = options.audit_policy_file.as_deref().map(policy::Policy::load).transpose()?;
        let log = match (&policy, &options.audit_log_path) {
            (Some(_), Some(path)) => Some(Arc::new(log::Log::open(path, rotation(options))?)),
            _ => None,
        };
        Ok(Self { policy, log, strict: options.audit_log_mode == "blocking-strict" })
    }

    /// The record of a request; none where the policy wants none. The policy looks at who really asks: nobody chooses
    /// how much is logged of them by impersonating somebody else.
    pub fn begin(&self, start: &Start<'_>) -> Option<Record> {
        let log = self.log.as_ref()?;
        let nobody = User::default();
        let rule = self.policy.as_ref()?.rule(start.info, start.user.unwrap_or(&nobody));
        metrics::level(rule.level.name());
        if rule.level == Level::None {
            return None;
        }
        let info = start.info;
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": rule.level.name(), "auditID": start.id,
            "stage": Stage::ResponseComplete.name(), "requestURI": start.uri, "verb": info.verb,
            "user": start.user.map_or_else(|| json!({}), User::to_info), "sourceIPs": [start.source],
            "userAgent": start.agent, "requestReceivedTimestamp": time::format_micro(Timestamp::now()),
        });
        if let Some(user) = start.as_user {
            event["impersonatedUser"] = user.to_info();
        }
        if info.is_resource {
            event["objectRef"] = object_ref(info);
        }
        Some(Record::new(event, rule, log.clone()))
    }

    /// Writes the first stage of a record; whether the request may go on.
    pub async fn received(&self, record: &mut Record) -> bool {
        let goes_on = record.write(Stage::RequestReceived).await || !self.strict;
        if !goes_on {
            metrics::rejected();
        }
        goes_on
    }
}

fn rotation(options: &Options) -> log::Rotation {
    let days = u64::from(options.audit_log_maxage);
    log::Rotation {
        max_size: options.audit_log_maxsize * 1024 * 1024,
        max_backups: options.audit_log_maxbackup as usize,
        max_age: (days > 0).then(|| Duration::from_secs(days * 86_400)),
    }
}

fn object_ref(info: &RequestInfo) -> Value {
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
    object
}

/// What a request that got 401 tried to prove itself with (`getAuthMethods`).
pub fn attempted(headers: &HeaderMap, certificate: bool) -> String {
    let scheme = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or("").trim().to_ascii_lowercase();
    let methods: Vec<&str> =
        [("basic", scheme.starts_with("basic ")), ("bearer", scheme.starts_with("bearer ")), ("x509", certificate)]
            .into_iter()
            .filter_map(|(name, tried)| tried.then_some(name))
            .collect();
    if methods.is_empty() {
        return "Authentication failed, no credentials provided".to_owned();
    }
    format!("Authentication failed, attempted: {}", methods.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_attempted() {
        for (header, certificate, want) in [
            ("", false, "Authentication failed, no credentials provided"),
            ("Bearer x", false, "Authentication failed, attempted: bearer"),
            ("basic eA==", true, "Authentication failed, attempted: basic, x509"),
        ] {
            let mut headers = HeaderMap::new();
            if !header.is_empty() {
                headers.insert(AUTHORIZATION, header.parse().unwrap());
            }
            assert_eq!(attempted(&headers, certificate), want);
        }
    }
}
