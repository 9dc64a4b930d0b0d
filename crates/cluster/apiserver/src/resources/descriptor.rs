//! A resource as data.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use kinit_apimachinery::complete::complete;
use kinit_apimachinery::names::NameRule;
use kinit_apimachinery::schema::schema;
use serde_json::Value;

use super::faces::Face;
use crate::strategy::Strategy;

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
    /// Its schema.
    pub ty: Option<usize>,
    /// What its names must be.
    pub names: NameRule,
    /// Field paths that selectors may use, besides metadata.name and metadata.namespace.
    pub selectable: &'static [&'static str],
    /// What is particular to the kind.
    pub strategy: Strategy,
    /// How it differs from what is stored.
    pub face: Option<&'static Face>,
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
    pub fn shown(&self, stored: Value) -> Value {
        let Some(face) = self.face else { return stored };
        let mut shown = (face.from_storage)(stored);
        self.complete(&mut shown);
        shown
    }

    /// An object of this resource as it is stored.
    pub fn stored(&self, object: Value) -> Value {
        let Some(face) = self.face else { return object };
        let mut stored = (face.to_storage)(object);
        let (group, version, kind) = face.stored_as;
        if let Some(ty) = schema().by_kind(group, version, kind) {
            complete(&mut stored, ty);
        }
        stored
    }

    /// Adds what Go's encoder would have written although it is empty.
    pub fn complete(&self, object: &mut Value) {
        if let Some(ty) = self.ty {
            complete(object, ty);
        }
    }

    /// Whether a field selector may use this path.
    pub fn selects(&self, path: &str) -> bool {
        path == "metadata.name" || (path == "metadata.namespace" && self.namespaced) || self.selectable.contains(&path)
    }
}

/// `apps/v1` or `v1`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

type Key = (String, String, String);

/// All resources that are served now.
pub struct Registry(ArcSwap<Served>);

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

    /// What is served now; another value whenever that changes.
    pub fn served(&self) -> Arc<Served> {
        self.0.load_full()
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
