//! `kubernetes.Semver`.

use std::cmp::Ordering;
use std::sync::Arc;

use semver::Version;

use super::quantities::order;
use super::{Row, args};
use crate::eval::{EvalError, Meter, Outcome, fail};
use crate::value::Value;

pub(super) const ROWS: &[Row] = &[
    ("semver(string) semver", parse),
    ("semver(string, bool) semver", parse),
    ("isSemver(string) bool", is_semver),
    ("isSemver(string, bool) bool", is_semver),
    ("semver.major() int", |_, args| part(args, |v| v.major)),
    ("semver.minor() int", |_, args| part(args, |v| v.minor)),
    ("semver.patch() int", |_, args| part(args, |v| v.patch)),
    ("semver.isLessThan(semver) bool", |_, args| compared(args).map(|o| Value::Bool(o.is_lt()))),
    ("semver.isGreaterThan(semver) bool", |_, args| compared(args).map(|o| Value::Bool(o.is_gt()))),
    ("semver.compareTo(semver) int", |_, args| compared(args).map(|o| Value::Int(order(o)))),
];

fn read(meter: &mut Meter<'_>, args: &[Value<'_>]) -> Result<Option<Version>, EvalError> {
    let (text, tolerant) = match args {
        [Value::Text(text)] => (text, false),
        [Value::Text(text), Value::Bool(tolerant)] => (text, *tolerant),
        _ => return fail("no such overload"),
    };
    meter.charge_text(text.len())?;
    Ok(if tolerant { normalized(text).parse().ok() } else { text.parse().ok() })
}

/// Without a `v`, with three numbers that have no leading zeros.
fn normalized(text: &str) -> String {
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let number = |n: &str| match n.trim_start_matches('0') {
        "" if !n.is_empty() => "0".to_owned(),
        short => short.to_owned(),
    };
    let mut parts: Vec<String> = numbers.split('.').map(number).collect();
    while parts.len() < 3 {
        parts.push("0".into());
    }
    format!("{}{rest}", parts.join("."))
}

fn parse<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    match read(meter, args)? {
        Some(version) => Ok(Value::Semver(Arc::new(version))),
        None => fail("no valid semantic version"),
    }
}

fn is_semver<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(read(meter, args)?.is_some()))
}

fn part<'a>(args: &[Value<'a>], of: impl Fn(&Version) -> u64) -> Outcome<'a> {
    args!(args, [Value::Semver(version)] => match i64::try_from(of(version)) {
        Ok(n) => Ok(Value::Int(n)),
        Err(_) => fail("integer overflow"),
    })
}

fn compared(args: &[Value<'_>]) -> Result<Ordering, EvalError> {
    match args {
        [Value::Semver(a), Value::Semver(b)] => Ok(a.cmp_precedence(b)),
        _ => fail("no such overload"),
    }
}
