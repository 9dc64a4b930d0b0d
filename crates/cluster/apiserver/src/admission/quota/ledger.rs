//! Charges quotas: `status.used` changes by compare-and-swap, so that several servers never spend the same room twice.
//!
//! Within a server the writes of a namespace go one after the other and start from what the last one left, without
//! waiting for the watch cache to see it; only another server or the quota controller makes a swap fail.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ResourceQuota;
use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use kinit_component_helpers::requests::Amounts;
use kinit_storage::Updated;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;

use super::check::{Quota, QuotaWrite};
use crate::registry::create::with_version;
use crate::registry::ownership::record_own;
use crate::registry::{cached, storage_error};
use crate::resources::Descriptor;
use crate::server::Server;

const PREFIX: &str = "resourcequotas/";
/// How often a charge is tried again when somebody else was faster.
const ATTEMPTS: usize = 16;

/// The last states of quotas that this server has seen of its own writes, by key, with their revisions.
type Latest = HashMap<String, (u64, Value)>;

/// What is being charged, by namespace.
#[derive(Default)]
pub struct Ledger(Mutex<HashMap<String, Page>>);

type Page = Arc<tokio::sync::Mutex<Latest>>;

/// From here on namespaces that nobody is charging are forgotten; that costs the next one a failed swap at most.
const PAGES: usize = 1024;

impl Ledger {
    fn page(&self, namespace: &str) -> Page {
        let mut pages = self.0.lock();
        if pages.len() >= PAGES {
            pages.retain(|_, page| Arc::strong_count(page) > 1);
        }
        pages.entry(namespace.to_owned()).or_default().clone()
    }
}

/// Why a write is not charged.
pub enum Failure {
    /// It does not fit, in upstream's words.
    Refused(String),
    /// It could not be found out.
    Other(ApiError),
}

/// The quotas of a namespace as the watch cache has them.
pub fn quotas(server: &Server, namespace: &str) -> Result<Vec<Quota>, ApiError> {
    in_cache(server, namespace)?.values().map(|(_, object)| quota(object)).collect()
}

fn in_cache(server: &Server, namespace: &str) -> Result<BTreeMap<String, (u64, Value)>, ApiError> {
    let entries = cached::all(server, PREFIX, &format!("{namespace}/"))?;
    Ok(entries.iter().map(|entry| (entry.key.to_string(), (entry.revision, entry.value()))).collect())
}

fn quota(object: &Value) -> Result<Quota, ApiError> {
    let quota = ResourceQuota::deserialize(object);
    quota.map(Quota::of).map_err(|e| ApiError::internal(format!("read quota {}: {e}", object.name())))
}

/// Charges all quotas that the write matters to, or none when it does not fit. A quota that was charged before a later
/// swap met a state into which the write no longer fits stays charged until the controller counts again, as upstream.
pub async fn charge(server: &Server, namespace: &str, write: &QuotaWrite) -> Result<(), Failure> {
    let page = server.quotas.page(namespace);
    let mut latest = page.lock().await;
    swap_all(server, namespace, write, &mut latest).await
}

async fn swap_all(server: &Server, namespace: &str, write: &QuotaWrite, latest: &mut Latest) -> Result<(), Failure> {
    let desc = server.registry.find("", "v1", "resourcequotas");
    let desc = desc.ok_or_else(|| Failure::Other(ApiError::internal("resource quotas are not served")))?;
    // After a failed swap only those that failed are left to be charged.
    let mut left: Option<Vec<String>> = None;
    for _ in 0..ATTEMPTS {
        let mut now = present(server, namespace, latest).map_err(Failure::Other)?;
        if let Some(left) = &left {
            now.retain(|key, _| left.contains(key));
        }
        let states: Result<Vec<Quota>, ApiError> = now.values().map(|(_, object)| quota(object)).collect();
        let charges = write.charges(&states.map_err(Failure::Other)?).map_err(Failure::Refused)?;
        let mut failed = Vec::new();
        for (name, used) in charges {
            let key = desc.key(namespace, &name);
            let Some((revision, object)) = now.remove(&key) else { continue };
            let swapped = swap(server, &desc, &key, revision, charged(object, &used)).await;
            match swapped.map_err(Failure::Other)? {
                Swapped::Done(state) => {
                    latest.insert(key, state);
                }
                Swapped::Changed(state) => {
                    latest.insert(key.clone(), state);
                    failed.push(key);
                }
                // There is nothing left to hold to.
                Swapped::Gone => {
                    latest.remove(&key);
                }
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        left = Some(failed);
    }
    let name = left.into_iter().flatten().next().unwrap_or_default();
    let name = name.rsplit_once('/').map_or(name.as_str(), |(_, name)| name);
    Err(Failure::Other(ApiError::modified("", "resourcequotas", name)))
}

/// The watch cache's quotas, or the later state that this server knows. What the cache has seen is forgotten.
fn present(server: &Server, namespace: &str, latest: &mut Latest) -> Result<BTreeMap<String, (u64, Value)>, ApiError> {
    let mut now = in_cache(server, namespace)?;
    latest.retain(|key, (revision, _)| now.get(key).is_some_and(|(seen, _)| seen < revision));
    for (key, state) in latest.iter() {
        now.insert(key.clone(), state.clone());
    }
    Ok(now)
}

enum Swapped {
    Done((u64, Value)),
    Changed((u64, Value)),
    Gone,
}

async fn swap(server: &Server, desc: &Descriptor, key: &str, at: u64, object: Value) -> Result<Swapped, ApiError> {
    let written = server.store.update(PREFIX, key, at, &object, None).await;
    Ok(match written.map_err(|e| storage_error(e, desc, object.name()))? {
        Updated::Done(revision) => Swapped::Done((revision, with_version(object, revision))),
        Updated::Changed(Some(entry)) => Swapped::Changed((entry.revision, entry.value())),
        Updated::Changed(None) => Swapped::Gone,
    })
}

/// The quota with its new use, owned by the server where somebody keeps track of owners.
fn charged(old: Value, used: &Amounts) -> Value {
    let mut new = old.clone();
    if let Some(map) = new.object_at(&["status", "used"]) {
        for (name, amount) in used {
            map.insert(name.clone(), amount.to_string().into());
        }
    }
    record_own(&mut new, Some(&old), "status");
    if let Some(meta) = new.object_at(&["metadata"]) {
        meta.shift_remove("resourceVersion");
    }
    new
}
