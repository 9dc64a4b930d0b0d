//! Label and field selectors, parsed from query parameters or from `metav1.LabelSelector`.

mod parse;

use serde_json::Value;

use crate::meta::strings;

/// One term of a label selector.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What is asked of it.
    pub op: Op,
}

/// What a term asks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// One of these values.
    In(Vec<String>),
    /// None of these values (an absent label passes).
    NotIn(Vec<String>),
    /// The label is there.
    Exists,
    /// The label is not there.
    Absent,
    /// The value as an integer is greater.
    Greater(i64),
    /// The value as an integer is less.
    Less(i64),
}

/// All terms must hold; the empty selector selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelSelector(pub Vec<Requirement>);

impl LabelSelector {
    /// Parses the query form: `a=b,c!=d,e in (f,g),!h,i`. The error is upstream's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse::labels(text).map(Self)
    }

    /// From a `metav1.LabelSelector`; `None` (nothing selected) for an absent one.
    pub fn from_object(selector: Option<&Value>) -> Option<Self> {
        let selector = selector?;
        let mut out = Vec::new();
        if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
            for (key, value) in labels {
                let value = value.as_str().unwrap_or_default().to_owned();
                out.push(Requirement { key: key.clone(), op: Op::In(vec![value]) });
            }
        }
        for term in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let key = term.get("key").and_then(Value::as_str)?.to_owned();
            let values = strings(term.get("values"));
            let op = match term.get("operator").and_then(Value::as_str)? {
                "In" => Op::In(values),
                "NotIn" => Op::NotIn(values),
                "Exists" => Op::Exists,
                "DoesNotExist" => Op::Absent,
                _ => return None,
            };
            out.push(Requirement { key, op });
        }
        Some(Self(out))
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object with these labels is selected.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|r| {
            let value = get(&r.key);
            match (&r.op, value) {
                (Op::In(values), Some(v)) => values.iter().any(|x| x == v),
                (Op::In(_), None) => false,
                (Op::NotIn(values), Some(v)) => values.iter().all(|x| x != v),
                (Op::NotIn(_) | Op::Absent, None) => true,
                (Op::Exists, v) => v.is_some(),
                (Op::Absent, Some(_)) => false,
                (Op::Greater(n), Some(v)) => v.parse::<i64>().is_ok_and(|v| v > *n),
                (Op::Less(n), Some(v)) => v.parse::<i64>().is_ok_and(|v| v < *n),
                (Op::Greater(_) | Op::Less(_), None) => false,
            }
        })
    }
}

/// `path=value` and `path!=value` terms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector(pub Vec<(String, bool, String)>);

impl FieldSelector {
    /// Parses the query form; the middle of a term is true for "equals".
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut out = Vec::new();
        for term in split_escaped(text) {
            if term.is_empty() {
                continue;
            }
            let (path, equals, value) = if let Some((p, v)) = term.split_once("!=") {
                (p, false, v)
            } else if let Some((p, v)) = term.split_once("==") {
                (p, true, v)
            } else if let Some((p, v)) = term.split_once('=') {
                (p, true, v)
            } else {
                return Err(format!("invalid selector: '{term}'; can't understand '{term}'"));
            };
            out.push((path.trim().to_owned(), equals, unescape(value.trim())?));
        }
        Ok(Self(out))
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object with these fields is selected; an absent field is the empty string.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|(path, equals, value)| (get(path).unwrap_or("") == value) == *equals)
    }

    /// The value that `path` must equal, if the selector says so.
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.0.iter().find(|(p, equals, _)| p == path && *equals).map(|(_, _, v)| v.as_str())
    }
}

fn split_escaped(text: &str) -> Vec<String> {
    let (mut out, mut current, mut escaped) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        if c == ',' && !escaped {
            out.push(std::mem::take(&mut current));
            continue;
        }
        escaped = c == '\\' && !escaped;
        current.push(c);
    }
    out.push(current);
    out
}

/// Only `\\`, `\,` and `\=` are escapes (`fields.UnescapeValue`).
fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    let rest = other.map(String::from).unwrap_or_default();
                    return Err(format!("invalid field selector: invalid escape sequence: \\{rest}"));
                }
            },
            ',' | '=' => {
                return Err(format!("invalid field selector: unescaped character in value: {c}"));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn labels() {
        let labels: HashMap<&str, &str> = [("app", "web"), ("n", "5")].into();
        for (text, hit) in [
            ("", true),
            ("app=web", true),
            ("app==db", false),
            ("app!=db", true),
            ("x!=y", true),
            ("app in (a, web)", true),
            ("app notin (web)", false),
            ("x notin (a)", true),
            ("app", true),
            ("!app", false),
            ("!x,app=web", true),
            ("n>4", true),
            ("n<4", false),
            ("app in (db,web),n", true),
        ] {
            let selector = LabelSelector::parse(text).unwrap();
            assert_eq!(selector.matches(|k| labels.get(k).copied()), hit, "{text}");
        }
        for bad in ["a b", "a=b,,c", "a in (b", "=x", "a=b c"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fields() {
        let s = FieldSelector::parse("spec.nodeName=n1,status.phase!=Failed,a=x\\,y").unwrap();
        assert_eq!(s.exact("a"), Some("x,y"));
        assert!(s.matches(|p| match p {
            "spec.nodeName" => Some("n1"),
            "a" => Some("x,y"),
            _ => None,
        }));
        assert!(!s.matches(|p| (p == "status.phase").then_some("Failed")));
        assert!(FieldSelector::parse("nothing").is_err());
    }
}
