//! Functions and operators: one table of signatures, for the checker and for the evaluator.
//!
//! A row is a signature in a small language, `list<A>.indexOf(A) int`, and the function. `A` and `B` stand for any
//! type, the same at each place. Overloads are told apart by what the values are.

mod authorizer;
mod convert;
mod formats;
mod lists;
mod net;
mod operators;
mod quantities;
mod strings;
mod text_format;
mod time;
mod urls;
mod versions;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use regex::{Regex, RegexBuilder};

use crate::ast::{Access, Expr, Kind};
use crate::authority::{AUTHORIZER, RESOURCE_CHECK};
use crate::eval::{Meter, Outcome, fail};
use crate::types::Ty;
use crate::value::Value;

pub use formats::is_format;

/// A function: of what may be spent, and the arguments, the target of a member call first.
pub(crate) type Function = for<'a> fn(&mut Meter<'_>, &[Value<'a>]) -> Outcome<'a>;

/// A row of the table.
pub(crate) type Row = (&'static str, Function);

/// One way to call a function.
pub(crate) struct Overload {
    pub params: Vec<Ty>,
    pub result: Ty,
    run: Function,
}

type Table = HashMap<(String, bool), Vec<Overload>>;

static TABLE: LazyLock<Table> = LazyLock::new(table);

/// The largest program that a pattern may become, in bytes.
const PATTERN_LIMIT: usize = 1 << 20;

const ROWS: [&[Row]; 12] = [
    operators::ROWS,
    convert::ROWS,
    strings::ROWS,
    text_format::ROWS,
    lists::ROWS,
    time::ROWS,
    quantities::ROWS,
    net::ROWS,
    urls::ROWS,
    versions::ROWS,
    formats::ROWS,
    authorizer::ROWS,
];

#[cfg(test)]
pub(crate) fn broken_signatures() -> Vec<&'static str> {
    ROWS.into_iter().flatten().map(|(signature, _)| *signature).filter(|s| signature_of(s).is_none()).collect()
}

fn table() -> Table {
    let mut out = Table::new();
    for (signature, run) in ROWS.into_iter().flatten() {
        if let Some((name, member, params, result)) = signature_of(signature) {
            out.entry((name, member)).or_default().push(Overload { params, result, run: *run });
        }
    }
    out
}

/// `T.name(T, T) T`, without the target for a global function, and `space::name` for one that looks like a member.
fn signature_of(text: &str) -> Option<(String, bool, Vec<Ty>, Ty)> {
    let (head, rest) = text.split_once('(')?;
    let (params, result) = rest.rsplit_once(") ")?;
    let global = head.replace("::", ".");
    let (target, name) = match head.rsplit_once('.') {
        Some((target, name)) if type_of(target).is_some() => (type_of(target), name),
        _ => (None, global.as_str()),
    };
    let member = target.is_some();
    let mut all: Vec<Ty> = target.into_iter().collect();
    for param in split(params) {
        all.push(type_of(param)?);
    }
    Some((name.to_owned(), member, all, type_of(result)?))
}

/// Parts between the commas that are not within `<>`.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut out) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            ',' if depth == 0 => {
                out.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    out.push(text[start..].trim());
    out.retain(|part| !part.is_empty());
    out
}

fn type_of(text: &str) -> Option<Ty> {
    if let Some((name, of)) = text.strip_suffix('>').and_then(|text| text.split_once('<')) {
        let parts: Vec<Ty> = split(of).into_iter().filter_map(type_of).collect();
        return match (name, parts.as_slice()) {
            ("list", [of]) => Some(Ty::list(of.clone())),
            ("optional", [of]) => Some(Ty::Optional(Arc::new(of.clone()))),
            ("map", [k, v]) => Some(Ty::Map(Arc::new(k.clone()), Arc::new(v.clone()))),
            _ => None,
        };
    }
    Some(match text {
        "dyn" => Ty::Dyn,
        "null" => Ty::Null,
        "bool" => Ty::Bool,
        "int" => Ty::Int,
        "uint" => Ty::Uint,
        "double" => Ty::Double,
        "string" => Ty::Text,
        "bytes" => Ty::Bytes,
        "timestamp" => Ty::Time,
        "duration" => Ty::Duration,
        "type" => Ty::Type,
        "quantity" => Ty::Opaque("kubernetes.Quantity"),
        "ip" => Ty::Opaque("net.IP"),
        "cidr" => Ty::Opaque("net.CIDR"),
        "url" => Ty::Opaque("kubernetes.URL"),
        "semver" => Ty::Opaque("kubernetes.Semver"),
        "format" => Ty::Opaque("kubernetes.NamedFormat"),
        "authorizer" => Ty::Opaque(AUTHORIZER),
        "pathcheck" => Ty::Opaque("kubernetes.authorization.PathCheck"),
        "groupcheck" => Ty::Opaque("kubernetes.authorization.GroupCheck"),
        "resourcecheck" => Ty::Opaque(RESOURCE_CHECK),
        "decision" => Ty::Opaque("kubernetes.authorization.Decision"),
        "A" => Ty::Param(0),
        "B" => Ty::Param(1),
        _ => return None,
    })
}

/// The ways to call a function.
pub(crate) fn overloads(name: &str, member: bool) -> &'static [Overload] {
    TABLE.get(&(name.to_owned(), member)).map_or(&[], Vec::as_slice)
}

/// Calls a function.
pub(crate) fn call<'a>(meter: &mut Meter<'_>, name: &str, member: bool, args: &[Value<'a>]) -> Outcome<'a> {
    let fits =
        |o: &&Overload| o.params.len() == args.len() && o.params.iter().zip(args).all(|(param, arg)| arg.is(param));
    match overloads(name, member).iter().find(fits) {
        Some(overload) => (overload.run)(meter, args),
        None => fail("no such overload"),
    }
}

/// A pattern in RE2's syntax; the error is for the writer of the expression.
pub(crate) fn pattern(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text).size_limit(PATTERN_LIMIT).build().map_err(|error| {
        let reason = error.to_string().lines().last().unwrap_or_default().trim().to_owned();
        format!("error parsing regexp: {reason}: `{text:.128}`")
    })
}

/// The types that have names.
pub(crate) fn type_value(name: &str) -> Option<&'static str> {
    const NAMES: [&str; 11] =
        ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint", "optional_type"];
    NAMES.into_iter().find(|n| *n == name)
}

/// The types whose names have dots, written as selections.
pub(crate) fn qualified_type(expr: &Expr) -> Option<&'static str> {
    const NAMES: [&str; 8] = [
        "google.protobuf.Timestamp",
        "google.protobuf.Duration",
        "kubernetes.Quantity",
        "kubernetes.URL",
        "kubernetes.Semver",
        "kubernetes.NamedFormat",
        "net.IP",
        "net.CIDR",
    ];
    let Kind::Select { field, access: Access::Value, .. } = &expr.kind else { return None };
    let last = NAMES.into_iter().filter(|name| name.rsplit('.').next() == Some(field));
    last.into_iter().find(|name| is_path(expr, name))
}

fn is_path(expr: &Expr, path: &str) -> bool {
    match (&expr.kind, path.rsplit_once('.')) {
        (Kind::Ident(name), None) => name == path,
        (Kind::Select { operand, field, access: Access::Value }, Some((rest, last))) => {
            field == last && is_path(operand, rest)
        }
        _ => false,
    }
}

/// A value in a message.
pub(crate) fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Text(text) => text.to_string(),
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Uint(n) => n.to_string(),
        Value::Double(n) => n.to_string(),
        other => other.type_name().to_owned(),
    }
}

/// The arguments as the types that the signature promises; another outcome would be a mistake in the table.
macro_rules! args {
    ($args:expr, $pattern:pat => $body:expr) => {
        match $args {
            $pattern => $body,
            _ => $crate::eval::fail("no such overload"),
        }
    };
}
pub(crate) use args;
