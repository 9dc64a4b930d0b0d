//! Comments as wide as the code: rustfmt leaves them alone.

use anyhow::{Context, Result};

/// `max_width` of rustfmt.toml.
pub fn max_width(rustfmt: &str) -> Result<usize> {
    let value = rustfmt.lines().find_map(|l| l.strip_prefix("max_width")?.trim_start().strip_prefix('='));
    value.and_then(|v| v.trim().parse().ok()).context("rustfmt.toml has no max_width")
}

/// Lines that are comments and wider than `width` characters. A line of one word, such as an address, cannot be
/// shorter.
pub fn too_wide(shown: &str, text: &str, width: usize) -> Vec<String> {
    let wide = |line: &str| {
        let comment = line.trim_start();
        comment.starts_with("//") && line.chars().count() > width && comment.split_whitespace().count() > 2
    };
    let lines = text.lines().enumerate().filter(|(_, line)| wide(line));
    lines.map(|(i, l)| format!("{shown}:{}: a comment of {} characters", i + 1, l.chars().count())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_comments_are_found() {
        assert_eq!(max_width("edition = 1\nmax_width = 20\n").unwrap(), 20);
        assert!(max_width("").is_err());
        let text = "/// ─ twenty chars ─\n    // one that is too wide\n    let not_a_comment = \"wide as it is\";\n\
            // https://example.com/one/word\n";
        assert_eq!(too_wide("a.rs", text, 20), ["a.rs:2: a comment of 27 characters"]);
    }
}
