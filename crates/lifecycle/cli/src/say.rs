//! Words for the user. A reader that goes away (`kinit ... | head -1`) ends no run: a cluster is not left half built for it.

/// A line to standard output.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write;
        writeln!(std::io::stdout(), $($argument)*).unwrap_or_default()
    }};
}

/// A line to standard error.
macro_rules! tell {
    ($($argument:tt)*) => {{
        use std::io::Write;
        writeln!(std::io::stderr(), $($argument)*).unwrap_or_default()
    }};
}

/// Text to standard output as it is.
macro_rules! show {
    ($text:expr) => {{
        use std::io::Write;
        write!(std::io::stdout(), "{}", $text).unwrap_or_default()
    }};
}
