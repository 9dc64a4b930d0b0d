//! Container logs: the CRI format, read from its end, followed by inotify.
//!
//! A line is `2026-11-20T10:00:00.123456789Z stdout F text`; the tag `P` marks a part of a longer line.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use k8s_openapi::jiff::Timestamp;

/// The last lines of a log as plain text, for termination messages.
pub fn tail_text(path: &str, lines: usize, bytes: usize) -> String {
    let Ok(mut file) = File::open(path) else { return String::new() };
    let length = file.metadata().map(|m| m.len()).unwrap_or(0);
    // Prefixes are about 40 bytes a line; read generously.
    let window = (bytes + lines * 64) as u64;
    let start = length.saturating_sub(window);
    let mut raw = Vec::new();
    if file.seek(SeekFrom::Start(start)).is_err() || file.take(window).read_to_end(&mut raw).is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&raw);
    let all: Vec<&str> = text.lines().skip(usize::from(start > 0)).collect();
    let mut out = String::new();
    for line in &all[all.len().saturating_sub(lines)..] {
        let mut parts = line.splitn(4, ' ').skip(2);
        let (tag, content) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        out.push_str(content);
        if tag.starts_with('F') {
            out.push('\n');
        }
    }
    let cut = out.len().saturating_sub(bytes);
    let cut = (cut..out.len()).find(|i| out.is_char_boundary(*i)).unwrap_or(out.len());
    out.split_off(cut)
}

/// What of a log is wanted.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only the last lines.
    pub tail: Option<u64>,
    /// Only lines from then on.
    pub since: Option<Timestamp>,
    /// No more bytes than this.
    pub limit: Option<u64>,
    /// Each line with its time.
    pub timestamps: bool,
    /// Only `stdout` or `stderr`.
    pub stream: Option<&'static str>,
}

/// Reads a log file piece by piece, across rotations.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: File,
    filter: Filter,
    rest: Vec<u8>,
    left: Option<u64>,
    /// The line before was a part: its continuation gets no time.
    partial: bool,
}

/// Bytes read at once.
const BLOCK: usize = 64 << 10;

impl Reader {
    /// Opens a log where the filter begins.
    pub fn open(path: &Path, filter: Filter) -> std::io::Result<Self> {
        let mut file = File::open(path)?;
        if let Some(lines) = filter.tail {
            let start = tail_start(&mut file, lines)?;
            file.seek(SeekFrom::Start(start))?;
        }
        Ok(Self { path: path.to_owned(), file, left: filter.limit, filter, rest: Vec::new(), partial: false })
    }

    /// The next piece of output; `None` at the present end.
    pub fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        while !self.exhausted() {
            let mut block = vec![0; BLOCK];
            let n = self.file.read(&mut block)?;
            if n == 0 {
                if !self.reopen()? {
                    return Ok(None);
                }
                continue;
            }
            self.rest.extend_from_slice(&block[..n]);
            let Some(end) = self.rest.iter().rposition(|b| *b == b'\n') else { continue };
            let lines: Vec<u8> = self.rest.drain(..=end).collect();
            let mut out = Vec::with_capacity(lines.len());
            for line in lines.split_inclusive(|b| *b == b'\n') {
                self.line(line, &mut out);
            }
            if let Some(left) = &mut self.left {
                out.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= out.len() as u64;
            }
            if !out.is_empty() {
                return Ok(Some(out.into()));
            }
        }
        Ok(None)
    }

    /// Nothing more is wanted.
    pub fn exhausted(&self) -> bool {
        self.left == Some(0)
    }

    /// After a rotation the path names another file.
    fn reopen(&mut self) -> std::io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let Ok(there) = std::fs::metadata(&self.path) else { return Ok(false) };
        if there.ino() == self.file.metadata()?.ino() {
            return Ok(false);
        }
        self.file = File::open(&self.path)?;
        self.rest.clear();
        Ok(true)
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(parsed) = parse(line) else { return };
        let continued = std::mem::replace(&mut self.partial, parsed.partial);
        if self.filter.stream.is_some_and(|s| s.as_bytes() != parsed.stream) {
            return;
        }
        if let Some(since) = self.filter.since {
            let time = std::str::from_utf8(parsed.time).ok().and_then(|t| t.parse::<Timestamp>().ok());
            if time.is_none_or(|t| t < since) {
                return;
            }
        }
        if self.filter.timestamps && !continued {
            out.extend_from_slice(parsed.time);
            out.push(b' ');
        }
        out.extend_from_slice(parsed.text);
        if !parsed.partial {
            out.push(b'\n');
        }
    }
}

struct Line<'a> {
    time: &'a [u8],
    stream: &'a [u8],
    partial: bool,
    text: &'a [u8],
}

/// `time stream tags text\n`.
fn parse(line: &[u8]) -> Option<Line<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |b| *b == b' ');
    let (time, stream, tags) = (parts.next()?, parts.next()?, parts.next()?);
    if !matches!(stream, b"stdout" | b"stderr") {
        return None;
    }
    let partial = tags.split(|b| *b == b':').next() == Some(b"P");
    Some(Line { time, stream, partial, text: parts.next().unwrap_or_default() })
}

/// Where the last `lines` lines begin.
fn tail_start(file: &mut File, lines: u64) -> std::io::Result<u64> {
    let length = file.metadata()?.len();
    if lines == 0 {
        return Ok(length);
    }
    let (mut end, mut found) = (length, 0);
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        file.seek(SeekFrom::Start(start))?;
        let mut block = vec![0; usize::try_from(end - start).unwrap_or(BLOCK)];
        file.read_exact(&mut block)?;
        for (at, _) in block.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            let position = start + at as u64;
            // The newline that ends the file begins no line.
            if position + 1 == length {
                continue;
            }
            found += 1;
            if found == lines {
                return Ok(position + 1);
            }
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, filter: Filter) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, text).unwrap();
        let mut reader = Reader::open(&path, filter).unwrap();
        let mut out = Vec::new();
        while let Some(bytes) = reader.next().unwrap() {
            out.extend_from_slice(&bytes);
        }
        String::from_utf8(out).unwrap()
    }

    const LOG: &str = "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr F two\n2026-01-01T00:00:02Z stdout P thr\n2026-01-01T00:00:03Z stdout F ee\n";

    #[test]
    fn filters() {
        let f = Filter::default;
        for (filter, expected) in [
            (f(), "one\ntwo\nthree\n"),
            (Filter { tail: Some(1), ..f() }, "ee\n"),
            (Filter { tail: Some(3), ..f() }, "two\nthree\n"),
            (Filter { tail: Some(0), ..f() }, ""),
            (Filter { tail: Some(99), ..f() }, "one\ntwo\nthree\n"),
            (Filter { limit: Some(5), ..f() }, "one\nt"),
            (Filter { stream: Some("stderr"), ..f() }, "two\n"),
            (Filter { since: Some("2026-01-01T00:00:01Z".parse().unwrap()), ..f() }, "two\nthree\n"),
            (Filter { timestamps: true, tail: Some(2), ..f() }, "2026-01-01T00:00:02Z three\n"),
        ] {
            assert_eq!(read(LOG, filter.clone()), expected, "{filter:?}");
        }
        assert_eq!(read("garbage\n\n", f()), "");
    }

    #[test]
    fn last_words_come_from_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        assert_eq!(tail_text(path.to_str().unwrap(), 2, 100), "three\n");
        assert_eq!(tail_text(path.to_str().unwrap(), 80, 3), "ee\n");
    }
}
