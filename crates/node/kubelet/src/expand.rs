//! `$(NAME)` in commands, arguments and variables (`k8s.io/kubernetes/third_party/forked/golang/expansion`).

/// Replaces `$(NAME)` by what `lookup` knows; unknown names stay as written, `$$` is a literal dollar.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = tail.strip_prefix('(').and_then(|t| t.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands_as_upstream() {
        let lookup = |name: &str| (name == "VAR").then(|| "x".to_owned());
        for (text, expected) in [
            ("$(VAR)", "x"),
            ("a$(VAR)b$(VAR)", "axbx"),
            ("$$(VAR)", "$(VAR)"),
            ("$$$(VAR)", "$x"),
            ("$(NOPE)", "$(NOPE)"),
            ("$(VAR", "$(VAR"),
            ("$", "$"),
            ("$VAR", "$VAR"),
            ("", ""),
        ] {
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }
}
