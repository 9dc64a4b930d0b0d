//! What a write changed, as sets of paths, in one walk over both objects (`typed.TypedValue.Compare`), and what an
//! object has (`ToFieldSet`).

use serde_json::{Map, Value};

use super::fields::{Fields, Node};
use super::path::Elem;
use super::shape::{Key, Shape, TypeRef};

/// What a write changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// What was added, or has another value.
    pub set: Fields,
    /// What was removed.
    pub gone: Fields,
}

#[derive(Default)]
struct Part {
    set: Node,
    gone: Node,
}

/// Metadata that identifies an object or is kept by the server: nobody owns it (`NewStripMetaManager`).
const NOBODYS: [&str; 9] = [
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "clusterName",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// The members of a document that are owned, with their path's first step.
fn owned(document: &Value) -> impl Iterator<Item = (&String, &Value)> {
    document.as_object().into_iter().flatten().filter(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind"))
}

/// The differences of two documents, but for what nobody owns. `old` is an empty document for a new object.
pub fn compare(old: &Value, new: &Value, ty: TypeRef<'_>) -> Delta {
    let mut sides = Sides::default();
    for (name, value) in owned(new) {
        sides.add(Elem::field(name), part(name, old.get(name), Some(value), ty));
    }
    for (name, value) in owned(old).filter(|(name, _)| new.get(name.as_str()).is_none()) {
        sides.add(Elem::field(name), part(name, Some(value), None, ty));
    }
    let Part { set, gone } = sides.part();
    Delta { set: set.below, gone: gone.below }
}

fn part(name: &str, old: Option<&Value>, new: Option<&Value>, ty: TypeRef<'_>) -> Part {
    let ty = ty.child(name).ty;
    if name != "metadata" {
        return values(old, new, ty);
    }
    let (old, new) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
    entries(old, new, ty, |name| !NOBODYS.contains(&name)).part()
}

/// All paths of a document, but for what nobody owns.
pub fn fields_of(document: &Value, ty: TypeRef<'_>) -> Fields {
    let mut parts = Vec::new();
    for (name, value) in owned(document) {
        let child = ty.child(name);
        let node = if name == "metadata" {
            let map = value.as_object();
            let entries = map.into_iter().flatten().filter(|(name, _)| !NOBODYS.contains(&name.as_str()));
            Node { member: false, below: of_entries(entries, child.ty) }
        } else {
            member(value, child.ty, child.declared)
        };
        if !node.is_empty() {
            parts.push((Elem::field(name), node));
        }
    }
    Fields::from_parts(parts)
}

/// The parts of two values, by step.
#[derive(Default)]
struct Sides {
    set: Vec<(Elem, Node)>,
    gone: Vec<(Elem, Node)>,
}

impl Sides {
    fn add(&mut self, elem: Elem, part: Part) {
        match (part.set.is_empty(), part.gone.is_empty()) {
            (true, true) => {}
            (false, true) => self.set.push((elem, part.set)),
            (true, false) => self.gone.push((elem, part.gone)),
            (false, false) => {
                self.set.push((elem.clone(), part.set));
                self.gone.push((elem, part.gone));
            }
        }
    }

    fn part(self) -> Part {
        let node = |parts| Node { member: false, below: Fields::from_parts(parts) };
        Part { set: node(self.set), gone: node(self.gone) }
    }
}

fn values(old: Option<&Value>, new: Option<&Value>, ty: TypeRef<'_>) -> Part {
    let mut part = match ty.shape() {
        Shape::Whole => return whole(old, new),
        Shape::Struct { .. } | Shape::Map(_) => {
            let (a, b) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            if a.is_none_or(Map::is_empty) && b.is_none_or(Map::is_empty) {
                return whole(old, new);
            }
            entries(a, b, ty, |_| true).part()
        }
        Shape::Deduced => match deduced(old, new, ty) {
            Ok(part) => part,
            Err(()) => return whole(old, new),
        },
        Shape::Set | Shape::Keyed { .. } => {
            let (a, b) = (old.and_then(Value::as_array), new.and_then(Value::as_array));
            if a.is_none_or(Vec::is_empty) && b.is_none_or(Vec::is_empty) {
                return whole(old, new);
            }
            elements(a, b, ty)
        }
    };
    // What comes or goes with its parts is a member beside them.
    part.set.member |= old.is_none();
    part.gone.member |= new.is_none();
    part
}

/// Two values as they are. One that is absent is not one that is null.
fn whole(old: Option<&Value>, new: Option<&Value>) -> Part {
    let mut part = Part::default();
    match (old, new) {
        (None, Some(_)) => part.set.member = true,
        (Some(_), None) => part.gone.member = true,
        (old, new) => part.set.member = old != new,
    }
    part
}

/// Values whose type follows from what they are; `Err` where they count as a whole. An object in the place of
/// something else is both: the change of the whole, and its own fields.
fn deduced(old: Option<&Value>, new: Option<&Value>, ty: TypeRef<'_>) -> Result<Part, ()> {
    let objects = (old.and_then(Value::as_object), new.and_then(Value::as_object));
    let ((Some(_), _) | (_, Some(_))) = objects else { return Err(()) };
    if objects.0.is_none_or(Map::is_empty) && objects.1.is_none_or(Map::is_empty) {
        return Err(());
    }
    let mut part = entries(objects.0, objects.1, ty, |_| true).part();
    let plain = |side: Option<&Value>| side.is_some_and(|v| !v.is_object() && !v.is_null());
    part.set.member |= plain(old) || plain(new);
    Ok(part)
}

type Entries<'a> = Option<&'a Map<String, Value>>;

fn entries(old: Entries<'_>, new: Entries<'_>, ty: TypeRef<'_>, counts: impl Fn(&str) -> bool) -> Sides {
    let mut sides = Sides::default();
    for (name, value) in new.into_iter().flatten().filter(|(name, _)| counts(name)) {
        let part = values(old.and_then(|old| old.get(name)), Some(value), ty.child(name).ty);
        if !(part.set.is_empty() && part.gone.is_empty()) {
            sides.add(Elem::field(name), part);
        }
    }
    let missing = |name: &str| new.is_none_or(|new| !new.contains_key(name));
    for (name, value) in old.into_iter().flatten().filter(|(name, _)| counts(name) && missing(name)) {
        sides.add(Elem::field(name), values(Some(value), None, ty.child(name).ty));
    }
    sides
}

/// The elements of a set or a keyed list with what tells them apart, sorted by it. What cannot be told apart is left
/// out.
pub(super) fn told_apart<'v>(items: &'v [Value], ty: TypeRef<'_>) -> Vec<(Elem, &'v Value)> {
    let mut out: Vec<_> = items.iter().filter_map(|item| Some((step(item, ty)?.ok()?, item))).collect();
    out.sort_by(|a, b| a.0.cmp(&b.0));
    out
}

/// What tells an element apart; `None` in a list that counts as a whole.
pub(super) fn step(item: &Value, ty: TypeRef<'_>) -> Option<Result<Elem, String>> {
    match ty.shape() {
        Shape::Set => Some(Elem::of_value(item).map_err(str::to_owned)),
        Shape::Keyed { keys, .. } => Some(Elem::of_keys(item, keys)),
        _ => None,
    }
}

/// The type of a list's elements.
pub(super) fn element(ty: TypeRef<'_>) -> TypeRef<'_> {
    match ty.shape() {
        Shape::Keyed { element, .. } => ty.at(*element),
        // The elements of a set are scalars.
        _ => ty.child("").ty,
    }
}

type Items<'a> = Option<&'a Vec<Value>>;

fn elements(old: Items<'_>, new: Items<'_>, ty: TypeRef<'_>) -> Part {
    if let (Some(old), Some(new), Shape::Keyed { keys, .. }) = (old, new, ty.shape())
        && in_step(old, new, keys)
    {
        return paired(old, new, keys, ty);
    }
    let (old, new) = (told_apart(old.map_or(&[], |v| v), ty), told_apart(new.map_or(&[], |v| v), ty));
    let (mut old, mut new) = (old.as_slice(), new.as_slice());
    let (mut sides, inner) = (Sides::default(), element(ty));
    while let Some(next) = [old.first(), new.first()].into_iter().flatten().map(|(elem, _)| elem).min() {
        let (was, rest) = old.split_at(old.iter().take_while(|(elem, _)| elem == next).count());
        let (is, others) = new.split_at(new.iter().take_while(|(elem, _)| elem == next).count());
        sides.add(next.clone(), same_key(was, is, inner));
        (old, new) = (rest, others);
    }
    sides.part()
}

/// Whether two lists have the same elements at the same places, each once: so it is after nearly every write.
fn in_step(old: &[Value], new: &[Value], keys: &[Key]) -> bool {
    let same = |a: &Value, b: &Value| a.is_object() && keys.iter().all(|k| a.get(&k.name) == b.get(&k.name));
    // Whether an element stands twice is looked for in short lists; long ones are sorted.
    old.len() == new.len()
        && old.len() <= 8
        && old.iter().zip(new).all(|(a, b)| same(a, b))
        && (1..new.len()).all(|i| !new[..i].iter().any(|earlier| same(earlier, &new[i])))
}

fn paired(old: &[Value], new: &[Value], keys: &[Key], ty: TypeRef<'_>) -> Part {
    let (mut sides, inner) = (Sides::default(), element(ty));
    for (was, is) in old.iter().zip(new) {
        let part = values(Some(was), Some(is), inner);
        if !(part.set.is_empty() && part.gone.is_empty())
            && let Ok(elem) = Elem::of_keys(is, keys)
        {
            sides.add(elem, part);
        }
    }
    sides.part()
}

/// Elements of the same key. Several of one key on one side are compared as a whole.
fn same_key(old: &[(Elem, &Value)], new: &[(Elem, &Value)], ty: TypeRef<'_>) -> Part {
    let mut part = Part::default();
    match (old.len(), new.len()) {
        (0..=1, 0..=1) => return values(old.first().map(|e| e.1), new.first().map(|e| e.1), ty),
        (0..=1, _) => {
            if let Some((_, was)) = old.first() {
                part = values(Some(*was), None, ty);
            }
            part.set.member = true;
        }
        (_, 0..=1) => {
            if let Some((_, is)) = new.first() {
                part = values(None, Some(*is), ty);
            }
            part.gone.member = true;
        }
        _ => part.set.member = !old.iter().map(|e| e.1).eq(new.iter().map(|e| e.1)),
    }
    part
}

/// A field's or entry's node in the set of all that a value has.
fn member(value: &Value, ty: TypeRef<'_>, declared: bool) -> Node {
    let mut node = collect(value, ty);
    node.member |= !declared || value.is_null() || value.as_object().is_some_and(Map::is_empty);
    node
}

fn collect(value: &Value, ty: TypeRef<'_>) -> Node {
    match (ty.shape(), value) {
        (Shape::Struct { .. } | Shape::Map(_) | Shape::Deduced, Value::Object(map)) => {
            Node { member: false, below: of_entries(map, ty) }
        }
        (Shape::Set | Shape::Keyed { .. }, Value::Array(items)) => {
            Node { member: false, below: of_elements(items, ty) }
        }
        (Shape::Whole | Shape::Deduced, _) => Node::leaf(),
        _ => Node::default(),
    }
}

fn of_entries<'v>(entries: impl IntoIterator<Item = (&'v String, &'v Value)>, ty: TypeRef<'_>) -> Fields {
    let nodes = entries.into_iter().filter_map(|(name, value)| {
        let child = ty.child(name);
        let node = member(value, child.ty, child.declared);
        (!node.is_empty()).then(|| (Elem::field(name), node))
    });
    Fields::from_parts(nodes.collect())
}

fn of_elements(items: &[Value], ty: TypeRef<'_>) -> Fields {
    let mut parts: Vec<(Elem, Node)> = Vec::with_capacity(items.len());
    for (elem, item) in told_apart(items, ty) {
        match parts.last_mut() {
            Some((last, node)) if *last == elem => *node = Node::leaf(),
            _ => {
                let mut node = collect(item, element(ty));
                node.member = true;
                parts.push((elem, node));
            }
        }
    }
    Fields::from_parts(parts)
}
