//! Who owns whom, and whose turn it is. No IO.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::absent::Absent;
use crate::discovery::ApiResource;

/// Finalizer that keeps an owner until its blocking dependents are gone.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer that keeps an owner until its dependents have been let go.
pub const ORPHAN: &str = "orphan";

/// What the collector needs to know of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Its resource.
    pub resource: ApiResource,
    /// Namespace, empty for none.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Identity.
    pub uid: String,
    /// Owners.
    pub owners: Vec<OwnerReference>,
    /// Whether a deletion has begun.
    pub deleting: bool,
    /// Waits for its blocking dependents.
    pub foreground: bool,
    /// Waits for its dependents to be let go.
    pub orphan: bool,
    /// The version this is of.
    pub version: String,
    /// What its finalizers ask for should it be deleted: [`FOREGROUND`] or [`ORPHAN`].
    pub asks: Option<&'static str>,
}

impl Item {
    /// From an object's metadata.
    pub fn of(resource: &ApiResource, meta: &ObjectMeta) -> Self {
        let deleting = meta.deletion_timestamp.is_some();
        let carries = |finalizer: &str| meta.finalizers.iter().flatten().any(|f| f == finalizer);
        let has = |finalizer: &str| deleting && carries(finalizer);
        Self {
            resource: resource.clone(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting,
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
            version: meta.resource_version.clone().unwrap_or_default(),
            asks: [FOREGROUND, ORPHAN].into_iter().find(|f| carries(f)),
        }
    }
}

/// All objects seen, by uid.
#[derive(Debug, Default)]
pub struct Graph {
    items: HashMap<String, Item>,
    dependents: HashMap<String, BTreeSet<String>>,
    /// Owners that are gone.
    pub absent: Absent,
}

impl Graph {
    /// An object of this uid.
    pub fn get(&self, uid: &str) -> Option<&Item> {
        self.items.get(uid)
    }

    /// What names this uid as an owner.
    pub fn dependents(&self, uid: &str) -> Vec<Item> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.items.get(uid).cloned()).collect()
    }

    /// Notes an object; returns whom to look at.
    pub fn put(&mut self, item: Item) -> Vec<String> {
        let uid = item.uid.clone();
        let old = self.items.insert(uid.clone(), item.clone());
        let mut due = BTreeSet::new();
        for owner in old.iter().flat_map(|o| &o.owners) {
            let still = item.owners.iter().find(|o| o.uid == owner.uid);
            if still.is_none() {
                self.unlink(&owner.uid, &uid);
            }
            // An owner that waited for this one may go on.
            if still.is_none_or(|o| o.block_owner_deletion != owner.block_owner_deletion) && self.waits(&owner.uid) {
                due.insert(owner.uid.clone());
            }
        }
        for owner in &item.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
            let fresh = old.as_ref().is_none_or(|o| !o.owners.contains(owner));
            // Unknown owners may never have existed; a waiting one must be told of, or take, its new dependent.
            if fresh && (!self.items.contains_key(&owner.uid) || self.waits(&owner.uid)) {
                due.insert(uid.clone());
            }
        }
        let began = |now: bool, before: Option<bool>| now && before != Some(true);
        if began(item.foreground, old.as_ref().map(|o| o.foreground)) {
            due.insert(uid.clone());
            due.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
        if began(item.orphan, old.as_ref().map(|o| o.orphan)) {
            due.insert(uid);
        }
        due.into_iter().collect()
    }

    /// An object was deleted; returns whom to look at: its dependents, and owners that waited for it.
    pub fn remove(&mut self, uid: &str) -> Vec<String> {
        self.absent.deleted(uid);
        self.forget(uid)
    }

    /// An object is not seen any more, as its resource is not; returns whom to look at.
    pub fn forget(&mut self, uid: &str) -> Vec<String> {
        let Some(item) = self.items.remove(uid) else { return Vec::new() };
        let mut due: BTreeSet<String> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        for owner in &item.owners {
            self.unlink(&owner.uid, uid);
            if self.waits(&owner.uid) {
                due.insert(owner.uid.clone());
            }
        }
        due.into_iter().collect()
    }

    fn waits(&self, uid: &str) -> bool {
        self.items.get(uid).is_some_and(|o| o.foreground)
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(set) = self.dependents.get_mut(owner) {
            set.remove(dependent);
            if set.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

/// What is known about an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// It exists and is to stay.
    Solid,
    /// It does not exist.
    Gone,
    /// It is being deleted and waits for its dependents.
    Waiting,
}

/// What to do with an object that has owners.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Nothing.
    Leave,
    /// Keep it, but only with these owners.
    KeepOwners(Vec<OwnerReference>),
    /// Delete it; `foreground` when it has dependents that must go first.
    Delete {
        /// Wait for its dependents.
        foreground: bool,
        /// A dependent is already waiting itself: cut the circle by no longer blocking the owners.
        unblock: bool,
    },
}

/// The rule of `attemptToDeleteItem`.
pub fn decide(owners: &[(OwnerReference, Owner)], dependents: &[Item]) -> Decision {
    let count = |what: Owner| owners.iter().filter(|(_, o)| *o == what).count();
    if owners.is_empty() {
        return Decision::Leave;
    }
    if count(Owner::Solid) > 0 {
        if count(Owner::Solid) == owners.len() {
            return Decision::Leave;
        }
        let solid = owners.iter().filter(|(_, o)| *o == Owner::Solid).map(|(r, _)| r.clone());
        return Decision::KeepOwners(solid.collect());
    }
    let foreground = count(Owner::Waiting) > 0 && !dependents.is_empty();
    Decision::Delete { foreground, unblock: foreground && dependents.iter().any(|d| d.foreground) }
}

/// The dependents that a waiting owner waits for.
pub fn blocking<'a>(owner: &'a str, dependents: &'a [Item]) -> impl Iterator<Item = &'a Item> {
    dependents.iter().filter(move |d| d.owners.iter().any(|o| o.uid == owner && o.block_owner_deletion == Some(true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(uid: &str, block: bool) -> OwnerReference {
        OwnerReference { uid: uid.into(), block_owner_deletion: Some(block), ..Default::default() }
    }

    fn item(uid: &str, owners: &[&str], foreground: bool) -> Item {
        let resource = ApiResource {
            group: String::new(),
            version: "v1".into(),
            kind: "X".into(),
            plural: "xs".into(),
            namespaced: true,
            verbs: vec![],
        };
        Item {
            resource,
            namespace: "n".into(),
            name: uid.into(),
            uid: uid.into(),
            owners: owners.iter().map(|o| reference(o, true)).collect(),
            deleting: foreground,
            foreground,
            orphan: false,
            version: String::new(),
            asks: None,
        }
    }

    #[test]
    fn turns() {
        let mut graph = Graph::default();
        assert!(graph.put(item("owner", &[], false)).is_empty());
        assert!(graph.put(item("a", &["owner"], false)).is_empty(), "its owner is there");
        assert_eq!(graph.put(item("b", &["stranger"], false)), ["b"], "its owner was never seen");
        assert_eq!(graph.put(item("owner", &[], true)), ["a", "owner"], "a foreground deletion begins");
        assert_eq!(graph.remove("a"), ["owner"], "the waiting owner may go on");
        graph.put(item("c", &["owner"], false));
        assert_eq!(graph.remove("owner"), ["c"], "dependents of what is gone");
    }

    #[test]
    fn decisions() {
        use Owner::{Gone, Solid, Waiting};
        let owners = |kinds: &[Owner]| -> Vec<_> {
            kinds.iter().enumerate().map(|(i, k)| (reference(&i.to_string(), true), *k)).collect()
        };
        let (leaf, waiting) = (vec![item("d", &["x"], false)], vec![item("d", &["x"], true)]);
        for (kinds, dependents, expected) in [
            (&[][..], &[][..], Decision::Leave),
            (&[Solid], &[], Decision::Leave),
            (&[Solid, Gone], &[], Decision::KeepOwners(vec![reference("0", true)])),
            (&[Gone], &leaf, Decision::Delete { foreground: false, unblock: false }),
            (&[Waiting], &[], Decision::Delete { foreground: false, unblock: false }),
            (&[Waiting, Gone], &leaf, Decision::Delete { foreground: true, unblock: false }),
            (&[Waiting], &waiting, Decision::Delete { foreground: true, unblock: true }),
        ] {
            assert_eq!(decide(&owners(kinds), dependents), expected, "{kinds:?}");
        }
    }
}
