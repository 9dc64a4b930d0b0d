//! Who owns which field after a write: where the registry meets `apimachinery::apply`.

use jiff::Timestamp;
use kinit_apimachinery::apply::{self, Fields, Kind, Owner, Owners, Scope, Writer};
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::schema::schema;
use kinit_apimachinery::time;
use serde_json::Value;

use super::owned_kind::{Converted, OwnedKind};
use super::{Request, scale};
use crate::resources::{Descriptor, scopes};

/// The manager of what the server writes by itself.
pub const SELF: &str = "kube-apiserver";

/// Whose a write is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// The request's manager comes to own what it changes.
    Recorded,
    /// The change itself brings the owners: a server-side apply.
    Brought,
    /// A side effect of the server, which upstream writes without a field manager: owners stay as they are.
    Kept,
}

/// The request's field manager: what it says, or what its client calls itself (`managerOrUserAgent`).
fn manager(request: &Request) -> &str {
    request.param("fieldManager").filter(|manager| !manager.is_empty()).unwrap_or(&request.agent)
}

/// Runs `act` with the request's writer.
pub fn with_writer<T>(request: &Request, act: impl FnOnce(&Writer<'_>) -> T) -> T {
    let (desc, sub) = (&request.desc, request.info.subresource.as_str());
    let replicas = scale::replicas(desc);
    let only_replicas = [replicas.as_slice()];
    act(&Writer {
        manager: manager(request),
        api_version: &desc.api_version(),
        subresource: sub,
        now: &time::format(Timestamp::now()),
        scope: if sub == "scale" { Scope::Within(&only_replicas) } else { scopes::of(desc, sub) },
    })
}

/// Records the owners of a changed object. `new` is what the client wants, with defaults, before this way of writing
/// takes its part of it and before admission: those are nobody's changes.
pub async fn record(request: &Request, new: &mut Value, old: &Value, ownership: Ownership) {
    let live = old.at(&["metadata", "managedFields"]);
    match ownership {
        Ownership::Brought => return,
        Ownership::Kept => return apply::put(new, live.cloned()),
        Ownership::Recorded => {}
    }
    // A list that comes with a subresource's object does not count (`decodeLiveOrNew`).
    let given = apply::take(new).filter(|_| request.info.subresource.is_empty());
    let owners = Owners::of_update(live, given.as_ref());
    let owners = settled(request, |converted| {
        with_writer(request, |by| {
            let kind = OwnedKind::of(&request.desc, by.api_version, converted);
            apply::update(owners.clone(), false, old, new, &kind, by)
        })
    });
    let owners = owners.await;
    apply::put(new, owners.encode());
}

/// What `work` makes when it has all objects in all versions it asks for. Where a version cannot be converted to, what
/// is owned in it stays as it is: the write goes on.
async fn settled<T>(request: &Request, work: impl Fn(&Converted) -> T) -> T {
    let converted = Converted::default();
    loop {
        let done = work(&converted);
        match converted.fetch(&request.desc).await {
            Ok(false) => return done,
            Ok(true) => {}
            Err(error) => tracing::warn!(
                resource = %request.desc.plural, name = %request.info.name, error = %error.message,
                "owners of fields in another version are kept as they were: the object does not convert to it"
            ),
        }
    }
}

/// Records the owners of a new object, at the same point of its way.
pub async fn record_new(request: &Request, object: &mut Value) {
    if request.is_apply() {
        return;
    }
    let given = apply::take(object);
    let owners = Owners::of_update(None, given.as_ref());
    let new: &Value = object;
    let owners = settled(request, |converted| {
        with_writer(request, |by| {
            let by = Writer { subresource: "", scope: scopes::of(&request.desc, ""), ..*by };
            let kind = OwnedKind::of(&request.desc, by.api_version, converted);
            apply::update(owners.clone(), true, &kind.empty(), new, &kind, &by)
        })
    });
    let owners = owners.await;
    apply::put(object, owners.encode());
}

/// Records the server itself as the owner of what it writes; `old` is `None` for a new object.
pub fn record_own(object: &mut Value, old: Option<&Value>, subresource: &str) {
    let (api_version, kind) = (object.str_at(&["apiVersion"]).to_owned(), object.str_at(&["kind"]).to_owned());
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let ty = schema().by_kind(group, version, &kind);
    let kind = OwnedKind::named(&api_version, &kind, ty);
    let has_status = ty.is_some_and(|ty| schema().field(ty, "status").is_some());
    let scope = match subresource {
        "" if has_status => Scope::Without(&[&["status"]]),
        "" => Scope::ALL,
        _ => Scope::Within(&[&["status"]]),
    };
    let now = time::format(Timestamp::now());
    let by = Writer { manager: SELF, api_version: &api_version, subresource, now: &now, scope };
    apply::take(object);
    let owners = match old {
        Some(old) => {
            let owners = Owners::of_update(old.at(&["metadata", "managedFields"]), None);
            apply::update(owners, false, old, object, &kind, &by)
        }
        None => {
            if let Some(ty) = ty {
                kinit_apimachinery::complete::complete(object, ty);
            }
            apply::update(Owners::default(), true, &kind.empty(), object, &kind, &by)
        }
    };
    apply::put(object, owners.encode());
}

/// Where the replicas are that the scale sets, in a version; `None` where there is no such version.
fn replicas_in(desc: &Descriptor, api_version: &str) -> Option<Fields> {
    let Some(converter) = desc.converter.as_ref().filter(|_| desc.custom.is_some()) else {
        return Some(apply::path(&scale::replicas(desc)));
    };
    let steps = converter.version(api_version)?.replicas.unwrap_or_default();
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    Some(if steps.is_empty() { Fields::new() } else { apply::path(&steps) })
}

/// The owners of an object's replicas, as those of its scale (`ScaleHandler.ToSubresource`).
pub fn of_scale(owners: &Owners, desc: &Descriptor, api_version: &str) -> Owners {
    let replicas = apply::path(&["spec", "replicas"]);
    let owns = |owner: &&Owner| {
        replicas_in(desc, &owner.api_version).is_some_and(|path| !owner.fields.intersect(&path).is_empty())
    };
    let of_scale =
        |owner: &Owner| Owner { api_version: api_version.to_owned(), fields: replicas.clone(), ..owner.clone() };
    Owners(owners.0.iter().filter(owns).map(of_scale).collect())
}

/// An object's owners after a write to its scale, which belongs to `scale` now (`ScaleHandler.ToParent`).
pub fn with_scale(mut owners: Owners, scale: Owners, desc: &Descriptor, api_version: &str) -> Owners {
    let in_scale = apply::path(&["spec", "replicas"]);
    owners.0.retain_mut(|owner| match replicas_in(desc, &owner.api_version) {
        Some(path) => {
            owner.fields.subtract(&path);
            true
        }
        None => false,
    });
    let replicas = replicas_in(desc, api_version).unwrap_or_default();
    for owner in scale.0.into_iter().filter(|owner| !owner.fields.intersect(&in_scale).is_empty()) {
        let owner = Owner { api_version: api_version.to_owned(), fields: replicas.clone(), ..owner };
        match owners.find(&owner) {
            Some(same) => same.fields.add(&replicas),
            None => owners.0.push(owner),
        }
    }
    owners.0.retain(|owner| !owner.fields.is_empty());
    owners
}

/// Puts owners back that a webhook spoilt, and tells the client (`NewManagedFieldsValidatingAdmissionController`).
pub fn after_admission(request: &Request, object: &mut Value, before: Option<Value>) {
    let now = object.at(&["metadata", "managedFields"]);
    if now == before.as_ref() {
        return;
    }
    if let Err(problem) = Owners::decode(now) {
        apply::put(object, before);
        request.warn(format!(
            ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated \
             mutating admission controller; please fix your requests: {problem}"
        ));
    }
}

/// Equality but for the resource version, the order of keys, and the times of owners
/// (`IgnoreManagedFieldsTimestampsTransformer`).
pub fn same(new: &Value, old: &Value) -> bool {
    let (Some(a), Some(b)) = (new.as_object(), old.as_object()) else { return new == old };
    a.len() == b.len()
        && a.iter().all(|(key, value)| match (key.as_str(), b.get(key)) {
            (_, None) => false,
            ("metadata", Some(other)) => same_metadata(value, other),
            (_, Some(other)) => value == other,
        })
}

fn same_metadata(new: &Value, old: &Value) -> bool {
    let (Some(a), Some(b)) = (new.as_object(), old.as_object()) else { return new == old };
    let counted = |key: &str| key != "resourceVersion";
    a.iter().filter(|(key, _)| counted(key)).all(|(key, value)| match (key.as_str(), b.get(key)) {
        (_, None) => false,
        ("managedFields", Some(other)) => same_owners(value, other),
        (_, Some(other)) => value == other,
    }) && b.keys().filter(|key| counted(key)).all(|key| a.contains_key(key))
}

fn same_owners(new: &Value, old: &Value) -> bool {
    let (Some(a), Some(b)) = (new.as_array(), old.as_array()) else { return new == old };
    let same_entry = |(a, b): (&Value, &Value)| {
        let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
        let within = |a: &serde_json::Map<String, Value>, b: &serde_json::Map<String, Value>| {
            a.iter().filter(|(key, _)| *key != "time").all(|(key, value)| b.get(key) == Some(value))
        };
        within(a, b) && b.keys().all(|key| key == "time" || a.contains_key(key))
    };
    a.len() == b.len() && a.iter().zip(b).all(same_entry)
}
