//! Go's regular expressions in Rust's syntax: they differ in what `\d`, `\w` and `\s` mean, which are ASCII in Go.

use regex::{Regex, RegexBuilder};

/// Memory a compiled expression may take.
const LIMIT: usize = 1 << 20;

/// Compiles a pattern as Go's `regexp` understands it.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    let text = translated(pattern);
    RegexBuilder::new(&text).size_limit(LIMIT).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(limit) => format!("it needs more than {limit} bytes"),
        other => other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    })
}

fn translated(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let (mut chars, mut class) = (pattern.chars().peekable(), false);
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped) => out.push_str(&escape(escaped, class)),
                None => out.push('\\'),
            },
            '[' if class && chars.peek() == Some(&':') => {
                // `[[:alpha:]]`
                out.push('[');
                for c in chars.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
            }
            '[' if class => out.push_str("\\["),
            '[' => {
                class = true;
                out.push('[');
                if chars.peek() == Some(&'^') {
                    chars.next();
                    out.push('^');
                }
                // A bracket that comes first is itself.
                if chars.peek() == Some(&']') {
                    chars.next();
                    out.push_str("\\]");
                }
            }
            ']' if class => {
                class = false;
                out.push(']');
            }
            // Operators on classes in Rust, plain characters in Go.
            '&' | '~' if class => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

fn escape(c: char, class: bool) -> String {
    let (set, negated) = match c {
        'd' | 'D' => ("0-9", c == 'D'),
        'w' | 'W' => ("0-9A-Za-z_", c == 'W'),
        's' | 'S' => ("\\t\\n\\x0C\\r ", c == 'S'),
        'b' if !class => return "(?-u:\\b)".into(),
        'B' if !class => return "(?-u:\\B)".into(),
        other => return format!("\\{other}"),
    };
    match (class, negated) {
        (true, false) => set.into(),
        (_, true) => format!("[^{set}]"),
        (false, false) => format!("[{set}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::compile;

    #[test]
    fn as_go_reads_them() {
        for (pattern, text, want) in [
            (r"^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$", "* * * * */5", true),
            (r"^\d$", "\u{0665}", false),
            (r"^[\w.-]+$", "a_b.c-d", true),
            (r"^[\w]+$", "\u{e4}", false),
            (r"^[^\s]+$", "a b", false),
            (r"^[\S]+$", "ab", true),
            (r"^[[a]+$", "[a", true),
            (r"^[]a]+$", "]a", true),
            (r"^[[:alpha:]]+$", "ab", true),
            (r"^[a&&b]+$", "&", true),
            (r"b", "abc", true),
        ] {
            assert_eq!(compile(pattern).unwrap().is_match(text), want, "{pattern} {text}");
        }
        for bad in ["(", "[a", r"(?=a)", "a{1000}{1000}{1000}"] {
            assert!(compile(bad).is_err(), "{bad}");
        }
    }
}
