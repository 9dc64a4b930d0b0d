//! Times as the API writes them. The caller brings the clock.

use jiff::Timestamp;

/// RFC 3339 with seconds, `2026-01-02T03:04:05Z` (`metav1.Time`).
pub fn format(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// RFC 3339 with microseconds (`metav1.MicroTime`).
pub fn format_micro(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Reads either form.
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// Whether `text` is an RFC 3339 time with an offset.
pub fn is_rfc3339(text: &str) -> bool {
    text.len() >= 20 && text.as_bytes().get(10) == Some(&b'T') && parse(text).is_some()
}
