//! Field ownership and server-side apply (`structured-merge-diff`, `k8s.io/apimachinery/pkg/util/managedfields`); pure.
//!
//! ```text
//! shape    how values of a type are taken apart      path, fields   paths, and sets of them (FieldsV1)
//! compare  two objects -> what was set, what removed  merge          live object + applied document, and pruning
//! owners   metadata.managedFields                     typed          what an applied document must hold to
//! custom   the shape of a custom kind                 configuration  what mutating policies merge, without owners
//! handover kubectl's annotation of client-side apply  this file      update and apply: conflicts and bookkeeping
//! ```

mod compare;
mod configuration;
mod custom;
mod fields;
mod handover;
mod merge;
mod owners;
mod path;
mod shape;
#[cfg(test)]
mod tests;
mod typed;

use serde_json::Value;

use crate::meta::Meta;

pub use compare::{Delta, compare, fields_of};
pub use configuration::merged;
pub use custom::CustomType;
pub use fields::{Fields, Node};
pub use owners::{Operation, Owner, Owners};
pub use path::{Atom, Elem};
pub use shape::{Builder, Id, Key, Shape, Shapes, TypeRef};
pub use typed::check;

/// Who owned everything that was there before anybody was recorded.
const BEFORE: &str = "before-first-apply";

/// Who writes.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// `fieldManager`, or what the user agent says.
    pub manager: &'a str,
    /// The version of the request.
    pub api_version: &'a str,
    /// `status`, or "" for the resource itself.
    pub subresource: &'a str,
    /// RFC 3339.
    pub now: &'a str,
    /// What of the object this way of writing takes over.
    pub scope: Scope<'a>,
}

impl Writer<'_> {
    fn owner(&self, manager: &str, operation: Operation, fields: Fields) -> Owner {
        Owner {
            manager: if manager.is_empty() { "unknown" } else { manager }.to_owned(),
            operation,
            api_version: self.api_version.to_owned(),
            time: Some(self.now.to_owned()),
            subresource: self.subresource.to_owned(),
            fields,
        }
    }
}

/// The fields that a way of writing can change at all (`GetResetFields`): nobody comes to own any other by it.
/// `*` stands for any step of a path.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// All but these, each with all that is below.
    Without(&'a [&'a [&'a str]]),
    /// These alone.
    Within(&'a [&'a [&'a str]]),
}

impl Scope<'_> {
    /// Every field.
    pub const ALL: Self = Self::Without(&[]);

    fn limit(self, fields: &mut Fields) {
        match self {
            Self::Without(paths) => paths.iter().for_each(|path| fields.cut(path)),
            Self::Within(paths) => fields.keep(paths),
        }
    }

    fn compare(self, old: &Value, new: &Value, ty: TypeRef<'_>) -> Delta {
        let mut delta = compare(old, new, ty);
        self.limit(&mut delta.set);
        self.limit(&mut delta.gone);
        delta
    }
}

/// A kind whose objects are owned: its type in the version of the request, and a way into its other versions.
pub trait Kind {
    /// The type.
    fn ty(&self) -> TypeRef<'_>;

    /// An object as it is in a version.
    fn in_version<'s>(&'s self, object: &Value, api_version: &str) -> InVersion<'s>;

    /// The object that a new one is compared with: what is written for one without any value.
    fn empty(&self) -> Value;
}

/// What became of an object that was to be shown in another version.
#[derive(Debug)]
pub enum InVersion<'a> {
    /// The object, and its type.
    Is(Value, TypeRef<'a>),
    /// There is no such version: what is owned in it is forgotten.
    Gone,
    /// It cannot be told now: what is owned in this version stays as it is.
    Unknown,
}

/// The owners after a write that is no apply (`FieldManager.Update`). `old` is [`Kind::empty`] for a new object.
/// An object that nobody owns stays so until the first apply, but for a new one (`is_new`).
pub fn update(mut owners: Owners, is_new: bool, old: &Value, new: &Value, kind: &dyn Kind, by: &Writer<'_>) -> Owners {
    if owners.0.is_empty() && !is_new {
        return owners;
    }
    let delta = by.scope.compare(old, new, kind.ty());
    disown(&mut owners, &delta, old, new, kind, by, None);
    claim(&mut owners, delta, by, by.manager);
    owners.cap();
    owners
}

/// Gives the writer what it set.
fn claim(owners: &mut Owners, delta: Delta, by: &Writer<'_>, manager: &str) {
    if delta.set.is_empty() {
        return;
    }
    let mine = by.owner(manager, Operation::Update, delta.set);
    match owners.find(&mine) {
        Some(owner) => {
            owner.fields.add(&mine.fields);
            owner.time = mine.time;
        }
        None => owners.0.push(mine),
    }
}

/// Takes from everybody, but for one, what was changed or removed.
fn disown(
    owners: &mut Owners,
    delta: &Delta,
    old: &Value,
    new: &Value,
    kind: &dyn Kind,
    by: &Writer<'_>,
    but: Option<&Owner>,
) {
    each_delta(owners, delta, old, new, kind, by, |owner, delta| {
        if let Some(delta) = delta.filter(|_| !but.is_some_and(|but| but.is(owner))) {
            owner.fields.subtract(&delta.set);
            owner.fields.subtract(&delta.gone);
        }
    });
    owners.0.retain(|owner| !owner.fields.is_empty());
}

/// Shows each owner the change in the version of its fields; `None` where it cannot be told. Who owns in a version that
/// is gone is forgotten.
fn each_delta(
    owners: &mut Owners,
    delta: &Delta,
    old: &Value,
    new: &Value,
    kind: &dyn Kind,
    by: &Writer<'_>,
    mut see: impl FnMut(&mut Owner, Option<&Delta>),
) {
    let mut others: Vec<(String, Then)> = Vec::new();
    owners.0.retain_mut(|owner| {
        if owner.api_version == by.api_version {
            see(owner, Some(delta));
            return true;
        }
        let at = others.iter().position(|(version, _)| *version == owner.api_version).unwrap_or_else(|| {
            others.push((owner.api_version.clone(), delta_in(&owner.api_version, old, new, kind, by)));
            others.len() - 1
        });
        match others.get(at).map(|(_, then)| then) {
            Some(Then::Changed(delta)) => see(owner, Some(delta)),
            Some(Then::Unknown) => see(owner, None),
            Some(Then::Gone) | None => return false,
        }
        true
    });
}

/// A change as another version has it.
enum Then {
    Changed(Delta),
    Gone,
    Unknown,
}

fn delta_in(version: &str, old: &Value, new: &Value, kind: &dyn Kind, by: &Writer<'_>) -> Then {
    match (kind.in_version(old, version), kind.in_version(new, version)) {
        (InVersion::Is(old, ty), InVersion::Is(new, _)) => Then::Changed(by.scope.compare(&old, &new, ty)),
        (InVersion::Gone, _) | (_, InVersion::Gone) => Then::Gone,
        (InVersion::Unknown, _) | (_, InVersion::Unknown) => Then::Unknown,
    }
}

/// A field that somebody else owns with another value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Its owner, as messages name it.
    pub owner: String,
    /// `.spec.replicas`.
    pub path: String,
}

/// What an apply made.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The object, without `managedFields`.
    pub object: Value,
    /// Its owners.
    pub owners: Owners,
}

/// Applies `document` to `live`, which is [`Kind::empty`] where `is_new` (`FieldManager.Apply`). The document has been
/// [`check`]ed. `Err` are the conflicts, of which there are none with `force`.
pub fn apply(
    mut owners: Owners,
    is_new: bool,
    live: &Value,
    document: &Value,
    kind: &dyn Kind,
    by: &Writer<'_>,
    force: bool,
) -> Result<Applied, Vec<Conflict>> {
    if owners.0.is_empty() && !is_new {
        let delta = by.scope.compare(&kind.empty(), live, kind.ty());
        claim(&mut owners, delta, by, BEFORE);
    }
    let mut applied = match try_apply(owners.clone(), live, document, kind, by, force) {
        Err(conflicts) if by.manager == handover::MANAGER => {
            // What kubectl applied on the client's side it may change, though it is noted as an update.
            let left = handover::not_allowed(conflicts, live, kind.ty(), by);
            if !left.0.is_empty() {
                return Err(reported(&left));
            }
            try_apply(owners, live, document, kind, by, true).map_err(|conflicts| reported(&conflicts))?
        }
        other => other.map_err(|conflicts| reported(&conflicts))?,
    };
    if by.manager == handover::MANAGER {
        handover::note(&mut applied.object, document);
    }
    Ok(applied)
}

fn try_apply(
    mut owners: Owners,
    live: &Value,
    document: &Value,
    kind: &dyn Kind,
    by: &Writer<'_>,
    force: bool,
) -> Result<Applied, Owners> {
    let mut wanted = fields_of(document, kind.ty());
    by.scope.limit(&mut wanted);
    let mine = by.owner(by.manager, Operation::Apply, wanted);
    let before = owners.find(&mine).map(|owner| owner.clone());
    owners.0.retain(|owner| !owner.is(&mine));
    owners.0.push(mine.clone());
    let merged = merge::merge(live.clone(), document, kind.ty());
    let object = match &before {
        Some(before) => pruned(merged, before, &owners, kind, by),
        None => merged,
    };
    let delta = by.scope.compare(live, &object, kind.ty());
    if !force {
        let conflicts = conflicts(&mut owners.clone(), &delta, live, &object, kind, by, &mine);
        if !conflicts.0.is_empty() {
            return Err(conflicts);
        }
    }
    disown(&mut owners, &delta, live, &object, kind, by, Some(&mine));
    // The time is that of the last apply that changed a value or the set.
    let same = before.filter(|before| before.fields == mine.fields && before.api_version == mine.api_version);
    if let (Some(before), true, Some(entry)) = (same, delta.set.is_empty() && delta.gone.is_empty(), owners.find(&mine))
    {
        entry.time = before.time;
    }
    Ok(Applied { object, owners })
}

/// The merged object without what this manager applied before and now leaves out, unless somebody else owns it too.
fn pruned(merged: Value, before: &Owner, owners: &Owners, kind: &dyn Kind, by: &Writer<'_>) -> Value {
    let mut kept = Fields::new();
    owners.0.iter().for_each(|owner| kept.add(&owner.fields));
    if before.api_version == by.api_version {
        return merge::prune(merged, &before.fields, &kept, kind.ty());
    }
    // In a version that is gone nothing can be taken away.
    let InVersion::Is(then, ty) = kind.in_version(&merged, &before.api_version) else { return merged };
    match kind.in_version(&merge::prune(then, &before.fields, &kept, ty), by.api_version) {
        InVersion::Is(now, _) => now,
        InVersion::Gone | InVersion::Unknown => merged,
    }
}

/// What the change takes from others, by owner.
fn conflicts(
    owners: &mut Owners,
    delta: &Delta,
    live: &Value,
    object: &Value,
    kind: &dyn Kind,
    by: &Writer<'_>,
    mine: &Owner,
) -> Owners {
    each_delta(owners, delta, live, object, kind, by, |owner, delta| {
        owner.fields = match delta {
            Some(delta) if !owner.is(mine) => owner.fields.intersect(&delta.set),
            _ => Fields::new(),
        };
    });
    owners.0.retain(|owner| !owner.fields.is_empty());
    std::mem::take(owners)
}

fn reported(conflicts: &Owners) -> Vec<Conflict> {
    let mut out: Vec<Conflict> = Vec::new();
    for owner in &conflicts.0 {
        let name = owner.named();
        out.extend(owner.fields.paths().into_iter().map(|path| Conflict { owner: name.clone(), path }));
    }
    out.sort_by(|a, b| a.owner.cmp(&b.owner));
    out
}

/// The set of one path of fields.
pub fn path(names: &[&str]) -> Fields {
    let (last, parents) = names.split_last().map_or(("", &[][..]), |(last, parents)| (*last, parents));
    let leaf = Fields::from_parts(vec![(Elem::field(last), Node::leaf())]);
    parents
        .iter()
        .rfold(leaf, |below, name| Fields::from_parts(vec![(Elem::field(name), Node { member: false, below })]))
}

/// Takes `managedFields` off an object.
pub fn take(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.shift_remove("managedFields")
}

/// Puts `managedFields` onto an object, or takes them off.
pub fn put(object: &mut Value, fields: Option<Value>) {
    match fields {
        Some(fields) => {
            if let Some(meta) = object.object_at(&["metadata"]) {
                meta.insert("managedFields".into(), fields);
            }
        }
        None => _ = take(object),
    }
}

/// A kind of one version, of whose type nothing or everything is known.
#[derive(Debug, Clone, Copy)]
pub struct Plain<'a>(pub TypeRef<'a>);

impl Kind for Plain<'_> {
    fn ty(&self) -> TypeRef<'_> {
        self.0
    }

    fn in_version<'s>(&'s self, _: &Value, _: &str) -> InVersion<'s> {
        InVersion::Gone
    }

    fn empty(&self) -> Value {
        Value::Object(serde_json::Map::new())
    }
}
