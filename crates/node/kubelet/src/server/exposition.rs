//! Text that Prometheus reads, with the time of each sample: what is measured is not what a registry holds.

use std::fmt::Write;

use hyper::{Response, StatusCode};

use super::{Body, typed};

/// Families, one after the other.
#[derive(Debug, Default)]
pub struct Text {
    out: String,
    now: Option<i64>,
}

impl Text {
    /// Samples are of this moment, in milliseconds since 1970.
    pub fn at(now: i64) -> Self {
        Self { out: String::new(), now: Some(now) }
    }

    /// A family of samples: labels, and the value.
    pub fn family<'l, L>(&mut self, name: &str, kind: &str, samples: L)
    where
        L: IntoIterator<Item = (&'l str, f64)>,
    {
        // Writing to a String does not fail.
        let _ = writeln!(self.out, "# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = match self.now {
                Some(now) => writeln!(self.out, "{name}{labels} {value} {now}"),
                None => writeln!(self.out, "{name}{labels} {value}"),
            };
        }
    }

    /// A family of one sample that has no time of its own.
    pub fn single(&mut self, name: &str, kind: &str, value: f64) {
        let _ = writeln!(self.out, "# TYPE {name} {kind}\n{name} {value}");
    }

    /// The text.
    #[cfg(test)]
    pub fn text(self) -> String {
        self.out
    }

    /// As an answer.
    pub fn answer(self) -> Response<Body> {
        typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", self.out)
    }
}

/// `{a="b",c="d"}` with values escaped; "" without labels.
pub fn labels(pairs: &[(&str, &str)]) -> String {
    if pairs.is_empty() {
        return String::new();
    }
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_as_prometheus_reads_it() {
        let mut text = Text::at(7);
        let labels = labels(&[("a", "b\"\\\n"), ("c", "")]);
        text.family("x", "gauge", [(labels.as_str(), 1.5), ("", 2.0)]);
        text.single("failed", "gauge", 0.0);
        let expected = "# TYPE x gauge\nx{a=\"b\\\"\\\\\\n\",c=\"\"} 1.5 7\nx 2 7\n# TYPE failed gauge\nfailed 0\n";
        assert_eq!(text.text(), expected);
    }
}
