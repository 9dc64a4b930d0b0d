//! Conversions: `int`, `uint`, `double`, `string`, `bytes`, `bool`, `type`, `dyn`.

use super::{Row, args};
use crate::eval::{Meter, Outcome, fail};
use crate::value::{Value, format_duration, timestamp};

pub(super) const ROWS: &[Row] = &[
    ("dyn(A) dyn", |_, args| args!(args, [value] => Ok(value.clone()))),
    ("type(dyn) type", |_, args| args!(args, [value] => Ok(Value::Type(value.type_name().into())))),
    ("int(int) int", int),
    ("int(uint) int", int),
    ("int(double) int", int),
    ("int(string) int", int),
    ("int(timestamp) int", int),
    ("int(duration) int", int),
    ("uint(int) uint", uint),
    ("uint(uint) uint", uint),
    ("uint(double) uint", uint),
    ("uint(string) uint", uint),
    ("double(int) double", double),
    ("double(uint) double", double),
    ("double(double) double", double),
    ("double(string) double", double),
    ("bool(bool) bool", boolean),
    ("bool(string) bool", boolean),
    ("string(string) string", string),
    ("string(bool) string", string),
    ("string(int) string", string),
    ("string(uint) string", string),
    ("string(double) string", string),
    ("string(bytes) string", string),
    ("string(timestamp) string", string),
    ("string(duration) string", string),
    ("string(ip) string", string),
    ("string(cidr) string", string),
    ("bytes(bytes) bytes", bytes),
    ("bytes(string) bytes", bytes),
    ("timestamp(string) timestamp", time),
    ("timestamp(timestamp) timestamp", time),
    ("timestamp(int) timestamp", time),
    ("duration(string) duration", span),
    ("duration(duration) duration", span),
];

fn int<'a>(_: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    let number = match args {
        [Value::Int(n)] => Some(*n),
        [Value::Uint(n)] => i64::try_from(*n).ok(),
        // Truncated, and strictly within: doubles near the ends stand for others beyond them.
        [Value::Double(n)] => (*n > -9.223_372_036_854_775e18 && *n < 9.223_372_036_854_775e18).then_some(*n as i64),
        [Value::Text(text)] => match text.parse() {
            Ok(n) => Some(n),
            Err(_) => return fail(format!("type conversion error from 'string' to 'int': {text:.64}")),
        },
        [Value::Time(time)] => Some(time.as_second()),
        [Value::Duration(duration)] => i64::try_from(duration.as_nanos()).ok(),
        _ => return fail("no such overload"),
    };
    number.map_or_else(|| fail("integer overflow"), |n| Ok(Value::Int(n)))
}

fn uint<'a>(_: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    let number = match args {
        [Value::Int(n)] => u64::try_from(*n).ok(),
        [Value::Uint(n)] => Some(*n),
        [Value::Double(n)] => (*n >= 0.0 && *n < 1.844_674_407_370_955e19).then_some(*n as u64),
        [Value::Text(text)] => match text.parse() {
            Ok(n) => Some(n),
            Err(_) => return fail(format!("type conversion error from 'string' to 'uint': {text:.64}")),
        },
        _ => return fail("no such overload"),
    };
    number.map_or_else(|| fail("unsigned integer overflow"), |n| Ok(Value::Uint(n)))
}

fn double<'a>(_: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Double(match args {
        [Value::Int(n)] => *n as f64,
        [Value::Uint(n)] => *n as f64,
        [Value::Double(n)] => *n,
        [Value::Text(text)] => match text.parse() {
            Ok(n) => n,
            Err(_) => return fail(format!("type conversion error from 'string' to 'double': {text:.64}")),
        },
        _ => return fail("no such overload"),
    }))
}

fn boolean<'a>(_: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Bool(b)] => Ok(Value::Bool(*b)),
        [Value::Text(text)] => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            other => fail(format!("type conversion error from 'string' to 'bool': {other:.64}")),
        },
        _ => fail("no such overload"),
    }
}

fn string<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    Ok(match args {
        [text @ Value::Text(_)] => text.clone(),
        [Value::Bool(b)] => Value::text(b.to_string()),
        [Value::Int(n)] => Value::text(n.to_string()),
        [Value::Uint(n)] => Value::text(n.to_string()),
        [Value::Double(n)] => Value::text(double_text(*n)),
        [Value::Bytes(bytes)] => {
            meter.charge_text(bytes.len())?;
            match std::str::from_utf8(bytes) {
                Ok(text) => Value::text(text),
                Err(_) => return fail("invalid UTF-8 in bytes, cannot convert to string"),
            }
        }
        [Value::Time(time)] => Value::text(time.to_string()),
        [Value::Duration(duration)] => Value::text(format_duration(duration)),
        [Value::Ip(ip)] => Value::text(ip.to_string()),
        [Value::Cidr(cidr)] => Value::text(cidr.to_string()),
        _ => return fail("no such overload"),
    })
}

/// As Go's `strconv` writes a double in its shortest form.
pub(super) fn double_text(number: f64) -> String {
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    let size = number.abs();
    if number == 0.0 || (1e-4..1e21).contains(&size) {
        return number.to_string();
    }
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => text,
    }
}

fn bytes<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [bytes @ Value::Bytes(_)] => Ok(bytes.clone()),
        [Value::Text(text)] => {
            meter.charge_text(text.len())?;
            Ok(Value::Bytes(text.as_bytes().into()))
        }
        _ => fail("no such overload"),
    }
}

fn time<'a>(_: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [time @ Value::Time(_)] => Ok(time.clone()),
        [Value::Int(seconds)] => match jiff::Timestamp::from_second(*seconds) {
            Ok(time) => Ok(Value::Time(time)),
            Err(_) => fail("timestamp overflow"),
        },
        [Value::Text(text)] => match timestamp(text) {
            Some(time) => Ok(Value::Time(time)),
            None => fail(format!("type conversion error from 'string' to 'google.protobuf.Timestamp': {text:.64}")),
        },
        _ => fail("no such overload"),
    }
}

fn span<'a>(_: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [span @ Value::Duration(_)] => Ok(span.clone()),
        [Value::Text(text)] => match kinit_apimachinery::duration::parse(text) {
            Some(span) => Ok(Value::Duration(span)),
            None => fail(format!("type conversion error from 'string' to 'google.protobuf.Duration': {text:.64}")),
        },
        _ => fail("no such overload"),
    }
}
