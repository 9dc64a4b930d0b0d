//! Collects what failed tests said, so that a long run ends with it.

/// Lines of one panic's message that are kept: a program's whole complaint, not a log.
const MOST: usize = 25;

/// Messages of panics, found in the output of test programs.
#[derive(Default)]
pub struct Panics {
    lines: Vec<String>,
    left: usize,
}

impl Panics {
    /// Hears the next line of a stream.
    pub fn hear(&mut self, line: &str) {
        // `thread 'name' (123) panicked at file.rs:1:2:`, with the message in the lines after it.
        if line.starts_with("thread '") && line.contains(" panicked at ") {
            self.left = MOST;
        } else if line.starts_with("note: ") || line.starts_with("stack backtrace:") || line.starts_with("test ") {
            self.left = 0;
        }
        if self.left > 0 {
            self.left -= 1;
            self.lines.push(line.to_owned());
        }
    }

    /// Takes over what another stream has said.
    pub fn extend(&mut self, other: Self) {
        self.lines.extend(other.lines);
    }

    /// All of them, in order; empty when there were none.
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::Panics;

    #[test]
    fn messages_are_kept_without_backtraces() {
        let mut panics = Panics::default();
        for line in [
            "test a ... ok",
            "thread 'b' (12) panicked at src/b.rs:1:2:",
            "left: 1",
            "right: 2",
            "stack backtrace:",
            "   0: std",
            "note: run with `RUST_BACKTRACE=full`",
            "test c ... ok",
        ] {
            panics.hear(line);
        }
        assert_eq!(panics.text(), "thread 'b' (12) panicked at src/b.rs:1:2:\nleft: 1\nright: 2");
    }
}
