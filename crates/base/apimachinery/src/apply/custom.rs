//! How a custom kind is owned, by its structural schema (`schemaconv.ToSchemaFromOpenAPI` of what the definition
//! publishes).

use std::collections::HashMap;

use super::shape::{Builder, Id, Shape, Shapes, TypeRef};
use crate::structural::{Additional, Kind, ListType, Structural};

/// The type of one version of a custom kind.
#[derive(Debug)]
pub struct CustomType {
    shapes: Shapes,
    root: Id,
}

impl CustomType {
    /// As the schema says: lists are owned as a whole and maps by key where it says nothing.
    pub fn of(schema: &Structural) -> Self {
        let mut shapes = Builder::default();
        let parts =
            Parts { meta: shapes.object_meta(), whole: shapes.add(Shape::Whole), any: shapes.add(Shape::Deduced) };
        let root = parts.add(&mut shapes, schema, false);
        Self { shapes: shapes.build(), root }
    }

    /// The type, for comparing and merging.
    pub fn ty(&self) -> TypeRef<'_> {
        self.shapes.get(self.root)
    }
}

/// What many places of a schema share.
struct Parts {
    meta: Id,
    whole: Id,
    any: Id,
}

impl Parts {
    /// `preserved` says that unknown fields were to be kept somewhere above: so it is for all that is below.
    fn add(&self, out: &mut Builder, schema: &Structural, preserved: bool) -> Id {
        let preserved = preserved || schema.preserve;
        match schema.kind {
            Kind::Any => self.any,
            Kind::Object if schema.atomic_map => self.whole,
            Kind::Object => self.object(out, schema, preserved),
            Kind::Array => self.list(out, schema, preserved),
            Kind::String | Kind::Integer | Kind::Number | Kind::Boolean => self.whole,
        }
    }

    fn object(&self, out: &mut Builder, schema: &Structural, preserved: bool) -> Id {
        let mut fields: HashMap<String, Id> =
            schema.properties.iter().map(|(name, of)| (name.clone(), self.add(out, of, preserved))).collect();
        if schema.embedded {
            fields.insert("apiVersion".into(), self.whole);
            fields.insert("kind".into(), self.whole);
            fields.insert("metadata".into(), self.meta);
        }
        let rest = match &schema.additional {
            Additional::Of(of) => Some(self.add(out, of, preserved)),
            Additional::Allowed(true) => Some(self.any),
            Additional::Unsaid if preserved || fields.is_empty() => Some(self.any),
            Additional::Allowed(false) | Additional::Unsaid => None,
        };
        match rest {
            Some(values) if fields.is_empty() => out.add(Shape::Map(values)),
            rest => out.add(Shape::Struct { fields, rest }),
        }
    }

    fn list(&self, out: &mut Builder, schema: &Structural, preserved: bool) -> Id {
        match (&schema.list, schema.items.as_deref()) {
            (ListType::Set, _) => out.add(Shape::Set),
            (ListType::Map(keys), Some(items)) => {
                let element = self.add(out, items, preserved);
                let default = |key: &String| items.properties.get(key).and_then(|of| of.default.clone());
                out.keyed(keys.iter().map(|key| (key.clone(), default(key))), element)
            }
            (ListType::Map(_), None) | (ListType::Atomic, _) => self.whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{check, fields_of};
    use super::*;

    fn owned(schema: Value, document: Value) -> Value {
        fields_of(&document, CustomType::of(&Structural::root(&schema)).ty()).to_value()
    }

    fn of_spec(spec: Value) -> Value {
        json!({"type": "object", "properties": {"spec": spec}})
    }

    #[test]
    fn lists_are_owned_as_their_type_says() {
        let items = json!({"type": "object", "properties": {"name": {"type": "string"},
            "port": {"type": "integer", "default": 80}, "tags": {"type": "array", "items": {"type": "string"}}}});
        let list = |kind: &str| {
            json!({"type": "array", "x-kubernetes-list-type": kind,
            "x-kubernetes-list-map-keys": ["name", "port"], "items": items})
        };
        let given = json!({"spec": [{"name": "a", "tags": ["x"]}]});
        let keyed = json!({"f:spec": {"k:{\"name\":\"a\",\"port\":80}":
            {".": {}, "f:name": {}, "f:tags": {}}}});
        assert_eq!(owned(of_spec(list("map")), given.clone()), keyed);
        assert_eq!(owned(of_spec(list("atomic")), given.clone()), json!({"f:spec": {}}));
        let set = json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}});
        assert_eq!(
            owned(of_spec(set.clone()), json!({"spec": ["b", "a"]})),
            json!({"f:spec": {"v:\"a\"": {}, "v:\"b\"": {}}})
        );
        let unsaid = json!({"type": "array", "items": {"type": "string"}});
        assert_eq!(owned(of_spec(unsaid), json!({"spec": ["b", "a"]})), json!({"f:spec": {}}));
    }

    #[test]
    fn maps_are_owned_by_key_unless_they_are_atomic() {
        let map = json!({"type": "object", "additionalProperties": {"type": "string"}});
        let given = json!({"spec": {"a": "1", "b": "2"}});
        assert_eq!(owned(of_spec(map.clone()), given.clone()), json!({"f:spec": {"f:a": {}, "f:b": {}}}));
        let mut atomic = map;
        atomic["x-kubernetes-map-type"] = "atomic".into();
        assert_eq!(owned(of_spec(atomic), given), json!({"f:spec": {}}));
    }

    #[test]
    fn what_no_schema_tells_is_deduced() {
        let given = json!({"spec": {"any": {"list": [{"name": "a"}], "map": {"a": 1}}},
            "metadata": {"finalizers": ["x/y"]}});
        let any = json!({"f:any": {"f:list": {}, "f:map": {".": {}, "f:a": {}}, ".": {}}});
        for spec in [json!({"type": "object"}), json!({"x-kubernetes-preserve-unknown-fields": true})] {
            let owned = owned(of_spec(spec.clone()), given.clone());
            assert_eq!(owned["f:spec"], any, "{spec}");
            assert_eq!(owned["f:metadata"], json!({"f:finalizers": {"v:\"x/y\"": {}}}));
        }
    }

    #[test]
    fn unknown_fields_are_refused_where_they_are_not_kept() {
        let schema = |preserve: bool| {
            let mut spec = json!({"type": "object", "properties": {"in": {"type": "object",
                "properties": {"known": {"type": "string"}}}}});
            if preserve {
                spec["x-kubernetes-preserve-unknown-fields"] = true.into();
            }
            Structural::root(&of_spec(spec))
        };
        let given = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a"}, "spec": {"in": {"odd": 1}}});
        let problem = check(&given, CustomType::of(&schema(false)).ty()).unwrap_err();
        assert_eq!(problem, ".spec.in.odd: field not declared in schema");
        assert_eq!(check(&given, CustomType::of(&schema(true)).ty()), Ok(()));
    }

    #[test]
    fn objects_within_have_metadata() {
        let schema = of_spec(json!({"type": "object", "x-kubernetes-embedded-resource": true,
            "properties": {"spec": {"type": "string"}}}));
        let given =
            json!({"spec": {"apiVersion": "v1", "kind": "K", "metadata": {"finalizers": ["a/b"]}, "spec": "x"}});
        assert_eq!(
            owned(schema, given),
            json!({"f:spec": {"f:apiVersion": {}, "f:kind": {}, "f:spec": {},
                "f:metadata": {"f:finalizers": {"v:\"a/b\"": {}}}}})
        );
    }
}
