//! Fields that a schema does not know go (`schema/pruning`).

use serde_json::Value;

use super::{Additional, Structural, TYPE_META};

impl Structural {
    /// Takes unknown fields out of `value` and adds their paths to `unknown`. Metadata is left as it is.
    pub fn prune(&self, value: &mut Value, unknown: &mut Vec<String>) {
        let mut path = String::new();
        prune(value, Some(self), &mut path, unknown);
    }
}

fn prune(value: &mut Value, schema: Option<&Structural>, path: &mut String, unknown: &mut Vec<String>) {
    let keep = schema.is_some_and(|s| s.preserve);
    let length = path.len();
    match value {
        Value::Object(map) => {
            let embedded = schema.is_some_and(|s| s.embedded);
            map.retain(|key, child| {
                if embedded && TYPE_META.contains(&key.as_str()) {
                    return true;
                }
                if length > 0 {
                    path.push('.');
                }
                path.push_str(key);
                let kept = match (schema.and_then(|s| s.field(key)), schema.map(|s| &s.additional)) {
                    (Some(of), _) => {
                        prune(child, Some(of), path, unknown);
                        true
                    }
                    (None, Some(Additional::Allowed(true))) => true,
                    (None, _) => keep,
                };
                if !kept {
                    unknown.push(path.clone());
                }
                path.truncate(length);
                kept
            });
        }
        Value::Array(items) => {
            let of = schema.and_then(|s| s.items.as_deref());
            if of.is_none() && keep {
                return;
            }
            for (i, item) in items.iter_mut().enumerate() {
                path.push_str(&format!("[{i}]"));
                prune(item, of, path, unknown);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_goes_and_what_stays() {
        let schema = Structural::root(&json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "a": {"type": "string"},
                "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {"closed": {"type": "object", "properties": {"b": {"type": "string"}}}}},
                "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"c": {"type": "string"}}}},
                "any": {"type": "object", "additionalProperties": true},
                "list": {"type": "array", "items": {"type": "object", "properties": {"d": {"type": "string"}}}},
                "template": {"type": "object", "x-kubernetes-embedded-resource": true,
                    "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}}}));
        let mut value = json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "n"}, "other": 1, "spec": {
            "a": "x", "apiVersion": 1,
            "open": {"x": {"y": 1}, "closed": {"b": "x", "z": 1}},
            "map": {"k": {"c": "x", "z": 1}}, "any": {"k": {"z": 1}}, "list": [{"d": "x", "z": 1}, "odd"],
            "template": {"apiVersion": "v1", "kind": "T", "metadata": {}, "z": 1, "spec": {"q": 1}}}});
        let mut unknown = Vec::new();
        schema.prune(&mut value, &mut unknown);
        assert_eq!(
            unknown,
            ["other", "spec.apiVersion", "spec.open.closed.z", "spec.map.k.z", "spec.list[0].z", "spec.template.z"]
        );
        assert_eq!(
            value,
            json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "n"}, "spec": {
                "a": "x", "open": {"x": {"y": 1}, "closed": {"b": "x"}}, "map": {"k": {"c": "x"}}, "any": {"k": {"z": 1}},
                "list": [{"d": "x"}, "odd"], "template": {"apiVersion": "v1", "kind": "T", "metadata": {}, "spec": {"q": 1}}}})
        );
        let open = Structural::root(&json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
        let mut value = json!({"a": [{"b": 1}]});
        open.prune(&mut value, &mut Vec::new());
        assert_eq!(value, json!({"a": [{"b": 1}]}));
    }
}
