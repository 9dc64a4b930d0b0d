//! Operators, `size`, and optional values.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{Row, args};
use crate::eval::{EvalError, Meter, Outcome, fail};
use crate::value::{List, Map, Value};

pub(super) const ROWS: &[Row] = &[
    ("_==_(A, A) bool", |meter, args| equal(meter, args, true)),
    ("_!=_(A, A) bool", |meter, args| equal(meter, args, false)),
    ("!_(bool) bool", |_, args| args!(args, [Value::Bool(b)] => Ok(Value::Bool(!b)))),
    ("-_(int) int", |_, args| args!(args, [Value::Int(n)] => checked(n.checked_neg().map(Value::Int)))),
    ("-_(double) double", |_, args| args!(args, [Value::Double(n)] => Ok(Value::Double(-n)))),
    ("_+_(int, int) int", |_, args| ints(args, i64::checked_add)),
    ("_-_(int, int) int", |_, args| ints(args, i64::checked_sub)),
    ("_*_(int, int) int", |_, args| ints(args, i64::checked_mul)),
    ("_/_(int, int) int", |_, args| divided(args, "division by zero", i64::checked_div)),
    ("_%_(int, int) int", |_, args| divided(args, "modulus by zero", i64::checked_rem)),
    ("_+_(uint, uint) uint", |_, args| uints(args, u64::checked_add)),
    ("_-_(uint, uint) uint", |_, args| uints(args, u64::checked_sub)),
    ("_*_(uint, uint) uint", |_, args| uints(args, u64::checked_mul)),
    ("_/_(uint, uint) uint", |_, args| zero(args, "division by zero").and_then(|()| uints(args, u64::checked_div))),
    ("_%_(uint, uint) uint", |_, args| zero(args, "modulus by zero").and_then(|()| uints(args, u64::checked_rem))),
    ("_+_(double, double) double", |_, args| doubles(args, |a, b| a + b)),
    ("_-_(double, double) double", |_, args| doubles(args, |a, b| a - b)),
    ("_*_(double, double) double", |_, args| doubles(args, |a, b| a * b)),
    ("_/_(double, double) double", |_, args| doubles(args, |a, b| a / b)),
    ("_+_(string, string) string", join_text),
    ("_+_(bytes, bytes) bytes", join_bytes),
    ("_+_(list<A>, list<A>) list<A>", join_lists),
    ("_<_(A, A) bool", |meter, args| ordered(meter, args, Ordering::is_lt)),
    ("_<=_(A, A) bool", |meter, args| ordered(meter, args, Ordering::is_le)),
    ("_>_(A, A) bool", |meter, args| ordered(meter, args, Ordering::is_gt)),
    ("_>=_(A, A) bool", |meter, args| ordered(meter, args, Ordering::is_ge)),
    ("_<_(int, double) bool", |meter, args| ordered(meter, args, Ordering::is_lt)),
    ("_<=_(int, double) bool", |meter, args| ordered(meter, args, Ordering::is_le)),
    ("_>_(int, double) bool", |meter, args| ordered(meter, args, Ordering::is_gt)),
    ("_>=_(int, double) bool", |meter, args| ordered(meter, args, Ordering::is_ge)),
    ("_<_(double, int) bool", |meter, args| ordered(meter, args, Ordering::is_lt)),
    ("_<=_(double, int) bool", |meter, args| ordered(meter, args, Ordering::is_le)),
    ("_>_(double, int) bool", |meter, args| ordered(meter, args, Ordering::is_gt)),
    ("_>=_(double, int) bool", |meter, args| ordered(meter, args, Ordering::is_ge)),
    ("@in(A, list<A>) bool", in_list),
    ("@in(A, map<A, B>) bool", in_map),
    ("size(string) int", size),
    ("size(bytes) int", size),
    ("size(list<A>) int", size),
    ("size(map<A, B>) int", size),
    ("string.size() int", size),
    ("bytes.size() int", size),
    ("list<A>.size() int", size),
    ("map<A, B>.size() int", size),
    ("optional.of(A) optional<A>", |_, args| args!(args, [value] => Ok(Value::some(value.clone())))),
    ("optional.none() optional<A>", |_, _| Ok(Value::NONE)),
    ("optional.ofNonZeroValue(A) optional<A>", of_non_zero),
    ("optional<A>.hasValue() bool", |_, args| args!(args, [Value::Optional(v)] => Ok(Value::Bool(v.is_some())))),
    ("optional<A>.value() A", |_, args| {
        args!(args, [Value::Optional(v)] => match v {
            Some(value) => Ok((**value).clone()),
            None => fail("optional.none() dereference"),
        })
    }),
    (
        "optional<A>.or(optional<A>) optional<A>",
        |_, args| args!(args, [first @ Value::Optional(v), other] => Ok(if v.is_some() { first.clone() } else { other.clone() })),
    ),
    (
        "optional<A>.orValue(A) A",
        |_, args| args!(args, [Value::Optional(v), other] => Ok(v.as_ref().map_or_else(|| other.clone(), |v| (**v).clone()))),
    ),
];

fn checked(value: Option<Value<'_>>) -> Outcome<'_> {
    value.map_or_else(|| fail("integer overflow"), Ok)
}

fn ints<'a>(args: &[Value<'a>], act: impl Fn(i64, i64) -> Option<i64>) -> Outcome<'a> {
    args!(args, [Value::Int(a), Value::Int(b)] => checked(act(*a, *b).map(Value::Int)))
}

fn divided<'a>(args: &[Value<'a>], by_zero: &str, act: impl Fn(i64, i64) -> Option<i64>) -> Outcome<'a> {
    zero(args, by_zero)?;
    ints(args, act)
}

fn zero(args: &[Value<'_>], message: &str) -> Result<(), EvalError> {
    if matches!(args, [_, Value::Int(0) | Value::Uint(0)]) { fail(message) } else { Ok(()) }
}

fn uints<'a>(args: &[Value<'a>], act: impl Fn(u64, u64) -> Option<u64>) -> Outcome<'a> {
    args!(args, [Value::Uint(a), Value::Uint(b)] => match act(*a, *b) {
        Some(n) => Ok(Value::Uint(n)),
        None => fail("unsigned integer overflow"),
    })
}

fn doubles<'a>(args: &[Value<'a>], act: impl Fn(f64, f64) -> f64) -> Outcome<'a> {
    args!(args, [Value::Double(a), Value::Double(b)] => Ok(Value::Double(act(*a, *b))))
}

/// What looking at two values costs, all that is in them included.
pub(super) fn charge_compare(meter: &mut Meter<'_>, a: &Value<'_>, b: &Value<'_>) -> Result<(), EvalError> {
    match (a, b) {
        (Value::List(a), Value::List(b)) if a.len() == b.len() => {
            for (a, b) in a.iter().zip(b.iter()) {
                meter.charge(1)?;
                charge_compare(meter, &a, &b)?;
            }
            Ok(())
        }
        (Value::Map(a), Value::Map(b)) if a.len() == b.len() => {
            for (key, value) in a.iter() {
                meter.charge(1)?;
                if let Some(other) = b.get(&key) {
                    charge_compare(meter, &value, &other)?;
                }
            }
            Ok(())
        }
        _ => meter.charge(a.size().min(b.size()) / 10),
    }
}

fn equal<'a>(meter: &mut Meter<'_>, args: &[Value<'a>], wanted: bool) -> Outcome<'a> {
    args!(args, [a, b] => {
        charge_compare(meter, a, b)?;
        Ok(Value::Bool(a.equals(b) == wanted))
    })
}

fn ordered<'a>(meter: &mut Meter<'_>, args: &[Value<'a>], holds: impl Fn(Ordering) -> bool) -> Outcome<'a> {
    args!(args, [a, b] => {
        meter.charge(a.size().min(b.size()) / 10)?;
        let nan = |v: &Value<'_>| matches!(v, Value::Double(n) if n.is_nan());
        match a.compare(b) {
            Some(order) => Ok(Value::Bool(holds(order))),
            None if nan(a) || nan(b) => fail("NaN values cannot be ordered"),
            None => fail("no such overload"),
        }
    })
}

fn join_text<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    args!(args, [Value::Text(a), Value::Text(b)] => {
        meter.charge_text(a.len() + b.len())?;
        Ok(Value::Text([&**a, &**b].concat().into()))
    })
}

fn join_bytes<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    args!(args, [Value::Bytes(a), Value::Bytes(b)] => {
        meter.charge_text(a.len() + b.len())?;
        Ok(Value::Bytes([&**a, &**b].concat().into()))
    })
}

fn join_lists<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    args!(args, [Value::List(a), Value::List(b)] => {
        meter.charge((a.len() + b.len()) as u64)?;
        Ok(Value::List(List::Own(Arc::new(a.iter().chain(b.iter()).collect()))))
    })
}

fn in_list<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    args!(args, [wanted, Value::List(list)] => {
        for item in list.iter() {
            meter.charge(1)?;
            charge_compare(meter, wanted, &item)?;
            if wanted.equals(&item) {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    })
}

fn in_map<'a>(_: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    args!(args, [key, Value::Map(map)] => Ok(Value::Bool(map.get(key).is_some())))
}

fn size<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    let count = match args {
        [Value::Text(text)] => {
            meter.charge_text(text.len())?;
            text.chars().count()
        }
        [Value::Bytes(bytes)] => bytes.len(),
        [Value::List(list)] => list.len(),
        [Value::Map(map)] => map.len(),
        _ => return fail("no such overload"),
    };
    Ok(Value::Int(i64::try_from(count).unwrap_or(i64::MAX)))
}

fn of_non_zero<'a>(_: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    args!(args, [value] => {
        let zero = match value {
            Value::Null | Value::Bool(false) | Value::Int(0) | Value::Uint(0) | Value::Optional(None) => true,
            Value::Double(n) => *n == 0.0,
            Value::Text(text) => text.is_empty(),
            Value::Bytes(bytes) => bytes.is_empty(),
            Value::List(list) => list.is_empty(),
            Value::Map(map) => Map::is_empty(map),
            Value::Duration(duration) => duration.is_zero(),
            _ => false,
        };
        Ok(if zero { Value::NONE } else { Value::some(value.clone()) })
    })
}
