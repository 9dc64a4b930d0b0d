//! Text into tokens.

use crate::Issue;
use crate::ast::Const;

/// A token and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub at: usize,
    pub kind: Tok,
}

/// What a token is.
#[derive(Debug, Clone, PartialEq)]
pub enum Tok {
    Const(Const),
    /// An identifier; keywords are told apart by the parser.
    Ident(String),
    /// A field's name in backticks.
    Quoted(String),
    Op(&'static str),
    End,
}

const OPS: [&str; 24] = [
    "&&", "||", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "<", ">", "!", "?", ":", ".", ",", "(", ")", "[", "]",
    "{", "}",
];

/// Reads all tokens.
pub fn tokens(text: &str) -> Result<Vec<Token>, Issue> {
    let mut lexer = Lexer { chars: text.chars().collect(), at: 0 };
    let mut out = Vec::new();
    loop {
        lexer.skip_blank();
        let at = lexer.at;
        let kind = lexer.next()?;
        let end = kind == Tok::End;
        out.push(Token { at, kind });
        if end {
            return Ok(out);
        }
    }
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn fail<T>(&self, at: usize, message: impl Into<String>) -> Result<T, Issue> {
        Err(Issue { at, message: format!("Syntax error: {}", message.into()) })
    }

    fn skip_blank(&mut self) {
        while let Some(c) = self.peek(0) {
            if matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{c}') {
                self.at += 1;
            } else if c == '/' && self.peek(1) == Some('/') {
                while self.peek(0).is_some_and(|c| c != '\n') {
                    self.at += 1;
                }
            } else {
                return;
            }
        }
    }

    fn next(&mut self) -> Result<Tok, Issue> {
        let Some(c) = self.peek(0) else { return Ok(Tok::End) };
        if c.is_ascii_digit() || (c == '.' && self.peek(1).is_some_and(|c| c.is_ascii_digit())) {
            return self.number();
        }
        if let Some((raw, bytes, prefix)) = self.string_prefix() {
            self.at += prefix;
            return self.string(raw, bytes);
        }
        if c.is_ascii_alphabetic() || c == '_' {
            return Ok(Tok::Ident(self.word()));
        }
        if c == '`' {
            return self.quoted();
        }
        for op in OPS {
            if op.chars().enumerate().all(|(i, c)| self.peek(i) == Some(c)) {
                self.at += op.len();
                return Ok(Tok::Op(op));
            }
        }
        self.fail(self.at, format!("token recognition error at: '{c}'"))
    }

    fn word(&mut self) -> String {
        let start = self.at;
        while self.peek(0).is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
            self.at += 1;
        }
        self.chars[start..self.at].iter().collect()
    }

    fn quoted(&mut self) -> Result<Tok, Issue> {
        let start = self.at;
        self.at += 1;
        let mut name = String::new();
        while let Some(c) = self.peek(0) {
            self.at += 1;
            match c {
                '`' if !name.is_empty() => return Ok(Tok::Quoted(name)),
                c if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | ' ') => name.push(c),
                _ => break,
            }
        }
        self.fail(start, "token recognition error at: '`'")
    }

    fn number(&mut self) -> Result<Tok, Issue> {
        let start = self.at;
        if self.peek(0) == Some('0') && matches!(self.peek(1), Some('x' | 'X')) {
            self.at += 2;
            let digits = self.digits(|c| c.is_ascii_hexdigit());
            return self.whole(start, &digits, 16);
        }
        let mut text = self.digits(|c| c.is_ascii_digit());
        let mut float = false;
        if self.peek(0) == Some('.') && self.peek(1).is_some_and(|c| c.is_ascii_digit()) {
            float = true;
            text.push('.');
            self.at += 1;
            text.push_str(&self.digits(|c| c.is_ascii_digit()));
        }
        let sign = usize::from(matches!(self.peek(1), Some('+' | '-')));
        if matches!(self.peek(0), Some('e' | 'E')) && self.peek(1 + sign).is_some_and(|c| c.is_ascii_digit()) {
            float = true;
            text.extend(self.chars.iter().skip(self.at).take(1 + sign));
            self.at += 1 + sign;
            text.push_str(&self.digits(|c| c.is_ascii_digit()));
        }
        if !float {
            return self.whole(start, &text, 10);
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Tok::Const(Const::Double(number))),
            _ => self.fail(start, "invalid double literal"),
        }
    }

    fn digits(&mut self, is: impl Fn(char) -> bool) -> String {
        let start = self.at;
        while self.peek(0).is_some_and(&is) {
            self.at += 1;
        }
        self.chars[start..self.at].iter().collect()
    }

    /// An integer. 2^63, which only fits with a minus before it, is taken as unsigned for the parser to see.
    fn whole(&mut self, start: usize, digits: &str, radix: u32) -> Result<Tok, Issue> {
        let unsigned = matches!(self.peek(0), Some('u' | 'U'));
        self.at += usize::from(unsigned);
        match (u64::from_str_radix(digits, radix), unsigned) {
            (Ok(n), true) => Ok(Tok::Const(Const::Uint(n))),
            (Ok(n), false) => match i64::try_from(n) {
                Ok(n) => Ok(Tok::Const(Const::Int(n))),
                Err(_) if n == 1 << 63 => Ok(Tok::Const(Const::Int(i64::MIN))),
                Err(_) => self.fail(start, "invalid int literal"),
            },
            (Err(_), true) => self.fail(start, "invalid uint literal"),
            (Err(_), false) => self.fail(start, "invalid int literal"),
        }
    }

    /// Whether a string begins here: raw, of bytes, and how long its prefix is.
    fn string_prefix(&self) -> Option<(bool, bool, usize)> {
        let (mut raw, mut bytes) = (false, false);
        for length in 0..3 {
            match self.peek(length)? {
                '"' | '\'' => return Some((raw, bytes, length)),
                'r' | 'R' if !raw => raw = true,
                'b' | 'B' if !bytes => bytes = true,
                _ => return None,
            }
        }
        None
    }

    fn string(&mut self, raw: bool, bytes: bool) -> Result<Tok, Issue> {
        let start = self.at;
        let Some(quote) = self.peek(0) else { return self.fail(start, "token recognition error") };
        let triple = self.peek(1) == Some(quote) && self.peek(2) == Some(quote);
        self.at += if triple { 3 } else { 1 };
        let mut out = Vec::new();
        loop {
            let closed = self.peek(0) == Some(quote)
                && (!triple || (self.peek(1) == Some(quote) && self.peek(2) == Some(quote)));
            if closed {
                self.at += if triple { 3 } else { 1 };
                break;
            }
            match self.peek(0) {
                None => return self.fail(start, "token recognition error: the string does not end"),
                Some('\n' | '\r') if !triple => {
                    return self.fail(start, "token recognition error: the string does not end");
                }
                Some('\\') if !raw => self.escape(bytes, &mut out)?,
                Some(c) => {
                    self.at += 1;
                    out.extend(c.encode_utf8(&mut [0; 4]).bytes());
                }
            }
        }
        if bytes {
            return Ok(Tok::Const(Const::Bytes(out)));
        }
        match String::from_utf8(out) {
            Ok(text) => Ok(Tok::Const(Const::Text(text))),
            Err(_) => self.fail(start, "invalid string literal"),
        }
    }

    /// One escape. In bytes, `\x` and octal ones are bytes; in text they are code points.
    fn escape(&mut self, bytes: bool, out: &mut Vec<u8>) -> Result<(), Issue> {
        let start = self.at;
        self.at += 1;
        let Some(c) = self.peek(0) else { return self.fail(start, "invalid escape") };
        self.at += 1;
        let simple = match c {
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '\\' | '"' | '\'' | '`' | '?' => c,
            'x' | 'X' => return self.code(start, 2, 16, bytes, out),
            'u' if !bytes => return self.code(start, 4, 16, false, out),
            'U' if !bytes => return self.code(start, 8, 16, false, out),
            '0'..='3' => {
                self.at -= 1;
                return self.code(start, 3, 8, bytes, out);
            }
            _ => return self.fail(start, format!("token recognition error at: '\\{c}'")),
        };
        out.extend(simple.encode_utf8(&mut [0; 4]).bytes());
        Ok(())
    }

    fn code(&mut self, start: usize, count: usize, radix: u32, byte: bool, out: &mut Vec<u8>) -> Result<(), Issue> {
        let digits: String = self.chars.iter().skip(self.at).take(count).collect();
        let whole = digits.chars().count() == count && digits.chars().all(|c| c.is_digit(radix));
        let Some(code) = u32::from_str_radix(&digits, radix).ok().filter(|_| whole) else {
            return self.fail(start, "invalid escape");
        };
        self.at += count;
        if byte {
            let Ok(byte) = u8::try_from(code) else { return self.fail(start, "invalid escape") };
            out.push(byte);
            return Ok(());
        }
        let Some(c) = char::from_u32(code) else { return self.fail(start, "invalid unicode code point") };
        out.extend(c.encode_utf8(&mut [0; 4]).bytes());
        Ok(())
    }
}
