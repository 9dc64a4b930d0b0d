//! OpenSSH's patterns (ssh_config(5), PATTERNS).

/// `*` and `?`, by the usual two-pointer walk.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == b'?' || Some(c) == name.get(n) => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, from)) => {
                    (p, n) = (at + 1, from + 1);
                    star = Some((at, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_none_or(|rest| rest.iter().all(|c| *c == b'*'))
}

/// Whether a name is in a list of patterns: by one of them, and by none that starts with `!`.
pub(crate) fn in_list<'a>(patterns: impl IntoIterator<Item = &'a str>, name: &str) -> bool {
    let mut found = false;
    for pattern in patterns {
        match pattern.strip_prefix('!') {
            Some(pattern) if matches(&pattern.to_lowercase(), name) => return false,
            None if matches(&pattern.to_lowercase(), name) => found = true,
            _ => {}
        }
    }
    found
}
