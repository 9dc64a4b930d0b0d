//! Strings: the standard functions, cel-go's extension, patterns, and `sets`' neighbours that work on text.

use super::{Row, args};
use crate::eval::{EvalError, Meter, Outcome, fail};
use crate::value::Value;

pub(super) const ROWS: &[Row] = &[
    ("string.contains(string) bool", |meter, args| holds(meter, args, |a, b| a.contains(b))),
    ("string.startsWith(string) bool", |meter, args| holds(meter, args, |a, b| a.starts_with(b))),
    ("string.endsWith(string) bool", |meter, args| holds(meter, args, |a, b| a.ends_with(b))),
    ("string.matches(string) bool", matches),
    ("matches(string, string) bool", matches),
    ("string.find(string) string", find),
    ("string.findAll(string) list<string>", find_all),
    ("string.findAll(string, int) list<string>", find_all),
    ("string.charAt(int) string", char_at),
    ("string.indexOf(string) int", index_of),
    ("string.indexOf(string, int) int", index_of),
    ("string.lastIndexOf(string) int", last_index_of),
    ("string.lastIndexOf(string, int) int", last_index_of),
    ("string.lowerAscii() string", |meter, args| mapped(meter, args, |text| text.to_ascii_lowercase())),
    ("string.upperAscii() string", |meter, args| mapped(meter, args, |text| text.to_ascii_uppercase())),
    ("string.trim() string", |meter, args| mapped(meter, args, |text| text.trim_matches(is_blank).to_owned())),
    ("string.reverse() string", |meter, args| mapped(meter, args, |text| text.chars().rev().collect())),
    ("string.replace(string, string) string", replace),
    ("string.replace(string, string, int) string", replace),
    ("string.split(string) list<string>", split),
    ("string.split(string, int) list<string>", split),
    ("string.substring(int) string", substring),
    ("string.substring(int, int) string", substring),
    ("list<string>.join() string", join),
    ("list<string>.join(string) string", join),
    ("strings.quote(string) string", |meter, args| mapped(meter, args, quoted)),
    ("jsonpatch.escapeKey(string) string", |meter, args| {
        mapped(meter, args, |text| text.replace('~', "~0").replace('/', "~1"))
    }),
];

fn is_blank(c: char) -> bool {
    // Unicode's White_Space, which Go trims too.
    c.is_whitespace()
}

fn holds<'a>(meter: &mut Meter<'_>, args: &[Value<'a>], test: impl Fn(&str, &str) -> bool) -> Outcome<'a> {
    args!(args, [Value::Text(a), Value::Text(b)] => {
        meter.charge_text(a.len())?;
        Ok(Value::Bool(test(a, b)))
    })
}

fn mapped<'a>(meter: &mut Meter<'_>, args: &[Value<'a>], change: impl Fn(&str) -> String) -> Outcome<'a> {
    args!(args, [Value::Text(text)] => {
        meter.charge_text(text.len())?;
        Ok(Value::Text(change(text).into()))
    })
}

/// What looking for a pattern costs, as upstream counts it.
fn charge_pattern(meter: &mut Meter<'_>, text: &str, pattern: &str) -> Result<(), EvalError> {
    let (text, pattern) = ((text.len() as u64 + 1).div_ceil(10), (pattern.len() as u64).div_ceil(4));
    meter.charge(text.saturating_mul(pattern.max(1)))
}

fn matches<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    args!(args, [Value::Text(text), Value::Text(pattern)] => {
        charge_pattern(meter, text, pattern)?;
        Ok(Value::Bool(meter.pattern(pattern)?.is_match(text)))
    })
}

fn find<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    args!(args, [Value::Text(text), Value::Text(pattern)] => {
        charge_pattern(meter, text, pattern)?;
        Ok(Value::text(meter.pattern(pattern)?.find(text).map_or("", |found| found.as_str())))
    })
}

fn find_all<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    let (text, pattern, limit) = match args {
        [Value::Text(text), Value::Text(pattern)] => (text, pattern, usize::MAX),
        [Value::Text(text), Value::Text(pattern), Value::Int(limit)] => {
            (text, pattern, usize::try_from(*limit).unwrap_or(usize::MAX))
        }
        _ => return fail("no such overload"),
    };
    charge_pattern(meter, text, pattern)?;
    let regex = meter.pattern(pattern)?;
    Ok(Value::list(regex.find_iter(text).take(limit).map(|found| Value::text(found.as_str())).collect()))
}

/// A place in a text, in characters.
fn place(at: i64, length: usize) -> Result<usize, EvalError> {
    match usize::try_from(at) {
        Ok(at) if at <= length => Ok(at),
        _ => fail(format!("index out of range: {at}")),
    }
}

fn char_at<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    args!(args, [Value::Text(text), Value::Int(at)] => {
        meter.charge_text(text.len())?;
        let at = place(*at, text.chars().count())?;
        Ok(Value::text(text.chars().nth(at).map(String::from).unwrap_or_default()))
    })
}

fn index_of<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    let (text, wanted, from) = searched(meter, args)?;
    let length = text.chars().count();
    let from = place(from.unwrap_or(0), length)?;
    let start: usize = text.chars().take(from).map(char::len_utf8).sum();
    let found = text.get(start..).and_then(|rest| Some(from + rest.get(..rest.find(&*wanted)?)?.chars().count()));
    Ok(position(found))
}

fn last_index_of<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    let (text, wanted, from) = searched(meter, args)?;
    let (length, size) = (text.chars().count(), wanted.chars().count());
    let last = match from {
        Some(from) => place(from, length)?,
        None => length,
    };
    // The found one begins at `last` or before.
    let end: usize = text.chars().take(last.saturating_add(size)).map(char::len_utf8).sum();
    let head = text.get(..end).unwrap_or_default();
    Ok(position(head.rfind(&*wanted).and_then(|at| Some(head.get(..at)?.chars().count()))))
}

type Searched = (std::sync::Arc<str>, std::sync::Arc<str>, Option<i64>);

fn searched(meter: &mut Meter<'_>, args: &[Value<'_>]) -> Result<Searched, EvalError> {
    let (text, wanted, from) = match args {
        [Value::Text(text), Value::Text(wanted)] => (text, wanted, None),
        [Value::Text(text), Value::Text(wanted), Value::Int(from)] => (text, wanted, Some(*from)),
        _ => return fail("no such overload"),
    };
    meter.charge_text(text.len() + wanted.len())?;
    Ok((text.clone(), wanted.clone(), from))
}

fn position<'a>(found: Option<usize>) -> Value<'a> {
    Value::Int(found.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1))
}

fn replace<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    let (text, old, new, limit) = match args {
        [Value::Text(text), Value::Text(old), Value::Text(new)] => (text, old, new, usize::MAX),
        [Value::Text(text), Value::Text(old), Value::Text(new), Value::Int(limit)] => {
            (text, old, new, usize::try_from(*limit).unwrap_or(usize::MAX))
        }
        _ => return fail("no such overload"),
    };
    // What comes out may be far longer than what goes in.
    meter.charge_text(text.len())?;
    let count = text.matches(&**old).take(limit).count();
    meter.charge_text(text.len().saturating_add(count.saturating_mul(new.len())))?;
    Ok(Value::Text(text.replacen(&**old, new, limit).into()))
}

fn split<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    let (text, separator, limit) = match args {
        [Value::Text(text), Value::Text(separator)] => (text, separator, -1),
        [Value::Text(text), Value::Text(separator), Value::Int(limit)] => (text, separator, *limit),
        _ => return fail("no such overload"),
    };
    meter.charge_text(text.len())?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let parts: Vec<Value<'a>> = if limit == 0 {
        Vec::new()
    } else if separator.is_empty() {
        let mut rest = text.chars();
        let mut out: Vec<Value<'a>> = Vec::new();
        while out.len() + 1 < limit
            && let Some(c) = rest.next()
        {
            out.push(Value::text(c.to_string()));
        }
        if !rest.as_str().is_empty() {
            out.push(Value::text(rest.as_str()));
        }
        out
    } else {
        text.splitn(limit, &**separator).map(Value::text).collect()
    };
    Ok(Value::list(parts))
}

fn substring<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    let (text, from, to) = match args {
        [Value::Text(text), Value::Int(from)] => (text, *from, None),
        [Value::Text(text), Value::Int(from), Value::Int(to)] => (text, *from, Some(*to)),
        _ => return fail("no such overload"),
    };
    meter.charge_text(text.len())?;
    let length = text.chars().count();
    let from = place(from, length)?;
    let to = to.map_or(Ok(length), |to| place(to, length))?;
    if from > to {
        return fail(format!("invalid substring range. start: {from}, end: {to}"));
    }
    Ok(Value::text(text.chars().skip(from).take(to - from).collect::<String>()))
}

fn join<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    let (list, separator) = match args {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::Text(separator)] => (list, &**separator),
        _ => return fail("no such overload"),
    };
    let mut out = String::new();
    for (at, item) in list.iter().enumerate() {
        let Value::Text(text) = item else { return fail("no such overload") };
        meter.charge_text(text.len() + separator.len())?;
        if at > 0 {
            out.push_str(separator);
        }
        out.push_str(&text);
    }
    Ok(Value::Text(out.into()))
}

/// A text as a literal with double quotes.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
