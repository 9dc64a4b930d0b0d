//! A resource as data.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use kinit_apimachinery::ApiError;
use kinit_apimachinery::names::NameRule;
use kinit_apimachinery::typed::Typed;
use kinit_component_base::compatibility::Minor;
use kinit_storage::Entry;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::convert::Converter;
use crate::registry::scale::Paths;
use crate::strategy::Strategy;
use crate::tables::PrinterColumn;

/// A subresource: its name, its verbs, and the kind it speaks when that is another one.
#[derive(Debug, Clone)]
pub struct Sub {
    /// `status`.
    pub name: &'static str,
    /// What may be done.
    pub verbs: &'static [&'static str],
    /// (group, version, kind) when it is not the resource's own.
    pub gvk: Option<(&'static str, &'static str, &'static str)>,
}

/// Everything the generic registry knows of a resource.
pub struct Descriptor {
    /// API group, "" for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// `pods`.
    pub plural: String,
    /// `pod`.
    pub singular: String,
    /// `Pod`.
    pub kind: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// `po`.
    pub short: Vec<String>,
    /// `all`.
    pub categories: Vec<String>,
    /// What may be done.
    pub verbs: Vec<&'static str>,
    /// Its subresources.
    pub subresources: Vec<Sub>,
    /// Where it is stored, below the root; "" for what is never stored (reviews).
    pub prefix: String,
    /// What is known of its fields.
    pub ty: Typed,
    /// What its names must be.
    pub names: NameRule,
    /// Field paths that selectors may use, besides metadata.name and metadata.namespace.
    pub selectable: Vec<Cow<'static, str>>,
    /// What is particular to the kind.
    pub strategy: Arc<dyn Strategy>,
    /// How it differs from what is stored.
    pub converter: Option<Arc<dyn Converter>>,
    /// What a definition brings along; none for built-in resources.
    pub custom: Option<Arc<Custom>>,
}

/// What a definition says of a resource beyond what all resources have.
pub struct Custom {
    /// Kind of its lists.
    pub list_kind: String,
    /// `additionalPrinterColumns`.
    pub columns: Vec<PrinterColumn>,
    /// Where its scale is.
    pub scale: Option<Paths>,
    /// `openAPIV3Schema` as it was written, as text: schemas are large, and nobody reads this but OpenAPI.
    pub schema: Box<str>,
    /// What clients of a deprecated version are told.
    pub deprecation: Option<String>,
    /// Whether the definition is on its way out: nothing new is taken.
    pub terminating: AtomicBool,
    /// Ends when what is served changes: watches end with it.
    pub life: CancellationToken,
}

impl Descriptor {
    /// `apps/v1` or `v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// The storage key of an object.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced { format!("{namespace}/{name}") } else { name.to_owned() }
    }

    /// A subresource by name.
    pub fn sub(&self, name: &str) -> Option<&Sub> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether status is a subresource.
    pub fn has_status(&self) -> bool {
        self.sub("status").is_some()
    }

    /// A stored object as this resource shows it.
    pub async fn shown(&self, stored: Value) -> Result<Value, ApiError> {
        let Some(converter) = &self.converter else { return Ok(stored) };
        let shown = converter.shown(vec![stored]).await?;
        shown.into_iter().next().ok_or_else(|| ApiError::internal("a conversion lost the object"))
    }

    /// Stored objects as this resource shows them, in their order.
    pub async fn all_shown(&self, stored: Vec<Value>) -> Result<Vec<Value>, ApiError> {
        match &self.converter {
            Some(converter) => converter.shown(stored).await,
            None => Ok(stored),
        }
    }

    /// Whether an object is shown by the very bytes it is stored in.
    pub fn shows(&self, stored: &[u8]) -> bool {
        self.converter.as_ref().is_none_or(|converter| converter.shows(stored))
    }

    /// Whether what is stored is what a write of the same object would store: otherwise a write that changes nothing is
    /// made all the same, so that objects can be migrated (`GuaranteedUpdate` compares the stored bytes).
    pub fn is_current(&self, entry: &Entry) -> bool {
        !entry.refreshed && self.converter.as_ref().is_none_or(|converter| converter.is_current(&entry.bytes))
    }

    /// An object of this resource as it is stored.
    pub async fn stored(&self, object: Value) -> Result<Value, ApiError> {
        match &self.converter {
            Some(converter) => converter.stored(object).await,
            None => Ok(object),
        }
    }

    /// Adds what is written although nobody gave it: Go's empty fields, defaults of a schema.
    pub fn complete(&self, object: &mut Value) -> Result<(), ApiError> {
        self.ty.complete(object).map_err(|e| ApiError::bad_request(e.to_string()))
    }

    /// Whether a field selector may use this path.
    pub fn selects(&self, path: &str) -> bool {
        path == "metadata.name"
            || (path == "metadata.namespace" && self.namespaced)
            || self.selectable.iter().any(|known| known == path)
    }

    /// The kind, for rules about a kind of the core group; a definition's kind may have any name.
    pub fn core_kind(&self) -> &str {
        if self.group.is_empty() { &self.kind } else { "" }
    }

    /// The kind of lists.
    pub fn list_kind(&self) -> String {
        self.custom.as_ref().map_or_else(|| format!("{}List", self.kind), |custom| custom.list_kind.clone())
    }

    /// Whether nothing new is taken any more.
    pub fn is_terminating(&self) -> bool {
        self.custom.as_ref().is_some_and(|custom| custom.terminating.load(Ordering::Relaxed))
    }
}

/// `apps/v1` or `v1`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

type Key = (String, String, String);

/// All resources that are served now.
pub struct Registry(ArcSwap<Served>);

/// The minor version that first served a resource in this version by default, for what a server may emulate
/// (upstream's `APILifecycleIntroduced`).
fn introduced(descriptor: &Descriptor) -> Minor {
    match (descriptor.group.as_str(), descriptor.version.as_str(), descriptor.plural.as_str()) {
        ("admissionregistration.k8s.io", "v1", "mutatingadmissionpolicies" | "mutatingadmissionpolicybindings") => {
            Minor(36)
        }
        ("resource.k8s.io", "v1", _) | ("storage.k8s.io", "v1", "volumeattributesclasses") => Minor(34),
        _ => Minor(0),
    }
}

/// All resources at one time.
#[derive(Default, Clone)]
pub struct Served {
    order: Vec<Arc<Descriptor>>,
    by_resource: HashMap<Key, Arc<Descriptor>>,
}

impl Registry {
    /// The built-in resources.
    pub fn builtin() -> Self {
        let order: Vec<Arc<Descriptor>> = super::table::builtin().into_iter().map(Arc::new).collect();
        Self(ArcSwap::from_pointee(Served::of(order)))
    }

    /// The built-in resources of an earlier minor version.
    pub fn builtin_of(emulated: Minor) -> Self {
        let mut all = super::table::builtin();
        all.retain(|descriptor| introduced(descriptor) <= emulated);
        Self(ArcSwap::from_pointee(Served::of(all.into_iter().map(Arc::new).collect())))
    }

    /// What is served now; another value whenever that changes.
    pub fn served(&self) -> Arc<Served> {
        self.0.load_full()
    }

    /// Sets the custom resources; they come after the built-in ones and never in the place of one.
    pub fn set_custom(&self, custom: Vec<Arc<Descriptor>>) {
        let mut order: Vec<Arc<Descriptor>> =
            self.0.load().order.iter().filter(|d| d.custom.is_none()).cloned().collect();
        let taken = |d: &Descriptor| {
            order.iter().any(|b| (&b.group, &b.version, &b.plural) == (&d.group, &d.version, &d.plural))
        };
        let custom: Vec<_> = custom.into_iter().filter(|d| !taken(d)).collect();
        order.extend(custom);
        self.0.store(Arc::new(Served::of(order)));
    }

    /// A resource by group, version and plural.
    pub fn find(&self, group: &str, version: &str, resource: &str) -> Option<Arc<Descriptor>> {
        let key = (group.to_owned(), version.to_owned(), resource.to_owned());
        self.0.load().by_resource.get(&key).cloned()
    }

    /// A resource by group and plural, in its first version.
    pub fn find_any_version(&self, group: &str, resource: &str) -> Option<Arc<Descriptor>> {
        self.0.load().order.iter().find(|d| d.group == group && d.plural == resource).cloned()
    }

    /// A resource by group and kind.
    pub fn find_kind(&self, group: &str, kind: &str) -> Option<Arc<Descriptor>> {
        self.0.load().order.iter().find(|d| d.group == group && d.kind == kind && !d.prefix.is_empty()).cloned()
    }

    /// All resources, in the order of the table.
    pub fn all(&self) -> Vec<Arc<Descriptor>> {
        self.0.load().order.clone()
    }

    /// The groups with their versions, in the order of the table.
    pub fn groups(&self) -> Vec<(String, Vec<String>)> {
        let mut out: Vec<(String, Vec<String>)> = Vec::new();
        for d in &self.0.load().order {
            match out.iter_mut().find(|(g, _)| *g == d.group) {
                Some((_, versions)) if versions.contains(&d.version) => {}
                Some((_, versions)) => versions.push(d.version.clone()),
                None => out.push((d.group.clone(), vec![d.version.clone()])),
            }
        }
        out
    }
}

impl Served {
    fn of(order: Vec<Arc<Descriptor>>) -> Self {
        let by_resource =
            order.iter().map(|d| ((d.group.clone(), d.version.clone(), d.plural.clone()), d.clone())).collect();
        Self { order, by_resource }
    }
}
