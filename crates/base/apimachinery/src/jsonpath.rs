//! JSONPath as printer columns use it (`k8s.io/client-go/util/jsonpath`): `.a.b`, `['a']`, `\.` in names, `[0]`,
//! `[-1]`, `[1:3]`, `[*]`, `.*`, `..a` and filters `[?(@.type=="Ready")]`. Pure.

use serde_json::Value;

/// Steps that a path may have.
const MOST_STEPS: usize = 100;
/// Values that one look may find.
const MOST_FOUND: usize = 10_000;

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath {
    text: String,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    All,
    Deep,
    Slice(Option<i64>, Option<i64>, usize),
    Index(i64),
    Filter(Operand, Option<(Comparison, Operand)>),
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Path(Vec<Step>),
    Literal(Value),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Comparison {
    Equal,
    Different,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// Parses a path, which may stand in braces.
    pub fn parse(text: &str) -> Result<Self, String> {
        let inner = text.trim();
        let inner = inner.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(inner);
        let inner = inner.strip_prefix('$').unwrap_or(inner);
        Ok(Self { text: text.to_owned(), steps: steps(inner)? })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The values it leads to, in their order; what is not there is no error.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        walk(&self.steps, value)
    }
}

fn steps(text: &str) -> Result<Vec<Step>, String> {
    let (mut out, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        if out.len() >= MOST_STEPS {
            return Err("the path has too many steps".into());
        }
        if let Some(after) = rest.strip_prefix("..") {
            out.push(Step::Deep);
            rest = after;
            if !rest.starts_with('[') {
                rest = name(rest, &mut out)?;
            }
        } else if let Some(after) = rest.strip_prefix('.') {
            rest = if after.is_empty() || after.starts_with('[') { after } else { name(after, &mut out)? };
        } else if rest.starts_with('[') {
            let (inner, after) = bracket(rest)?;
            out.push(bracketed(inner)?);
            rest = after;
        } else if out.is_empty() {
            rest = name(rest, &mut out)?;
        } else {
            return Err(format!("unexpected {rest:?}"));
        }
    }
    Ok(out)
}

/// A name up to the next dot or bracket; a backslash takes the next character as it is.
fn name<'a>(text: &'a str, out: &mut Vec<Step>) -> Result<&'a str, String> {
    let (mut name, mut chars) = (String::new(), text.char_indices());
    let mut end = text.len();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => {
                end = at;
                break;
            }
            c => name.push(c),
        }
    }
    match name.as_str() {
        "" => return Err("a name is missing".into()),
        "*" => out.push(Step::All),
        _ => out.push(Step::Field(name)),
    }
    Ok(&text[end..])
}

/// What is in a bracket, and what follows it; brackets in quotes and in filters do not count.
fn bracket(text: &str) -> Result<(&str, &str), String> {
    let (mut depth, mut quote) = (0, None);
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (_, '\\') => drop(chars.next()),
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return Ok((text[1..at].trim(), &text[at + 1..]));
                }
            }
            _ => {}
        }
    }
    Err("unterminated array".into())
}

fn bracketed(inner: &str) -> Result<Step, String> {
    if inner == "*" {
        return Ok(Step::All);
    }
    if let Some(Value::String(name)) = literal(inner) {
        return Ok(Step::Field(name));
    }
    if let Some(filter) = inner.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        return filtered(filter);
    }
    let number = |text: &str| text.trim().parse::<i64>().map_err(|_| format!("invalid array index {inner}"));
    if inner.contains(':') {
        let mut parts = inner.splitn(3, ':').map(|p| if p.trim().is_empty() { Ok(None) } else { number(p).map(Some) });
        let mut part = || parts.next().unwrap_or(Ok(None));
        let (from, to, step) = (part()?, part()?, part()?.unwrap_or(1));
        let step = usize::try_from(step).ok().filter(|s| *s > 0).ok_or("step must be > 0")?;
        return Ok(Step::Slice(from, to, step));
    }
    number(inner).map(Step::Index)
}

fn filtered(text: &str) -> Result<Step, String> {
    use Comparison::{Different, Equal, Greater, GreaterOrEqual, Less, LessOrEqual};
    const SIGNS: [(&str, Comparison); 6] =
        [("==", Equal), ("!=", Different), ("<=", LessOrEqual), (">=", GreaterOrEqual), ("<", Less), (">", Greater)];
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, _) => {
                if let Some((sign, comparison)) = SIGNS.iter().find(|(sign, _)| text[at..].starts_with(sign)) {
                    let right = operand(&text[at + sign.len()..])?;
                    return Ok(Step::Filter(operand(&text[..at])?, Some((*comparison, right))));
                }
            }
        }
    }
    Ok(Step::Filter(operand(text)?, None))
}

fn operand(text: &str) -> Result<Operand, String> {
    let text = text.trim();
    match (text.strip_prefix('@'), literal(text)) {
        (Some(path), _) => steps(path).map(Operand::Path),
        (None, Some(value)) => Ok(Operand::Literal(value)),
        (None, None) => Err(format!("unrecognized value in a filter: {text}")),
    }
}

fn literal(text: &str) -> Option<Value> {
    let single = text.strip_prefix('\'').and_then(|t| t.strip_suffix('\''));
    match single {
        Some(inner) => Some(inner.replace("\\'", "'").into()),
        None => serde_json::from_str(text).ok().filter(|v: &Value| !v.is_object() && !v.is_array()),
    }
}

fn walk<'a>(steps: &[Step], value: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![value];
    for step in steps {
        let mut next = Vec::new();
        for value in found {
            step.take(value, &mut next);
            if next.len() > MOST_FOUND {
                next.truncate(MOST_FOUND);
                break;
            }
        }
        found = next;
    }
    found
}

impl Step {
    fn take<'a>(&self, value: &'a Value, out: &mut Vec<&'a Value>) {
        let items = || value.as_array().map(Vec::as_slice).unwrap_or_default();
        match self {
            Self::Field(name) => out.extend(value.get(name)),
            Self::All => match value {
                Value::Object(map) => out.extend(map.values()),
                _ => out.extend(items()),
            },
            Self::Deep => deep(value, out),
            Self::Index(n) => out.extend(place(*n, items().len()).and_then(|at| items().get(at))),
            Self::Slice(from, to, step) => {
                let (items, length) = (items(), items().len());
                let bound = |n: Option<i64>, or: usize| match n {
                    None => or,
                    Some(n) if n < 0 => length.saturating_sub(usize::try_from(n.unsigned_abs()).unwrap_or(length)),
                    Some(n) => usize::try_from(n).unwrap_or(length).min(length),
                };
                let (from, to) = (bound(*from, 0), bound(*to, length));
                out.extend(items.get(from..to.max(from)).unwrap_or_default().iter().step_by(*step));
            }
            Self::Filter(left, test) => out.extend(items().iter().filter(|item| passes(item, left, test.as_ref()))),
        }
    }
}

fn place(n: i64, length: usize) -> Option<usize> {
    match usize::try_from(n) {
        Ok(at) => Some(at),
        Err(_) => length.checked_sub(usize::try_from(n.unsigned_abs()).ok()?),
    }
}

fn deep<'a>(value: &'a Value, out: &mut Vec<&'a Value>) {
    if out.len() > MOST_FOUND {
        return;
    }
    out.push(value);
    match value {
        Value::Object(map) => map.values().for_each(|v| deep(v, out)),
        Value::Array(items) => items.iter().for_each(|v| deep(v, out)),
        _ => {}
    }
}

fn passes(item: &Value, left: &Operand, test: Option<&(Comparison, Operand)>) -> bool {
    let one = |operand: &Operand| match operand {
        Operand::Literal(value) => Some(value.clone()),
        Operand::Path(steps) => walk(steps, item).first().map(|v| (*v).clone()),
    };
    let (Some(left), Some((comparison, right))) = (one(left), test) else {
        return one(left).is_some() && test.is_none();
    };
    let Some(right) = one(right) else { return false };
    let order = match (&left, &right) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (a, b) if a == b => Some(std::cmp::Ordering::Equal),
        _ => None,
    };
    match comparison {
        Comparison::Equal => order.is_some_and(std::cmp::Ordering::is_eq),
        Comparison::Different => !order.is_some_and(std::cmp::Ordering::is_eq),
        Comparison::Less => order.is_some_and(std::cmp::Ordering::is_lt),
        Comparison::LessOrEqual => order.is_some_and(std::cmp::Ordering::is_le),
        Comparison::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
        Comparison::GreaterOrEqual => order.is_some_and(std::cmp::Ordering::is_ge),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths() {
        let value = json!({"a": {"b.c": 1, "d": [1, 2, 3]}, "conditions": [{"type": "Ready", "status": "True", "n": 2},
            {"type": "Other", "status": "False"}], "m": {"x": 1, "y": 2}});
        for (path, want) in [
            (".a.d", json!([[1, 2, 3]])),
            ("{.a.d[0]}", json!([1])),
            ("$.a.d[-1]", json!([3])),
            (".a.d[-9]", json!([])),
            (".a.d[1:]", json!([2, 3])),
            (".a.d[:-1]", json!([1, 2])),
            (".a.d[::2]", json!([1, 3])),
            (".a.d[2:1]", json!([])),
            (r".a.b\.c", json!([1])),
            (".a['b.c']", json!([1])),
            (".m.*", json!([1, 2])),
            (".m[*]", json!([1, 2])),
            ("..status", json!(["True", "False"])),
            (r#".conditions[?(@.type=="Ready")].status"#, json!(["True"])),
            (r".conditions[?(@.type == 'Ready')].status", json!(["True"])),
            (r#".conditions[?(@.type!="Ready")].status"#, json!(["False"])),
            (".conditions[?(@.n)].type", json!(["Ready"])),
            (".conditions[?(@.n>=2)].type", json!(["Ready"])),
            (".conditions[?(@.n<2)].type", json!([])),
            (".none.x[3]", json!([])),
            (".", json!([value])),
        ] {
            let found = JsonPath::parse(path).unwrap();
            assert_eq!(json!(found.find(&value)), want, "{path}");
        }
        for bad in [".a[", ".a[x]", ".a..", ".a[?(x)]", ".a[1:2:0]", &".a".repeat(200)] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
