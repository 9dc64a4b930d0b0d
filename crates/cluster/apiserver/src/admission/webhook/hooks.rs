//! The configurations as they are used: parsed once, until they change.

use std::sync::Arc;
use std::time::Duration;

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::selector::LabelSelector;
use kinit_storage::{Entry, Error as StoreError, Store};
use parking_lot::Mutex;
use serde_json::Value;

use super::client::Client;
use super::matching::Rule;
use crate::admission::conditions::Conditions;

/// One webhook of a configuration.
pub struct Hook {
    /// What tells it from all others, for reinvocation.
    pub id: String,
    /// Name of its configuration.
    pub configuration: String,
    /// Its name.
    pub name: String,
    /// What it is about.
    pub rules: Vec<Rule>,
    /// Whether other versions of what it is about are sent, too.
    pub equivalent: bool,
    /// Namespaces.
    pub namespaces: LabelSelector,
    /// Objects.
    pub objects: LabelSelector,
    /// Whether a request goes on when the webhook cannot be asked.
    pub ignore_failure: bool,
    /// Whether it may be asked in a dry run.
    pub dry_run: bool,
    /// How long it may take.
    pub timeout: Duration,
    /// Whether it is asked again when others change the object after it.
    pub reinvoke: bool,
    /// Which of these requests are meant.
    pub conditions: Conditions,
    /// How it is reached.
    pub client: Client,
}

struct Configuration {
    name: Box<str>,
    revision: u64,
    hooks: Vec<Arc<Hook>>,
}

/// The configurations of one kind.
pub struct Source {
    prefix: &'static str,
    parsed: Mutex<Vec<Arc<Configuration>>>,
}

impl Source {
    /// Those below a prefix of the store.
    pub fn new(prefix: &'static str) -> Self {
        Self { prefix, parsed: Mutex::default() }
    }

    /// The webhooks, by the names of their configurations and then in the order written. A configuration that did not
    /// change keeps its clients; the clients of one that did go with it. One that cannot be read is an error:
    /// nobody knows what it is about.
    pub fn hooks(&self, store: &Store) -> Result<Vec<Arc<Hook>>, StoreError> {
        let Some(cache) = store.cache(self.prefix).filter(|c| !c.is_empty()) else { return Ok(Vec::new()) };
        let (entries, _) = cache.list("", |_| true)?;
        let mut parsed = self.parsed.lock();
        let same = parsed.len() == entries.len()
            && parsed.iter().zip(&entries).all(|(p, e)| p.name == e.key && p.revision == e.revision);
        if !same {
            let kept = |e: &Entry| parsed.iter().find(|p| p.name == e.key && p.revision == e.revision).cloned();
            let fresh = entries.iter().map(|e| kept(e).unwrap_or_else(|| Arc::new(configuration(e, store)))).collect();
            *parsed = fresh;
        }
        Ok(parsed.iter().flat_map(|c| c.hooks.iter().cloned()).collect())
    }
}

fn configuration(entry: &Entry, store: &Store) -> Configuration {
    let value = entry.value();
    let hooks = value.get("webhooks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let hooks = hooks.iter().enumerate().map(|(i, h)| Arc::new(hook(entry.name(), i, h, store))).collect();
    Configuration { name: entry.key.clone(), revision: entry.revision, hooks }
}

fn hook(configuration: &str, index: usize, hook: &Value, store: &Store) -> Hook {
    let list = |key: &str| hook.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    // Absent selectors select everything; what is no selector is refused when it is written.
    let selector = |key: &str| LabelSelector::from_object(hook.get(key)).unwrap_or_default();
    let name = hook.str_at(&["name"]).to_owned();
    Hook {
        id: format!("{configuration}/{index}/{name}"),
        configuration: configuration.to_owned(),
        rules: list("rules").iter().map(Rule::of).collect(),
        equivalent: hook.str_at(&["matchPolicy"]) != "Exact",
        namespaces: selector("namespaceSelector"),
        objects: selector("objectSelector"),
        ignore_failure: hook.str_at(&["failurePolicy"]) == "Ignore",
        dry_run: matches!(hook.str_at(&["sideEffects"]), "None" | "NoneOnDryRun"),
        timeout: Duration::from_secs(hook.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(10).clamp(1, 30)),
        reinvoke: hook.str_at(&["reinvocationPolicy"]) == "IfNeeded",
        conditions: Conditions::of(list("matchConditions")),
        client: Client::of(hook.get("clientConfig").unwrap_or(&Value::Null), store),
        name,
    }
}
