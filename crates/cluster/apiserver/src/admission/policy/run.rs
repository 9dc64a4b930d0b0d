//! The expressions of a policy, one after the other within its budget: pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use kinit_cel::{Authority, Bindings, Budget, EvalError, Map, Value as Cel};
use serde_json::Value;

use super::parsed::{Compiled, Policy};
use crate::admission::conditions::bindings;

/// What one policy with one parameter may cost for one request (`RuntimeCELCostBudget`).
const BUDGET: u64 = 10_000_000;
/// What one expression may cost (`PerCallLimit`).
const PER_CALL: u64 = 1_000_000;

/// What a policy looks at.
pub struct Inputs<'a> {
    /// AdmissionRequest, with its objects.
    pub request: &'a Value,
    pub namespace: Option<&'a Value>,
    pub params: Option<&'a Value>,
    /// Who says what one may do.
    pub rights: &'a dyn Authority,
}

/// A policy under evaluation.
pub struct Run<'a> {
    pub policy: &'a Policy,
    bindings: Bindings<'a>,
    left: u64,
}

static NULL: Value = Value::Null;

impl<'a> Run<'a> {
    /// Nothing is evaluated yet.
    pub fn new(policy: &'a Policy, inputs: &Inputs<'a>) -> Self {
        let bindings = bindings(inputs.request, inputs.rights)
            .with("namespaceObject", Cel::json(inputs.namespace.unwrap_or(&NULL)))
            .with("params", Cel::json(inputs.params.unwrap_or(&NULL)))
            .with("variables", Cel::Map(Map::Fields(Arc::default())));
        Self { policy, bindings, left: BUDGET }
    }

    /// Evaluates one expression.
    pub fn eval(&mut self, program: &'a Compiled) -> Result<Cel<'a>, String> {
        let program = program.as_ref().map_err(Clone::clone)?;
        let (outcome, used) = program.eval_metered(&self.bindings, Budget(self.left.min(PER_CALL)));
        self.left = self.left.saturating_sub(used);
        outcome.map_err(|error| match error {
            EvalError::TooCostly => "operation cancelled: actual cost limit exceeded".to_owned(),
            EvalError::Failed(problem) => problem,
        })
    }

    /// Whether the match conditions hold. One that is false decides, whatever others fail.
    pub fn conditions(&mut self) -> Result<bool, String> {
        let policy = self.policy;
        let mut failed = Vec::new();
        for (name, program) in &policy.conditions {
            match self.eval(program) {
                Ok(Cel::Bool(true)) => {}
                Ok(Cel::Bool(false)) => return Ok(false),
                Ok(_) => failed.push(format!("condition \"{name}\" did not evaluate to bool")),
                Err(problem) => failed.push(format!("condition \"{name}\" failed: {problem}")),
            }
        }
        if failed.is_empty() { Ok(true) } else { Err(failed.join(", ")) }
    }

    /// The variables, in their order. One that fails is absent, so that whoever uses it fails.
    pub fn variables(&mut self) {
        let policy = self.policy;
        let mut values: BTreeMap<String, Cel<'a>> = BTreeMap::new();
        for (name, program) in &policy.variables {
            if let Ok(value) = self.eval(program) {
                values.insert(name.clone(), value);
                let all = Cel::Map(Map::Fields(Arc::new(values.clone())));
                self.bindings = self.bindings.clone().with("variables", all);
            }
        }
    }
}
