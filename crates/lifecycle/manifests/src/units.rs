//! systemd units from command lines.

use kinit_config::Arg;
use serde::Serialize;

use crate::template::{self, TemplateError};

/// A component's unit.
#[derive(Debug, Clone, Serialize)]
pub struct Unit {
    /// What it is.
    pub description: String,
    /// Units that must be started before, by name.
    pub after: String,
    /// User and group; empty for root.
    pub user: String,
    /// `exec`, or `notify` for programs that tell when they are ready.
    #[serde(rename = "type")]
    pub kind: String,
    /// Further lines of the `[Service]` section.
    pub extra: String,
    exec: String,
}

impl Unit {
    /// A unit that runs `program` with these flags.
    pub fn new(description: &str, program: &str, args: &[Arg]) -> Self {
        let mut words = vec![quote(program)];
        words.extend(args.iter().map(|a| quote(&format!("--{}={}", a.name, a.value))));
        Self {
            description: description.to_owned(),
            after: String::new(),
            user: String::new(),
            kind: "exec".to_owned(),
            extra: String::new(),
            exec: words.join(" \\\n    "),
        }
    }

    /// The unit file.
    pub fn render(&self) -> Result<String, TemplateError> {
        template::render(template::COMPONENT_SERVICE, self)
    }
}

/// Flags with the operator's in place of those of the same name; further ones at the end, in their order.
pub fn merge(ours: Vec<Arg>, extra: &[Arg]) -> Vec<Arg> {
    let mut merged: Vec<Arg> = ours.into_iter().filter(|a| !extra.iter().any(|e| e.name == a.name)).collect();
    merged.extend(extra.iter().cloned());
    merged
}

/// Flags from pairs.
pub fn args<const N: usize>(pairs: [(&str, String); N]) -> Vec<Arg> {
    pairs.into_iter().map(|(name, value)| Arg { name: name.to_owned(), value }).collect()
}

/// A word of ExecStart (systemd.service(5), COMMAND LINES): specifiers and variables are doubled, the rest is quoted
/// where needed.
fn quote(word: &str) -> String {
    let escaped = word.replace('\\', "\\\\").replace('%', "%%").replace('$', "$$").replace('"', "\\\"");
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=/.,:*@%+[]{}$".contains(c);
    if escaped.chars().all(plain) && !escaped.is_empty() { escaped } else { format!("\"{escaped}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_to_systemd_what_they_mean_to_us() {
        for (word, expected) in [
            ("--v=2", "--v=2"),
            ("--x=a b", "\"--x=a b\""),
            ("--x=100%", "--x=100%%"),
            ("--x=$HOME", "--x=$$HOME"),
            ("--x=a\"b;c", "\"--x=a\\\"b;c\""),
        ] {
            assert_eq!(quote(word), expected);
        }
    }

    #[test]
    fn the_operators_flags_win() {
        let merged = merge(args([("a", "1".into()), ("b", "2".into())]), &args([("a", "3".into()), ("a", "4".into())]));
        let words: Vec<String> = merged.iter().map(|a| format!("{}={}", a.name, a.value)).collect();
        assert_eq!(words, ["b=2", "a=3", "a=4"]);
    }

    #[test]
    fn a_unit_reads_like_one() {
        let mut unit = Unit::new("etcd", "/usr/bin/etcd", &args([("name", "cp1".into())]));
        unit.user = "etcd".into();
        let text = unit.render().unwrap();
        assert!(
            text.contains("User=etcd\nGroup=etcd\nExecStart=/usr/bin/etcd \\\n    --name=cp1\nRestart=always"),
            "{text}"
        );
    }
}
