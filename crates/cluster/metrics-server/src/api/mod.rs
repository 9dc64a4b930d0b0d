//! What is served: two resources, and the documents that describe them.

pub mod documents;
pub mod objects;
pub mod request;

use std::sync::Arc;

use http::header::ACCEPT;
use http::{HeaderMap, Response};
use http_body_util::Full;
use hyper::body::Bytes;
use jiff::Timestamp;
use kinit_apimachinery::ApiError;

use self::objects::{Form, Measured};
use self::request::{Kind, Resource, Route};
use crate::known::{Index, Known};
use crate::rounds::Collected;
use crate::server::respond;

/// The API group.
pub const GROUP: &str = "metrics.k8s.io";
/// Its version.
pub const VERSION: &str = "v1beta1";
/// Media type of answers.
pub const JSON: &str = "application/json";

/// The data behind the answers.
pub struct Api {
    /// Nodes.
    pub nodes: Arc<Index>,
    /// Running pods.
    pub pods: Arc<Index>,
    /// What they use.
    pub collected: Arc<Collected>,
}

impl Api {
    /// Answers an authorized GET.
    pub fn answer(&self, route: &Route, headers: &HeaderMap) -> Result<Response<Full<Bytes>>, ApiError> {
        let accept = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
        match route {
            Route::Resource(resource) => self.resource(resource, accept),
            Route::Document(name) => {
                let (media, body) = documents::document(name, accept).ok_or_else(ApiError::no_such_path)?;
                Ok(respond(200, media, body))
            }
            Route::Metrics => Err(ApiError::no_such_path()),
        }
    }

    fn resource(&self, asked: &Resource, accept: &str) -> Result<Response<Full<Bytes>>, ApiError> {
        let form = objects::form(accept, &asked.include).ok_or_else(|| ApiError::not_acceptable(JSON))?;
        let index = if asked.kind == Kind::Node { &self.nodes } else { &self.pods };
        let body = match asked.name.as_deref() {
            Some(name) => {
                let key =
                    if asked.namespace.is_empty() { name.to_owned() } else { format!("{}/{name}", asked.namespace) };
                let found = index.get(&key).and_then(|known| self.measured(asked.kind, &[known], form, false));
                found.ok_or_else(|| ApiError::not_found(GROUP, asked.kind.plural(), &key))?
            }
            None => {
                let wanted: Vec<Arc<Known>> =
                    index.list(&asked.namespace).into_iter().filter(|known| asked.selects(known)).collect();
                self.measured(asked.kind, &wanted, form, true).unwrap_or_default()
            }
        };
        Ok(respond(200, JSON, body))
    }

    /// The document of those of which the use is known; `None` if there is none and no list is wanted.
    fn measured(&self, kind: Kind, wanted: &[Arc<Known>], form: Form, list: bool) -> Option<String> {
        let storage = self.collected.storage.read();
        let of = |known: &Arc<Known>| {
            let (containers, when) = match kind {
                Kind::Node => storage.node(&known.name).map(|(usage, when)| (vec![("", usage)], when))?,
                Kind::Pod => storage.pod(&known.key())?,
            };
            Some(Measured { kind, known: known.clone(), containers, when })
        };
        let now = Timestamp::now();
        match list {
            true => Some(objects::list(kind, wanted.iter().filter_map(of), form, now)),
            false => wanted.first().and_then(of).map(|one| objects::one(&one, form, now)),
        }
    }
}
