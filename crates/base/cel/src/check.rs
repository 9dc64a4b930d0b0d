//! Types of expressions: every name is declared, every function has an overload for its arguments.

use std::collections::HashMap;
use std::sync::Arc;

use regex::Regex;

use crate::Issue;
use crate::ast::{Access, Comp, Const, Expr, Fold, Kind};
use crate::env::Env;
use crate::functions::{self, pattern};
use crate::types::Ty;

/// What checking found.
pub struct Checked {
    pub ty: Ty,
    pub issues: Vec<Issue>,
    pub patterns: HashMap<String, Regex>,
}

/// How many mistakes are told.
const MOST: usize = 20;

/// Checks an expression.
pub fn check(root: &Expr, env: &Env) -> Checked {
    let mut checker = Checker { env, scopes: Vec::new(), issues: Vec::new(), patterns: HashMap::new() };
    let ty = checker.expr(root);
    Checked { ty, issues: checker.issues, patterns: checker.patterns }
}

struct Checker<'e> {
    env: &'e Env,
    scopes: Vec<(String, Ty)>,
    issues: Vec<Issue>,
    patterns: HashMap<String, Regex>,
}

impl Checker<'_> {
    fn fail(&mut self, at: usize, message: impl Into<String>) -> Ty {
        if self.issues.len() < MOST {
            self.issues.push(Issue { at, message: message.into() });
        }
        Ty::Dyn
    }

    fn expr(&mut self, expr: &Expr) -> Ty {
        match &expr.kind {
            Kind::Const(constant) => of_const(constant),
            Kind::Ident(name) => self.ident(expr.at, name),
            Kind::Select { operand, field, access } => self.select(expr, operand, field, *access),
            Kind::Index { operand, index, optional } => self.index(expr.at, operand, index, *optional),
            Kind::Call { name, member, args } => self.call(expr.at, name, *member, args),
            Kind::And(parts) => self.logic(parts, "_&&_"),
            Kind::Or(parts) => self.logic(parts, "_||_"),
            Kind::Cond(parts) => self.condition(expr.at, parts),
            Kind::List(items) => {
                let mut of: Option<Ty> = None;
                for (item, optional) in items {
                    let ty = self.element(item, *optional);
                    of = Some(of.map_or_else(|| ty.clone(), |of| of.join(ty.clone())));
                }
                Ty::list(of.unwrap_or(Ty::Dyn))
            }
            Kind::Map(entries) => self.map(entries),
            Kind::Struct { name, fields } => self.made(expr.at, name, fields),
            Kind::Comp(comp) => self.comprehension(comp),
            Kind::Bind { name, init, body } => {
                let ty = self.expr(init);
                self.within([(name.clone(), ty)], |this| this.expr(body))
            }
            Kind::OptMap { target, name, body, flat } => self.opt_map(target, name, body, *flat),
        }
    }

    fn ident(&mut self, at: usize, name: &str) -> Ty {
        if let Some((_, ty)) = self.scopes.iter().rev().find(|(n, _)| n == name) {
            return ty.clone();
        }
        match self.env.variable(name) {
            Some(ty) => ty.clone(),
            None if functions::type_value(name).is_some() => Ty::Type,
            None => self.fail(at, format!("undeclared reference to '{name}' (in container '')")),
        }
    }

    fn made(&mut self, at: usize, name: &str, fields: &[(String, Expr, bool)]) -> Ty {
        let Some(object) = self.env.made(name) else {
            fields.iter().for_each(|(_, value, _)| _ = self.expr(value));
            return self.fail(at, format!("undeclared reference to '{name}' (in container '')"));
        };
        for (field, value, optional) in fields {
            let given = self.element(value, *optional);
            match object.field(field) {
                Some((_, wanted)) if !wanted.takes(&given, &mut [None, None]) => {
                    let message =
                        format!("expected type of field '{field}' is '{wanted}' but provided type is '{given}'");
                    self.fail(value.at, message);
                }
                None if !object.open => _ = self.fail(value.at, format!("undefined field '{field}'")),
                _ => {}
            }
        }
        Ty::Object(Arc::new(object))
    }

    fn within<T>(&mut self, names: impl IntoIterator<Item = (String, Ty)>, act: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.scopes.len();
        self.scopes.extend(names);
        let out = act(self);
        self.scopes.truncate(before);
        out
    }

    fn select(&mut self, expr: &Expr, operand: &Expr, field: &str, access: Access) -> Ty {
        if let Some(name) = functions::qualified_type(expr)
            && self.scopes.iter().all(|(n, _)| !name.starts_with(&format!("{n}.")))
        {
            return Ty::Type;
        }
        // A declared name with a dot: `authorizer.requestResource`.
        if let Kind::Ident(name) = &operand.kind
            && self.scopes.iter().all(|(n, _)| n != name)
            && let Some(ty) = self.env.variable(&format!("{name}.{field}"))
        {
            return ty.clone();
        }
        let (of, optional) = match self.expr(operand) {
            Ty::Optional(of) => ((*of).clone(), true),
            of => (of, false),
        };
        let found = match &of {
            Ty::Dyn => Ty::Dyn,
            Ty::Map(_, value) => (**value).clone(),
            Ty::Object(object) => match object.field(field) {
                Some((_, ty)) => ty.clone(),
                None if object.open => Ty::Dyn,
                None => return self.fail(expr.at, format!("undefined field '{field}'")),
            },
            other => return self.fail(expr.at, format!("type '{other}' does not support field selection")),
        };
        match access {
            Access::Test => Ty::Bool,
            Access::Optional => optional_of(found),
            Access::Value if optional => optional_of(found),
            Access::Value => found,
        }
    }

    fn index(&mut self, at: usize, operand: &Expr, index: &Expr, optional: bool) -> Ty {
        let (of, key) = (self.expr(operand), self.expr(index));
        let (of, inside) = match of {
            Ty::Optional(of) => ((*of).clone(), true),
            of => (of, false),
        };
        let mut bound = [None, None];
        let found = match &of {
            Ty::Dyn => Ty::Dyn,
            Ty::List(of) if Ty::Int.takes(&key, &mut bound) => (**of).clone(),
            Ty::Map(wanted, value) if wanted.takes(&key, &mut bound) => (**value).clone(),
            other => {
                let name = if optional { "_[?_]" } else { "_[_]" };
                return self.fail(at, format!("found no matching overload for '{name}' applied to '({other}, {key})'"));
            }
        };
        if optional || inside { optional_of(found) } else { found }
    }

    fn logic(&mut self, parts: &[Expr], name: &str) -> Ty {
        for part in parts {
            let ty = self.expr(part);
            if !matches!(ty, Ty::Bool | Ty::Dyn) {
                self.fail(part.at, format!("found no matching overload for '{name}' applied to '(bool, {ty})'"));
            }
        }
        Ty::Bool
    }

    fn condition(&mut self, at: usize, parts: &[Expr; 3]) -> Ty {
        let [condition, yes, no] = [0, 1, 2].map(|i| self.expr(&parts[i]));
        let same = yes.takes(&no, &mut [None, None]);
        if !matches!(condition, Ty::Bool | Ty::Dyn) || !same {
            let message = format!("found no matching overload for '_?_:_' applied to '({condition}, {yes}, {no})'");
            return self.fail(at, message);
        }
        yes.join(no)
    }

    fn call(&mut self, at: usize, name: &str, member: bool, args: &[Expr]) -> Ty {
        let types: Vec<Ty> = args.iter().map(|arg| self.expr(arg)).collect();
        self.note_pattern(name, args);
        let unordered = |ty: &Ty| {
            matches!(ty, Ty::List(_) | Ty::Map(..) | Ty::Object(_) | Ty::Opaque(_) | Ty::Null | Ty::Optional(_))
        };
        if matches!(name, "_<_" | "_<=_" | "_>_" | "_>=_")
            && let Some(ty) = types.iter().find(|ty| unordered(ty))
        {
            return self.fail(at, format!("found no matching overload for '{name}' applied to '({ty}, {ty})'"));
        }
        let overloads = functions::overloads(name, member);
        if overloads.is_empty() {
            return self.fail(at, format!("undeclared reference to '{name}' (in container '')"));
        }
        let mut result: Option<Ty> = None;
        for overload in overloads.iter().filter(|o| o.params.len() == types.len()) {
            let mut bound = [None, None];
            if overload.params.iter().zip(&types).all(|(param, arg)| param.takes(arg, &mut bound)) {
                let ty = overload.result.bind(&bound);
                result = Some(match result {
                    None => ty,
                    Some(before) if before == ty => ty,
                    Some(_) => Ty::Dyn,
                });
            }
        }
        result.unwrap_or_else(|| {
            let shown: Vec<String> = types.iter().map(Ty::to_string).collect();
            let applied = match shown.split_first() {
                Some((target, rest)) if member => format!("{target}.({})", rest.join(", ")),
                _ => format!("({})", shown.join(", ")),
            };
            self.fail(at, format!("found no matching overload for '{name}' applied to '{applied}'"))
        })
    }

    /// Literal patterns are read once, and their mistakes told before anything runs.
    fn note_pattern(&mut self, name: &str, args: &[Expr]) {
        if !matches!(name, "matches" | "find" | "findAll") {
            return;
        }
        if let Some(Expr { at, kind: Kind::Const(Const::Text(text)), .. }) = args.get(1) {
            match pattern(text) {
                Ok(regex) => _ = self.patterns.insert(text.clone(), regex),
                Err(problem) => _ = self.fail(*at, problem),
            }
        }
    }

    fn element(&mut self, item: &Expr, optional: bool) -> Ty {
        let ty = self.expr(item);
        match ty {
            Ty::Optional(of) if optional => (*of).clone(),
            Ty::Dyn => Ty::Dyn,
            other if optional => {
                let message = format!("expected type 'optional_type({other})' but found '{other}'");
                self.fail(item.at, message)
            }
            other => other,
        }
    }

    fn map(&mut self, entries: &[(Expr, Expr, bool)]) -> Ty {
        let (mut keys, mut values): (Option<Ty>, Option<Ty>) = (None, None);
        for (key, value, optional) in entries {
            let (k, v) = (self.expr(key), self.element(value, *optional));
            keys = Some(keys.map_or_else(|| k.clone(), |of| of.join(k.clone())));
            values = Some(values.map_or_else(|| v.clone(), |of| of.join(v.clone())));
        }
        Ty::Map(Arc::new(keys.unwrap_or(Ty::Dyn)), Arc::new(values.unwrap_or(Ty::Dyn)))
    }

    fn comprehension(&mut self, comp: &Comp) -> Ty {
        let range = self.expr(&comp.range);
        let (first, second) = match &range {
            Ty::List(of) if comp.second.is_some() => (Ty::Int, (**of).clone()),
            Ty::List(of) => ((**of).clone(), Ty::Dyn),
            Ty::Map(key, value) => ((**key).clone(), (**value).clone()),
            Ty::Dyn => (Ty::Dyn, Ty::Dyn),
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                return self.fail(comp.range.at, message);
            }
        };
        let names = [Some((comp.first.clone(), first.clone())), comp.second.clone().map(|name| (name, second))];
        let (filter, body) = self.within(names.into_iter().flatten(), |this| {
            let filter = comp.filter.as_ref().map(|f| (f.at, this.expr(f)));
            (filter, this.expr(&comp.body))
        });
        let folds = !matches!(comp.fold, Fold::List | Fold::Map | Fold::Entries);
        let conditions = filter.into_iter().chain(folds.then(|| (comp.body.at, body.clone())));
        for (at, ty) in conditions.collect::<Vec<_>>() {
            if !matches!(ty, Ty::Bool | Ty::Dyn) {
                self.fail(at, format!("found no matching overload for '_&&_' applied to '(bool, {ty})'"));
            }
        }
        let key = if matches!(range, Ty::List(_)) { Ty::Int } else { first.clone() };
        match comp.fold {
            Fold::All | Fold::Exists | Fold::ExistsOne => Ty::Bool,
            Fold::List => Ty::list(body),
            Fold::Filter => Ty::list(first),
            Fold::Map => Ty::Map(Arc::new(key), Arc::new(body)),
            Fold::Entries => body,
        }
    }

    fn opt_map(&mut self, target: &Expr, name: &str, body: &Expr, flat: bool) -> Ty {
        let of = match self.expr(target) {
            Ty::Optional(of) => (*of).clone(),
            Ty::Dyn => Ty::Dyn,
            other => {
                let function = if flat { "optFlatMap" } else { "optMap" };
                return self
                    .fail(target.at, format!("found no matching overload for '{function}' applied to '{other}.()'"));
            }
        };
        let ty = self.within([(name.to_owned(), of)], |this| this.expr(body));
        if flat { ty } else { optional_of(ty) }
    }
}

fn optional_of(ty: Ty) -> Ty {
    match ty {
        Ty::Optional(_) => ty,
        other => Ty::Optional(Arc::new(other)),
    }
}

fn of_const(constant: &Const) -> Ty {
    match constant {
        Const::Null => Ty::Null,
        Const::Bool(_) => Ty::Bool,
        Const::Int(_) => Ty::Int,
        Const::Uint(_) => Ty::Uint,
        Const::Double(_) => Ty::Double,
        Const::Text(_) => Ty::Text,
        Const::Bytes(_) => Ty::Bytes,
    }
}
