//! YAML bodies.

use std::fmt;

use kinit_apimachinery::status::quoted;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::{DuplicateKeyPolicy, Options, Spanned};

/// Parses YAML into a JSON value; of a key that is there twice the last value counts. The error is one line.
pub fn parse(body: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(body).map_err(|_| "invalid UTF-8".to_owned())?;
    serde_saphyr::from_str_with_options(text, options())
        .map_err(|e| e.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned())
}

/// The keys that are there twice, in the words of Go's strict parser: `line 3: key "a" already set in map`.
pub fn repeated(body: &[u8]) -> Vec<String> {
    let Ok(text) = std::str::from_utf8(body) else { return Vec::new() };
    // What cannot be parsed is told elsewhere.
    serde_saphyr::from_str_with_options::<Repeated>(text, options()).map(|found| found.0).unwrap_or_default()
}

fn options() -> Options {
    let mut options = Options::default();
    options.duplicate_keys = DuplicateKeyPolicy::LastWins;
    options
}

/// Repeated keys of a value and of all within it.
#[derive(Default)]
struct Repeated(Vec<String>);

impl<'de> Deserialize<'de> for Repeated {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Finder)
    }
}

struct Finder;

impl<'de> Visitor<'de> for Finder {
    type Value = Repeated;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_unit<E>(self) -> Result<Repeated, E> {
        Ok(Repeated::default())
    }
    fn visit_none<E>(self) -> Result<Repeated, E> {
        Ok(Repeated::default())
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Repeated, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Repeated, E> {
        Ok(Repeated::default())
    }
    fn visit_i64<E>(self, _: i64) -> Result<Repeated, E> {
        Ok(Repeated::default())
    }
    fn visit_u64<E>(self, _: u64) -> Result<Repeated, E> {
        Ok(Repeated::default())
    }
    fn visit_f64<E>(self, _: f64) -> Result<Repeated, E> {
        Ok(Repeated::default())
    }
    fn visit_str<E>(self, _: &str) -> Result<Repeated, E> {
        Ok(Repeated::default())
    }
    fn visit_bytes<E>(self, _: &[u8]) -> Result<Repeated, E> {
        Ok(Repeated::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Repeated, A::Error> {
        let mut out = Repeated::default();
        while let Some(inner) = seq.next_element::<Repeated>()? {
            out.0.extend(inner.0);
        }
        Ok(out)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Repeated, A::Error> {
        let (mut out, mut seen) = (Repeated::default(), std::collections::HashSet::new());
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            if seen.contains(&key.value) {
                let line = key.referenced.line();
                out.0.push(format!("line {line}: key {} already set in map", quoted(&key.value)));
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            seen.insert(key.value);
            out.0.extend(map.next_value::<Repeated>()?.0);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_last_one_wins_and_is_told() {
        let text = b"a: 1\nb:\n  c: 1\n  d: [x, {y: 1, y: 2}]\n  c: 2\na: 3\n";
        assert_eq!(parse(text), Ok(json!({"a": 3, "b": {"c": 2, "d": ["x", {"y": 2}]}})));
        let reported = repeated(text);
        assert_eq!(
            reported,
            [
                "line 4: key \"y\" already set in map",
                "line 5: key \"c\" already set in map",
                "line 6: key \"a\" already set in map"
            ]
        );
        assert_eq!(repeated(b"a: {b: null, c: 1.5, d: true, e: ~}\nf: 1"), [""; 0]);
        assert!(parse(b"a: [").is_err() && repeated(b"a: [").is_empty());
    }
}
