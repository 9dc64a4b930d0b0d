//! Rules of custom resources in CEL (`x-kubernetes-validations`; upstream's `apiserver/schema/cel`).
//!
//! ```text
//! openAPIV3Schema ── check    may a definition have these rules? compiled, with bounds of their cost
//!        └────────── Node     compiled once for a version ── evaluate   on each write, within a budget
//! ```

mod check;
mod evaluate;
mod path;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use kinit_apimachinery::meta::{Meta, strings};
use kinit_apimachinery::structural::has_rules;
use kinit_cel::{Env, Program, Ty};
use serde_json::Value;

pub(crate) use self::check::check_rules;

/// A place in a schema with rules, or with rules below.
pub(super) struct Node {
    ty: Ty,
    rules: Vec<Rule>,
    fields: BTreeMap<String, Node>,
    /// Of fields that are not named.
    others: Option<Box<Node>>,
    items: Option<Box<Node>>,
    /// What tells elements apart, where something does.
    keys: Option<Vec<String>>,
}

/// A rule.
struct Rule {
    text: String,
    /// What it compiles to, or why it does not.
    program: Result<Program, String>,
    /// Whether it compares with what was before.
    transition: bool,
    optional_old: bool,
    message: String,
    message_program: Option<Result<Program, String>>,
    /// Where errors point to, below the place of the rule.
    field: String,
    reason: String,
}

/// The rules of a schema.
fn listed(schema: &Value) -> &[Value] {
    schema.get("x-kubernetes-validations").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

impl Node {
    /// The rules of a version, when it has any.
    pub fn of_version(schema: &Value) -> Option<Self> {
        has_rules(schema).then(|| Self::of(schema, true))
    }

    fn of(schema: &Value, root: bool) -> Self {
        let below = |of: &Value| has_rules(of).then(|| Box::new(Self::of(of, false)));
        let inner = |key: &str| schema.get(key).filter(|of| of.is_object()).and_then(below);
        let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
        let ty = Ty::from_schema(schema, if root { "object" } else { "selfType" }, root);
        Self {
            rules: listed(schema).iter().map(|rule| Rule::of(rule, &ty, schema)).collect(),
            fields: properties.filter_map(|(name, of)| Some((name.clone(), *below(of)?))).collect(),
            others: inner("additionalProperties"),
            items: inner("items"),
            keys: (schema.str_at(&["x-kubernetes-list-type"]) == "map")
                .then(|| strings(schema.get("x-kubernetes-list-map-keys"))),
            ty,
        }
    }
}

impl Rule {
    fn of(rule: &Value, ty: &Ty, schema: &Value) -> Self {
        let text = |key: &str| rule.str_at(&[key]).trim().to_owned();
        let optional_old = rule.get("optionalOldSelf") == Some(&Value::Bool(true));
        let old = if optional_old { Ty::Optional(Arc::new(ty.clone())) } else { ty.clone() };
        let env = Env::new().with("self", ty.clone()).with("oldSelf", old);
        let compile = |expression: &str, wanted: &Ty, complaint: &str| {
            let program = Program::compile(expression, &env).map_err(|e| format!("compilation failed: {e}"))?;
            let fits = program.ty() == wanted || *program.ty() == Ty::Dyn;
            if fits { Ok(program) } else { Err(complaint.to_owned()) }
        };
        let program = compile(rule.str_at(&["rule"]), &Ty::Bool, "cel expression must evaluate to a bool");
        let message_program = Some(rule.str_at(&["messageExpression"]).trim())
            .filter(|e| !e.is_empty())
            .map(|e| compile(e, &Ty::Text, "messageExpression must evaluate to a string"));
        Self {
            transition: program.as_ref().is_ok_and(|p| p.uses("oldSelf")),
            text: text("rule"),
            program,
            optional_old,
            message: text("message"),
            message_program,
            field: path::resolve(&text("fieldPath"), schema).unwrap_or_default(),
            reason: text("reason"),
        }
    }

    /// Its message, as far as it is no expression's.
    fn message(&self) -> String {
        if self.message.is_empty() { format!("failed rule: {}", self.text) } else { self.message.clone() }
    }

    /// What messages call it.
    fn name(&self) -> &str {
        if self.message.is_empty() { &self.text } else { &self.message }
    }
}
