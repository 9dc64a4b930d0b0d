//! Tokens into expressions; macros are expanded on the way.

use crate::ast::{Access, Comp, Const, Expr, Fold, Kind};
use crate::lexer::{Tok, Token, tokens};
use crate::{Issue, MAX_DEPTH, MAX_LENGTH};

/// Words that cannot be identifiers.
const RESERVED: [&str; 20] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
];

/// Functions that look like members of a variable.
const NAMESPACED: [(&str, &[&str]); 5] = [
    ("sets", &["contains", "equivalent", "intersects"]),
    ("optional", &["of", "none", "ofNonZeroValue"]),
    ("strings", &["quote"]),
    ("ip", &["isCanonical"]),
    ("jsonpatch", &["escapeKey"]),
];

/// Reads an expression.
pub fn parse(text: &str) -> Result<Expr, Issue> {
    if text.len() > MAX_LENGTH {
        let message = format!("expression code point size exceeds limit: size: {}, limit {MAX_LENGTH}", text.len());
        return Err(Issue { at: 0, message });
    }
    let mut parser = Parser { tokens: tokens(text)?, at: 0, nesting: 0 };
    let root = parser.expr()?;
    if *parser.peek() != Tok::End {
        return parser.unexpected();
    }
    Ok(root)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    nesting: usize,
}

type Parsed = Result<Expr, Issue>;

impl Parser {
    fn peek(&self) -> &Tok {
        self.tokens.get(self.at).map_or(&Tok::End, |t| &t.kind)
    }

    fn place(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |t| t.at)
    }

    fn take(&mut self, op: &str) -> bool {
        let found = *self.peek() == Tok::Op(static_op(op));
        self.at += usize::from(found);
        found
    }

    fn need(&mut self, op: &str) -> Result<(), Issue> {
        if self.take(op) { Ok(()) } else { self.unexpected() }
    }

    fn unexpected<T>(&self) -> Result<T, Issue> {
        let what = match self.peek() {
            Tok::End => "<EOF>".to_owned(),
            Tok::Op(op) => (*op).to_owned(),
            Tok::Ident(name) | Tok::Quoted(name) => name.clone(),
            Tok::Const(_) => "a literal".to_owned(),
        };
        Err(Issue { at: self.place(), message: format!("Syntax error: mismatched input '{what}'") })
    }

    fn node(&self, at: usize, kind: Kind) -> Parsed {
        let node = Expr::new(at, kind);
        if node.depth > MAX_DEPTH { self.too_deep() } else { Ok(node) }
    }

    fn too_deep(&self) -> Parsed {
        Err(Issue { at: self.place(), message: format!("expression recursion limit exceeded: {MAX_DEPTH}") })
    }

    fn expr(&mut self) -> Parsed {
        self.nesting += 1;
        if self.nesting > MAX_DEPTH {
            return self.too_deep();
        }
        let condition = self.or()?;
        let at = self.place();
        let out = if self.take("?") {
            let yes = self.or()?;
            self.need(":")?;
            let no = self.expr()?;
            self.node(at, Kind::Cond(Box::new([condition, yes, no])))?
        } else {
            condition
        };
        self.nesting -= 1;
        Ok(out)
    }

    fn or(&mut self) -> Parsed {
        let at = self.place();
        let mut parts = vec![self.and()?];
        while self.take("||") {
            parts.push(self.and()?);
        }
        if parts.len() > 1 { self.node(at, Kind::Or(parts)) } else { parts.pop().map_or_else(|| self.unexpected(), Ok) }
    }

    fn and(&mut self) -> Parsed {
        let at = self.place();
        let mut parts = vec![self.relation()?];
        while self.take("&&") {
            parts.push(self.relation()?);
        }
        if parts.len() > 1 {
            self.node(at, Kind::And(parts))
        } else {
            parts.pop().map_or_else(|| self.unexpected(), Ok)
        }
    }

    fn relation(&mut self) -> Parsed {
        let mut left = self.sum()?;
        loop {
            let at = self.place();
            let name = match self.peek() {
                Tok::Op("<") => "_<_",
                Tok::Op("<=") => "_<=_",
                Tok::Op(">") => "_>_",
                Tok::Op(">=") => "_>=_",
                Tok::Op("==") => "_==_",
                Tok::Op("!=") => "_!=_",
                Tok::Ident(word) if word == "in" => "@in",
                _ => return Ok(left),
            };
            self.at += 1;
            let right = self.sum()?;
            left = self.call(at, name, vec![left, right])?;
        }
    }

    fn call(&self, at: usize, name: &str, args: Vec<Expr>) -> Parsed {
        self.node(at, Kind::Call { name: name.to_owned(), member: false, args })
    }

    fn sum(&mut self) -> Parsed {
        let mut left = self.product()?;
        loop {
            let at = self.place();
            let name = match self.peek() {
                Tok::Op("+") => "_+_",
                Tok::Op("-") => "_-_",
                _ => return Ok(left),
            };
            self.at += 1;
            let right = self.product()?;
            left = self.call(at, name, vec![left, right])?;
        }
    }

    fn product(&mut self) -> Parsed {
        let mut left = self.unary()?;
        loop {
            let at = self.place();
            let name = match self.peek() {
                Tok::Op("*") => "_*_",
                Tok::Op("/") => "_/_",
                Tok::Op("%") => "_%_",
                _ => return Ok(left),
            };
            self.at += 1;
            let right = self.unary()?;
            left = self.call(at, name, vec![left, right])?;
        }
    }

    fn unary(&mut self) -> Parsed {
        let at = self.place();
        let op = match self.peek() {
            Tok::Op("!") => "!",
            Tok::Op("-") => "-",
            _ => return self.member(false),
        };
        let mut count = 0;
        while self.take(op) {
            count += 1;
        }
        let number = matches!(self.peek(), Tok::Const(Const::Int(_) | Const::Double(_)));
        let negative = op == "-" && number && count % 2 == 1;
        let mut operand = self.member(negative)?;
        // A pair of them says nothing, and a minus belongs to its number.
        if count % 2 == 1 && !negative {
            operand = self.call(at, if op == "!" { "!_" } else { "-_" }, vec![operand])?;
        }
        Ok(operand)
    }

    fn member(&mut self, negative: bool) -> Parsed {
        let mut out = self.primary(negative)?;
        loop {
            let at = self.place();
            if self.take(".") {
                let optional = self.take("?");
                let (name, quoted) = match self.peek().clone() {
                    Tok::Ident(name) => (name, false),
                    Tok::Quoted(name) => (name, true),
                    _ => return self.unexpected(),
                };
                if name == "in" && !quoted {
                    return self.unexpected();
                }
                self.at += 1;
                if !optional && !quoted && self.take("(") {
                    let args = self.list(")")?;
                    out = self.method(at, out, name, args)?;
                } else {
                    let access = if optional { Access::Optional } else { Access::Value };
                    out = self.node(at, Kind::Select { operand: Box::new(out), field: name, access })?;
                }
            } else if self.take("[") {
                let optional = self.take("?");
                let index = self.expr()?;
                self.need("]")?;
                out = self.node(at, Kind::Index { operand: Box::new(out), index: Box::new(index), optional })?;
            } else if *self.peek() == Tok::Op("{")
                && let Some(name) = type_name(&out)
            {
                self.at += 1;
                let fields = self.fields()?;
                out = self.node(out.at, Kind::Struct { name, fields })?;
            } else {
                return Ok(out);
            }
        }
    }

    fn primary(&mut self, negative: bool) -> Parsed {
        let at = self.place();
        if self.take(".") {
            // A name from the root; there is no other container here.
            let Tok::Ident(name) = self.peek().clone() else { return self.unexpected() };
            self.at += 1;
            return self.named(at, name);
        }
        if self.take("(") {
            let inner = self.expr()?;
            self.need(")")?;
            return Ok(inner);
        }
        if self.take("[") {
            let items = self.items()?;
            return self.node(at, Kind::List(items));
        }
        if self.take("{") {
            let entries = self.entries()?;
            return self.node(at, Kind::Map(entries));
        }
        match self.peek().clone() {
            Tok::Const(Const::Int(i64::MIN)) if !negative => {
                Err(Issue { at, message: "Syntax error: invalid int literal".into() })
            }
            Tok::Const(Const::Int(n)) if negative => self.literal(at, Const::Int(n.wrapping_neg())),
            Tok::Const(Const::Double(n)) if negative => self.literal(at, Const::Double(-n)),
            Tok::Const(constant) => self.literal(at, constant),
            Tok::Ident(word) => {
                self.at += 1;
                let constant = match word.as_str() {
                    "true" => Const::Bool(true),
                    "false" => Const::Bool(false),
                    "null" => Const::Null,
                    _ => return self.named(at, word),
                };
                self.node(at, Kind::Const(constant))
            }
            _ => self.unexpected(),
        }
    }

    fn literal(&mut self, at: usize, constant: Const) -> Parsed {
        self.at += 1;
        self.node(at, Kind::Const(constant))
    }

    fn named(&mut self, at: usize, name: String) -> Parsed {
        if RESERVED.contains(&name.as_str()) {
            return Err(Issue { at, message: format!("Syntax error: reserved identifier: {name}") });
        }
        if !self.take("(") {
            return self.node(at, Kind::Ident(name));
        }
        let args = self.list(")")?;
        if name != "has" {
            return self.node(at, Kind::Call { name, member: false, args });
        }
        match <[Expr; 1]>::try_from(args) {
            Ok([Expr { kind: Kind::Select { operand, field, access: Access::Value }, .. }]) => {
                self.node(at, Kind::Select { operand, field, access: Access::Test })
            }
            _ => Err(Issue { at, message: "invalid argument to has() macro".into() }),
        }
    }

    /// Expressions up to a closing bracket.
    fn list(&mut self, close: &str) -> Result<Vec<Expr>, Issue> {
        let mut out = Vec::new();
        while !self.take(close) {
            if !out.is_empty() {
                self.need(",")?;
            }
            out.push(self.expr()?);
        }
        Ok(out)
    }

    fn items(&mut self) -> Result<Vec<(Expr, bool)>, Issue> {
        let mut out = Vec::new();
        while !self.take("]") {
            if !out.is_empty() {
                self.need(",")?;
                if self.take("]") {
                    break;
                }
            }
            let optional = self.take("?");
            out.push((self.expr()?, optional));
        }
        Ok(out)
    }

    fn entries(&mut self) -> Result<Vec<(Expr, Expr, bool)>, Issue> {
        let mut out = Vec::new();
        while !self.take("}") {
            if !out.is_empty() {
                self.need(",")?;
                if self.take("}") {
                    break;
                }
            }
            let optional = self.take("?");
            let key = self.expr()?;
            self.need(":")?;
            out.push((key, self.expr()?, optional));
        }
        Ok(out)
    }

    fn fields(&mut self) -> Result<Vec<(String, Expr, bool)>, Issue> {
        let mut out = Vec::new();
        while !self.take("}") {
            if !out.is_empty() {
                self.need(",")?;
                if self.take("}") {
                    break;
                }
            }
            let optional = self.take("?");
            let (Tok::Ident(name) | Tok::Quoted(name)) = self.peek().clone() else { return self.unexpected() };
            self.at += 1;
            self.need(":")?;
            out.push((name, self.expr()?, optional));
        }
        Ok(out)
    }

    fn method(&mut self, at: usize, target: Expr, name: String, mut args: Vec<Expr>) -> Parsed {
        if let Kind::Ident(space) = &target.kind {
            if space == "cel" && name == "bind" && args.len() == 3 {
                return self.bind(at, args);
            }
            let known = NAMESPACED.iter().any(|(s, names)| s == space && names.contains(&name.as_str()));
            if known || (space == "format" && crate::functions::is_format(&name)) {
                return self.node(at, Kind::Call { name: format!("{space}.{name}"), member: false, args });
            }
        }
        let fold = match (name.as_str(), args.len()) {
            ("all", 2 | 3) => Some(Fold::All),
            ("exists", 2 | 3) => Some(Fold::Exists),
            ("exists_one" | "existsOne", 2 | 3) => Some(Fold::ExistsOne),
            ("map", 2 | 3) | ("transformList", 3 | 4) => Some(Fold::List),
            ("filter", 2) => Some(Fold::Filter),
            ("transformMap", 3 | 4) => Some(Fold::Map),
            ("transformMapEntry", 3 | 4) => Some(Fold::Entries),
            _ => None,
        };
        if let Some(fold) = fold {
            return self.comprehension(at, fold, &name, target, args);
        }
        if matches!(name.as_str(), "optMap" | "optFlatMap") && args.len() == 2 {
            let (body, var) = (args.pop(), args.pop());
            let (Some(body), Some(var)) = (body, var) else { return self.unexpected() };
            let var = variable(&var)?;
            let flat = name == "optFlatMap";
            return self.node(at, Kind::OptMap { target: Box::new(target), name: var, body: Box::new(body), flat });
        }
        args.insert(0, target);
        self.node(at, Kind::Call { name, member: true, args })
    }

    fn bind(&mut self, at: usize, args: Vec<Expr>) -> Parsed {
        let Ok([name, init, body]) = <[Expr; 3]>::try_from(args) else { return self.unexpected() };
        let name = variable(&name)?;
        self.node(at, Kind::Bind { name, init: Box::new(init), body: Box::new(body) })
    }

    fn comprehension(&mut self, at: usize, fold: Fold, name: &str, range: Expr, mut args: Vec<Expr>) -> Parsed {
        let Some(body) = args.pop() else { return self.unexpected() };
        // `map(x, filter, body)` has three arguments and one variable; all others with three have two.
        let two = name.starts_with("transform") || (args.len() == 2 && name != "map");
        let filtered = args.len() > if two { 2 } else { 1 };
        let filter = if filtered { args.pop() } else { None };
        let mut names = args.iter().map(variable).collect::<Result<Vec<_>, _>>()?.into_iter();
        let (Some(first), second) = (names.next(), names.next()) else { return self.unexpected() };
        if second.as_ref() == Some(&first) {
            return Err(Issue { at, message: format!("duplicate variable name: {first}") });
        }
        self.node(at, Kind::Comp(Box::new(Comp { fold, range, first, second, filter, body })))
    }
}

fn variable(expr: &Expr) -> Result<String, Issue> {
    match &expr.kind {
        Kind::Ident(name) => Ok(name.clone()),
        _ => Err(Issue { at: expr.at, message: "argument must be a simple name".into() }),
    }
}

/// `a.b.C` as the name of a type.
fn type_name(expr: &Expr) -> Option<String> {
    match &expr.kind {
        Kind::Ident(name) => Some(name.clone()),
        Kind::Select { operand, field, access: Access::Value } => Some(format!("{}.{field}", type_name(operand)?)),
        _ => None,
    }
}

fn static_op(op: &str) -> &'static str {
    const OPS: [&str; 15] = ["&&", "||", "!", "-", "?", ":", ".", ",", "(", ")", "[", "]", "{", "}", "+"];
    OPS.into_iter().find(|o| *o == op).unwrap_or("")
}
