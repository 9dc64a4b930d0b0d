//! Lists: Kubernetes' library and `sets`.

use std::cmp::Ordering;

use jiff::SignedDuration;

use super::operators::charge_compare;
use super::{Row, args};
use crate::eval::{EvalError, Meter, Outcome, fail};
use crate::value::{List, Value};

pub(super) const ROWS: &[Row] = &[
    ("list<A>.isSorted() bool", is_sorted),
    ("list<int>.sum() int", sum),
    ("list<uint>.sum() uint", sum),
    ("list<double>.sum() double", sum),
    ("list<duration>.sum() duration", sum),
    ("list<A>.min() A", |meter, args| extreme(meter, args, "min", Ordering::Less)),
    ("list<A>.max() A", |meter, args| extreme(meter, args, "max", Ordering::Greater)),
    ("list<A>.indexOf(A) int", |meter, args| index(meter, args, false)),
    ("list<A>.lastIndexOf(A) int", |meter, args| index(meter, args, true)),
    ("sets.contains(list<A>, list<A>) bool", |meter, args| sets(meter, args, |a, b| within(b, a))),
    ("sets.equivalent(list<A>, list<A>) bool", |meter, args| sets(meter, args, |a, b| within(a, b) && within(b, a))),
    ("sets.intersects(list<A>, list<A>) bool", |meter, args| {
        sets(meter, args, |a, b| a.iter().any(|item| b.iter().any(|other| item.equals(&other))))
    }),
];

fn is_sorted<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    args!(args, [Value::List(list)] => {
        let mut before: Option<Value<'a>> = None;
        for item in list.iter() {
            meter.charge(1)?;
            if let Some(before) = &before {
                charge_compare(meter, before, &item)?;
                match before.compare(&item) {
                    Some(Ordering::Greater) => return Ok(Value::Bool(false)),
                    Some(_) => {}
                    None => return fail("no such overload"),
                }
            }
            before = Some(item);
        }
        Ok(Value::Bool(true))
    })
}

/// The sum; an empty list's is 0 of its kind as far as that is known, which is an int.
fn sum<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    args!(args, [Value::List(list)] => {
        let mut total: Option<Value<'a>> = None;
        for item in list.iter() {
            meter.charge(1)?;
            total = Some(match total {
                None if matches!(item, Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Duration(_)) => item,
                None => return fail("no such overload"),
                Some(total) => plus(&total, &item)?,
            });
        }
        let empty = match list {
            List::Json(_, crate::Ty::Double) => Value::Double(0.0),
            List::Json(_, crate::Ty::Duration) => Value::Duration(SignedDuration::ZERO),
            _ => Value::Int(0),
        };
        Ok(total.unwrap_or(empty))
    })
}

fn plus<'a>(a: &Value<'a>, b: &Value<'a>) -> Outcome<'a> {
    let sum = match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.checked_add(*b).map(Value::Int),
        (Value::Uint(a), Value::Uint(b)) => a.checked_add(*b).map(Value::Uint),
        (Value::Double(a), Value::Double(b)) => Some(Value::Double(a + b)),
        (Value::Duration(a), Value::Duration(b)) => a.checked_add(*b).map(Value::Duration),
        _ => return fail("no such overload"),
    };
    sum.map_or_else(|| fail("integer overflow"), Ok)
}

fn extreme<'a>(meter: &mut Meter<'_>, args: &[Value<'a>], name: &str, wanted: Ordering) -> Outcome<'a> {
    args!(args, [Value::List(list)] => {
        let mut best: Option<Value<'a>> = None;
        for item in list.iter() {
            meter.charge(1)?;
            match &best {
                None => best = Some(item),
                Some(known) => {
                    charge_compare(meter, known, &item)?;
                    match item.compare(known) {
                        Some(order) if order == wanted => best = Some(item),
                        Some(_) => {}
                        None => return fail("no such overload"),
                    }
                }
            }
        }
        best.map_or_else(|| fail(format!("{name} called on empty list")), Ok)
    })
}

fn index<'a>(meter: &mut Meter<'_>, args: &[Value<'a>], last: bool) -> Outcome<'a> {
    args!(args, [Value::List(list), wanted] => {
        let mut found = -1;
        for (at, item) in list.iter().enumerate() {
            meter.charge(1)?;
            charge_compare(meter, wanted, &item)?;
            if wanted.equals(&item) {
                found = i64::try_from(at).unwrap_or(i64::MAX);
                if !last {
                    break;
                }
            }
        }
        Ok(Value::Int(found))
    })
}

fn sets<'a>(meter: &mut Meter<'_>, args: &[Value<'a>], test: impl Fn(&List<'a>, &List<'a>) -> bool) -> Outcome<'a> {
    args!(args, [Value::List(a), Value::List(b)] => {
        charge_product(meter, a, b)?;
        Ok(Value::Bool(test(a, b)))
    })
}

/// Every element may be looked at with every other.
fn charge_product(meter: &mut Meter<'_>, a: &List<'_>, b: &List<'_>) -> Result<(), EvalError> {
    let largest = |list: &List<'_>| list.iter().map(|v| v.size()).max().unwrap_or(1).div_ceil(10).max(1);
    meter.charge((a.len() + b.len()) as u64)?;
    let product = (a.len() as u64).saturating_mul(b.len() as u64);
    meter.charge(product.saturating_mul(largest(a).min(largest(b))))
}

fn within(a: &List<'_>, b: &List<'_>) -> bool {
    a.iter().all(|item| b.iter().any(|other| item.equals(&other)))
}
