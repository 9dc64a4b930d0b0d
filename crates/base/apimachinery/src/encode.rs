//! JSON text as Go's encoder writes it.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Escapes `<`, `>`, `&` and the two line separators of Unicode in strings, as `encoding/json` does: whoever keeps a
/// part of an answer as bytes (a ControllerRevision's `data`) compares it with what a Go program would have written.
struct Go;

impl Formatter for Go {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let special = |c: char| matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}');
        let mut rest = fragment;
        while let Some(at) = rest.find(special) {
            let (before, from) = rest.split_at(at);
            writer.write_all(before.as_bytes())?;
            let mut chars = from.chars();
            if let Some(c) = chars.next() {
                write!(writer, "\\u{:04x}", u32::from(c))?;
            }
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

/// Compact JSON.
pub fn to_vec(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(256);
    value.serialize(&mut Serializer::with_formatter(&mut out, Go))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn as_go_writes_it() {
        for (value, expected) in [
            (json!({"a": "x && y > z < \u{2028}é\n"}), r#"{"a":"x \u0026\u0026 y \u003e z \u003c \u2028é\n"}"#),
            (json!({"<": [1, null, true, ""]}), r#"{"\u003c":[1,null,true,""]}"#),
            (json!("&"), r#""\u0026""#),
        ] {
            let text = to_vec(&value).unwrap();
            assert_eq!(String::from_utf8(text.clone()).unwrap(), expected);
            assert_eq!(serde_json::from_slice::<serde_json::Value>(&text).unwrap(), value);
        }
    }
}
