//! What an applied document must hold to, so that it can be merged (`typed.AsTyped`): declared fields alone, list
//! elements that can be told apart, each of them once.

use serde_json::Value;

use super::compare::{element, step, told_apart};
use super::shape::{Shape, TypeRef};

/// Says what is wrong with a document, in upstream's words.
pub fn check(document: &Value, ty: TypeRef<'_>) -> Result<(), String> {
    let mut errors = Vec::new();
    walk(document, ty, &mut String::new(), &mut errors);
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

/// How many mistakes are told.
const MOST: usize = 20;

fn walk(value: &Value, ty: TypeRef<'_>, path: &mut String, errors: &mut Vec<String>) {
    let at = path.len();
    let mut complain = |path: &str, problem: String| {
        if errors.len() < MOST {
            errors.push(if path.is_empty() { problem } else { format!("{path}: {problem}") });
        }
    };
    match (ty.shape(), value) {
        (Shape::Struct { .. } | Shape::Map(_) | Shape::Deduced, Value::Object(map)) => {
            for (name, value) in map {
                path.push('.');
                path.push_str(name);
                match ty.field(name) {
                    Some(child) => walk(value, child.ty, path, errors),
                    None if errors.len() < MOST => errors.push(format!("{path}: field not declared in schema")),
                    None => {}
                }
                path.truncate(at);
            }
        }
        (Shape::Set | Shape::Keyed { .. }, Value::Array(items)) => {
            for (i, item) in items.iter().enumerate() {
                if let Some(Err(problem)) = step(item, ty) {
                    complain(path, format!("element {i}: {problem}"));
                }
            }
            let reported = told_apart(items, ty);
            for pair in reported.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
                complain(path, format!("duplicate entries for key {}", pair[0].0));
            }
            for (elem, item) in reported {
                path.push_str(&elem.to_string());
                walk(item, element(ty), path, errors);
                path.truncate(at);
            }
        }
        (Shape::Struct { .. } | Shape::Map(_), other) if !other.is_null() => {
            complain(path, format!("expected map, got {}", gos(other)));
        }
        (Shape::Set | Shape::Keyed { .. }, other) if !other.is_null() => {
            complain(path, format!("expected list, got {}", gos(other)));
        }
        _ => {}
    }
}

/// A value as Go prints it behind a pointer.
fn gos(value: &Value) -> String {
    let text = value.to_string();
    format!("&{{{}}}", text.chars().take(64).collect::<String>())
}
