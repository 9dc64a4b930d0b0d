//! The grammar of label selectors in queries (`k8s.io/apimachinery/pkg/labels`), with upstream's error texts.
//!
//! ```text
//! selector    = [ requirement { "," requirement } ]
//! requirement = ["!"] KEY | KEY ("=" | "==" | "!=" | ">" | "<") [VALUE]
//!             | KEY ("in" | "notin") "(" [VALUE] { "," [VALUE] } ")"
//! ```

use super::{Op, Requirement};
use crate::names;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Sign(&'a str),
    End,
}

impl<'a> Token<'a> {
    fn text(&self) -> &'a str {
        match self {
            Self::Word(text) | Self::Sign(text) => text,
            Self::End => "",
        }
    }
}

const SIGNS: &str = "=!(),><";

fn tokens(text: &str) -> Vec<Token<'_>> {
    let (mut out, mut rest) = (Vec::new(), text);
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let Some(first) = rest.chars().next() else { break };
        let length = if SIGNS.contains(first) {
            // The longest sign wins.
            if ["==", "!="].iter().any(|s| rest.starts_with(s)) { 2 } else { 1 }
        } else {
            rest.find(|c: char| SIGNS.contains(c) || matches!(c, ' ' | '\t' | '\r' | '\n')).unwrap_or(rest.len())
        };
        let (head, tail) = rest.split_at(length);
        out.push(if SIGNS.contains(first) { Token::Sign(head) } else { Token::Word(head) });
        rest = tail;
    }
    out.push(Token::End);
    out
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

/// Parses a whole selector.
pub(super) fn labels(text: &str) -> Result<Vec<Requirement>, String> {
    let mut parser = Parser { tokens: tokens(text), at: 0 };
    let mut out = Vec::new();
    loop {
        match parser.peek() {
            Token::Word(_) | Token::Sign("!") => {
                out.push(parser.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?);
            }
            Token::End => return Ok(out),
            other => return Err(format!("found '{}', expected: !, identifier, or 'end of string'", other.text())),
        }
        match parser.next() {
            Token::End => return Ok(out),
            Token::Sign(",") => match parser.peek() {
                Token::Word(_) | Token::Sign("!") => {}
                other => return Err(format!("found '{}', expected: identifier after ','", other.text())),
            },
            other => return Err(format!("found '{}', expected: ',' or 'end of string'", other.text())),
        }
    }
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.at).cloned().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.peek() == Token::Sign("!");
        if absent {
            self.at += 1;
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => return Err(format!("found '{}', expected: identifier", other.text())),
        };
        let problems = names::check_qualified_name(key);
        if !problems.is_empty() {
            return Err(format!("<nil>: Invalid value: \"{key}\": {}", problems.join("; ")));
        }
        if matches!(self.peek(), Token::End | Token::Sign(",")) {
            return Ok(Requirement { key: key.to_owned(), op: if absent { Op::Absent } else { Op::Exists } });
        }
        let op = self.operation(key)?;
        Ok(Requirement { key: key.to_owned(), op })
    }

    fn operation(&mut self, key: &str) -> Result<Op, String> {
        Ok(match self.next() {
            Token::Sign("=" | "==") => Op::In(checked(key, vec![self.value()?])?),
            Token::Sign("!=") => Op::NotIn(checked(key, vec![self.value()?])?),
            Token::Word("in") => Op::In(checked(key, self.values()?)?),
            Token::Word("notin") => Op::NotIn(checked(key, self.values()?)?),
            Token::Sign(">") => Op::Greater(self.integer(key)?),
            Token::Sign("<") => Op::Less(self.integer(key)?),
            other => return Err(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.text())),
        })
    }

    fn value(&mut self) -> Result<String, String> {
        match self.peek() {
            Token::End | Token::Sign(",") => Ok(String::new()),
            Token::Word(value) => {
                self.at += 1;
                Ok(value.to_owned())
            }
            other @ Token::Sign(_) => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    fn integer(&mut self, key: &str) -> Result<i64, String> {
        let value = self.value()?;
        value.parse().map_err(|_| {
            format!(
                "values[0][{key}]: Invalid value: \"{value}\": for 'Gt', 'Lt' operators, the value must be an integer"
            )
        })
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        match self.next() {
            Token::Sign("(") => {}
            other => return Err(format!("found '{}' expected: '('", other.text())),
        }
        let mut out = Vec::new();
        let mut empty = true;
        loop {
            match self.next() {
                Token::Word(value) if empty => {
                    out.push(value.to_owned());
                    empty = false;
                }
                Token::Sign(",") => {
                    if empty {
                        out.push(String::new());
                    }
                    empty = true;
                }
                Token::Sign(")") => {
                    if empty {
                        out.push(String::new());
                    }
                    return Ok(out);
                }
                other if empty => return Err(format!("found '{}', expected: ',', ')' or identifier", other.text())),
                other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
            }
        }
    }
}

fn checked(key: &str, values: Vec<String>) -> Result<Vec<String>, String> {
    for (i, value) in values.iter().enumerate() {
        let problems = names::check_label_value(value);
        if !problems.is_empty() {
            return Err(format!("values[{i}][{key}]: Invalid value: \"{value}\": {}", problems.join("; ")));
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_understood() {
        let list = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
        for (text, want) in [
            ("a", vec![("a", Op::Exists)]),
            ("!a , b", vec![("a", Op::Absent), ("b", Op::Exists)]),
            ("a=b,c!=d", vec![("a", Op::In(list(&["b"]))), ("c", Op::NotIn(list(&["d"])))]),
            ("a==,b=", vec![("a", Op::In(list(&[""]))), ("b", Op::In(list(&[""])))]),
            (
                "x in (foo,,baz),y,z notin ()",
                vec![("x", Op::In(list(&["foo", "", "baz"]))), ("y", Op::Exists), ("z", Op::NotIn(list(&[""])))],
            ),
            ("in in (in,notin)", vec![("in", Op::In(list(&["in", "notin"])))]),
            ("a>1,b<-2", vec![("a", Op::Greater(1)), ("b", Op::Less(-2))]),
            ("", vec![]),
        ] {
            let got = labels(text).unwrap();
            let got: Vec<(&str, Op)> = got.iter().map(|r| (r.key.as_str(), r.op.clone())).collect();
            assert_eq!(got, want, "{text}");
        }
    }

    #[test]
    fn what_is_refused_and_how() {
        for (text, want) in [
            ("a b c", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a,", "found '', expected: identifier after ','"),
            (",a", "found ',', expected: !, identifier, or 'end of string'"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a in (b c)", "unable to parse requirement: found 'c', expected: ',' or ')'"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            ("a===b", "unable to parse requirement: found '=', expected: identifier"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ] {
            assert_eq!(labels(text).unwrap_err(), want, "{text}");
        }
    }
}
