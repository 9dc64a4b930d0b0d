//! What a request has to wait for before it is handled: its turn by priority and fairness, or, without that, a place
//! among all that are handled at the same time.
//!
//! A turn is waited for when the whole request has arrived: whoever sends slowly, or nothing, holds none.

use std::time::Duration;

use kinit_apimachinery::ApiError;
use tokio::time::Instant;

use crate::authn::{self, User};
use crate::flow::{Class, Digest, Ticket, estimate};
use crate::http::{ApiResponse, RequestInfo, info, respond};
use crate::inflight::Permit;
use crate::resources::Descriptor;
use crate::server::Server;

/// The longest time in a queue (`defaultRequestWaitLimit`); less where the request's own time is short.
const PATIENCE: Duration = Duration::from_secs(15);
/// Tells a client the UID of the FlowSchema that its request matched.
const SCHEMA_HEADER: &str = "x-kubernetes-pf-flowschema-uid";
/// Tells a client the UID of its priority level.
const LEVEL_HEADER: &str = "x-kubernetes-pf-prioritylevel-uid";

/// Where a request belongs.
pub struct Turn {
    class: Option<Class>,
    seats: u32,
    reading: bool,
    user: String,
    masters: bool,
    until: Instant,
}

/// Held while a request is handled.
pub struct Held {
    _ticket: Option<Ticket>,
    _permit: Option<Permit>,
}

impl Turn {
    /// Classifies a request. `desc` is the resource that it is about, if it is one.
    pub fn of(
        server: &Server,
        info: &RequestInfo,
        query: &str,
        user: &User,
        desc: Option<&Descriptor>,
        until: Instant,
    ) -> Self {
        let class = server.fairness.as_ref().and_then(|fairness| {
            let resource = match info.subresource.as_str() {
                "" => info.resource.clone(),
                sub => format!("{}/{sub}", info.resource),
            };
            fairness.classify(&Digest {
                user: &user.name,
                groups: &user.groups,
                verb: info.verb,
                is_resource: info.is_resource,
                group: &info.group,
                resource: &resource,
                namespace: &info.namespace,
                path: &info.path,
            })
        });
        Self {
            seats: desc.map_or(1, |desc| seats(server, info, query, desc, class.as_ref())),
            class,
            reading: matches!(info.verb, "get" | "list" | "watch" | "head"),
            user: user.name.clone(),
            masters: user.in_group(authn::MASTERS),
            until,
        }
    }

    /// Waits for it; 429 when it does not come.
    pub async fn wait(&self, server: &Server) -> Result<Held, ApiError> {
        if let Some(class) = &self.class {
            let left = self.until.saturating_duration_since(Instant::now());
            let ticket = class.enter(self.seats, PATIENCE.min(left / 4)).await.map_err(|_| too_many())?;
            return Ok(Held { _ticket: Some(ticket), _permit: None });
        }
        if self.masters {
            return Ok(Held { _ticket: None, _permit: None });
        }
        let limit = if self.reading { &server.reads } else { &server.writes };
        Ok(Held { _ticket: None, _permit: Some(limit.acquire(&self.user).await?) })
    }

    /// The answer with the headers that tell where the request belonged.
    pub fn mark(&self, result: Result<ApiResponse, ApiError>) -> Result<ApiResponse, ApiError> {
        let Some(class) = self.class.as_ref().filter(|class| !class.schema_uid.is_empty()) else { return result };
        let mut response = result.unwrap_or_else(|error| respond::error(&error));
        respond::set_header(&mut response, SCHEMA_HEADER, &class.schema_uid);
        respond::set_header(&mut response, LEVEL_HEADER, &class.level_uid);
        Ok(response)
    }
}

fn too_many() -> ApiError {
    ApiError::too_many_requests("Too many requests, please try again later.", 1)
}

/// Seats of a request: lists by what they go through, all else one.
fn seats(server: &Server, info: &RequestInfo, query: &str, desc: &Descriptor, class: Option<&Class>) -> u32 {
    if info.verb != "list" || info.named || !info.name.is_empty() {
        return 1;
    }
    let most = class.map_or(1, Class::most_seats);
    let Some(cache) = server.store.cache(&desc.prefix) else { return 1 };
    let value = |key: &str| info::query_value(query, key).filter(|v| !v.is_empty());
    let selects = !info.namespace.is_empty() || value("labelSelector").is_some() || !info.field_selector.is_empty();
    estimate::list(cache.len(), value("limit").and_then(|v| v.parse().ok()), selects, most)
}
