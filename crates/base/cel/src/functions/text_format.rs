//! `"...".format([...])` of cel-go's string extension.

use super::convert::double_text;
use super::{Row, args};
use crate::eval::{EvalError, Meter, Outcome, fail};
use crate::value::{Value, format_duration};

pub(super) const ROWS: &[Row] = &[("string.format(list<dyn>) string", format)];

/// How many digits behind the point may be asked for.
const MOST_DIGITS: usize = 100;

fn format<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    args!(args, [Value::Text(pattern), Value::List(values)] => {
        meter.charge_text(pattern.len())?;
        let mut values = values.iter();
        let mut rest = pattern.chars().peekable();
        let mut out = String::new();
        while let Some(c) = rest.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            if rest.next_if_eq(&'%').is_some() {
                out.push('%');
                continue;
            }
            let digits = precision(&mut rest)?;
            let Some(clause) = rest.next() else { return fail("unexpected end of string") };
            let Some(value) = values.next() else { return fail("index 0 out of range") };
            let part = one(meter, clause, digits, &value)?;
            meter.charge_text(part.len())?;
            out.push_str(&part);
        }
        Ok(Value::Text(out.into()))
    })
}

fn precision(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Option<usize>, EvalError> {
    if rest.next_if_eq(&'.').is_none() {
        return Ok(None);
    }
    let mut digits = String::new();
    while let Some(c) = rest.next_if(char::is_ascii_digit) {
        digits.push(c);
    }
    match digits.parse() {
        Ok(count) if count <= MOST_DIGITS => Ok(Some(count)),
        _ => fail(format!("could not parse precision: {digits:.16}")),
    }
}

fn one(meter: &mut Meter<'_>, clause: char, digits: Option<usize>, value: &Value<'_>) -> Result<String, EvalError> {
    let unfit = || {
        Err(EvalError::Failed(format!(
            "error during formatting: {} cannot be formatted with %{clause}",
            value.type_name()
        )))
    };
    let number = match value {
        Value::Double(n) => Some(*n),
        Value::Int(n) => Some(*n as f64),
        Value::Uint(n) => Some(*n as f64),
        _ => None,
    };
    match (clause, value) {
        ('s', value) => text(meter, value, false),
        ('d', Value::Int(n)) => Ok(n.to_string()),
        ('d', Value::Uint(n)) => Ok(n.to_string()),
        ('d', Value::Double(n)) if n.is_nan() || n.is_infinite() => {
            Ok(double_text(*n).trim_start_matches('+').to_owned())
        }
        ('f', _) => {
            number.map_or_else(unfit, |n| Ok(special(n).unwrap_or_else(|| format!("{n:.*}", digits.unwrap_or(6)))))
        }
        ('e', _) => number.map_or_else(unfit, |n| Ok(special(n).unwrap_or_else(|| exponent(n, digits.unwrap_or(6))))),
        ('b', Value::Bool(b)) => Ok(u8::from(*b).to_string()),
        ('b', Value::Int(n)) => Ok(signed(*n, |n| format!("{n:b}"))),
        ('b', Value::Uint(n)) => Ok(format!("{n:b}")),
        ('o', Value::Int(n)) => Ok(signed(*n, |n| format!("{n:o}"))),
        ('o', Value::Uint(n)) => Ok(format!("{n:o}")),
        ('x', Value::Int(n)) => Ok(signed(*n, |n| format!("{n:x}"))),
        ('X', Value::Int(n)) => Ok(signed(*n, |n| format!("{n:X}"))),
        ('x', Value::Uint(n)) => Ok(format!("{n:x}")),
        ('X', Value::Uint(n)) => Ok(format!("{n:X}")),
        ('x' | 'X', Value::Text(text)) => Ok(hex(text.as_bytes(), clause == 'X')),
        ('x' | 'X', Value::Bytes(bytes)) => Ok(hex(bytes, clause == 'X')),
        ('d' | 'b' | 'o' | 'x' | 'X', _) => unfit(),
        _ => fail(format!("could not parse formatting clause: unrecognized formatting clause \"{clause}\"")),
    }
}

fn special(number: f64) -> Option<String> {
    let text = match number {
        n if n.is_nan() => "NaN",
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => return None,
    };
    Some(text.to_owned())
}

fn exponent(number: f64, digits: usize) -> String {
    let text = format!("{number:.digits$e}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
    format!("{mantissa}e{sign}{exponent:0>2}")
}

fn signed(number: i64, digits: impl Fn(u64) -> String) -> String {
    format!("{}{}", if number < 0 { "-" } else { "" }, digits(number.unsigned_abs()))
}

fn hex(bytes: &[u8], upper: bool) -> String {
    let digits = |byte: &u8| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") };
    bytes.iter().map(digits).collect()
}

/// `%s`; within lists and maps, texts are quoted.
fn text(meter: &mut Meter<'_>, value: &Value<'_>, within: bool) -> Result<String, EvalError> {
    meter.charge(1)?;
    Ok(match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Uint(n) => n.to_string(),
        Value::Double(n) => special(*n).unwrap_or_else(|| double_text(*n)),
        Value::Text(text) => {
            meter.charge_text(text.len())?;
            if within { format!("\"{text}\"") } else { text.to_string() }
        }
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Time(time) => time.to_string(),
        Value::Duration(duration) => format_duration(duration),
        Value::Type(name) => name.to_string(),
        Value::List(list) => {
            let parts = list.iter().map(|v| text(meter, &v, true)).collect::<Result<Vec<_>, _>>()?;
            format!("[{}]", parts.join(", "))
        }
        Value::Map(map) => {
            let mut parts = Vec::new();
            for (key, value) in map.iter() {
                parts.push(format!("{}: {}", text(meter, &key, true)?, text(meter, &value, true)?));
            }
            parts.sort();
            format!("{{{}}}", parts.join(", "))
        }
        Value::Quantity(quantity) => quantity.to_string(),
        Value::Ip(ip) => ip.to_string(),
        Value::Cidr(cidr) => cidr.to_string(),
        other => {
            return fail(format!(
                "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps, was given {}",
                other.type_name()
            ));
        }
    })
}
