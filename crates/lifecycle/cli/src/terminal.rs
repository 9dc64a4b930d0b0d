//! Questions on the terminal whose answers are not shown.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};

use anyhow::{Context, Result, bail};
use kinit_remote::Secret;
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};

/// What Ctrl-C types.
const INTERRUPT: u8 = 3;

/// The terminal as it was, put back at the end.
struct Restore<'a> {
    terminal: &'a File,
    before: Termios,
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        // With a terminal that is gone there is nothing to put back.
        tcsetattr(self.terminal, SetArg::TCSANOW, &self.before).unwrap_or_default();
    }
}

/// Asks on the terminal of this process, whatever its standard input is, and reads a line without echo.
///
/// While it reads, Ctrl-C is a character that ends the line and not a signal: a signal would end the process with the
/// terminal's echo off.
pub(crate) fn ask_secret(question: &str) -> Result<Secret> {
    let mut terminal =
        OpenOptions::new().read(true).write(true).open("/dev/tty").context("there is no terminal to ask on")?;
    let before = tcgetattr(&terminal).context("read the terminal's settings")?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO | LocalFlags::ISIG);
    silent.local_flags.insert(LocalFlags::ECHONL | LocalFlags::ICANON);
    if let Some(end) = silent.control_chars.get_mut(SpecialCharacterIndices::VEOL as usize) {
        *end = INTERRUPT;
    }
    let reader = terminal.try_clone().context("open the terminal again")?;
    let restore = Restore { terminal: &reader, before };
    // What was typed before the question is no answer to it.
    tcsetattr(&reader, SetArg::TCSAFLUSH, &silent).context("switch the terminal's echo off")?;
    terminal.write_all(crate::say::printable(question).as_bytes()).context("ask on the terminal")?;
    let answer = read_line(&mut terminal);
    drop(restore);
    let line = match answer? {
        Some(line) => line,
        None => {
            writeln!(terminal).unwrap_or_default();
            bail!("no answer")
        }
    };
    Ok(Secret::new(line))
}

/// A line; `None` at the end of the input or when Ctrl-C ended it.
fn read_line(from: &mut impl Read) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    loop {
        let mut byte = [0u8];
        match from.read(&mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) if byte == [b'\n'] => break,
            Ok(_) if byte == [INTERRUPT] => return Ok(None),
            Ok(_) => bytes.extend(byte),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("read the answer"),
        }
    }
    let line = String::from_utf8(bytes).map_err(|_| anyhow::anyhow!("the answer is no text (UTF-8)"))?;
    Ok(Some(line).filter(|line| !line.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_at_its_end_and_an_interrupt_is_no_answer() {
        assert_eq!(read_line(&mut &b"a b\nc"[..]).unwrap().unwrap(), "a b");
        for none in [&b""[..], b"\n", b"ab\x03", b"ab"] {
            assert!(read_line(&mut &none[..]).unwrap().is_none());
        }
    }
}
