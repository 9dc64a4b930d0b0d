//! What a mutation of a policy wants: pure (`plugin/policy/mutating/patch`).

use kinit_apimachinery::meta::Meta;
use kinit_cel::{List, Map, Struct, Value as Cel};
use serde_json::{Value, json};

use super::parsed::{Mutation, PatchType, Policy};
use super::run::{Inputs, Run};

/// How an object is to be changed.
#[derive(Debug, PartialEq)]
pub enum Patch {
    /// By what is merged into it.
    Configuration(Value),
    /// By the operations of a JSON patch.
    Operations(Vec<Value>),
}

/// Whether a policy is about a request.
pub fn is_meant(policy: &Policy, inputs: &Inputs<'_>) -> Result<bool, String> {
    Run::new(policy, inputs).conditions()
}

/// Evaluates a mutation.
pub fn evaluate(policy: &Policy, mutation: &Mutation, inputs: &Inputs<'_>) -> Result<Patch, String> {
    let mut run = Run::new(policy, inputs);
    if mutation.uses_variables() {
        run.variables();
    }
    let value = run.eval(&mutation.program)?;
    match (mutation.patch, &value) {
        (PatchType::ApplyConfiguration, Cel::Map(Map::Struct(made))) => {
            matching(made, "Object")?;
            let mut document = value.to_json().ok_or("the apply configuration has a value that JSON does not have")?;
            // Of which kind it is, the request says.
            let object = inputs.request.get("object").unwrap_or(&Value::Null);
            for key in ["apiVersion", "kind"] {
                document[key] = object.str_at(&[key]).into();
            }
            Ok(Patch::Configuration(document))
        }
        (PatchType::JsonPatch, Cel::List(list)) => operations(list).map(Patch::Operations),
        (PatchType::ApplyConfiguration, other) => {
            Err(format!("unsupported return type from ApplyConfiguration expression: {}", other.type_name()))
        }
        (PatchType::JsonPatch, _) => Err("type mismatch: JSONPatchType.expression should evaluate to array".into()),
    }
}

/// Types are named by the path of the field they stand in (`CheckTypeNamesMatchFieldPathNames`).
fn matching(made: &Struct<'_>, expected: &str) -> Result<(), String> {
    if made.name != expected {
        return Err(format!(
            "type mismatch: unexpected type name \"{}\", expected \"{expected}\", which matches field name path from root Object type",
            made.name
        ));
    }
    made.fields.iter().try_for_each(|(field, value)| inside(value, &format!("{expected}.{field}")))
}

fn inside(value: &Cel<'_>, expected: &str) -> Result<(), String> {
    match value {
        Cel::Map(Map::Struct(made)) => matching(made, expected),
        Cel::Map(Map::Own(map)) => map.values().try_for_each(|(_, value)| inside(value, expected)),
        Cel::List(List::Own(items)) => items.iter().try_for_each(|item| inside(item, expected)),
        _ => Ok(()),
    }
}

fn operations(list: &List<'_>) -> Result<Vec<Value>, String> {
    let one = |item: Cel<'_>| {
        let Cel::Map(Map::Struct(made)) = &item else {
            return Err("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch".to_owned());
        };
        let text = |key: &str| match made.fields.get(key) {
            Some(Cel::Text(text)) => text.to_string(),
            _ => String::new(),
        };
        let mut out = json!({"op": text("op"), "path": text("path")});
        if !text("from").is_empty() {
            out["from"] = text("from").into();
        }
        if let Some(value) = made.fields.get("value") {
            if let Cel::Map(Map::Struct(made)) = value {
                matching(made, &made.name)?;
            }
            out["value"] =
                value.to_json().ok_or("JSONPath valueExpression evaluated to a type that could not marshal to JSON")?;
        }
        Ok(out)
    };
    list.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use kinit_cel::{Authority, Decision, Question};

    use super::*;
    use crate::admission::policy::parsed::mutating;

    struct Nobody;

    impl Authority for Nobody {
        fn decide(&self, _: &Question) -> Decision {
            Decision::default()
        }
    }

    fn patch(kind: &str, expression: &str) -> Result<Patch, String> {
        let key = if kind == "JSONPatch" { "jsonPatch" } else { "applyConfiguration" };
        let policy = mutating(&json!({"metadata": {"name": "p"}, "spec": {
            "variables": [{"name": "n", "expression": "object.spec.replicas + 1"}],
            "mutations": [{"patchType": kind, key: {"expression": expression}}]}}));
        let request = json!({"object": {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 1}}});
        let inputs = Inputs { request: &request, namespace: None, params: None, rights: &Nobody };
        evaluate(&policy, &policy.mutations[0], &inputs)
    }

    #[test]
    fn configurations() {
        let applied = |text: &str| patch("ApplyConfiguration", text);
        let want = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 2, "list": [{"a": 1}]}});
        let text =
            "Object{spec: Object.spec{replicas: variables.n, list: [Object.spec.list{a: 1}], ?no: optional.none()}}";
        assert_eq!(applied(text), Ok(Patch::Configuration(want)));
        for (text, problem) in [
            ("Object{spec: Object.other{}}", "unexpected type name \"Object.other\", expected \"Object.spec\""),
            ("Object{spec: Object.spec{a: [Object.spec.b{}]}}", "expected \"Object.spec.a\""),
            ("{'spec': 1}", "must evaluate to Object"),
            ("Objekt{}", "undeclared reference to 'Objekt'"),
            ("Object{spec: object.nope}", "no such key: nope"),
            (
                "[1, 2, 3].map(x, [1, 2, 3].map(y, [1].map(z, string(x)).join('')).join('')) == [] ? Object{} : Object{a: 1 / 0}",
                "division by zero",
            ),
        ] {
            let reported = applied(text).unwrap_err();
            assert!(reported.contains(problem), "{text}: {reported}");
        }
    }

    #[test]
    fn json_patches() {
        let patched = |text: &str| patch("JSONPatch", text);
        let text = "[JSONPatch{op: 'test', path: '/spec/replicas', value: 1}, JSONPatch{op: 'move', from: '/a', path: '/b'}, \
            JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: Object.metadata{x: {'k': 1}}}]";
        let want = [
            json!({"op": "test", "path": "/spec/replicas", "value": 1}),
            json!({"op": "move", "path": "/b", "from": "/a"}),
            json!({"op": "add", "path": "/metadata/labels/a~1b", "value": {"x": {"k": 1}}}),
        ];
        assert_eq!(patched(text), Ok(Patch::Operations(want.to_vec())));
        assert_eq!(patched("[]"), Ok(Patch::Operations(Vec::new())));
        for (text, problem) in [
            ("[1]", "must evaluate to list(JSONPatch)"),
            ("[JSONPatch{op: 1}]", "expected type of field 'op' is 'string' but provided type is 'int'"),
            ("[JSONPatch{nope: 'x'}]", "undefined field 'nope'"),
            ("[JSONPatch{op: 'add', path: '/a', value: ip('1.2.3.4')}]", "could not marshal to JSON"),
        ] {
            let reported = patched(text).unwrap_err();
            assert!(reported.contains(problem), "{text}: {reported}");
        }
    }
}
