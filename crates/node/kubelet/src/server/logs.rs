//! Container logs: the CRI format, read from its end, followed by inotify.
//!
//! A line is `2026-11-20T10:00:00.123456789Z stdout F text`; the tag `P` marks a part of a longer line.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

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
