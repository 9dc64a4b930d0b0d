//! `metadata.managedFields`.

use serde_json::{Value, json};

use super::fields::Fields;
use crate::meta::Meta;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Who.
    pub manager: String,
    /// `Apply` or `Update`.
    pub operation: String,
    /// In which version the fields are.
    pub api_version: String,
    /// RFC 3339.
    pub time: String,
    /// `status` or "".
    pub subresource: String,
    /// What.
    pub fields: Fields,
}

impl Owner {
    /// How it came to own, as upstream's conflicts tell it.
    pub fn how(&self) -> String {
        let mut words = Vec::new();
        if !self.subresource.is_empty() {
            words.push(format!("with subresource \"{}\"", self.subresource));
        }
        if self.operation == "Update" {
            words.push(format!("using {}", self.api_version));
            if !self.time.is_empty() {
                words.push(format!("at {}", self.time));
            }
        }
        words.join(" ")
    }

    /// An owner by updates.
    pub fn update(manager: &str, api_version: &str, subresource: &str, time: &str, fields: Fields) -> Self {
        Self {
            manager: manager.into(),
            operation: "Update".into(),
            api_version: api_version.into(),
            time: time.into(),
            subresource: subresource.into(),
            fields,
        }
    }
}

/// Reads the entries.
pub fn read_owners(object: &Value) -> Vec<Owner> {
    let list = object.at(&["metadata", "managedFields"]).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .map(|e| Owner {
            manager: e.str_at(&["manager"]).into(),
            operation: e.str_at(&["operation"]).into(),
            api_version: e.str_at(&["apiVersion"]).into(),
            time: e.str_at(&["time"]).into(),
            subresource: e.str_at(&["subresource"]).into(),
            fields: e.get("fieldsV1").map(Fields::from_value).unwrap_or_default(),
        })
        .collect()
}

/// Writes the entries.
pub fn write_owners(object: &mut Value, owners: &[Owner]) {
    let list: Vec<Value> = owners
        .iter()
        .filter(|o| !o.fields.is_empty() || o.operation == "Apply")
        .map(|o| {
            let mut entry = json!({"manager": o.manager, "operation": o.operation, "apiVersion": o.api_version,
                "time": o.time, "fieldsType": "FieldsV1", "fieldsV1": o.fields.to_value()});
            if !o.subresource.is_empty() {
                entry["subresource"] = o.subresource.clone().into();
            }
            entry
        })
        .collect();
    if let Some(meta) = object.object_at(&["metadata"]) {
        if list.is_empty() {
            meta.shift_remove("managedFields");
        } else {
            meta.insert("managedFields".into(), list.into());
        }
    }
}

pub(super) fn strip(object: &mut Value) {
    if object.get("metadata").is_some()
        && let Some(meta) = object.object_at(&["metadata"])
    {
        meta.shift_remove("managedFields");
    }
}

/// After an update of an object that has owners: what changed is the updater's now.
pub fn track(
    new: &mut Value,
    old: &Value,
    ty: Option<usize>,
    manager: &str,
    api_version: &str,
    subresource: &str,
    now: &str,
) {
    let mut owners = read_owners(old);
    if owners.is_empty() {
        strip(new);
        return;
    }
    let (mut a, mut b) = (old.clone(), new.clone());
    strip(&mut a);
    strip(&mut b);
    let changed = Fields::changed(&a, &b, ty).without_identity();
    if changed.is_empty() {
        return write_owners(new, &owners);
    }
    let present = changed.intersect(&Fields::of(&b, ty));
    for owner in &mut owners {
        owner.fields = owner.fields.minus(&changed);
    }
    let mine = |o: &Owner| o.operation == "Update" && o.manager == manager && o.subresource == subresource;
    match owners.iter_mut().find(|o| mine(o)) {
        Some(owner) => {
            owner.fields = owner.fields.union(&present);
            owner.time = now.to_owned();
        }
        None => owners.push(Owner::update(manager, api_version, subresource, now, present)),
    }
    write_owners(new, &owners);
}
