//! What an expression may cost at most, from the bounds of the schemas of its variables (`checker.Cost` of cel-go with
//! `SizeEstimator` of upstream). Where cel-go would know more than this does, the estimate is lower, never higher: it
//! refuses less than upstream, and the budget at run time holds anyway.

use serde_json::Value as Json;

use crate::ast::{Access, Comp, Const, Expr, Fold, Kind};
use crate::types::escape;

/// What a request may be long at most (`maxRequestSizeBytes`).
const REQUEST: u64 = 3 * 1024 * 1024;
/// How deep required fields are looked at.
const DEPTH: usize = 32;

/// Functions that look at every character of their target.
const READS_TEXT: [&str; 6] = ["lowerAscii", "upperAscii", "replace", "split", "trim", "substring"];
/// Functions that look at every element of their target.
const READS_LIST: [&str; 5] = ["isSorted", "sum", "max", "min", "join"];

/// How many values of a schema fit into one request.
pub fn most_in_request(schema: &Json) -> u64 {
    REQUEST / (least(schema, 0) + 1)
}

/// How many elements, entries or characters a value may have.
pub fn largest(schema: &Json) -> Option<u64> {
    let bound = |key: &str| schema.get(key).and_then(Json::as_u64);
    match schema.get("type").and_then(Json::as_str)? {
        "array" => Some(bound("maxItems").unwrap_or_else(|| inside(schema, "items"))),
        "object" => Some(bound("maxProperties").unwrap_or_else(|| inside(schema, "additionalProperties"))),
        "string" => {
            let values = schema.get("enum").and_then(Json::as_array).into_iter().flatten();
            let longest = values.filter_map(Json::as_str).map(|v| v.len() as u64).max();
            Some(longest.or_else(|| bound("maxLength")).unwrap_or(REQUEST - 2))
        }
        _ => None,
    }
}

fn inside(schema: &Json, key: &str) -> u64 {
    schema.get(key).filter(|of| of.is_object()).map_or(0, most_in_request)
}

/// The least length of a value in JSON.
fn least(schema: &Json, depth: usize) -> u64 {
    match schema.get("type").and_then(Json::as_str).unwrap_or_default() {
        "boolean" => 4,
        "string" | "array" => 2,
        "object" => {
            let required = schema.get("required").and_then(Json::as_array).into_iter().flatten();
            let fields = required.filter_map(Json::as_str).filter_map(|name| {
                let field = schema.get("properties")?.get(name).filter(|f| f.get("default").is_none())?;
                Some(name.len() as u64 + 4 + if depth < DEPTH { least(field, depth + 1) } else { 0 })
            });
            2 + fields.sum::<u64>()
        }
        _ => 1,
    }
}

/// What is known of a value.
#[derive(Clone, Copy, Default)]
struct Known<'s> {
    schema: Option<&'s Json>,
    size: Option<u64>,
}

impl<'s> Known<'s> {
    fn of(schema: Option<&'s Json>) -> Self {
        Self { schema, size: schema.and_then(largest) }
    }

    fn tenth(self) -> u64 {
        self.size.unwrap_or(0) / 10
    }
}

/// What an expression may cost.
pub(crate) fn estimate(root: &Expr, variables: &[(&str, &Json)]) -> u64 {
    let scopes = variables.iter().map(|(name, schema)| ((*name).to_owned(), Known::of(Some(schema)))).collect();
    let mut estimate = Estimate { scopes, cost: 0 };
    estimate.expr(root);
    estimate.cost
}

struct Estimate<'s> {
    scopes: Vec<(String, Known<'s>)>,
    cost: u64,
}

impl<'s> Estimate<'s> {
    fn charge(&mut self, cost: u64) {
        self.cost = self.cost.saturating_add(cost);
    }

    fn expr(&mut self, expr: &Expr) -> Known<'s> {
        match &expr.kind {
            Kind::Const(Const::Text(text)) => Known { schema: None, size: Some(text.len() as u64) },
            Kind::Const(_) => Known::default(),
            Kind::Ident(name) => {
                self.charge(1);
                self.scopes.iter().rev().find(|(n, _)| n == name).map_or_else(Known::default, |(_, known)| *known)
            }
            Kind::Select { operand, field, access } => {
                // Presence tests are free (`PresenceTestHasCost(false)`).
                self.charge(u64::from(*access != Access::Test));
                let of = self.expr(operand);
                Known::of(of.schema.and_then(|schema| named(schema, field)))
            }
            Kind::Index { operand, index, .. } => {
                self.charge(1);
                let of = self.expr(operand);
                self.expr(index);
                Known::of(of.schema.and_then(element))
            }
            Kind::Call { name, args, .. } => self.call(name, args),
            Kind::Cond(parts) => {
                self.expr(&parts[0]);
                let before = self.cost;
                self.expr(&parts[1]);
                let first = std::mem::replace(&mut self.cost, before);
                self.expr(&parts[2]);
                self.cost = self.cost.max(first);
                Known::default()
            }
            Kind::Comp(comp) => self.comprehension(comp),
            Kind::Bind { name, init, body } => {
                let value = self.expr(init);
                self.within([(name.clone(), value)], body)
            }
            Kind::OptMap { target, name, body, .. } => {
                let value = self.expr(target);
                self.within([(name.clone(), value)], body)
            }
            other => {
                other.each(&mut |child| _ = self.expr(child));
                Known::default()
            }
        }
    }

    fn within<const N: usize>(&mut self, names: [(String, Known<'s>); N], body: &Expr) -> Known<'s> {
        let before = self.scopes.len();
        self.scopes.extend(names);
        let known = self.expr(body);
        self.scopes.truncate(before);
        known
    }

    fn call(&mut self, name: &str, args: &[Expr]) -> Known<'s> {
        let known: Vec<Known<'s>> = args.iter().map(|arg| self.expr(arg)).collect();
        let at = |i: usize| known.get(i).copied().unwrap_or_default();
        let (first, second) = (at(0), at(1));
        let cost = match name {
            "_==_" | "_!=_" => first.tenth().min(second.tenth()),
            "@in" if !is_map(second) => second.size.unwrap_or(0),
            "startsWith" | "endsWith" => second.tenth(),
            "contains" => first.tenth().saturating_mul(second.tenth().max(1)),
            "matches" | "find" | "findAll" => first.tenth().saturating_mul((second.size.unwrap_or(0) / 4).max(1)),
            "_+_" => first.tenth().saturating_add(second.tenth()),
            _ if READS_TEXT.contains(&name) => first.tenth(),
            _ if READS_LIST.contains(&name) => first.size.unwrap_or(0),
            _ => 0,
        };
        self.charge(cost.saturating_add(1));
        match name {
            "_+_" => Known { schema: first.schema, size: Some(first.size.unwrap_or(0) + second.size.unwrap_or(0)) },
            "lowerAscii" | "upperAscii" | "trim" | "substring" => first,
            _ => Known::default(),
        }
    }

    fn comprehension(&mut self, comp: &Comp) -> Known<'s> {
        let range = self.expr(&comp.range);
        let before = std::mem::take(&mut self.cost);
        let element = Known::of(range.schema.and_then(element));
        let first = if is_map(range) || comp.second.is_some() { Known::default() } else { element };
        let second = comp.second.clone().unwrap_or_default();
        let names = [(comp.first.clone(), first), (second, element)];
        if let Some(filter) = &comp.filter {
            self.within(names.clone(), filter);
        }
        self.within(names, &comp.body);
        let each = self.cost.saturating_add(1);
        self.cost = before.saturating_add(each.saturating_mul(range.size.unwrap_or(1)));
        match comp.fold {
            Fold::Filter => range,
            Fold::List => Known { schema: None, size: range.size },
            _ => Known::default(),
        }
    }
}

fn is_map(known: Known<'_>) -> bool {
    known.schema.and_then(|s| s.get("type")).and_then(Json::as_str) == Some("object")
}

fn named<'s>(schema: &'s Json, field: &str) -> Option<&'s Json> {
    let properties = schema.get("properties").and_then(Json::as_object).into_iter().flatten();
    let found = properties.into_iter().find(|(name, _)| escape(name).as_deref() == Some(field)).map(|(_, of)| of);
    found.or_else(|| schema.get("additionalProperties").filter(|of| of.is_object()))
}

fn element(schema: &Json) -> Option<&Json> {
    schema.get("items").or_else(|| schema.get("additionalProperties")).filter(|of| of.is_object())
}
