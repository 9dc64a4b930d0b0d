//! `status.typeChecking` of ValidatingAdmissionPolicies: their expressions held against the types they are about
//! (`plugin/policy/validating.TypeChecker`, and upstream's validatingadmissionpolicy-status-controller).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kinit_apimachinery::meta::{Meta, strings};
use kinit_apimachinery::schema::{self, schema};
use kinit_cel::{Object, Ty};
use kinit_storage::{Error as StoreError, Updated};
use serde_json::{Value, json};

use super::parsed::{Names, list};
use crate::registry::ownership::record_own;
use crate::resources::{Descriptor, Registry};
use crate::server::Server;

const PREFIX: &str = "validatingadmissionpolicies/";
const RETRY: Duration = Duration::from_millis(500);
/// How many types one policy is checked against (`maxTypesToCheck`).
const MOST: usize = 10;
/// How deep types are looked into; what is below may be anything.
const DEPTH: usize = 24;

/// Keeps the status of all policies, for as long as the server runs.
pub async fn follow(server: &Arc<Server>) {
    server.store.wait_ready().await;
    let Some(cache) = server.store.cache(PREFIX) else { return };
    let mut changes = cache.changes();
    loop {
        changes.borrow_and_update();
        let mut complete = true;
        for entry in cache.all_last_known("", |_| true).0 {
            if let Err(error) = settle(server, &entry.key, entry.revision, &entry.value()).await {
                tracing::warn!(%error, name = %entry.key, "write the status of an admission policy; trying again");
                complete = false;
            }
        }
        let retry = async {
            match complete {
                true => std::future::pending().await,
                false => tokio::time::sleep(RETRY).await,
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = retry => {}
        }
    }
}

/// Writes the status of a policy whose spec is newer than it.
async fn settle(server: &Server, name: &str, revision: u64, old: &Value) -> Result<(), StoreError> {
    let generation = old.at(&["metadata", "generation"]).and_then(Value::as_i64).unwrap_or_default();
    if old.at(&["status", "observedGeneration"]).and_then(Value::as_i64).unwrap_or_default() >= generation {
        return Ok(());
    }
    let mut object = old.clone();
    let Some(status) = object.object_at(&["status"]) else { return Ok(()) };
    let warnings = check(old, &server.registry);
    let found = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
    status.insert("observedGeneration".into(), generation.into());
    status.insert("typeChecking".into(), found);
    record_own(&mut object, Some(old), "status");
    // Another server may have been faster: what it wrote comes by the cache.
    match server.store.update(PREFIX, name, revision, &object, None).await? {
        Updated::Done(_) | Updated::Changed(_) => Ok(()),
    }
}

/// What the expressions of a policy's validations do wrong with the types it names: `ExpressionWarning`s.
pub fn check(policy: &Value, registry: &Registry) -> Vec<Value> {
    let types: Vec<(String, Ty)> = described(policy, registry);
    let mut warnings = Vec::new();
    for (i, validation) in list(policy, &["spec", "validations"]).iter().enumerate() {
        for key in ["expression", "messageExpression"] {
            let expression = validation.str_at(&[key]);
            let reported: Vec<String> = types
                .iter()
                .filter(|_| !expression.is_empty())
                .filter_map(|(kind, ty)| Some(format!("{kind}: {}\n", problem(policy, ty, expression)?)))
                .collect();
            if !reported.is_empty() {
                let at = format!("spec.validations[{i}].{key}");
                warnings.push(json!({"fieldRef": at, "warning": reported.join("\n")}));
            }
        }
    }
    warnings
}

fn problem(policy: &Value, ty: &Ty, expression: &str) -> Option<String> {
    let mut names = Names::about(policy, ty.clone());
    for variable in list(policy, &["spec", "variables"]) {
        // What is wrong with a variable is told where it is used.
        let _ = names.variable(variable.str_at(&["name"]), variable.str_at(&["expression"]));
    }
    let reported = names.compile(expression, &[], "").err()?;
    Some(reported.trim_start_matches("compilation failed: ").to_owned())
}

/// The kinds that a policy names, with their types. Rules with wildcards name none.
fn described(policy: &Value, registry: &Registry) -> Vec<(String, Ty)> {
    let mut named = BTreeSet::new();
    for rule in list(policy, &["spec", "matchConstraints", "resourceRules"]) {
        let of = |key: &str| strings(rule.get(key)).into_iter().filter(|v| !v.contains(['*', '/'])).collect::<Vec<_>>();
        for group in of("apiGroups") {
            for version in of("apiVersions") {
                named.extend(of("resources").into_iter().map(|r| (group.clone(), version.clone(), r)));
            }
        }
    }
    let found = named.iter().filter_map(|(group, version, resource)| registry.find(group, version, resource));
    found.take(MOST).map(|desc| (format!("{}, Kind={}", desc.api_version(), desc.kind), type_of(&desc))).collect()
}

/// The type of a resource's objects.
fn type_of(desc: &Descriptor) -> Ty {
    if let Some(ty) = desc.ty.built_in() {
        return of_built_in(ty, true, &mut Vec::new());
    }
    let schema = desc.custom.as_ref().and_then(|custom| serde_json::from_str::<Value>(&custom.schema).ok());
    let Some(schema) = schema else { return Ty::Dyn };
    let properties = schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    let own = properties.iter().filter(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind" | "metadata"));
    let mut fields: Vec<(String, Ty)> =
        own.map(|(name, of)| (name.clone(), Ty::from_schema(of, &format!("{}.{name}", desc.kind), false))).collect();
    if let Some(meta) = self::schema().by_name("meta.v1.ObjectMeta") {
        fields.push(("metadata".into(), of_built_in(meta, false, &mut Vec::new())));
    }
    fields.extend(["apiVersion", "kind"].map(|name| (name.to_owned(), Ty::Text)));
    Ty::Object(Arc::new(Object::new(desc.kind.clone(), fields)))
}

fn of_built_in(ty: usize, root: bool, within: &mut Vec<usize>) -> Ty {
    // Schemas of schemas have no end.
    if within.contains(&ty) || within.len() >= DEPTH {
        return Ty::Dyn;
    }
    within.push(ty);
    let fields = schema().json_fields(ty).into_iter().map(|field| (field.name.clone(), of_field(&field.ty, within)));
    let mut fields: Vec<(String, Ty)> = fields.collect();
    within.pop();
    if root {
        fields.extend(["apiVersion", "kind"].map(|name| (name.to_owned(), Ty::Text)));
    }
    Ty::Object(Arc::new(Object::new(schema().get(ty).name.clone(), fields)))
}

fn of_field(ty: &schema::Ty, within: &mut Vec<usize>) -> Ty {
    match ty {
        schema::Ty::Str | schema::Ty::Duration => Ty::Text,
        schema::Ty::I32 | schema::Ty::I64 => Ty::Int,
        schema::Ty::Bool => Ty::Bool,
        schema::Ty::F64 => Ty::Double,
        schema::Ty::Bytes => Ty::Bytes,
        schema::Ty::Time | schema::Ty::MicroTime => Ty::Time,
        schema::Ty::Strings => Ty::list(Ty::Text),
        schema::Ty::Message(inner) => of_built_in(*inner, false, within),
        schema::Ty::List(inner) => Ty::list(of_field(inner, within)),
        schema::Ty::Map(inner) => Ty::map(of_field(inner, within)),
        // A number or text, or anything.
        schema::Ty::Quantity | schema::Ty::IntOrString | schema::Ty::Raw | schema::Ty::Fields | schema::Ty::Or(..) => {
            Ty::Dyn
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(resources: &[&str], expression: &str) -> Vec<Value> {
        let policy = json!({"spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": resources}]},
            "variables": [{"name": "spec", "expression": "object.spec"}],
            "validations": [{"expression": expression}]}});
        check(&policy, &Registry::builtin())
    }

    #[test]
    fn expressions_are_held_against_what_they_are_about() {
        assert_eq!(
            checked(&["deployments"], "object.spec.replicas > 1 && object.metadata.name != ''"),
            [] as [Value; 0]
        );
        assert_eq!(checked(&["*"], "object.replicas > 1"), [] as [Value; 0]);
        assert_eq!(checked(&["nothing"], "object.replicas > 1"), [] as [Value; 0]);
        let want = json!([{"fieldRef": "spec.validations[0].expression",
            "warning": "apps/v1, Kind=Deployment: ERROR: <input>:1:7: undefined field 'replicas'\n | object.replicas > 1\n | ......^\n"}]);
        assert_eq!(Value::from(checked(&["deployments"], "object.replicas > 1")), want);
        for (expression, part) in [
            ("object.spec.replicas > '1'", "found no matching overload for '_>_'"),
            ("variables.spec.nope == 1", "undefined field 'nope'"),
            ("object.spec.template.spec.containers.all(c, c.image.size() > 0 && c.nope)", "undefined field 'nope'"),
            ("oldObject == null || oldObject.metadata.uid == object.uid", "undefined field 'uid'"),
        ] {
            let reported = Value::from(checked(&["deployments", "statefulsets"], expression)).to_string();
            assert!(reported.contains(part) && reported.contains("Kind=StatefulSet: "), "{expression}: {reported}");
        }
    }
}
