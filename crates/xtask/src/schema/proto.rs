//! Reads upstream's `generated.proto` files: a small, regular part of proto2.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use super::Field;

/// What one file declares.
pub struct Package {
    /// Short name, `core.v1`.
    pub package: String,
    pub messages: BTreeMap<String, Vec<Field>>,
}

/// Parses a file.
pub fn parse(text: &str) -> Result<Package> {
    let mut package = String::new();
    let mut messages = BTreeMap::new();
    let mut current: Option<(String, Vec<Field>)> = None;
    let mut notes: Vec<String> = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(note) = line.strip_prefix("//") {
            notes.push(note.trim().to_owned());
        } else if let Some(name) = line.strip_prefix("package ") {
            package = short(name.trim_end_matches(';'));
        } else if let Some(name) = line.strip_prefix("message ") {
            current = Some((name.trim_end_matches('{').trim().to_owned(), Vec::new()));
            notes.clear();
        } else if line == "}" {
            if let Some((name, fields)) = current.take() {
                messages.insert(name, fields);
            }
        } else if let Some((_, fields)) = &mut current
            && !line.is_empty()
        {
            fields.push(field(line, &notes, &package).with_context(|| format!("field {line:?}"))?);
            notes.clear();
        } else if line.is_empty() {
            // A blank line parts a field's note from the one before, never the note from its field.
        }
    }
    Ok(Package { package, messages })
}

/// `k8s.io.api.core.v1.Pod` as `core.v1.Pod`; `k8s.io.apimachinery.pkg.apis.meta.v1.X` as `meta.v1.X`.
pub fn short(name: &str) -> String {
    let name = name.trim_start_matches('.');
    for prefix in ["k8s.io.api.", "k8s.io.apimachinery.pkg.apis.", "k8s.io.apimachinery.pkg."] {
        if let Some(rest) = name.strip_prefix(prefix) {
            return rest.to_owned();
        }
    }
    name.to_owned()
}

fn field(line: &str, notes: &[String], package: &str) -> Result<Field> {
    let line = line.trim_end_matches(';');
    let (left, number) = line.rsplit_once('=').context("no number")?;
    let number = number.trim().parse()?;
    let (ty, json) = left.trim().rsplit_once(' ').context("no name")?;
    let ty = if let Some(map) = ty.strip_prefix("map<string, ") {
        format!("{{}}{}", scalar(map.trim_end_matches('>'), package))
    } else if let Some(one) = ty.strip_prefix("optional ") {
        scalar(one, package)
    } else if let Some(many) = ty.strip_prefix("repeated ") {
        format!("[]{}", scalar(many, package))
    } else {
        bail!("unknown label in {ty:?}")
    };
    let note = |key: &str| notes.iter().find_map(|n| n.strip_prefix(key).map(|v| v.trim_matches('`').to_owned()));
    let default = note("+default=").filter(|d| d != "\"\"" && !d.starts_with("ref"));
    Ok(Field {
        json: json.to_owned(),
        number,
        ty,
        optional: notes.iter().any(|n| n == "+optional" || n == "+k8s:optional"),
        patch_key: note("+patchMergeKey="),
        patch_strategy: note("+patchStrategy="),
        default,
        ..Field::default()
    })
}

/// The data file's letter for a type: see `kinit_apimachinery::schema`.
fn scalar(ty: &str, package: &str) -> String {
    match ty {
        "string" => "s".into(),
        "int32" => "i".into(),
        "int64" | "uint64" => "l".into(),
        "bool" => "b".into(),
        "double" => "d".into(),
        "bytes" => "y".into(),
        _ => {
            let name = if ty.starts_with('.') { short(ty) } else { format!("{package}.{ty}") };
            match name.as_str() {
                "api.resource.Quantity" => "q".into(),
                "util.intstr.IntOrString" => "x".into(),
                "meta.v1.Time" => "t".into(),
                "meta.v1.MicroTime" => "u".into(),
                "meta.v1.Duration" => "D".into(),
                "runtime.RawExtension" => "r".into(),
                "meta.v1.FieldsV1" => "f".into(),
                "meta.v1.Verbs"
                | "authentication.v1.ExtraValue"
                | "authorization.v1.ExtraValue"
                | "certificates.v1.ExtraValue" => "S".into(),
                _ => name,
            }
        }
    }
}
