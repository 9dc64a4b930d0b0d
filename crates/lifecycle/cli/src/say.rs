//! Words for the user. A reader that goes away (`kinit ... | head -1`) ends no run: a cluster is not left half built
//! for it. Much of it quotes hosts and files: what would move a terminal's cursor or change its title is shown, not
//! obeyed.

/// A line to standard output.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write;
        writeln!(std::io::stdout(), "{}", $crate::say::printable(&format!($($argument)*))).unwrap_or_default()
    }};
}

/// A line to standard error.
macro_rules! tell {
    ($($argument:tt)*) => {{
        use std::io::Write;
        writeln!(std::io::stderr(), "{}", $crate::say::printable(&format!($($argument)*))).unwrap_or_default()
    }};
}

/// Text to standard output as it is.
macro_rules! show {
    ($text:expr) => {{
        use std::io::Write;
        write!(std::io::stdout(), "{}", $crate::say::printable(&$text.to_string())).unwrap_or_default()
    }};
}

/// Control characters other than line ends and tabs become `\u{1b}` and the like.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_hosts_words_move_no_cursor() {
        assert_eq!(super::printable("a\tb\n\u{1b}]0;x\u{7}\r\u{9b}é"), "a\tb\n\\u{1b}]0;x\\u{7}\\r\\u{9b}é");
    }
}
