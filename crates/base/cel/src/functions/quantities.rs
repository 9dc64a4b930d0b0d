//! `kubernetes.Quantity`.

use std::cmp::Ordering;

use kinit_apimachinery::quantity::Quantity;

use super::{Row, args};
use crate::eval::{Outcome, fail};
use crate::value::Value;

pub(super) const ROWS: &[Row] = &[
    ("quantity(string) quantity", |meter, args| {
        args!(args, [Value::Text(text)] => {
            meter.charge_text(text.len())?;
            match text.parse() {
                Ok(quantity) => Ok(Value::Quantity(quantity)),
                Err(_) => fail("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"),
            }
        })
    }),
    ("isQuantity(string) bool", |meter, args| {
        args!(args, [Value::Text(text)] => {
            meter.charge_text(text.len())?;
            Ok(Value::Bool(text.parse::<Quantity>().is_ok()))
        })
    }),
    (
        "quantity.sign() int",
        |_, args| args!(args, [Value::Quantity(q)] => Ok(Value::Int(order(q.cmp(&Quantity::ZERO))))),
    ),
    (
        "quantity.isInteger() bool",
        |_, args| args!(args, [Value::Quantity(q)] => Ok(Value::Bool(integer(*q).is_some()))),
    ),
    ("quantity.asInteger() int", |_, args| {
        args!(args, [Value::Quantity(q)] => match integer(*q) {
            Some(n) => Ok(Value::Int(n)),
            None => fail("cannot convert value to integer"),
        })
    }),
    (
        "quantity.asApproximateFloat() double",
        |_, args| args!(args, [Value::Quantity(q)] => Ok(Value::Double(q.thousandths() as f64 / 1000.0))),
    ),
    ("quantity.add(quantity) quantity", |_, args| combined(args, Quantity::plus)),
    ("quantity.add(int) quantity", |_, args| combined(args, Quantity::plus)),
    ("quantity.sub(quantity) quantity", |_, args| combined(args, Quantity::minus)),
    ("quantity.sub(int) quantity", |_, args| combined(args, Quantity::minus)),
    ("quantity.isLessThan(quantity) bool", |_, args| compared(args).map(|o| Value::Bool(o.is_lt()))),
    ("quantity.isGreaterThan(quantity) bool", |_, args| compared(args).map(|o| Value::Bool(o.is_gt()))),
    ("quantity.compareTo(quantity) int", |_, args| compared(args).map(|o| Value::Int(order(o)))),
];

/// -1, 0 or 1.
pub(super) fn order(order: Ordering) -> i64 {
    order as i64
}

fn integer(quantity: Quantity) -> Option<i64> {
    let value = quantity.value();
    let whole = quantity == quantity.rounded_up() && value != i64::MAX && value != i64::MIN;
    whole.then_some(value)
}

fn combined<'a>(args: &[Value<'a>], act: impl Fn(Quantity, Quantity) -> Quantity) -> Outcome<'a> {
    match args {
        [Value::Quantity(a), Value::Quantity(b)] => Ok(Value::Quantity(act(*a, *b))),
        [Value::Quantity(a), Value::Int(n)] => match n.to_string().parse() {
            Ok(b) => Ok(Value::Quantity(act(*a, b))),
            Err(_) => fail("integer overflow"),
        },
        _ => fail("no such overload"),
    }
}

fn compared(args: &[Value<'_>]) -> Result<Ordering, crate::EvalError> {
    match args {
        [Value::Quantity(a), Value::Quantity(b)] => Ok(a.cmp(b)),
        _ => fail("no such overload"),
    }
}
