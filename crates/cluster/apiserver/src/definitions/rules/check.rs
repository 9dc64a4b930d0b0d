//! Whether a definition may have its rules (`ValidateCustomResourceDefinitionOpenAPISchema`, as far as it is of CEL).

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::status::FieldErrors;
use kinit_apimachinery::structural::has_rules;
use kinit_cel::{Ty, largest, most_in_request};
use serde_json::Value;

use super::{Rule, listed, path};

/// What one rule may cost for one object by estimate (`StaticEstimatedCostLimit`).
const LIMIT: u64 = 10_000_000;
/// What all rules of a version may cost (`StaticEstimatedCRDCostLimit`).
const TOTAL: u64 = 100_000_000;
/// How many bytes a message may have.
const LONGEST_MESSAGE: usize = 2048;
/// Rules of a version at most; each is compiled at once.
const MOST: usize = 2000;
const HINT: &str = "try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared";

/// Adds what is wrong with the rules of a schema that is known to be structural.
pub(crate) fn check_rules(schema: &Value, path: &str, errors: &mut FieldErrors) {
    if !has_rules(schema) {
        return;
    }
    let mut walk = Walk { errors, total: 0, count: 0 };
    walk.node(schema, path, &Place { root: true, cardinality: Some(1), uncorrelated: None });
    let (total, count) = (walk.total, walk.count);
    if count > MOST {
        errors.forbidden(path, &format!("{count} x-kubernetes-validations: must have at most {MOST} rules"));
    }
    if total > TOTAL {
        let detail = too_costly(
            "x-kubernetes-validations estimated rule & messageExpression cost total for entire OpenAPIv3 schema",
            total,
            TOTAL,
        );
        errors.forbidden(path, &detail);
    }
}

struct Place<'p> {
    root: bool,
    /// How many values one object may have here; `None` for any number.
    cardinality: Option<u64>,
    /// The list above whose elements cannot be told apart.
    uncorrelated: Option<&'p str>,
}

struct Walk<'e> {
    errors: &'e mut FieldErrors,
    total: u64,
    count: usize,
}

impl Walk<'_> {
    fn node(&mut self, schema: &Value, path: &str, place: &Place<'_>) {
        if !has_rules(schema) {
            return;
        }
        let rules = listed(schema);
        self.count += rules.len();
        if !rules.is_empty() && self.count <= MOST {
            let ty = Ty::from_schema(schema, if place.root { "object" } else { "selfType" }, place.root);
            for (i, rule) in rules.iter().enumerate() {
                let at = format!("{path}.x-kubernetes-validations[{i}]");
                if self.texts(rule, &at, schema) {
                    self.rule(rule, &at, (schema, &ty), place);
                }
            }
        }
        let many = place.cardinality.zip(largest_given(schema)).map(|(n, each)| n.saturating_mul(each));
        for (name, of) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let inner = Place { root: false, ..*place };
            self.node(of, &format!("{path}.properties[{name}]"), &inner);
        }
        if let Some(of) = schema.get("additionalProperties").filter(|of| of.is_object()) {
            let inner = Place { root: false, cardinality: many, uncorrelated: place.uncorrelated };
            self.node(of, &format!("{path}.additionalProperties"), &inner);
        }
        if let Some(of) = schema.get("items").filter(|of| of.is_object()) {
            let is_map = schema.str_at(&["x-kubernetes-list-type"]) == "map";
            let uncorrelated = place.uncorrelated.or((!is_map).then_some(path));
            self.node(of, &format!("{path}.items"), &Place { root: false, cardinality: many, uncorrelated });
        }
    }

    /// What is said besides expressions; says whether there is a rule to compile.
    fn texts(&mut self, rule: &Value, at: &str, schema: &Value) -> bool {
        const REASONS: [&str; 4] =
            ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
        let (text, message, field) = (rule.str_at(&["rule"]), rule.str_at(&["message"]), rule.str_at(&["fieldPath"]));
        let blank = |key: &str| !rule.str_at(&[key]).is_empty() && rule.str_at(&[key]).trim().is_empty();
        let before = self.errors.0.len();
        let errors = &mut *self.errors;
        let at_message = format!("{at}.message");
        if text.trim().is_empty() {
            errors.required(&format!("{at}.rule"), "rule is not specified");
        } else if blank("message") {
            errors.invalid(&at_message, &message.into(), "message must be non-empty if specified");
        } else if message.len() > LONGEST_MESSAGE {
            let start: String = message.chars().take(10).collect();
            let detail = format!("message must have a maximum length of {LONGEST_MESSAGE} characters");
            errors.invalid(&at_message, &format!("{start}...").into(), &detail);
        } else if has_breaks(message.trim()) {
            errors.invalid(&at_message, &message.into(), "message must not contain line breaks");
        } else if has_breaks(text.trim()) && message.is_empty() {
            errors.required(&at_message, "message must be specified if rule contains line breaks");
        }
        if blank("messageExpression") {
            errors.required(&format!("{at}.messageExpression"), "messageExpression must be non-empty if specified");
        }
        if let Some(reason) = rule.get("reason").filter(|r| !r.is_null() && !REASONS.iter().any(|known| r == known)) {
            errors.not_supported(&format!("{at}.reason"), reason, &REASONS);
        }
        let at_field = format!("{at}.fieldPath");
        if blank("fieldPath") {
            errors.invalid(&at_field, &field.into(), "fieldPath must be non-empty if specified");
        } else if has_breaks(field) {
            errors.invalid(&at_field, &field.into(), "fieldPath must not contain line breaks");
        } else if let Err(problem) = path::resolve(field.trim(), schema) {
            errors.invalid(&at_field, &field.into(), &format!("fieldPath must be a valid path: {problem}"));
        }
        errors.0.len() == before
    }

    fn rule(&mut self, rule: &Value, at: &str, (schema, ty): (&Value, &Ty), place: &Place<'_>) {
        let compiled = Rule::of(rule, ty, schema);
        let (at_rule, variables) = (format!("{at}.rule"), [("self", schema), ("oldSelf", schema)]);
        match &compiled.program {
            Err(problem) => self.errors.invalid(&at_rule, rule, problem),
            Ok(program) => {
                let times = place.cardinality.unwrap_or_else(|| most_in_request(schema));
                let cost = program.estimate(&variables).saturating_mul(times);
                self.cost("estimated rule cost", &at_rule, cost);
            }
        }
        match &compiled.message_program {
            Some(Err(problem)) => self.errors.invalid(&format!("{at}.messageExpression"), rule, problem),
            Some(Ok(program)) => {
                let cost = program.estimate(&variables);
                self.cost("estimated messageExpression cost", &format!("{at}.messageExpression"), cost);
            }
            None => {}
        }
        if compiled.optional_old && compiled.program.is_ok() && !compiled.transition {
            let detail = "may not be set unless oldSelf is used in rule";
            self.errors.invalid(&format!("{at}.optionalOldSelf"), &true.into(), detail);
        }
        if let Some(list) = place.uncorrelated.filter(|_| compiled.transition) {
            let detail = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {list}");
            self.errors.invalid(&at_rule, &rule.str_at(&["rule"]).into(), &detail);
        }
    }

    fn cost(&mut self, what: &str, at: &str, cost: u64) {
        self.total = self.total.saturating_add(cost);
        if cost > LIMIT {
            self.errors.forbidden(at, &too_costly(what, cost, LIMIT));
        }
    }
}

/// Elements that a list or map may have, where it says so.
fn largest_given(schema: &Value) -> Option<u64> {
    let bounded = schema.get("maxItems").or_else(|| schema.get("maxProperties")).is_some();
    if bounded { largest(schema) } else { None }
}

fn has_breaks(text: &str) -> bool {
    text.contains(['\n', '\r'])
}

/// `getCostErrorMessage`.
#[allow(clippy::cast_precision_loss)]
fn too_costly(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let times = match factor {
        f if f > 100.0 => "more than 100x".to_owned(),
        f if f < 1.5 => format!("{f:.6}x"),
        f => format!("{f:.1}x"),
    };
    format!("{what} exceeds budget by factor of {times} ({HINT})")
}
