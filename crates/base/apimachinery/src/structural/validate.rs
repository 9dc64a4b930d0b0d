//! Values held against a schema, in the words of upstream's validator (`kube-openapi/pkg/validation/validate`, and
//! `apiserver/validation.ValidateCustomResource` that makes field errors of them).
//!
//! With an old object, what is as it was is forgiven (`CRDValidationRatcheting`): a field that a schema would no longer
//! take does not keep the others from being written.

use serde_json::{Map, Value};

use super::{Additional, Kind, ListType, Structural, by_keys, child, formats, key_of};
use crate::status::FieldErrors;

/// Pairs of value and schema that one validation looks at.
const STEPS: u32 = 20_000_000;
/// Errors after which no more are looked for.
const ERRORS: usize = 200;

impl Structural {
    /// Adds what is wrong with a value, but for what was so in `old` already.
    pub fn validate(&self, value: &Value, old: Option<&Value>, path: &str, errors: &mut FieldErrors) {
        let mut walk = Walk { left: STEPS };
        walk.node(self, value, old, path, errors);
        if walk.left == 0 {
            errors.invalid(shown(path), &"".into(), "the object is too large for what its schema asks to be checked");
        }
    }
}

struct Walk {
    left: u32,
}

/// A field of its own where the path is that of the whole object (`field.Path(nil)`).
fn shown(path: &str) -> &str {
    if path.is_empty() { "<nil>" } else { path }
}

impl Walk {
    fn node(&mut self, s: &Structural, value: &Value, old: Option<&Value>, path: &str, errors: &mut FieldErrors) {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 || errors.0.len() >= ERRORS || old == Some(value) {
            return;
        }
        if value.is_null() {
            if (s.kind != Kind::Any || s.int_or_string) && !s.nullable {
                wrong_type(s, "null", path, errors);
            }
            return values(s, value, path, errors);
        }
        if let Some(got) = mismatch(s, value) {
            wrong_type(s, got, path, errors);
        }
        self.alternatives(s, value, old, path, errors);
        match value {
            Value::String(text) => string(s, text, path, errors),
            Value::Number(number) => numbers(s, number, path, errors),
            Value::Array(items) => self.array(s, items, old, path, errors),
            Value::Object(map) => self.object(s, map, old, path, errors),
            Value::Bool(_) | Value::Null => {}
        }
        values(s, value, path, errors);
    }

    fn array(&mut self, s: &Structural, items: &[Value], old: Option<&Value>, path: &str, errors: &mut FieldErrors) {
        let at = shown(path);
        if let Some(most) = s.bounds().max_items.filter(|n| items.len() as u64 > *n) {
            errors.too_many(at, items.len(), most);
        }
        if let Some(least) = s.bounds().min_items.filter(|n| (items.len() as u64) < *n) {
            errors.invalid(at, &items.into(), &format!("{path} in body should have at least {least} items"));
        }
        if s.bounds().unique && items.iter().enumerate().any(|(i, item)| items[..i].contains(item)) {
            errors.invalid(at, &items.into(), &format!("{path} in body shouldn't contain duplicates"));
        }
        let Some(of) = s.items.as_deref() else { return };
        // Elements are known again only by their keys.
        let before = match (&s.list, old.and_then(Value::as_array)) {
            (ListType::Map(keys), Some(old)) => Some((keys, by_keys(old, keys))),
            _ => None,
        };
        for (i, item) in items.iter().enumerate() {
            let known = before.as_ref().and_then(|(keys, old)| old.get(&key_of(item, keys)?).copied());
            self.node(of, item, known, &format!("{path}[{i}]"), errors);
        }
    }

    fn object(
        &mut self,
        s: &Structural,
        map: &Map<String, Value>,
        old: Option<&Value>,
        path: &str,
        errors: &mut FieldErrors,
    ) {
        let (at, bounds) = (shown(path), s.bounds());
        if let Some(most) = bounds.max_properties.filter(|n| map.len() as u64 > *n) {
            errors.too_many(at, map.len(), most);
        }
        if let Some(least) = bounds.min_properties.filter(|n| (map.len() as u64) < *n) {
            let detail = format!("{path} in body should have at least {least} properties");
            errors.invalid(at, &Value::Object(map.clone()), &detail);
        }
        for name in bounds.required.iter().filter(|name| !map.contains_key(*name)) {
            errors.required(&child(path, name), "");
        }
        for (name, value) in map {
            let before = || old.filter(|_| !s.atomic_map).and_then(|o| o.get(name));
            match (s.properties.get(name), &s.additional) {
                (Some(of), _) => self.node(of, value, before(), &child(path, name), errors),
                (None, Additional::Of(of)) => self.node(of, value, before(), &child(path, name), errors),
                (None, _) => {}
            }
        }
    }

    fn alternatives(
        &mut self,
        s: &Structural,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        errors: &mut FieldErrors,
    ) {
        let bounds = s.bounds();
        let composite = |detail: String, errors: &mut FieldErrors| errors.invalid("<nil>", &"".into(), &detail);
        let mut failed = 0;
        for of in &bounds.all_of {
            let before = errors.0.len();
            self.node(of, value, old, path, errors);
            failed += usize::from(errors.0.len() > before);
        }
        if failed > 0 {
            let none = if failed == bounds.all_of.len() { ". None validated" } else { "" };
            composite(format!("{path:?} must validate all the schemas (allOf){none}"), errors);
        }
        if !bounds.any_of.is_empty() {
            let (valid, best) = self.try_all(&bounds.any_of, value, path);
            if valid == 0 {
                composite(format!("{path:?} must validate at least one schema (anyOf)"), errors);
                errors.0.extend(best.0);
            }
        }
        if !bounds.one_of.is_empty() {
            let (valid, best) = self.try_all(&bounds.one_of, value, path);
            let only = format!("{path:?} must validate one and only one schema (oneOf)");
            match valid {
                0 => {
                    composite(format!("{only}. Found none valid"), errors);
                    errors.0.extend(best.0);
                }
                1 => {}
                n => composite(format!("{only}. Found {n} valid alternatives"), errors),
            }
        }
        if let Some(not) = &bounds.not {
            let mut inner = FieldErrors::default();
            self.node(not, value, None, path, &mut inner);
            if inner.0.is_empty() {
                composite(format!("{path:?} must not validate the schema (not)"), errors);
            }
        }
    }

    /// How many alternatives hold, and what is wrong with the one that comes closest.
    fn try_all(&mut self, all: &[Structural], value: &Value, path: &str) -> (usize, FieldErrors) {
        let (mut valid, mut best) = (0, None::<FieldErrors>);
        for of in all {
            let mut inner = FieldErrors::default();
            self.node(of, value, None, path, &mut inner);
            valid += usize::from(inner.0.is_empty());
            if best.as_ref().is_none_or(|b| inner.0.len() < b.0.len()) {
                best = Some(inner);
            }
        }
        (valid, best.unwrap_or_default())
    }
}

/// The type of a value that is not the schema's.
fn mismatch(s: &Structural, value: &Value) -> Option<&'static str> {
    let (got, whole) = match value {
        Value::Null => ("null", false),
        Value::Bool(_) => ("boolean", false),
        Value::String(_) => ("string", false),
        Value::Array(_) => ("array", false),
        Value::Object(_) => ("object", false),
        Value::Number(n) if n.is_f64() => ("number", n.as_f64().is_some_and(|f| f.fract() == 0.0)),
        Value::Number(_) => ("integer", true),
    };
    let fits = match s.kind {
        _ if s.int_or_string => whole || got == "string",
        Kind::Any => true,
        Kind::Integer => whole,
        Kind::Number => value.is_number(),
        other => other.name() == got,
    };
    (!fits).then_some(got)
}

fn wrong_type(s: &Structural, got: &str, path: &str, errors: &mut FieldErrors) {
    let wanted = if s.int_or_string { "integer,string" } else { s.kind.name() };
    let detail = format!("{path} in body must be of type {wanted}: \"{got}\"");
    errors.type_invalid(shown(path), &got.into(), detail.trim_start());
}

fn string(s: &Structural, text: &str, path: &str, errors: &mut FieldErrors) {
    let (at, bounds) = (shown(path), s.bounds());
    let length = text.chars().count() as u64;
    if let Some(most) = bounds.max_length.filter(|n| length > *n) {
        errors.too_long(at, usize::try_from(most).unwrap_or(usize::MAX));
    }
    if let Some(least) = bounds.min_length.filter(|n| length < *n) {
        errors.invalid(at, &text.into(), &format!("{path} in body should be at least {least} chars long"));
    }
    if let Some((pattern, compiled)) = &bounds.pattern
        && !compiled.as_ref().is_some_and(|p| p.is_match(text))
    {
        errors.invalid(at, &text.into(), &format!("{path} in body should match '{pattern}'"));
    }
    if !bounds.format.is_empty() && !formats::is_valid(&bounds.format, text) {
        let detail = format!("{path} in body must be of type {}: {}", bounds.format, crate::status::quoted(text));
        errors.type_invalid(at, &text.into(), &detail);
    }
}

fn numbers(s: &Structural, number: &serde_json::Number, path: &str, errors: &mut FieldErrors) {
    let (at, bounds) = (shown(path), s.bounds());
    let (Some(n), value) = (number.as_f64(), Value::Number(number.clone())) else { return };
    let mut wrong = |detail: String| errors.invalid(at, &value, &format!("{path} in body should be {detail}"));
    if let Some(factor) = bounds.multiple_of.filter(|f| *f > 0.0) {
        let ratio = n / factor;
        if (ratio - ratio.round()).abs() > 1e-9 * ratio.abs().max(1.0) {
            wrong(format!("a multiple of {factor}"));
        }
    }
    match bounds.maximum {
        Some((most, true)) if n >= most => wrong(format!("less than {most}")),
        Some((most, false)) if n > most => wrong(format!("less than or equal to {most}")),
        _ => {}
    }
    match bounds.minimum {
        Some((least, true)) if n <= least => wrong(format!("greater than {least}")),
        Some((least, false)) if n < least => wrong(format!("greater than or equal to {least}")),
        _ => {}
    }
    let wide = match (s.kind, bounds.format.as_str()) {
        (Kind::Integer, "int32") => n < f64::from(i32::MIN) || n > f64::from(i32::MAX),
        (Kind::Integer, "" | "int64") => !number.is_i64() && n.abs() >= 9.3e18,
        _ => false,
    };
    if wide {
        let format =
            if bounds.format.is_empty() { "(default format)".into() } else { format!("with format {}", bounds.format) };
        errors.invalid("<nil>", &"".into(), &format!("Checked value must be of type integer {format} in {path}"));
    }
}

fn values(s: &Structural, value: &Value, path: &str, errors: &mut FieldErrors) {
    let Some(allowed) = &s.bounds().values else { return };
    if allowed.iter().any(|v| same(v, value)) || (value.is_null() && s.nullable) {
        return;
    }
    let texts: Vec<String> = allowed.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
    errors.not_supported_of(shown(path), value, &texts.iter().map(String::as_str).collect::<Vec<_>>());
}

/// Equality in which 1 is 1.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, a)| b.get(k).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reported(schema: &Value, value: &Value, old: Option<&Value>) -> Vec<String> {
        let mut errors = FieldErrors::default();
        let schema = Structural::root(&json!({"type": "object", "properties": {"x": schema}}));
        let old = old.map(|o| json!({"x": o}));
        schema.validate(&json!({"x": value}), old.as_ref(), "", &mut errors);
        errors.0.into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    }

    fn all<const N: usize>(table: [(Value, Value, &str); N]) {
        for (schema, value, want) in table {
            assert_eq!(reported(&schema, &value, None), [want], "{schema} {value}");
        }
    }

    #[test]
    fn words_about_types_and_numbers() {
        all([
            (
                json!({"type": "integer"}),
                json!("a"),
                "x: Invalid value: \"string\": x in body must be of type integer: \"string\"",
            ),
            (
                json!({"type": "integer"}),
                json!(1.5),
                "x: Invalid value: \"number\": x in body must be of type integer: \"number\"",
            ),
            (
                json!({"type": "string"}),
                json!(null),
                "x: Invalid value: \"null\": x in body must be of type string: \"null\"",
            ),
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!(true),
                "x: Invalid value: \"boolean\": x in body must be of type integer,string: \"boolean\"",
            ),
            (
                json!({"type": "integer", "maximum": 10}),
                json!(11),
                "x: Invalid value: 11: x in body should be less than or equal to 10",
            ),
            (
                json!({"type": "integer", "maximum": 10, "exclusiveMaximum": true}),
                json!(10),
                "x: Invalid value: 10: x in body should be less than 10",
            ),
        ]);
    }

    #[test]
    fn words_about_texts() {
        all([
            (
                json!({"type": "number", "minimum": 0.5}),
                json!(0.25),
                "x: Invalid value: 0.25: x in body should be greater than or equal to 0.5",
            ),
            (
                json!({"type": "integer", "minimum": 1, "exclusiveMinimum": true}),
                json!(1),
                "x: Invalid value: 1: x in body should be greater than 1",
            ),
            (
                json!({"type": "integer", "multipleOf": 5}),
                json!(7),
                "x: Invalid value: 7: x in body should be a multiple of 5",
            ),
            (
                json!({"type": "integer", "format": "int32"}),
                json!(3_000_000_000_i64),
                "<nil>: Invalid value: \"\": Checked value must be of type integer with format int32 in x",
            ),
            (json!({"type": "string", "maxLength": 2}), json!("abc"), "x: Too long: may not be more than 2 bytes"),
            (
                json!({"type": "string", "minLength": 2}),
                json!("\u{e4}"),
                "x: Invalid value: \"\u{e4}\": x in body should be at least 2 chars long",
            ),
            (
                json!({"type": "string", "pattern": "^a$"}),
                json!("b"),
                "x: Invalid value: \"b\": x in body should match '^a$'",
            ),
        ]);
    }

    #[test]
    fn words_about_lists() {
        all([
            (
                json!({"type": "string", "format": "date"}),
                json!("b"),
                "x: Invalid value: \"b\": x in body must be of type date: \"b\"",
            ),
            (
                json!({"type": "string", "enum": ["a", "b"]}),
                json!("c"),
                "x: Unsupported value: \"c\": supported values: \"a\", \"b\"",
            ),
            (
                json!({"type": "integer", "enum": [1, 2]}),
                json!(3),
                "x: Unsupported value: 3: supported values: \"1\", \"2\"",
            ),
            (
                json!({"type": "array", "maxItems": 1, "items": {"type": "integer"}}),
                json!([1, 2]),
                "x: Too many: 2: must have at most 1 items",
            ),
            (
                json!({"type": "array", "minItems": 1, "items": {"type": "integer"}}),
                json!([]),
                "x: Invalid value: []: x in body should have at least 1 items",
            ),
            (
                json!({"type": "array", "items": {"type": "integer"}}),
                json!([1, "a"]),
                "x[1]: Invalid value: \"string\": x[1] in body must be of type integer: \"string\"",
            ),
        ]);
    }

    #[test]
    fn words_about_objects_and_alternatives() {
        all([
            (
                json!({"type": "object", "required": ["y"], "properties": {"y": {"type": "string"}}}),
                json!({}),
                "x.y: Required value",
            ),
            (
                json!({"type": "object", "maxProperties": 1, "additionalProperties": {"type": "string"}}),
                json!({"a": "", "b": ""}),
                "x: Too many: 2: must have at most 1 items",
            ),
            (
                json!({"type": "object", "minProperties": 1}),
                json!({}),
                "x: Invalid value: {}: x in body should have at least 1 properties",
            ),
            (
                json!({"type": "object", "additionalProperties": {"type": "string"}}),
                json!({"a": 1}),
                "x.a: Invalid value: \"integer\": x.a in body must be of type string: \"integer\"",
            ),
            (
                json!({"type": "string", "not": {"pattern": "^a"}}),
                json!("ab"),
                "<nil>: Invalid value: \"\": \"x\" must not validate the schema (not)",
            ),
            (
                json!({"type": "string", "oneOf": [{"pattern": "a"}, {"pattern": "b"}]}),
                json!("ab"),
                "<nil>: Invalid value: \"\": \"x\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
            ),
        ]);
    }

    #[test]
    fn words_about_several_schemas() {
        let none =
            reported(&json!({"type": "string", "anyOf": [{"pattern": "a"}, {"minLength": 3}]}), &json!("b"), None);
        assert_eq!(none[0], "<nil>: Invalid value: \"\": \"x\" must validate at least one schema (anyOf)");
        assert_eq!(none[1], "x: Invalid value: \"b\": x in body should match 'a'");
        let all =
            reported(&json!({"type": "string", "allOf": [{"pattern": "a"}, {"minLength": 1}]}), &json!("b"), None);
        assert_eq!(all[1], "<nil>: Invalid value: \"\": \"x\" must validate all the schemas (allOf)");
    }

    #[test]
    fn what_is_good() {
        for (schema, value) in [
            (json!({"type": "integer"}), json!(3.0)),
            (json!({"type": "number"}), json!(3)),
            (json!({"type": "string", "nullable": true, "enum": ["a"]}), json!(null)),
            (json!({"x-kubernetes-preserve-unknown-fields": true}), json!([{}])),
            (
                json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
                json!("a"),
            ),
            (json!({"type": "integer", "enum": [1.0]}), json!(1)),
            (json!({"type": "number", "multipleOf": 0.1}), json!(0.3)),
            (json!({"type": "string", "oneOf": [{"pattern": "a"}, {"pattern": "b"}]}), json!("a")),
        ] {
            assert_eq!(reported(&schema, &value, None), [""; 0], "{schema} {value}");
        }
    }

    #[test]
    fn what_was_so_before_is_forgiven() {
        let list = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer", "maximum": 5}}}});
        let old = json!([{"k": "a", "v": 9}, {"k": "b", "v": 1}]);
        assert_eq!(reported(&list, &json!([{"k": "b", "v": 2}, {"k": "a", "v": 9}]), Some(&old)), [""; 0]);
        assert_eq!(reported(&list, &json!([{"k": "a", "v": 8}]), Some(&old)).len(), 1);
        let atomic = json!({"type": "array", "items": {"type": "integer", "maximum": 5}});
        assert_eq!(reported(&atomic, &json!([9]), Some(&json!([9]))), [""; 0]);
        assert_eq!(reported(&atomic, &json!([9, 1]), Some(&json!([9]))).len(), 1, "elements are not known again");
        let object = json!({"type": "object", "required": ["z"], "properties": {"a": {"type": "string", "pattern": "^x"},
            "b": {"type": "string"}}});
        let (old, new) = (json!({"a": "q", "b": "1"}), json!({"a": "q", "b": "2"}));
        assert_eq!(reported(&object, &new, Some(&old)), ["x.z: Required value"]);
    }

    #[test]
    fn what_takes_too_long_ends() {
        let mut schema = json!({"type": "array", "items": {"type": "array", "items": {"type": "integer",
            "anyOf": vec![json!({"minimum": 1}); 1000]}}});
        schema["x-kubernetes-list-type"] = "atomic".into();
        let value = json!(vec![json!(vec![0; 1000]); 100]);
        let errors = reported(&schema, &value, None);
        assert!(errors.len() <= 2 * ERRORS + 1000, "{}", errors.len());
    }
}
