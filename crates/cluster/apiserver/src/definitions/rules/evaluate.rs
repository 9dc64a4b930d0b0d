//! Rules against an object (`Validator.Validate`): those of a place, then those below, within one budget.

use std::collections::BTreeMap;

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::status::{Cause, FieldErrors};
use kinit_cel::{Bindings, Budget, EvalError, Program, Ty, Value as Cel};
use serde_json::Value;

use super::{Node, Rule};

/// What the rules may cost for one object (`RuntimeCELCostBudget`).
const BUDGET: u64 = 10_000_000;
/// What one rule may cost (`PerCallLimit`).
const PER_CALL: u64 = 1_000_000;
/// How long a message that an expression makes may be (`MaxEvaluatedMessageExpressionSizeBytes`).
const LONGEST_MESSAGE: usize = 5 * 1024;
/// Errors after which no more are looked for.
const ERRORS: usize = 200;
const NO_BUDGET: &str = "validation failed due to running out of cost budget, no further validation rules will be run";
/// Kinds of errors that keep rules from being evaluated (`hasBlockingErr`).
const BLOCKING: [&str; 5] =
    ["FieldValueNotSupported", "FieldValueRequired", "FieldValueTooLong", "FieldValueTooMany", "FieldValueTypeInvalid"];

/// No more rules are to be evaluated.
struct Exhausted;

impl Node {
    /// Adds which rules an object breaks. What is wrong with it already may make rules meaningless.
    pub fn check(&self, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
        if errors.0.iter().any(|cause| BLOCKING.contains(&cause.reason.as_str())) {
            let detail = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            return errors.invalid("<nil>", &Value::Null, detail);
        }
        let mut walk = Walk { left: BUDGET, errors, found: 0 };
        _ = walk.node(self, object, old, "");
    }
}

struct Walk<'e> {
    left: u64,
    errors: &'e mut FieldErrors,
    found: usize,
}

impl Walk<'_> {
    fn node(&mut self, node: &Node, value: &Value, old: Option<&Value>, path: &str) -> Result<(), Exhausted> {
        if value.is_null() {
            return Ok(());
        }
        let old = old.filter(|o| !o.is_null());
        for rule in &node.rules {
            self.rule(rule, &Place { ty: &node.ty, value, old, path })?;
        }
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    let (of, at) = match (node.fields.get(name), &node.others) {
                        (Some(of), _) if path.is_empty() => (of, name.clone()),
                        (Some(of), _) => (of, format!("{path}.{name}")),
                        (None, Some(of)) => (&**of, format!("{path}[{name}]")),
                        (None, None) => continue,
                    };
                    self.node(of, value, old.and_then(|o| o.get(name)), &at)?;
                }
                Ok(())
            }
            Value::Array(items) => self.items(node, items, old, path),
            _ => Ok(()),
        }
    }

    fn items(&mut self, node: &Node, items: &[Value], old: Option<&Value>, path: &str) -> Result<(), Exhausted> {
        let Some(of) = &node.items else { return Ok(()) };
        let before = node.keys.as_deref().zip(old.and_then(Value::as_array)).map(|(keys, old)| {
            let by_key: BTreeMap<_, _> = old.iter().map(|item| (key_of(item, keys), item)).collect();
            (keys, by_key)
        });
        for (i, item) in items.iter().enumerate() {
            let known = before.as_ref().and_then(|(keys, old)| old.get(&key_of(item, keys)).copied());
            self.node(of, item, known, &format!("{path}[{i}]"))?;
        }
        Ok(())
    }

    fn rule<'a>(&mut self, rule: &'a Rule, place: &Place<'a>) -> Result<(), Exhausted> {
        let wrong = |detail: String| place.cause("FieldValueInvalid", place.path, Some(place.shown_type()), &detail);
        let program = match &rule.program {
            Ok(program) => program,
            Err(problem) => return self.add(wrong(format!("rule compile error: {problem}"))),
        };
        if rule.transition && place.old.is_none() && !rule.optional_old {
            return Ok(());
        }
        let bindings = place.bindings(rule);
        match self.eval(program, &bindings) {
            Ok(Cel::Bool(true)) => Ok(()),
            Ok(_) => self.broken(rule, place, &bindings),
            Err(Failure::Budget) => self.stop(wrong(NO_BUDGET.to_owned())),
            Err(Failure::Call) => self.stop(wrong(format!(
                "no further validation rules will be run due to call cost exceeds limit for rule: {}",
                rule.name()
            ))),
            Err(Failure::Eval(problem)) if problem.starts_with("no such overload") => self.add(wrong(format!(
                "call arguments did not match a supported operator, function or macro signature for rule: {}",
                rule.name()
            ))),
            Err(Failure::Eval(problem)) => self.add(wrong(format!("{problem} evaluating rule: {}", rule.name()))),
        }
    }

    /// A rule that does not hold; what did not change is forgiven (`CRDValidationRatcheting`).
    fn broken<'a>(&mut self, rule: &'a Rule, place: &Place<'a>, bindings: &Bindings<'a>) -> Result<(), Exhausted> {
        let forgiven = !rule.transition && place.old == Some(place.value);
        let at = match (place.path, rule.field.as_str()) {
            (path, "") => path.to_owned(),
            ("", field) => field.to_owned(),
            (path, field) => format!("{path}.{field}"),
        };
        let expression = rule.message_program.as_ref().and_then(|program| program.as_ref().ok());
        let detail = match expression.map(|program| self.eval(program, bindings)) {
            Some(Ok(Cel::Text(text))) => usable(&text).unwrap_or_else(|| rule.message()),
            Some(Err(failure @ (Failure::Budget | Failure::Call))) => {
                let detail = match failure {
                    Failure::Budget => {
                        "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run"
                    }
                    _ => "no further validation rules will be run due to call cost exceeds limit for messageExpression",
                };
                return self.stop(place.cause("FieldValueInvalid", &at, Some(place.shown_type()), detail));
            }
            _ => rule.message(),
        };
        if forgiven {
            return Ok(());
        }
        let reason = if rule.reason.is_empty() { "FieldValueInvalid" } else { &rule.reason };
        self.add(place.cause(reason, &at, place.shown(), &detail))
    }

    fn eval<'a>(&mut self, program: &'a Program, bindings: &Bindings<'a>) -> Result<Cel<'a>, Failure> {
        let (outcome, used) = program.eval_metered(bindings, Budget(self.left.min(PER_CALL)));
        let spent = used > self.left;
        self.left = self.left.saturating_sub(used);
        match outcome {
            _ if spent => Err(Failure::Budget),
            Err(EvalError::TooCostly) => Err(Failure::Call),
            Err(EvalError::Failed(problem)) => Err(Failure::Eval(problem)),
            Ok(value) => Ok(value),
        }
    }

    fn add(&mut self, cause: Cause) -> Result<(), Exhausted> {
        self.errors.0.push(cause);
        self.found += 1;
        if self.found < ERRORS { Ok(()) } else { Err(Exhausted) }
    }

    fn stop(&mut self, cause: Cause) -> Result<(), Exhausted> {
        self.errors.0.push(cause);
        Err(Exhausted)
    }
}

enum Failure {
    /// The budget of the object is spent.
    Budget,
    /// One evaluation cost more than it may.
    Call,
    /// In the engine's words.
    Eval(String),
}

/// A value that has rules.
struct Place<'a> {
    ty: &'a Ty,
    value: &'a Value,
    old: Option<&'a Value>,
    path: &'a str,
}

impl<'a> Place<'a> {
    fn bindings(&self, rule: &Rule) -> Bindings<'a> {
        let bindings = Bindings::new().with("self", Cel::typed(self.value, self.ty));
        let old = self.old.map(|old| Cel::typed(old, self.ty));
        match (old, rule.optional_old) {
            (old, true) => bindings.with("oldSelf", old.map_or(Cel::NONE, Cel::some)),
            (Some(old), false) => bindings.with("oldSelf", old),
            (None, false) => bindings,
        }
    }

    /// The value in errors; large ones are left out.
    fn shown(&self) -> Option<Value> {
        (!matches!(self.value, Value::Object(_) | Value::Array(_))).then(|| self.value.clone())
    }

    fn shown_type(&self) -> Value {
        let name = match self.value {
            Value::Object(_) => "object",
            Value::Array(_) => "array",
            Value::String(_) => "string",
            Value::Bool(_) => "boolean",
            Value::Number(n) if n.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::Null => "",
        };
        name.into()
    }

    /// An error by its reason (`fieldErrorForReason`).
    fn cause(&self, reason: &str, at: &str, value: Option<Value>, detail: &str) -> Cause {
        let at = if at.is_empty() { "<nil>" } else { at };
        let mut one = FieldErrors::default();
        let omitted = |name: &str| Cause {
            reason: reason.to_owned(),
            message: format!("{name} value: {detail}"),
            field: at.to_owned(),
        };
        match (reason, value) {
            ("FieldValueForbidden", _) => one.forbidden(at, detail),
            ("FieldValueRequired", _) => one.required(at, detail),
            ("FieldValueDuplicate", Some(value)) => one.duplicate(at, &value),
            ("FieldValueDuplicate", None) => {
                return Cause { message: "Duplicate value".to_owned(), ..omitted("Duplicate") };
            }
            (_, Some(value)) => one.invalid(at, &value, detail),
            (_, None) => return omitted("Invalid"),
        }
        one.0.pop().unwrap_or_else(|| omitted("Invalid"))
    }
}

/// A message that an expression made, as far as it makes a single line.
fn usable(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty() && text.len() <= LONGEST_MESSAGE && !text.contains('\n')).then(|| text.to_owned())
}

fn key_of(item: &Value, keys: &[String]) -> Vec<Option<String>> {
    keys.iter().map(|key| item.at(&[key]).map(Value::to_string)).collect()
}
