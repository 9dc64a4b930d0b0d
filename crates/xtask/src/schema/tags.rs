//! Joins what only the Go struct tags tell: inlined members, pointers, `omitempty`, patch strategies.

use super::Field;
use super::proto::Package;

/// Adds the facts of one Go file to the messages of its package.
pub fn join(go: &str, package: &mut Package) {
    let mut current: Option<String> = None;
    for line in go.lines() {
        let text = line.trim();
        if let Some(rest) = line.strip_prefix("type ") {
            current = rest.split_once(" struct {").map(|(name, _)| name.to_owned());
        } else if line == "}" {
            current = None;
        } else if let (Some(name), false) = (&current, text.starts_with("//"))
            && let (Some(json), Some(proto)) = (tag(text, "json"), tag(text, "protobuf"))
            && let Some(fields) = package.messages.get_mut(name)
        {
            let number = proto.split(',').nth(1).and_then(|n| n.parse::<u32>().ok());
            if let Some(field) = fields.iter_mut().find(|f| Some(f.number) == number) {
                apply(field, text, json);
            }
        }
    }
}

fn apply(field: &mut Field, text: &str, json: &str) {
    let mut parts = json.split(',');
    if let Some(name) = parts.next().filter(|n| !n.is_empty()) {
        field.json = name.to_owned();
    }
    for part in parts {
        match part {
            "inline" => field.inline = true,
            "omitempty" => field.omitempty = true,
            "omitzero" => (field.omitempty, field.omitzero) = (true, true),
            _ => {}
        }
    }
    field.pointer = text.split_whitespace().nth(1).is_some_and(|ty| ty.starts_with('*'));
    if let Some(key) = tag(text, "patchMergeKey") {
        field.patch_key = Some(key.to_owned());
    }
    if let Some(strategy) = tag(text, "patchStrategy") {
        field.patch_strategy = Some(strategy.to_owned());
    }
}

fn tag<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let start = text.find(&format!("{key}:\""))? + key.len() + 2;
    text[start..].split_once('"').map(|(value, _)| value)
}
