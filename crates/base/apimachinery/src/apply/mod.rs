//! Server-side apply: who owns which field, and what an apply changes (`structured-merge-diff`, pure).
//!
//! ```text
//! fields  sets of paths (FieldsV1)      merge   live object + applied document -> new object
//! owners  metadata.managedFields        apply   the whole of it: conflicts, merge, removal, bookkeeping
//! ```

mod fields;
mod merge;
mod owners;

use serde_json::Value;

use crate::meta::Meta;

pub use fields::Fields;
pub use owners::{Owner, read_owners, track, write_owners};

/// A field that somebody else owns with another value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Who owns it.
    pub manager: String,
    /// For an owner by updates: `using v1 at 2026-01-01T00:00:00Z`.
    pub how: String,
    /// `.spec.replicas`.
    pub path: String,
}

impl Conflict {
    /// The owner as upstream's messages name it.
    pub fn owner(&self) -> String {
        let gap = if self.how.is_empty() { "" } else { " " };
        format!("{}{gap}{}", crate::status::quoted(&self.manager), self.how)
    }
}

/// Who applies, and how.
#[derive(Debug, Clone)]
pub struct Applier<'a> {
    /// `fieldManager`.
    pub manager: &'a str,
    /// The document's apiVersion.
    pub api_version: &'a str,
    /// `status` or "".
    pub subresource: &'a str,
    /// Take fields over from others.
    pub force: bool,
    /// RFC 3339, for the bookkeeping.
    pub now: &'a str,
}

/// Applies `document` to `live` (an empty object for one that is not there yet). `Err` are the conflicts.
pub fn apply(live: &Value, document: &Value, ty: Option<usize>, applier: &Applier<'_>) -> Result<Value, Vec<Conflict>> {
    let mut owners = read_owners(live);
    let mut plain = live.clone();
    owners::strip(&mut plain);
    let mut wanted = document.clone();
    owners::strip(&mut wanted);
    if owners.is_empty() && plain.as_object().is_some_and(|m| m.contains_key("metadata")) {
        owners = first_owners(&plain, ty, applier);
    }
    let applied = Fields::of(&wanted, ty).without_identity();
    let is_mine =
        |o: &Owner| o.operation == "Apply" && o.manager == applier.manager && o.subresource == applier.subresource;
    let before = owners.iter().find(|o| is_mine(o)).map(|o| o.fields.clone()).unwrap_or_default();
    let merged = merge::merge(&plain, &wanted, ty);
    // What the apply would change of what is there.
    let changed = Fields::changed(&plain, &merged, ty);
    let mut conflicts = Vec::new();
    for owner in owners.iter_mut().filter(|o| !is_mine(o)) {
        let contested = owner.fields.intersect(&applied).intersect(&changed);
        if contested.is_empty() {
            continue;
        }
        if applier.force {
            owner.fields = owner.fields.minus(&contested);
        } else {
            conflicts.extend(contested.paths().into_iter().map(|path| Conflict {
                manager: owner.manager.clone(),
                how: owner.how(),
                path,
            }));
        }
    }
    if !conflicts.is_empty() {
        return Err(conflicts);
    }
    // What this manager once applied and now leaves out goes, unless somebody else owns it too.
    let mut gone = before.minus(&applied);
    for owner in owners.iter().filter(|o| !is_mine(o)) {
        gone = gone.minus(&owner.fields);
    }
    let mut out = merge::remove(merged, &gone, ty);
    let unchanged = owners.iter().find(|o| is_mine(o)).filter(|o| o.fields == applied).map(|o| o.time.clone());
    owners.retain(|o| !is_mine(o) && !o.fields.is_empty());
    owners.push(Owner {
        manager: applier.manager.to_owned(),
        operation: "Apply".into(),
        api_version: applier.api_version.to_owned(),
        time: unchanged.unwrap_or_else(|| applier.now.to_owned()),
        subresource: applier.subresource.to_owned(),
        fields: applied,
    });
    write_owners(&mut out, &owners);
    Ok(out)
}

/// Everything that is there belongs to somebody who never applied, but for what kubectl applied on the client's side:
/// that goes to kubectl, which upstream migrates by itself (`csaupgrade`).
fn first_owners(live: &Value, ty: Option<usize>, applier: &Applier<'_>) -> Vec<Owner> {
    let present = Fields::of(live, ty).without_identity();
    let earlier = client_side(live, ty, applier).intersect(&present);
    let rest = present.minus(&earlier);
    let mut owners = vec![Owner::update("before-first-apply", applier.api_version, "", applier.now, rest)];
    if !earlier.is_empty() {
        owners.push(Owner {
            manager: applier.manager.to_owned(),
            operation: "Apply".into(),
            api_version: applier.api_version.to_owned(),
            time: applier.now.to_owned(),
            subresource: applier.subresource.to_owned(),
            fields: earlier,
        });
    }
    owners
}

/// What `kubectl apply` without `--server-side` set, as it noted on the object.
fn client_side(live: &Value, ty: Option<usize>, applier: &Applier<'_>) -> Fields {
    const NOTE: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let note = live.at(&["metadata", "annotations", NOTE]).and_then(Value::as_str);
    match note.filter(|_| applier.manager == "kubectl").and_then(|text| serde_json::from_str::<Value>(text).ok()) {
        Some(mut document) if document.is_object() => {
            owners::strip(&mut document);
            Fields::of(&document, ty).without_identity()
        }
        _ => Fields::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::schema;
    use serde_json::json;

    fn by<'a>(manager: &'a str, force: bool) -> Applier<'a> {
        Applier { manager, api_version: "v1", subresource: "", force, now: "2026-01-01T00:00:00Z" }
    }

    fn ty(kind: &str) -> Option<usize> {
        schema().by_kind("", "v1", kind)
    }

    #[test]
    fn what_is_left_out_goes_unless_others_own_it() {
        let first = json!({"metadata":{"name":"a"},"data":{"x":"1","y":"2"}});
        let live = apply(&json!({}), &first, ty("ConfigMap"), &by("one", false)).unwrap();
        let live = apply(&live, &json!({"metadata":{"name":"a"},"data":{"y":"2"}}), ty("ConfigMap"), &by("two", false))
            .unwrap();
        let live =
            apply(&live, &json!({"metadata":{"name":"a"},"data":{}}), ty("ConfigMap"), &by("one", false)).unwrap();
        assert_eq!(live["data"], json!({"y":"2"}));
    }

    #[test]
    fn conflicts_name_owner_and_field_and_force_takes_over() {
        let live =
            apply(&json!({}), &json!({"metadata":{"name":"a"},"data":{"x":"1"}}), ty("ConfigMap"), &by("one", false))
                .unwrap();
        let other = json!({"metadata":{"name":"a"},"data":{"x":"2"}});
        let conflicts = apply(&live, &other, ty("ConfigMap"), &by("two", false)).unwrap_err();
        assert_eq!(conflicts, [Conflict { manager: "one".into(), how: String::new(), path: ".data.x".into() }]);
        let live = apply(&live, &other, ty("ConfigMap"), &by("two", true)).unwrap();
        assert_eq!(live["data"]["x"], "2");
        assert_eq!(read_owners(&live).len(), 1, "nothing is left of the first");
    }

    #[test]
    fn kubectl_goes_on_with_what_it_applied_on_the_clients_side() {
        let note = json!({"metadata":{"name":"a"},"data":{"x":"1","y":"1"}}).to_string();
        let live = json!({"metadata":{"name":"a","annotations":{"kubectl.kubernetes.io/last-applied-configuration":note}},
            "data":{"x":"1","y":"1","z":"1"}});
        let change = json!({"metadata":{"name":"a"},"data":{"x":"2"}});
        let new = apply(&live, &change, ty("ConfigMap"), &by("kubectl", false)).unwrap();
        // What it left out goes, what others set stays.
        assert_eq!(new["data"], json!({"x":"2","z":"1"}));
        // Anybody else is in conflict with what was there.
        assert_eq!(apply(&live, &change, ty("ConfigMap"), &by("other", false)).unwrap_err()[0].path, ".data.x");
    }

    #[test]
    fn lists_merge_by_their_keys() {
        let pod = |containers: Value| json!({"metadata":{"name":"p"},"spec":{"containers":containers}});
        let live = apply(
            &json!({}),
            &pod(json!([{"name":"a","image":"1"},{"name":"b","image":"1"}])),
            ty("Pod"),
            &by("one", false),
        )
        .unwrap();
        let live = apply(&live, &pod(json!([{"name":"c","image":"3"}])), ty("Pod"), &by("two", false)).unwrap();
        let live = apply(&live, &pod(json!([{"name":"b","image":"2"}])), ty("Pod"), &by("one", false)).unwrap();
        assert_eq!(live["spec"]["containers"], json!([{"name":"b","image":"2"},{"name":"c","image":"3"}]));
    }

    #[test]
    fn an_update_takes_what_it_changes() {
        let live =
            apply(&json!({}), &json!({"metadata":{"name":"a"},"data":{"x":"1"}}), ty("ConfigMap"), &by("one", false))
                .unwrap();
        let mut new = live.clone();
        new["data"]["x"] = "9".into();
        track(&mut new, &live, ty("ConfigMap"), "editor", "v1", "", "2026-01-02T00:00:00Z");
        let conflicts =
            apply(&new, &json!({"metadata":{"name":"a"},"data":{"x":"1"}}), ty("ConfigMap"), &by("one", false))
                .unwrap_err();
        assert_eq!(conflicts[0].manager, "editor");
    }
}
