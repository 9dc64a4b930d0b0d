//! The Common Expression Language as Kubernetes uses it: custom resources' rules, admission policies, match conditions.
//!
//! ```text
//! text ── lexer ── parser ── ast (macros are expanded) ── check ── Program ── eval ── Value
//!                                  types, from OpenAPI schemas ──┘              └── functions: one table for both
//! ```
//!
//! An expression is checked against declared variables before it runs, and runs within a budget of cost. No text and
//! no value makes it panic: what is read is bounded in length, in depth and in what it may cost.
//!
//! Of the crates there are, `cel` (MIT) parses and evaluates, but neither checks types nor bounds cost, which
//! Kubernetes' API promises; both reach through every part, so this one is its own.

mod ast;
mod authority;
mod check;
mod env;
mod estimate;
mod eval;
mod functions;
mod lexer;
mod parser;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
mod types;
mod value;

use std::collections::HashMap;

use regex::Regex;

pub use authority::{AUTHORIZER, Asking, Authority, Decision, Question, RESOURCE_CHECK};
pub use env::{Env, JSON_PATCH, OBJECT};
pub use estimate::{largest, most_in_request};
pub use eval::{Bindings, EvalError};
pub use types::{Object, Ty};
pub use value::{List, Map, Struct, Value};

/// How long an expression may be, in bytes.
pub const MAX_LENGTH: usize = 100_000;
/// How deep an expression may be nested (`maxRecursionDepth` of cel-go's parser).
pub const MAX_DEPTH: usize = 250;

/// A mistake in an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// Place in the text, in characters from 0.
    pub at: usize,
    /// What is wrong, in cel-go's words.
    pub message: String,
}

/// Why an expression cannot be used; shown as cel-go shows it, with the line and a mark below it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", shown(.text, .issues))]
pub struct CompileError {
    text: String,
    /// The mistakes, in the order of the text.
    pub issues: Vec<Issue>,
}

fn shown(text: &str, issues: &[Issue]) -> String {
    let one = |issue: &Issue| {
        let before: String = text.chars().take(issue.at).collect();
        let line = before.matches('\n').count();
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
        let source = text.lines().nth(line).unwrap_or_default();
        let dots = ".".repeat(column);
        format!("ERROR: <input>:{}:{}: {}\n | {source}\n | {dots}^", line + 1, column + 1, issue.message)
    };
    issues.iter().map(one).collect::<Vec<_>>().join("\n")
}

/// What an evaluation may cost, in upstream's units: about one a step, a tenth a character looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget(pub u64);

/// A checked expression.
#[derive(Debug, Clone)]
pub struct Program {
    root: ast::Expr,
    ty: Ty,
    /// The patterns that the expression has as literals.
    patterns: HashMap<String, Regex>,
}

impl Program {
    /// Reads and checks an expression.
    pub fn compile(text: &str, env: &Env) -> Result<Self, CompileError> {
        let failed = |issues: Vec<Issue>| CompileError { text: text.to_owned(), issues };
        let root = parser::parse(text).map_err(|issue| failed(vec![issue]))?;
        let checked = check::check(&root, env);
        if !checked.issues.is_empty() {
            return Err(failed(checked.issues));
        }
        Ok(Self { root, ty: checked.ty, patterns: checked.patterns })
    }

    /// The type of its value.
    pub fn ty(&self) -> &Ty {
        &self.ty
    }

    /// Whether it looks at a variable.
    pub fn uses(&self, name: &str) -> bool {
        uses(&self.root, name)
    }

    /// What it may cost at most, given the OpenAPI schemas of variables.
    pub fn estimate(&self, variables: &[(&str, &serde_json::Value)]) -> u64 {
        estimate::estimate(&self.root, variables)
    }

    /// Evaluates it.
    pub fn eval<'a>(&'a self, bindings: &Bindings<'a>, budget: Budget) -> Result<Value<'a>, EvalError> {
        self.eval_metered(bindings, budget).0
    }

    /// Evaluates it, and says what that cost.
    pub fn eval_metered<'a>(&'a self, bindings: &Bindings<'a>, budget: Budget) -> (Result<Value<'a>, EvalError>, u64) {
        eval::run(&self.root, &self.patterns, bindings, budget.0)
    }
}

fn uses(expr: &ast::Expr, name: &str) -> bool {
    let mut found = matches!(&expr.kind, ast::Kind::Ident(ident) if ident == name);
    expr.kind.each(&mut |child| found = found || uses(child, name));
    found
}
