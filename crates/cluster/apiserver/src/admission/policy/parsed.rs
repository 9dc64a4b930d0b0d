//! Policies and bindings as they are used: parsed and compiled once, until they change.

use std::sync::Arc;

use kinit_apimachinery::meta::{Meta, strings};
use kinit_cel::{Env, JSON_PATCH, OBJECT, Object, Program, Ty};
use kinit_storage::{Error as StoreError, Store};
use parking_lot::Mutex;
use serde_json::Value;

use crate::admission::conditions::request_env;
use crate::admission::webhook::matching::Match;

/// An expression, or why it cannot be used.
pub type Compiled = Result<Program, String>;

/// A policy.
pub struct Policy {
    pub name: String,
    /// apiVersion and kind of its parameters.
    pub param: Option<(String, String)>,
    pub matching: Match,
    pub ignore_failure: bool,
    pub conditions: Vec<(String, Compiled)>,
    pub variables: Vec<(String, Compiled)>,
    pub validations: Vec<Validation>,
    /// Key and value.
    pub annotations: Vec<(String, Compiled)>,
    /// What a mutating policy does, in this order.
    pub mutations: Vec<Mutation>,
    /// Whether a mutating policy is asked again when others change the object after it.
    pub reinvoke: bool,
}

/// How a mutation says what it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    ApplyConfiguration,
    JsonPatch,
}

/// One change that a policy makes.
pub struct Mutation {
    pub patch: PatchType,
    pub program: Compiled,
}

impl Mutation {
    /// Whether variables have to be evaluated for it.
    pub fn uses_variables(&self) -> bool {
        self.program.as_ref().is_ok_and(|program| program.uses("variables"))
    }
}

/// One rule of a policy.
pub struct Validation {
    pub expression: String,
    pub program: Compiled,
    pub message: String,
    pub message_program: Option<Compiled>,
    pub reason: String,
}

/// A binding.
pub struct Binding {
    pub name: String,
    pub policy: String,
    pub param: Option<Value>,
    pub matching: Option<Match>,
    pub actions: Vec<String>,
}

impl Binding {
    /// Whether a failure has this action.
    pub fn has(&self, action: &str) -> bool {
        self.actions.iter().any(|a| a == action)
    }
}

/// All policies and bindings.
#[derive(Default)]
pub struct Policies {
    policies: Known<Policy>,
    bindings: Known<Binding>,
    mutating: Known<Policy>,
    mutating_bindings: Known<Binding>,
}

impl Policies {
    /// The policies, by name.
    pub fn policies(&self, store: &Store) -> Result<Vec<Arc<Policy>>, StoreError> {
        self.policies.all(store, "validatingadmissionpolicies/", policy)
    }

    /// The bindings, by name.
    pub fn bindings(&self, store: &Store) -> Result<Vec<Arc<Binding>>, StoreError> {
        self.bindings.all(store, "validatingadmissionpolicybindings/", binding)
    }
}

impl Policies {
    /// The mutating policies, by name.
    pub fn mutating(&self, store: &Store) -> Result<Vec<Arc<Policy>>, StoreError> {
        self.mutating.all(store, "mutatingadmissionpolicies/", mutating)
    }

    /// Their bindings, by name.
    pub fn mutating_bindings(&self, store: &Store) -> Result<Vec<Arc<Binding>>, StoreError> {
        self.mutating_bindings.all(store, "mutatingadmissionpolicybindings/", binding)
    }
}

type Parsed<T> = (Box<str>, u64, Arc<T>);

struct Known<T>(Mutex<Vec<Parsed<T>>>);

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Known<T> {
    /// All of them; an error when one cannot be read: nobody knows what it is about.
    fn all(&self, store: &Store, prefix: &str, parse: impl Fn(&Value) -> T) -> Result<Vec<Arc<T>>, StoreError> {
        let Some(cache) = store.cache(prefix).filter(|c| !c.is_empty()) else { return Ok(Vec::new()) };
        let (entries, _) = cache.list("", |_| true)?;
        let mut parsed = self.0.lock();
        let same = parsed.len() == entries.len()
            && parsed.iter().zip(&entries).all(|((key, revision, _), e)| *key == e.key && *revision == e.revision);
        if !same {
            let fresh = entries.iter().map(|entry| {
                let kept = parsed.iter().find(|(key, revision, _)| *key == entry.key && *revision == entry.revision);
                let value = kept.map_or_else(|| Arc::new(parse(&entry.value())), |(.., value)| value.clone());
                (entry.key.clone(), entry.revision, value)
            });
            let fresh: Vec<_> = fresh.collect();
            *parsed = fresh;
        }
        Ok(parsed.iter().map(|(.., value)| value.clone()).collect())
    }
}

/// The list at a path.
pub fn list<'v>(value: &'v Value, path: &[&str]) -> &'v [Value] {
    value.at(path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// What a policy's expressions may use: all of them, and of its variables those that are declared before.
pub struct Names {
    has_params: bool,
    mutating: bool,
    object: Ty,
    variables: Vec<(String, Ty)>,
}

impl Names {
    /// Of a policy, before its first variable.
    pub fn of(policy: &Value) -> Self {
        Self::about(policy, Ty::Dyn)
    }

    /// The same, where the objects are known to be of a type.
    pub fn about(policy: &Value, object: Ty) -> Self {
        let has_params = policy.at(&["spec", "paramKind"]).is_some_and(|k| !k.is_null());
        Self { has_params, mutating: policy.at(&["spec", "mutations"]).is_some(), object, variables: Vec::new() }
    }

    fn env(&self) -> Env {
        let variables = Ty::Object(Arc::new(Object::new("kubernetes.variables", self.variables.clone())));
        let env = request_env(self.object.clone()).with("namespaceObject", Ty::Dyn).with("variables", variables);
        let env = if self.mutating { env.with_mutations() } else { env };
        if self.has_params { env.with("params", Ty::Dyn) } else { env }
    }

    /// Compiles an expression that is to be of one of these types.
    pub fn compile(&self, expression: &str, wanted: &[Ty], complaint: &str) -> Compiled {
        let program = Program::compile(expression, &self.env()).map_err(|e| format!("compilation failed: {e}"))?;
        let fits = wanted.is_empty() || *program.ty() == Ty::Dyn || wanted.contains(program.ty());
        if fits { Ok(program) } else { Err(complaint.to_owned()) }
    }

    /// Compiles a condition.
    pub fn condition(&self, expression: &str) -> Compiled {
        self.compile(expression, &[Ty::Bool], "must evaluate to bool")
    }

    /// Compiles what a mutation wants.
    pub fn mutation(&self, patch: PatchType, expression: &str) -> Compiled {
        let operation = Ty::Object(Arc::new(Object::open(JSON_PATCH)));
        let (wanted, complaint) = match patch {
            PatchType::ApplyConfiguration => (Ty::Object(Arc::new(Object::open(OBJECT))), "must evaluate to Object"),
            PatchType::JsonPatch => (Ty::list(operation), "must evaluate to list(JSONPatch)"),
        };
        let program = self.compile(expression, &[], "")?;
        let fits = match (&wanted, program.ty()) {
            (_, Ty::Dyn) => true,
            // An empty list is one of anything.
            (Ty::List(of), Ty::List(given)) => **given == Ty::Dyn || is_named(of, given),
            (of, given) => is_named(of, given),
        };
        if fits { Ok(program) } else { Err(complaint.to_owned()) }
    }

    /// Compiles a variable, and declares it.
    pub fn variable(&mut self, name: &str, expression: &str) -> Compiled {
        let compiled = self.compile(expression, &[], "");
        let ty = compiled.as_ref().map_or(Ty::Dyn, |program| program.ty().clone());
        self.variables.push((name.to_owned(), ty));
        compiled
    }
}

fn is_named(wanted: &Ty, given: &Ty) -> bool {
    matches!((wanted, given), (Ty::Object(a), Ty::Object(b)) if a.name == b.name)
}

/// A mutating policy.
pub fn mutating(value: &Value) -> Policy {
    let mut out = policy(value);
    let mut names = Names::of(value);
    for variable in list(value, &["spec", "variables"]) {
        let _ = names.variable(variable.str_at(&["name"]), variable.str_at(&["expression"]));
    }
    let mutation = |m: &Value| {
        let (patch, key) = match m.str_at(&["patchType"]) {
            "JSONPatch" => (PatchType::JsonPatch, "jsonPatch"),
            _ => (PatchType::ApplyConfiguration, "applyConfiguration"),
        };
        Mutation { patch, program: names.mutation(patch, m.str_at(&[key, "expression"])) }
    };
    out.mutations = list(value, &["spec", "mutations"]).iter().map(mutation).collect();
    out.reinvoke = value.str_at(&["spec", "reinvocationPolicy"]) == "IfNeeded";
    out
}

fn policy(value: &Value) -> Policy {
    let mut names = Names::of(value);
    let text = |v: &Value, key: &str| v.str_at(&[key]).to_owned();
    // Conditions are evaluated without variables.
    let conditions = list(value, &["spec", "matchConditions"]);
    let conditions = conditions.iter().map(|c| (text(c, "name"), names.condition(c.str_at(&["expression"]))));
    let conditions = conditions.collect();
    let mut variables = Vec::new();
    for variable in list(value, &["spec", "variables"]) {
        let name = text(variable, "name");
        let compiled = names.variable(&name, variable.str_at(&["expression"]));
        variables.push((name, compiled));
    }
    let validation = |v: &Value| Validation {
        expression: v.str_at(&["expression"]).trim().to_owned(),
        program: names.condition(v.str_at(&["expression"])),
        message: v.str_at(&["message"]).trim().to_owned(),
        message_program: Some(v.str_at(&["messageExpression"]))
            .filter(|e| !e.is_empty())
            .map(|e| names.compile(e, &[Ty::Text], "must evaluate to string")),
        reason: text(v, "reason"),
    };
    let annotation = |a: &Value| {
        let expression = a.str_at(&["valueExpression"]);
        (text(a, "key"), names.compile(expression, &[Ty::Text, Ty::Null], "must evaluate to string or null"))
    };
    Policy {
        name: value.name().to_owned(),
        param: value
            .at(&["spec", "paramKind"])
            .filter(|k| !k.is_null())
            .map(|k| (text(k, "apiVersion"), text(k, "kind"))),
        matching: Match::of(value.at(&["spec", "matchConstraints"]).unwrap_or(&Value::Null)),
        ignore_failure: value.str_at(&["spec", "failurePolicy"]) == "Ignore",
        conditions,
        variables,
        validations: list(value, &["spec", "validations"]).iter().map(validation).collect(),
        annotations: list(value, &["spec", "auditAnnotations"]).iter().map(annotation).collect(),
        mutations: Vec::new(),
        reinvoke: false,
    }
}

fn binding(value: &Value) -> Binding {
    Binding {
        name: value.name().to_owned(),
        policy: value.str_at(&["spec", "policyName"]).to_owned(),
        param: value.at(&["spec", "paramRef"]).filter(|r| !r.is_null()).cloned(),
        matching: value.at(&["spec", "matchResources"]).filter(|m| !m.is_null()).map(Match::of),
        actions: strings(value.at(&["spec", "validationActions"])),
    }
}
