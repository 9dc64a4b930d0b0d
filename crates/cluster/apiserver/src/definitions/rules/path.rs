//! `fieldPath` of a rule: a path of fields below its place in the schema (`ValidFieldPath`).

use serde_json::Value;

/// The path as errors show it; an empty one is the place itself.
pub(super) fn resolve(path: &str, schema: &Value) -> Result<String, String> {
    let (mut rest, mut at, mut shown) = (path, schema, String::new());
    while !rest.is_empty() {
        let (name, after) = step(rest)?;
        let property = at.get("properties").and_then(|p| p.get(&name));
        let entry = at.get("additionalProperties").filter(|of| of.is_object());
        at = property.or(entry).ok_or("does not refer to a valid field")?;
        if property.is_none() || name.contains('.') {
            shown.push_str(&format!("[{name}]"));
        } else {
            if !shown.is_empty() {
                shown.push('.');
            }
            shown.push_str(&name);
        }
        rest = after;
    }
    Ok(shown)
}

/// `.name` or `['name']`, and what follows.
fn step(path: &str) -> Result<(String, &str), String> {
    if let Some(rest) = path.strip_prefix('.') {
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        return if name.is_empty() { Err("contains an empty name".into()) } else { Ok((name.into(), after)) };
    }
    let Some(rest) = path.strip_prefix("['") else {
        return Err("expected [ or .: a path of fields has .name and ['name'], no numbers".into());
    };
    let (mut name, mut chars) = (String::new(), rest.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some((_, c @ ('\'' | '\\'))) => name.push(c),
                _ => return Err("has an invalid escape".into()),
            },
            '\'' => {
                let after = rest[at + 1..].strip_prefix(']').ok_or("expected ]")?;
                return Ok((name, after));
            }
            c => name.push(c),
        }
    }
    Err("unterminated string".into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths() {
        let schema = json!({"properties": {"a": {"properties": {"b.c": {}, "d'e": {}}},
            "m": {"additionalProperties": {"properties": {"x": {}}}}, "l": {"items": {}}}});
        for (path, shown) in [
            ("", Ok("")),
            (".a", Ok("a")),
            (".a['b.c']", Ok("a[b.c]")),
            (".a['d\\'e']", Ok("a.d'e")),
            (".m['k'].x", Ok("m[k].x")),
            (".m.k.x", Ok("m[k].x")),
        ] {
            assert_eq!(resolve(path, &schema).as_deref(), shown.as_deref().map_err(|e: &String| e), "{path}");
        }
        for path in ["a", ".", ".b", ".a.", ".l[0]", ".a['b.c'", ".a['b.c", ".a['\\", "['é", ".a['b.c']x"] {
            assert!(resolve(path, &schema).is_err(), "{path}");
        }
    }
}
