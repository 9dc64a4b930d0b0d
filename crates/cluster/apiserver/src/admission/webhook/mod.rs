//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook (`k8s.io/apiserver/pkg/admission/plugin/webhook`).
//!
//! ```text
//! configurations ── hooks ── matching ── subject ──> AdmissionReview ── client ──> webhook
//! (watch cache)    parsed    whom it     the request                                 │
//!                  once      concerns    in its form <── JSON patch ── answer <──────┘
//! ```
//! Mutating ones are asked one after the other, in the order of their configurations' names, and those that want it
//! again when the object changed after them (`admission/rounds.rs`); validating ones all at the same time. All run
//! inside the request's own task: they end with it, and with its deadline.

mod answer;
pub(crate) mod bundle;
mod call;
mod client;
mod connect;
mod hooks;
pub(super) mod matching;
mod metrics;
pub(super) mod subject;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kinit_apimachinery::ApiError;
use serde_json::Value;

use self::call::Asking;
use self::hooks::{Hook, Source};
use self::subject::Subject;
use super::{Attributes, Operation};
pub(crate) use client::Client;
pub use connect::connect;

/// What webhooks need beyond a request.
pub struct Webhooks {
    mutating: Source,
    validating: Source,
    metrics: metrics::Metrics,
}

impl Webhooks {
    /// None are known yet: configurations come from the store.
    pub fn new() -> Self {
        Self {
            mutating: Source::new("mutatingwebhookconfigurations/"),
            validating: Source::new("validatingwebhookconfigurations/"),
            metrics: metrics::Metrics::register(),
        }
    }
}

impl Default for Webhooks {
    fn default() -> Self {
        Self::new()
    }
}

/// How long a request waits for the first configurations of a server that starts, as upstream's.
const READY: Duration = Duration::from_secs(10);

/// Writes that are part of another request, whose own admission webhooks were asked already.
fn is_inner(attributes: &Attributes<'_>) -> bool {
    let verb = attributes.request.info.verb;
    match attributes.operation {
        Operation::Update => attributes.subresource == "binding",
        Operation::Delete => !matches!(verb, "delete" | "deletecollection"),
        Operation::Create | Operation::Connect => false,
    }
}

/// The webhooks of a kind, for a request that may be sent to some. Before the first configurations are known nothing
/// is let through unseen (`Webhook.WaitForReady`).
pub(super) async fn asked(attributes: &Attributes<'_>, mutating: bool) -> Result<Vec<Arc<Hook>>, ApiError> {
    let server = &attributes.request.server;
    let (plugin, source) = match mutating {
        true => ("MutatingAdmissionWebhook", &server.webhooks.mutating),
        false => ("ValidatingAdmissionWebhook", &server.webhooks.validating),
    };
    if !attributes.has(plugin) || matching::is_exempt(&attributes.request.desc.group) || is_inner(attributes) {
        return Ok(Vec::new());
    }
    if !server.store.is_ready() && tokio::time::timeout(READY, server.store.wait_ready()).await.is_err() {
        let (desc, name) = (&attributes.request.desc, &attributes.request.info.name);
        return Err(ApiError::forbidden(&desc.group, &desc.plural, name, "not yet ready to handle request"));
    }
    source.hooks(&server.store).map_err(|error| attributes.request.storage_error(error))
}

/// Which webhooks are asked again.
#[derive(Default)]
pub(super) struct Again {
    asked: HashSet<String>,
    wanted: HashSet<String>,
}

impl Again {
    /// The object changed: whoever was asked before and cares is to see it.
    pub(super) fn changed(&mut self) {
        self.wanted.extend(self.asked.drain());
    }
}

/// Asks the mutating webhooks, in the second round those that want it again; whether the object changed.
pub(super) async fn round(
    attributes: &Attributes<'_>,
    hooks: &[Arc<Hook>],
    object: &mut Value,
    again: &mut Again,
    round: usize,
) -> Result<bool, ApiError> {
    let mut any = false;
    for (index, hook) in hooks.iter().enumerate() {
        // Nobody is asked in the second round for the first time.
        if round > 0 && !again.wanted.contains(&hook.id) {
            continue;
        }
        let subject = Subject::of(attributes, object);
        let Some(form) = subject.concerns(hook, object).await? else { continue };
        let asking = Asking { subject, hook, form, mutating: true, round, index };
        let changed = asking.mutate(object).await?;
        if changed {
            any = true;
            again.changed();
        }
        if hook.reinvoke {
            again.asked.insert(hook.id.clone());
        }
    }
    Ok(any)
}

/// Asks the validating webhooks, all at once; of several refusals the first configuration's counts. A delete is shown
/// to the mutating ones before, who can only refuse it.
pub(super) async fn validate(attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
    if attributes.operation == Operation::Delete {
        super::rounds::mutate(attributes, &mut object.clone()).await?;
    }
    let hooks = asked(attributes, false).await?;
    let mut asking = Vec::new();
    for (index, hook) in hooks.iter().enumerate() {
        let subject = Subject::of(attributes, object);
        if let Some(form) = subject.concerns(hook, object).await? {
            asking.push(Asking { subject, hook, form, mutating: false, round: 0, index });
        }
    }
    join_all(asking.iter().map(|a| a.validate(object))).await.into_iter().collect()
}

/// Asks all webhooks about what is created in a subresource without being stored: a binding, an eviction, a token.
pub async fn virtual_create(
    request: &crate::registry::Request,
    object: &mut Value,
    dry_run: bool,
) -> Result<(), ApiError> {
    let subresource = request.info.subresource.as_str();
    let attributes = Attributes { request, operation: Operation::Create, old: None, dry_run, subresource };
    super::rounds::mutate(&attributes, object).await?;
    validate(&attributes, object).await
}
