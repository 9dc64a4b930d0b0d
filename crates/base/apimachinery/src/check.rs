//! Holds a JSON document against its type: names unknown fields, refuses wrong types, and drops what Go's decoder and
//! encoder would drop (unknown fields, nulls, empty `omitempty` values), so that stored objects look like upstream's.

use serde_json::{Map, Value};

use crate::quantity::Quantity;
use crate::schema::{Field, Other, Schema, Ty, schema};

/// Checks and prunes `value` in place. Unknown fields' paths are added to `unknown`; `Err` is the decoder's message.
pub fn conform(value: &mut Value, ty: usize, unknown: &mut Vec<String>) -> Result<(), String> {
    let mut walk = Walk { schema: schema(), unknown, path: String::new(), fields: Vec::new(), owner: String::new() };
    walk.document(value, ty)
}

struct Walk<'a> {
    schema: &'static Schema,
    unknown: &'a mut Vec<String>,
    path: String,
    /// The struct fields of the path alone: Go's errors know neither indices nor keys.
    fields: Vec<String>,
    owner: String,
}

impl Walk<'_> {
    fn document(&mut self, value: &mut Value, ty: usize) -> Result<(), String> {
        let Value::Object(map) = value else { return Err(self.wrong(value, "object")) };
        let taken = std::mem::take(map);
        for (key, mut child) in taken {
            if (key == "apiVersion" || key == "kind") && self.path.is_empty() {
                if !child.is_string() {
                    return Err(self.wrong(&child, "string"));
                }
                map.insert(key, child);
                continue;
            }
            self.member(&key, &mut child, ty, map)?;
        }
        Ok(())
    }

    fn member(&mut self, key: &str, child: &mut Value, ty: usize, out: &mut Map<String, Value>) -> Result<(), String> {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        match self.schema.field(ty, key) {
            // apiVersion and kind of an embedded document (a list's items, a template) carry no fact.
            None if key == "apiVersion" || key == "kind" => {
                if child.is_string() {
                    out.insert(key.to_owned(), child.take());
                }
            }
            None => self.unknown.push(self.path.clone()),
            Some(_) if child.is_null() => {}
            Some(field) => {
                let owner = std::mem::replace(&mut self.owner, self.schema.get(ty).name.clone());
                self.fields.push(key.to_owned());
                self.value(child, &field.ty)?;
                self.fields.pop();
                self.owner = owner;
                // An empty list of owners says something: that there shall be none.
                if !dropped(field, child) || self.path == "metadata.managedFields" {
                    out.insert(key.to_owned(), child.take());
                }
            }
        }
        self.path.truncate(length);
        Ok(())
    }

    fn value(&mut self, value: &mut Value, ty: &Ty) -> Result<(), String> {
        match ty {
            Ty::Str if !value.is_string() => Err(self.wrong(value, "string")),
            Ty::Bool if !value.is_boolean() => Err(self.wrong(value, "bool")),
            Ty::I32 => self.integer(value, i64::from(i32::MIN), i64::from(i32::MAX), "int32"),
            Ty::I64 => self.integer(value, i64::MIN, i64::MAX, "int64"),
            Ty::F64 if !value.is_number() => Err(self.wrong(value, "float64")),
            Ty::Bytes => match value.as_str() {
                Some(text) if base64_ok(text) => Ok(()),
                Some(_) => Err("illegal base64 data at input byte 0".into()),
                None => Err(self.wrong(value, "[]uint8")),
            },
            Ty::Quantity => self.quantity(value),
            Ty::IntOrString => match value {
                Value::String(_) => Ok(()),
                Value::Number(n) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => Ok(()),
                other => Err(self.wrong(other, "int32")),
            },
            Ty::Time | Ty::MicroTime => match value.as_str() {
                Some(text) if crate::time::is_rfc3339(text) => Ok(()),
                Some(text) => Err(format!(
                    "parsing time \"{text}\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"{text}\" as \"2006\""
                )),
                None => Err(self.wrong(value, "string")),
            },
            Ty::Duration if !value.is_string() => Err(self.wrong(value, "string")),
            Ty::Fields if !value.is_object() => Err(self.wrong(value, "object")),
            Ty::Message(inner) => self.document(value, *inner),
            Ty::List(inner) => self.list(value, inner),
            Ty::Strings => self.list(value, &Ty::Str),
            Ty::Map(inner) => self.map(value, inner),
            Ty::Or(_, Other::Bool) if value.is_boolean() => Ok(()),
            Ty::Or(inner, Other::List) if value.is_array() => self.list(value, inner),
            Ty::Or(_, Other::Strings) if value.is_array() => self.list(value, &Ty::Str),
            Ty::Or(inner, _) => self.value(value, inner),
            _ => Ok(()),
        }
    }

    fn list(&mut self, value: &mut Value, inner: &Ty) -> Result<(), String> {
        let Value::Array(items) = value else { return Err(self.wrong(value, "slice")) };
        let length = self.path.len();
        for (i, item) in items.iter_mut().enumerate() {
            self.path.push_str(&format!("[{i}]"));
            if item.is_null() {
                *item = match inner {
                    Ty::Message(_) => Value::Object(Map::new()),
                    Ty::Str => Value::String(String::new()),
                    _ => Value::Null,
                };
            } else {
                self.value(item, inner)?;
            }
            self.path.truncate(length);
        }
        Ok(())
    }

    fn map(&mut self, value: &mut Value, inner: &Ty) -> Result<(), String> {
        let Value::Object(entries) = value else { return Err(self.wrong(value, "map")) };
        let length = self.path.len();
        for (key, item) in entries.iter_mut() {
            self.path.push_str(&format!(".{key}"));
            if item.is_null() {
                *item = match inner {
                    Ty::Message(_) => Value::Object(Map::new()),
                    Ty::Quantity => Value::String("0".into()),
                    _ => Value::String(String::new()),
                };
            } else {
                self.value(item, inner)?;
            }
            self.path.truncate(length);
        }
        Ok(())
    }

    fn integer(&self, value: &mut Value, low: i64, high: i64, name: &str) -> Result<(), String> {
        let number = match value {
            Value::Number(n) => n.as_i64().or_else(|| {
                // 3.0 is an integer to Go's decoder too.
                n.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9.0e15).map(|f| f as i64)
            }),
            _ => None,
        };
        match number {
            Some(n) if (low..=high).contains(&n) => {
                *value = n.into();
                Ok(())
            }
            _ => Err(self.wrong(value, name)),
        }
    }

    fn quantity(&self, value: &mut Value) -> Result<(), String> {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            other => return Err(self.wrong(other, "string")),
        };
        let Ok(quantity) = text.parse::<Quantity>() else {
            return Err(
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'".into()
            );
        };
        *value = quantity.to_string().into();
        Ok(())
    }

    fn wrong(&self, value: &Value, wanted: &str) -> String {
        let got = type_name(value);
        let wanted = if wanted == "map" { "map[string]string" } else { wanted };
        // A number that does not fit is shown, one in the place of something else is not.
        let numeric = matches!(wanted, "int32" | "int64" | "float64");
        let got = match value {
            Value::Number(n) if numeric => format!("{got} {n}"),
            _ => got.to_owned(),
        };
        let kind = self.owner.rsplit('.').next().unwrap_or_default();
        if self.fields.is_empty() {
            return format!("json: cannot unmarshal {got} into Go value of type {wanted}");
        }
        format!("json: cannot unmarshal {got} into Go struct field {kind}.{} of type {wanted}", self.fields.join("."))
    }
}

fn dropped(field: &Field, value: &Value) -> bool {
    if !field.omitempty {
        return false;
    }
    match value {
        _ if matches!(field.ty, Ty::Raw | Ty::Or(..)) => value.is_null(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty() && matches!(field.ty, Ty::Map(_)),
        _ if field.pointer => false,
        Value::String(text) => text.is_empty() && !matches!(field.ty, Ty::Quantity | Ty::IntOrString),
        Value::Bool(on) => !on,
        Value::Number(n) => n.as_f64() == Some(0.0) && !matches!(field.ty, Ty::IntOrString),
        Value::Null => true,
    }
}

fn base64_ok(text: &str) -> bool {
    use base64::Engine;
    let clean: String = text.chars().filter(|c| *c != '\n' && *c != '\r').collect();
    base64::engine::general_purpose::STANDARD.decode(clean).is_ok()
}

/// What upstream's decoder calls a JSON value's type (`encoding/json` `UnmarshalTypeError.Value`).
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(kind: (&str, &str, &str), mut value: Value) -> (Result<(), String>, Value, Vec<String>) {
        let ty = schema().by_kind(kind.0, kind.1, kind.2).unwrap();
        let mut unknown = Vec::new();
        let result = conform(&mut value, ty, &mut unknown);
        (result, value, unknown)
    }

    #[test]
    fn unknown_fields_are_named_and_pruned() {
        let pod = json!({"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","labels":{}},
            "spec":{"containers":[{"name":"c","imaeg":"x","args":[]}],"foo":1,"nodeName":""}});
        let (result, value, unknown) = run(("", "v1", "Pod"), pod);
        assert_eq!(result, Ok(()));
        assert_eq!(unknown, ["spec.containers[0].imaeg", "spec.foo"]);
        assert_eq!(
            value,
            json!({"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"},"spec":{"containers":[{"name":"c"}]}})
        );
    }

    #[test]
    fn wrong_types_are_refused_in_gos_words() {
        let (result, _, _) = run(("apps", "v1", "Deployment"), json!({"spec":{"replicas":"three"}}));
        assert_eq!(
            result,
            Err("json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32".into())
        );
    }

    #[test]
    fn pointers_keep_their_zero() {
        let (_, value, _) = run(("apps", "v1", "Deployment"), json!({"spec":{"replicas":0,"paused":false}}));
        assert_eq!(value, json!({"spec":{"replicas":0}}));
    }
}
