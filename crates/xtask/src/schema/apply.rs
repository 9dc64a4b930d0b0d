//! Reads the apply schema (`applyconfigurations/internal/internal.go`): list relations, map keys, defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};

use super::Types;

/// What the apply schema says of one field.
#[derive(Debug, Default, Clone)]
pub struct Applied {
    pub relation: Option<String>,
    pub keys: Vec<String>,
    pub default: Option<String>,
}

/// By type (`core.v1.Pod`), by field; the empty field name is the type itself.
pub type Schema = BTreeMap<String, BTreeMap<String, Applied>>;

/// Parses the embedded YAML, which its generator lays out one fact a line.
pub fn read(path: &Path) -> Result<Schema> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut schema = Schema::new();
    let (mut ty, mut field, mut in_keys, mut key_indent) = (String::new(), String::new(), false, 0);
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let fact = line.trim();
        if let Some(name) = line.strip_prefix("- name: ") {
            ty = short(name);
            field.clear();
            in_keys = false;
        } else if indent == 4 && fact.starts_with("- name: ") {
            field = fact.trim_start_matches("- name: ").to_owned();
            in_keys = false;
        } else if ty.is_empty() {
            continue;
        } else if let Some(relation) = fact.strip_prefix("elementRelationship: ") {
            in_keys = false;
            let at = if indent == 4 { "" } else { field.as_str() };
            schema.entry(ty.clone()).or_default().entry(at.to_owned()).or_default().relation =
                Some(relation.to_owned());
        } else if fact == "keys:" {
            in_keys = true;
            key_indent = indent;
        } else if in_keys && indent == key_indent && fact.starts_with("- ") {
            schema.entry(ty.clone()).or_default().entry(field.clone()).or_default().keys.push(fact[2..].to_owned());
        } else if let Some(value) = fact.strip_prefix("default: ") {
            in_keys = false;
            if !matches!(value, "\"\"" | "0" | "{}" | "false" | "null") && indent == 6 {
                let json = match value {
                    "true" => value.to_owned(),
                    v if v.parse::<f64>().is_ok() => v.to_owned(),
                    v => format!("\"{}\"", v.trim_matches('"')),
                };
                schema.entry(ty.clone()).or_default().entry(field.clone()).or_default().default = Some(json);
            }
        } else {
            in_keys = false;
        }
    }
    Ok(schema)
}

fn short(name: &str) -> String {
    let name = name.trim();
    for prefix in ["io.k8s.api.", "io.k8s.apimachinery.pkg.apis.", "io.k8s.apimachinery.pkg."] {
        if let Some(rest) = name.strip_prefix(prefix) {
            return rest.to_owned();
        }
    }
    name.to_owned()
}

/// The types that are owned as a whole.
pub fn atomic(schema: &Schema) -> BTreeSet<String> {
    let whole =
        |facts: &BTreeMap<String, Applied>| facts.get("").is_some_and(|f| f.relation.as_deref() == Some("atomic"));
    schema.iter().filter(|(_, facts)| whole(facts)).map(|(name, _)| name.clone()).collect()
}

/// Adds the facts to the types. An inlined type is known by its parents alone.
pub fn join(types: &mut Types, schema: &Schema) {
    let mut parents: BTreeMap<String, String> = BTreeMap::new();
    for (name, fields) in types.iter() {
        for field in fields.iter().filter(|f| f.inline) {
            parents.entry(field.ty.clone()).or_insert_with(|| name.clone());
        }
    }
    for (name, fields) in types.iter_mut() {
        let known = schema.get(name).or_else(|| schema.get(parents.get(name)?));
        let Some(applied) = known else { continue };
        for field in fields.iter_mut() {
            let Some(facts) = applied.get(&field.json) else { continue };
            field.list = match facts.relation.as_deref() {
                Some("associative") if !facts.keys.is_empty() => Some(facts.keys.join(",")),
                Some("associative") => Some("set".into()),
                Some("atomic") => Some("atomic".into()),
                _ => None,
            };
            if facts.default.is_some() {
                field.default.clone_from(&facts.default);
            }
        }
    }
}
