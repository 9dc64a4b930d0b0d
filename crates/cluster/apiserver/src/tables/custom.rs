//! Columns that a definition gives (`apiextensions-apiserver/pkg/registry/customresource/tableconvertor`).

use kinit_apimachinery::jsonpath::JsonPath;
use kinit_apimachinery::meta::Meta;
use serde_json::{Value, json};

use super::values::since;

/// A column.
#[derive(Debug, Clone, PartialEq)]
pub struct PrinterColumn {
    /// Header.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub ty: String,
    /// `int32` and so on.
    pub format: String,
    /// For people.
    pub description: String,
    /// 0 always, more with `-o wide`.
    pub priority: i64,
    /// Where its cells come from; nothing for a path that cannot be read.
    pub path: Option<JsonPath>,
}

impl PrinterColumn {
    /// From a `CustomResourceColumnDefinition`.
    pub fn of(column: &Value) -> Self {
        let text = |key: &str| column.str_at(&[key]).to_owned();
        Self {
            name: text("name"),
            ty: text("type"),
            format: text("format"),
            description: text("description"),
            priority: column.get("priority").and_then(Value::as_i64).unwrap_or(0),
            path: JsonPath::parse(column.str_at(&["jsonPath"])).ok(),
        }
    }

    /// What is shown when a definition gives no columns.
    pub fn age() -> Self {
        Self::of(&json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
            "description": "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"}))
    }

    fn cell(&self, object: &Value) -> Value {
        let Some(path) = &self.path else { return Value::Null };
        let found = path.find(object);
        let Some(first) = found.first() else { return Value::Null };
        match self.ty.as_str() {
            "string" => printed(first).into(),
            "integer" => match first.as_i64().or_else(|| first.as_f64().map(|f| f as i64)) {
                Some(n) => n.into(),
                None => Value::Null,
            },
            "number" if first.is_number() => (*first).clone(),
            "boolean" if first.is_boolean() => (*first).clone(),
            "date" => match first.as_str() {
                Some(text) if kinit_apimachinery::time::parse(text).is_some() => since(text).into(),
                Some(_) => "<invalid>".into(),
                None => Value::Null,
            },
            _ => Value::Null,
        }
    }
}

/// A value as JSONPath prints it.
fn printed(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".into(),
        other => other.to_string(),
    }
}

/// The headers: the name comes first.
pub(super) fn definitions(columns: &[PrinterColumn]) -> Vec<Value> {
    const NAME: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
    let name = json!({"name": "Name", "type": "string", "format": "name", "description": NAME, "priority": 0});
    let one = |c: &PrinterColumn| {
        let reported = format!("Custom resource definition column (in JSONPath format): {}", c.path_text());
        let description = if c.description.is_empty() { &reported } else { &c.description };
        json!({"name": c.name, "type": c.ty, "format": c.format, "description": description, "priority": c.priority})
    };
    std::iter::once(name).chain(columns.iter().map(one)).collect()
}

/// One row.
pub(super) fn cells(columns: &[PrinterColumn], object: &Value) -> Vec<Value> {
    std::iter::once(object.name().into()).chain(columns.iter().map(|c| c.cell(object))).collect()
}

impl PrinterColumn {
    fn path_text(&self) -> &str {
        self.path.as_ref().map_or("", JsonPath::text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_by_type() {
        let object = json!({"metadata": {"name": "n", "creationTimestamp": "x"}, "spec": {"a": 1, "b": [1, 2], "c": "t",
            "d": true, "e": 1.5, "f": {"g": 1}}});
        for (ty, path, want) in [
            ("string", ".spec.c", json!("t")),
            ("string", ".spec.a", json!("1")),
            ("string", ".spec.b", json!("[1,2]")),
            ("string", ".spec.b[*]", json!("1")),
            ("string", ".spec.f", json!("{\"g\":1}")),
            ("string", ".spec.none", json!(null)),
            ("integer", ".spec.a", json!(1)),
            ("integer", ".spec.e", json!(1)),
            ("integer", ".spec.c", json!(null)),
            ("number", ".spec.e", json!(1.5)),
            ("boolean", ".spec.d", json!(true)),
            ("boolean", ".spec.c", json!(null)),
            ("date", ".metadata.creationTimestamp", json!("<invalid>")),
            ("date", ".spec.none", json!(null)),
        ] {
            let column = PrinterColumn::of(&json!({"name": "c", "type": ty, "jsonPath": path}));
            assert_eq!(cells(&[column], &object), [json!("n"), want], "{ty} {path}");
        }
    }
}
