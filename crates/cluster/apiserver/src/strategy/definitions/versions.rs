//! The versions of a definition: schemas, columns, scale, selectable fields.

use std::collections::HashSet;

use kinit_apimachinery::jsonpath::JsonPath;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::names::NameRule;
use kinit_apimachinery::status::FieldErrors;
use kinit_apimachinery::structural::{Kind, Structural, check_schema};
use serde_json::Value;

use super::spec::{Asked, joined};
use crate::definitions::check_rules;
use crate::strategy::tools::items;

/// Selectable fields of a version at most.
const MOST_SELECTABLE: usize = 8;

pub(super) fn check_versions(spec: &Value, asked: &Asked, errors: &mut FieldErrors) {
    let versions = items(spec, &["versions"]);
    let pruned = spec.get("preserveUnknownFields") != Some(&Value::Bool(true));
    for (i, version) in versions.iter().enumerate() {
        let at = format!("spec.versions[{i}]");
        let name = version.str_at(&["name"]);
        if version.at(&["schema", "openAPIV3Schema"]).is_none() {
            let served = version.get("served") == Some(&Value::Bool(true));
            let field = format!("{at}.schema.openAPIV3Schema");
            match asked.schemas {
                true => errors.required(&field, "schemas are required"),
                false if pruned && served => errors.required(&field, "because otherwise all fields are pruned"),
                false => {}
            }
        }
        if let Some(problem) = joined(&NameRule::Dns1035.check(name)) {
            errors.invalid(&format!("{at}.name"), &name.into(), &problem);
        }
        check_version(version, &at, asked, errors);
    }
    let names: HashSet<&str> = versions.iter().map(|v| v.str_at(&["name"])).collect();
    if names.len() != versions.len() {
        errors.invalid("spec.versions", &spec["versions"], "must contain unique version names");
    }
    if versions.iter().filter(|v| v.get("storage") == Some(&Value::Bool(true))).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.invalid("spec.versions", &spec["versions"], detail);
    }
}

fn check_version(version: &Value, at: &str, asked: &Asked, errors: &mut FieldErrors) {
    deprecation(version, at, errors);
    let status = version.at(&["subresources", "status"]).is_some_and(Value::is_object);
    if let Some(schema) = version.at(&["schema", "openAPIV3Schema"]).filter(|s| s.is_object()) {
        let field = format!("{at}.schema.openAPIV3Schema");
        let before = errors.0.len();
        check_schema(schema, &field, status, asked.rules, errors);
        // Of a schema that is wrong, rules say nothing that helps.
        if errors.0.len() == before {
            check_rules(schema, &field, errors);
        }
    }
    if let Some(scale) = version.at(&["subresources", "scale"]).filter(|s| s.is_object()) {
        let at = format!("{at}.subresources.scale");
        scale_path(scale, "specReplicasPath", &at, &[".spec."], "should be a json path under .spec", errors);
        scale_path(scale, "statusReplicasPath", &at, &[".status."], "should be a json path under .status", errors);
        if !scale.str_at(&["labelSelectorPath"]).is_empty() {
            let detail = "should be a json path under either .spec or .status";
            scale_path(scale, "labelSelectorPath", &at, &[".spec.", ".status."], detail, errors);
        }
    }
    for (i, column) in items(version, &["additionalPrinterColumns"]).iter().enumerate() {
        check_column(column, &format!("{at}.additionalPrinterColumns[{i}]"), errors);
    }
    selectable(version, &format!("{at}.selectableFields"), errors);
}

fn deprecation(version: &Value, at: &str, errors: &mut FieldErrors) {
    let Some(text) = version.get("deprecationWarning").and_then(Value::as_str) else { return };
    let mut wrong = |detail: &str| errors.invalid(&format!("{at}.deprecationWarning"), &text.into(), detail);
    if version.get("deprecated") != Some(&Value::Bool(true)) {
        return wrong("can only be set for deprecated versions");
    }
    if text.len() > 256 {
        wrong("must be <= 256 characters long");
    }
    if text.is_empty() {
        wrong("must not be an empty string");
    }
    if let Some((i, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
        wrong(&format!("must only contain printable UTF-8 characters; non-printable character found at index {i}"));
    }
}

fn scale_path(scale: &Value, key: &str, at: &str, under: &[&str], detail: &str, errors: &mut FieldErrors) {
    let (path, field) = (scale.str_at(&[key]), format!("{at}.{key}"));
    if path.is_empty() {
        errors.required(&field, "");
    } else if !path.starts_with('.') {
        errors.invalid(&field, &path.into(), "must be a simple json path starting with .");
    } else if !under.iter().any(|prefix| path.starts_with(prefix)) {
        errors.invalid(&field, &path.into(), detail);
    }
}

fn check_column(column: &Value, at: &str, errors: &mut FieldErrors) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    let text = |key: &str| column.str_at(&[key]);
    if text("name").is_empty() {
        errors.required(&format!("{at}.name"), "");
    }
    let (ty, field) = (text("type"), format!("{at}.type"));
    let must = format!("must be one of {}", TYPES.join(","));
    if ty.is_empty() {
        errors.required(&field, &must);
    } else if !TYPES.contains(&ty) {
        errors.invalid(&field, &ty.into(), &must);
    }
    if !text("format").is_empty() && !FORMATS.contains(&text("format")) {
        let must = format!("must be one of {}", FORMATS.join(","));
        errors.invalid(&format!("{at}.format"), &text("format").into(), &must);
    }
    let (path, field) = (text("jsonPath"), format!("{at}.JSONPath"));
    if path.is_empty() {
        errors.required(&field, "");
    } else if !path.starts_with('.') {
        errors.invalid(&field, &path.into(), "must be a simple json path starting with .");
    } else if let Err(problem) = JsonPath::parse(path) {
        errors.invalid(&field, &path.into(), &problem);
    }
}

/// `ValidateCustomResourceSelectableFields`.
fn selectable(version: &Value, at: &str, errors: &mut FieldErrors) {
    let fields = items(version, &["selectableFields"]);
    if fields.is_empty() {
        return;
    }
    let Some(schema) = version.at(&["schema", "openAPIV3Schema"]) else {
        let detail = "selectableFields may only be set when version.schema.openAPIV3Schema is not included";
        return errors.invalid(at, &"".into(), detail);
    };
    let schema = Structural::parse(schema);
    let mut seen = HashSet::new();
    for (i, field) in fields.iter().enumerate() {
        let (path, at) = (field.str_at(&["jsonPath"]), format!("{at}[{i}].jsonPath"));
        if path.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let steps: Vec<&str> = path.trim_start_matches('.').split('.').collect();
        let found = if path.starts_with('.') { schema.at(&steps) } else { None };
        let kind = match (found, steps.first()) {
            (Some(found), _) => found.kind,
            (None, Some(&"metadata")) => Kind::String,
            (None, _) => {
                errors.invalid(&at, &path.into(), "is an invalid path: does not refer to a valid field");
                continue;
            }
        };
        if steps.first() == Some(&"metadata") {
            errors.invalid(&at, &path.into(), "must not point to fields in metadata");
        }
        if !matches!(kind, Kind::String | Kind::Boolean | Kind::Integer) {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.invalid(&at, &path.into(), detail);
        }
        if !seen.insert(path) {
            errors.duplicate(&at, &path.into());
        }
    }
    if seen.len() > MOST_SELECTABLE {
        errors.too_many(at, seen.len(), MOST_SELECTABLE as u64);
    }
}
