//! The APIServices of what this server has itself (`kube-aggregator/pkg/controllers/autoregister`,
//! `pkg/controlplane/controller/crdregistration`): built-in group versions once at the start, those of definitions for
//! as long as they are there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::time;
use kinit_storage::{Error as StoreError, Updated};
use serde_json::{Value, json};

use super::PREFIX;
use super::availability::with_condition;
use super::catalog::{CUSTOM, priority};
use crate::definitions;
use crate::registry::ownership::record_own;
use crate::server::Server;

/// Says by whom an APIService is looked after.
const LABEL: &str = "kube-aggregator.kubernetes.io/automanaged";
const RETRY: Duration = Duration::from_millis(500);

/// An APIService that there should be.
#[derive(Debug, Clone, PartialEq)]
struct Wanted {
    group: String,
    version: String,
    priorities: (i64, i64),
    /// `onstart` or `true`.
    label: &'static str,
}

/// What is to be done for one name.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Create,
    Update,
    Delete,
}

/// Keeps them as they should be.
pub async fn follow(server: &Arc<Server>) {
    server.store.wait_ready().await;
    let (Some(definitions), Some(services)) = (server.store.cache(definitions::PREFIX), server.store.cache(PREFIX))
    else {
        return;
    };
    let (mut changed, mut written) = (definitions.changes(), services.changes());
    let mut at_start: BTreeSet<String> = BTreeSet::new();
    let mut starting = true;
    loop {
        changed.borrow_and_update();
        written.borrow_and_update();
        let done = sync(server, &mut at_start, starting).await;
        if done {
            starting = false;
            server.aggregator.registered.store(true, Ordering::Relaxed);
        }
        let retry = async {
            match done {
                true => std::future::pending().await,
                false => tokio::time::sleep(RETRY).await,
            }
        };
        tokio::select! {
            changed = changed.changed() => if changed.is_err() { return },
            written = written.changed() => if written.is_err() { return },
            () = retry => {}
        }
    }
}

/// One round; whether all of it could be done. Built-in ones that were seen to once are in `at_start`.
async fn sync(server: &Server, at_start: &mut BTreeSet<String>, starting: bool) -> bool {
    let wanted = wanted(server);
    let Some(cache) = server.store.cache(PREFIX) else { return true };
    let (entries, _) = cache.all_last_known("", |_| true);
    let current: BTreeMap<&str, _> = entries.iter().map(|entry| (&*entry.key, entry)).collect();
    let names: BTreeSet<&str> = wanted.keys().map(String::as_str).chain(current.keys().copied()).collect();
    let unreadable = definitions::unreadable(server);
    let mut complete = true;
    for name in names {
        let (wanted, entry) = (wanted.get(name), current.get(name));
        let object = entry.map(|entry| entry.value());
        let once = at_start.contains(name) || !starting;
        let mut step = step(wanted, object.as_ref(), once);
        let group = definitions::group_of(name);
        if step == Step::Delete
            && let Some(key) = unreadable.iter().find(|key| definitions::group_of(key) == group)
        {
            tracing::error!(unreadable = %key, name, "an API service is kept: a definition of its group cannot be read");
            step = Step::Nothing;
        }
        let result = match (&step, wanted, entry) {
            (Step::Create, Some(wanted), _) => create(server, name, wanted).await,
            (Step::Update, Some(wanted), Some(entry)) => {
                update(server, name, entry.revision, wanted, &entry.value()).await
            }
            (Step::Delete, _, Some(entry)) => server.store.delete(PREFIX, name, entry.revision).await.map(|_| ()),
            _ => Ok(()),
        };
        match result {
            Ok(()) => {
                at_start.insert(name.to_owned());
            }
            Err(error) => {
                tracing::warn!(%error, name, ?step, "register an API service; trying again");
                complete = false;
            }
        }
    }
    complete
}

/// `checkAPIService`'s table: `once` is whether the name was seen to since the start.
fn step(wanted: Option<&Wanted>, current: Option<&Value>, once: bool) -> Step {
    let Some(current) = current else {
        return match wanted {
            Some(w) if w.label == "true" || !once => Step::Create,
            _ => Step::Nothing,
        };
    };
    let label = current.at(&["metadata", "labels"]).and_then(|l| l.get(LABEL)).and_then(Value::as_str);
    match (wanted, label) {
        // Another's: whoever wrote it without the label means what it says.
        (_, None) => Step::Nothing,
        (Some(w), _) if w.matches(current) => Step::Nothing,
        (_, Some("onstart")) if once => Step::Nothing,
        (None, _) => Step::Delete,
        (Some(_), _) => Step::Update,
    }
}

impl Wanted {
    fn spec(&self) -> Value {
        let mut spec = serde_json::Map::new();
        if !self.group.is_empty() {
            spec.insert("group".into(), self.group.as_str().into());
        }
        spec.insert("version".into(), self.version.as_str().into());
        spec.insert("groupPriorityMinimum".into(), self.priorities.0.into());
        spec.insert("versionPriority".into(), self.priorities.1.into());
        spec.into()
    }

    fn matches(&self, current: &Value) -> bool {
        current.get("spec") == Some(&self.spec())
    }
}

fn wanted(server: &Server) -> BTreeMap<String, Wanted> {
    let mut out = BTreeMap::new();
    let mut add = |group: &str, version: &str, priorities, label| {
        let wanted = Wanted { group: group.to_owned(), version: version.to_owned(), priorities, label };
        out.entry(format!("{version}.{group}")).or_insert(wanted);
    };
    for desc in server.registry.all().iter().filter(|d| d.custom.is_none() && d.group != "apiregistration.k8s.io") {
        if let Some(priorities) = priority(&desc.group, &desc.version) {
            add(&desc.group, &desc.version, priorities, "onstart");
        }
    }
    let entries = server.store.cache(definitions::PREFIX).map(|c| c.all_last_known("", |_| true).0).unwrap_or_default();
    for entry in entries {
        let definition = entry.value();
        let mut conditions = definition.at(&["status", "conditions"]).and_then(Value::as_array).into_iter().flatten();
        if !conditions.any(|c| c.str_at(&["type"]) == "Established" && c.str_at(&["status"]) == "True") {
            continue;
        }
        let versions = definition.at(&["spec", "versions"]).and_then(Value::as_array).into_iter().flatten();
        for version in versions.filter(|v| v.get("served") == Some(&Value::Bool(true))) {
            add(definition.str_at(&["spec", "group"]), version.str_at(&["name"]), CUSTOM, "true");
        }
    }
    out
}

async fn create(server: &Server, name: &str, wanted: &Wanted) -> Result<(), StoreError> {
    let now = time::format(Timestamp::now());
    let mut object = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": name, "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": now,
            "labels": {LABEL: wanted.label}},
        "spec": wanted.spec()});
    record_own(&mut object, None, "");
    let local = with_condition(&object, true, "Local", LOCAL);
    match server.store.create(PREFIX, name, &local.unwrap_or(object), None).await {
        // Another server may have been faster: what it wrote comes by the cache.
        Ok(_) | Err(StoreError::Exists) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What is said of every local APIService.
pub const LOCAL: &str = "Local APIServices are always available";

async fn update(server: &Server, name: &str, revision: u64, wanted: &Wanted, old: &Value) -> Result<(), StoreError> {
    let mut object = old.clone();
    if let Some(map) = object.as_object_mut() {
        map.insert("spec".into(), wanted.spec());
    }
    if let Some(labels) = object.object_at(&["metadata", "labels"]) {
        labels.insert(LABEL.into(), wanted.label.into());
    }
    record_own(&mut object, Some(old), "");
    match server.store.update(PREFIX, name, revision, &object, None).await? {
        Updated::Done(_) | Updated::Changed(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_table() {
        let wanted = |label| Wanted { group: "a.b".into(), version: "v1".into(), priorities: (1, 2), label };
        let object = |label: Option<&str>, priority: i64| {
            let mut spec = wanted("true").spec();
            spec["versionPriority"] = priority.into();
            let labels = label.map_or_else(|| json!({}), |label| json!({LABEL: label}));
            json!({"metadata": {"labels": labels}, "spec": spec})
        };
        let (start, always) = (wanted("onstart"), wanted("true"));
        for (want, current, once, step_) in [
            (None, None, false, Step::Nothing),
            (Some(&start), None, false, Step::Create),
            (Some(&start), None, true, Step::Nothing),
            (Some(&always), None, true, Step::Create),
            (None, Some(object(None, 3)), false, Step::Nothing),
            (Some(&always), Some(object(None, 3)), false, Step::Nothing),
            (None, Some(object(Some("onstart"), 3)), false, Step::Delete),
            (Some(&start), Some(object(Some("onstart"), 3)), false, Step::Update),
            (None, Some(object(Some("onstart"), 3)), true, Step::Nothing),
            (Some(&start), Some(object(Some("onstart"), 3)), true, Step::Nothing),
            (Some(&start), Some(object(Some("onstart"), 2)), false, Step::Nothing),
            (None, Some(object(Some("true"), 2)), true, Step::Delete),
            (Some(&always), Some(object(Some("true"), 3)), true, Step::Update),
        ] {
            assert_eq!(step(want, current.as_ref(), once), step_, "{want:?} {current:?} {once}");
        }
    }
}
