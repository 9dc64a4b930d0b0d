//! Evaluation within a budget.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use regex::Regex;

use crate::ast::{Access, Comp, Const, Expr, Fold, Kind};
use crate::functions::{self, pattern};
use crate::value::{Key, List, Map, Struct, Value};

/// Why there is no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The expression failed, in cel-go's words.
    #[error("{0}")]
    Failed(String),
    /// It cost more than it may.
    #[error("operation cancelled: actual cost limit exceeded")]
    TooCostly,
}

/// The result of an evaluation.
pub(crate) type Outcome<'a> = Result<Value<'a>, EvalError>;

/// A failure.
pub(crate) fn fail<T>(message: impl Into<String>) -> Result<T, EvalError> {
    Err(EvalError::Failed(message.into()))
}

/// The values of variables.
#[derive(Debug, Clone, Default)]
pub struct Bindings<'a> {
    variables: Vec<(String, Value<'a>)>,
}

impl<'a> Bindings<'a> {
    /// Without variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more variable, which hides an earlier one of its name.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: Value<'a>) -> Self {
        self.variables.push((name.into(), value));
        self
    }

    /// The value of a name with a dot.
    fn dotted(&self, name: &str, field: &str) -> Option<Value<'a>> {
        let is = |known: &str| known.strip_prefix(name).and_then(|rest| rest.strip_prefix('.')) == Some(field);
        self.variables.iter().rev().find(|(known, _)| is(known)).map(|(_, value)| value.clone())
    }
}

/// What has been spent, and the patterns that are read already.
pub(crate) struct Meter<'p> {
    used: u64,
    limit: u64,
    patterns: &'p HashMap<String, Regex>,
}

impl Meter<'_> {
    /// Spends.
    pub fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.used = self.used.saturating_add(cost);
        if self.used > self.limit { Err(EvalError::TooCostly) } else { Ok(()) }
    }

    /// Spends for looking at this many characters.
    pub fn charge_text(&mut self, length: usize) -> Result<(), EvalError> {
        self.charge((length as u64).div_ceil(10))
    }

    /// A pattern; one that is no literal is read here, which is charged for.
    pub fn pattern(&mut self, text: &str) -> Result<Regex, EvalError> {
        if let Some(regex) = self.patterns.get(text) {
            return Ok(regex.clone());
        }
        self.charge(text.len() as u64)?;
        pattern(text).map_err(EvalError::Failed)
    }
}

/// Evaluates an expression; also what that cost.
pub(crate) fn run<'a>(
    root: &'a Expr,
    patterns: &'a HashMap<String, Regex>,
    bindings: &Bindings<'a>,
    limit: u64,
) -> (Outcome<'a>, u64) {
    let mut eval = Eval { bindings, scopes: Vec::new(), meter: Meter { used: 0, limit, patterns } };
    let value = eval.expr(root);
    (value, eval.meter.used)
}

struct Eval<'b, 'a> {
    bindings: &'b Bindings<'a>,
    scopes: Vec<(&'a str, Value<'a>)>,
    meter: Meter<'a>,
}

impl<'a> Eval<'_, 'a> {
    fn expr(&mut self, expr: &'a Expr) -> Outcome<'a> {
        match &expr.kind {
            Kind::Const(constant) => Ok(of_const(constant)),
            Kind::Ident(name) => self.ident(name),
            Kind::Select { operand, field, access } => self.select(expr, operand, field, *access),
            Kind::Index { operand, index, optional } => self.index(operand, index, *optional),
            Kind::Call { name, member, args } => self.call(name, *member, args),
            Kind::And(parts) => self.logic(parts, false),
            Kind::Or(parts) => self.logic(parts, true),
            Kind::Cond(parts) => match self.expr(&parts[0])? {
                Value::Bool(true) => self.expr(&parts[1]),
                Value::Bool(false) => self.expr(&parts[2]),
                _ => fail("no such overload"),
            },
            Kind::List(items) => self.list(items),
            Kind::Map(entries) => self.map(entries),
            Kind::Struct { name, fields } => self.made(name, fields),
            Kind::Comp(comp) => self.comprehension(comp),
            Kind::Bind { name, init, body } => {
                let value = self.expr(init)?;
                self.within([Some((name.as_str(), value)), None], body)
            }
            Kind::OptMap { target, name, body, flat } => match self.expr(target)? {
                Value::Optional(None) => Ok(Value::NONE),
                Value::Optional(Some(value)) => {
                    let out = self.within([Some((name.as_str(), (*value).clone())), None], body)?;
                    Ok(if *flat { out } else { Value::some(out) })
                }
                _ => fail("no such overload"),
            },
        }
    }

    fn within(&mut self, names: [Option<(&'a str, Value<'a>)>; 2], body: &'a Expr) -> Outcome<'a> {
        let before = self.scopes.len();
        self.scopes.extend(names.into_iter().flatten());
        let out = self.expr(body);
        self.scopes.truncate(before);
        out
    }

    fn ident(&mut self, name: &str) -> Outcome<'a> {
        self.meter.charge(1)?;
        if let Some((_, value)) = self.scopes.iter().rev().find(|(n, _)| *n == name) {
            return Ok(value.clone());
        }
        if let Some((_, value)) = self.bindings.variables.iter().rev().find(|(n, _)| n == name) {
            return Ok(value.clone());
        }
        match functions::type_value(name) {
            Some(name) => Ok(Value::Type(name.into())),
            None => fail(format!("no such attribute(s): {name}")),
        }
    }

    fn select(&mut self, expr: &Expr, operand: &'a Expr, field: &str, access: Access) -> Outcome<'a> {
        self.meter.charge(1)?;
        if let Some(name) = functions::qualified_type(expr) {
            return Ok(Value::Type(name.into()));
        }
        if let Kind::Ident(name) = &operand.kind
            && self.scopes.iter().all(|(n, _)| n != name)
            && let Some(value) = self.bindings.dotted(name, field)
        {
            return Ok(value);
        }
        let (of, inside) = match self.expr(operand)? {
            Value::Optional(None) => {
                return Ok(if access == Access::Test { Value::Bool(false) } else { Value::NONE });
            }
            Value::Optional(Some(value)) => ((*value).clone(), true),
            value => (value, false),
        };
        let Value::Map(map) = of else { return fail("no such overload") };
        let found = map.field(field);
        match access {
            Access::Test => Ok(Value::Bool(found.is_some())),
            Access::Optional => Ok(found.map_or(Value::NONE, Value::some)),
            Access::Value if inside => Ok(found.map_or(Value::NONE, Value::some)),
            Access::Value => found.map_or_else(|| fail(format!("no such key: {field}")), Ok),
        }
    }

    fn index(&mut self, operand: &'a Expr, index: &'a Expr, optional: bool) -> Outcome<'a> {
        self.meter.charge(1)?;
        let (of, inside) = match self.expr(operand)? {
            Value::Optional(None) => return Ok(Value::NONE),
            Value::Optional(Some(value)) => ((*value).clone(), true),
            value => (value, false),
        };
        let key = self.expr(index)?;
        let found = match (&of, &key) {
            (Value::List(list), key) => match key.key() {
                Some(Key::Int(at)) => usize::try_from(at).ok().and_then(|at| list.get(at)),
                _ => return fail("no such overload"),
            },
            (Value::Map(map), key) => map.get(key),
            _ => return fail("no such overload"),
        };
        match (found, optional || inside) {
            (Some(value), true) => Ok(Value::some(value)),
            (None, true) => Ok(Value::NONE),
            (Some(value), false) => Ok(value),
            (None, false) if matches!(of, Value::List(_)) => {
                fail(format!("index out of bounds: {}", functions::shown(&key)))
            }
            (None, false) => fail(format!("no such key: {}", functions::shown(&key))),
        }
    }

    /// `||` where `until`, `&&` otherwise: what decides wins over an error, wherever it stands.
    fn logic(&mut self, parts: &'a [Expr], until: bool) -> Outcome<'a> {
        let mut error = None;
        for part in parts {
            match self.expr(part) {
                Ok(Value::Bool(value)) if value == until => return Ok(Value::Bool(until)),
                Ok(Value::Bool(_)) => {}
                Err(EvalError::TooCostly) => return Err(EvalError::TooCostly),
                Ok(_) => error = error.or_else(|| Some(EvalError::Failed("no such overload".into()))),
                Err(failed) => error = error.or(Some(failed)),
            }
        }
        error.map_or(Ok(Value::Bool(!until)), Err)
    }

    fn call(&mut self, name: &str, member: bool, args: &'a [Expr]) -> Outcome<'a> {
        let mut values = Vec::with_capacity(args.len());
        for arg in args {
            values.push(self.expr(arg)?);
        }
        self.meter.charge(1)?;
        functions::call(&mut self.meter, name, member, &values)
    }

    fn list(&mut self, items: &'a [(Expr, bool)]) -> Outcome<'a> {
        self.meter.charge(10)?;
        let mut out = Vec::with_capacity(items.len());
        for (item, optional) in items {
            match (self.expr(item)?, optional) {
                (Value::Optional(value), true) => out.extend(value.map(|v| (*v).clone())),
                (_, true) => return fail("no such overload"),
                (value, false) => out.push(value),
            }
        }
        Ok(Value::list(out))
    }

    fn map(&mut self, entries: &'a [(Expr, Expr, bool)]) -> Outcome<'a> {
        self.meter.charge(30)?;
        let mut out = BTreeMap::new();
        for (key, value, optional) in entries {
            let key = self.expr(key)?;
            let value = match (self.expr(value)?, optional) {
                (Value::Optional(None), true) => continue,
                (Value::Optional(Some(value)), true) => (*value).clone(),
                (_, true) => return fail("no such overload"),
                (value, false) => value,
            };
            insert(&mut out, key, value)?;
        }
        Ok(Value::Map(Map::Own(Arc::new(out))))
    }

    fn made(&mut self, name: &str, fields: &'a [(String, Expr, bool)]) -> Outcome<'a> {
        self.meter.charge(40)?;
        let mut out = BTreeMap::new();
        for (field, value, optional) in fields {
            let value = match (self.expr(value)?, optional) {
                (Value::Optional(None), true) => continue,
                (Value::Optional(Some(value)), true) => (*value).clone(),
                (_, true) => return fail("no such overload"),
                (value, false) => value,
            };
            out.insert(field.clone(), value);
        }
        Ok(Value::Map(Map::Struct(Arc::new(Struct { name: name.to_owned(), fields: out }))))
    }

    fn comprehension(&mut self, comp: &'a Comp) -> Outcome<'a> {
        let range = self.expr(&comp.range)?;
        let mut made = Made::of(comp.fold);
        match &range {
            Value::List(list) => {
                for at in 0..list.len() {
                    let Some(item) = list.get(at) else { break };
                    let index = Value::Int(i64::try_from(at).unwrap_or(i64::MAX));
                    let (first, second) =
                        if comp.second.is_some() { (index.clone(), item) } else { (item, Value::Null) };
                    if self.step(comp, first, second, &index, &mut made)? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for (key, value) in map.iter() {
                    if self.step(comp, key.clone(), value, &key, &mut made)? {
                        break;
                    }
                }
            }
            _ => return fail("no such overload"),
        }
        made.value()
    }

    /// One round; whether the rest cannot change the outcome.
    fn step(
        &mut self,
        comp: &'a Comp,
        first: Value<'a>,
        second: Value<'a>,
        key: &Value<'a>,
        made: &mut Made<'a>,
    ) -> Result<bool, EvalError> {
        self.meter.charge(1)?;
        let names =
            || [Some((comp.first.as_str(), first.clone())), comp.second.as_deref().map(|name| (name, second.clone()))];
        if let Some(filter) = &comp.filter {
            match self.within(names(), filter)? {
                Value::Bool(true) => {}
                Value::Bool(false) => return Ok(false),
                _ => return fail("no such overload"),
            }
        }
        let body = self.within(names(), &comp.body);
        if matches!(body, Err(EvalError::TooCostly)) {
            return body.map(|_| true);
        }
        match made {
            Made::Any { until, error } => match body {
                Ok(Value::Bool(value)) if value == *until => {
                    *made = Made::Decided(*until);
                    return Ok(true);
                }
                Ok(Value::Bool(_)) => {}
                Ok(_) => *error = error.take().or_else(|| Some(EvalError::Failed("no such overload".into()))),
                Err(failed) => *error = error.take().or(Some(failed)),
            },
            Made::Decided(_) => return Ok(true),
            Made::One(count) => match body? {
                Value::Bool(holds) => *count += u64::from(holds),
                _ => return fail("no such overload"),
            },
            Made::Filtered(out) => match body? {
                Value::Bool(true) => out.push(first),
                Value::Bool(false) => {}
                _ => return fail("no such overload"),
            },
            Made::Items(out) => out.push(body?),
            Made::Map(out) => insert(out, key.clone(), body?)?,
            Made::Entries(out) => {
                let Value::Map(entries) = body? else { return fail("no such overload") };
                for (key, value) in entries.iter() {
                    self.meter.charge(1)?;
                    insert(out, key, value)?;
                }
            }
        }
        Ok(false)
    }
}

/// Maps that expressions make, by key.
type Entries<'a> = BTreeMap<Key, (Value<'a>, Value<'a>)>;

/// What a comprehension has so far.
enum Made<'a> {
    /// `all` and `exists`: nothing decided, perhaps an error.
    Any {
        until: bool,
        error: Option<EvalError>,
    },
    Decided(bool),
    One(u64),
    Filtered(Vec<Value<'a>>),
    Items(Vec<Value<'a>>),
    Map(Entries<'a>),
    Entries(Entries<'a>),
}

impl<'a> Made<'a> {
    fn of(fold: Fold) -> Self {
        match fold {
            Fold::All => Self::Any { until: false, error: None },
            Fold::Exists => Self::Any { until: true, error: None },
            Fold::ExistsOne => Self::One(0),
            Fold::Filter => Self::Filtered(Vec::new()),
            Fold::List => Self::Items(Vec::new()),
            Fold::Map => Self::Map(BTreeMap::new()),
            Fold::Entries => Self::Entries(BTreeMap::new()),
        }
    }

    fn value(self) -> Outcome<'a> {
        match self {
            Self::Any { error: Some(error), .. } => Err(error),
            Self::Any { until, error: None } => Ok(Value::Bool(!until)),
            Self::Decided(value) => Ok(Value::Bool(value)),
            Self::One(count) => Ok(Value::Bool(count == 1)),
            Self::Filtered(items) | Self::Items(items) => Ok(Value::List(List::Own(Arc::new(items)))),
            Self::Map(entries) | Self::Entries(entries) => Ok(Value::Map(Map::Own(Arc::new(entries)))),
        }
    }
}

fn insert<'a>(out: &mut Entries<'a>, key: Value<'a>, value: Value<'a>) -> Result<(), EvalError> {
    let Some(at) = key.key().filter(|_| !matches!(key, Value::Double(_))) else { return fail("unsupported key type") };
    if out.contains_key(&at) {
        return fail(format!("insert failed: key {} already exists", functions::shown(&key)));
    }
    out.insert(at, (key, value));
    Ok(())
}

impl PartialEq for Value<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.equals(other)
    }
}

fn of_const<'a>(constant: &Const) -> Value<'a> {
    match constant {
        Const::Null => Value::Null,
        Const::Bool(b) => Value::Bool(*b),
        Const::Int(n) => Value::Int(*n),
        Const::Uint(n) => Value::Uint(*n),
        Const::Double(n) => Value::Double(*n),
        Const::Text(text) => Value::text(text),
        Const::Bytes(bytes) => Value::Bytes(bytes.as_slice().into()),
    }
}
