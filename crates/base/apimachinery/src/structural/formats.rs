//! Formats of strings that upstream checks (`kube-openapi/pkg/validation/strfmt`); others say nothing.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use base64::Engine;
use regex::Regex;

use crate::{names, time};

/// Whether a text is of a format; of one that nobody knows everything is.
pub(super) fn is_valid(format: &str, text: &str) -> bool {
    match format.replace('-', "").as_str() {
        "datetime" => time::is_rfc3339(text),
        "date" => text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10,
        "duration" => is_duration(text),
        "uri" => is_uri(text),
        "email" => EMAIL.is_match(text),
        "hostname" => HOSTNAME.is_match(text) && text.len() <= 253,
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => MAC.is_match(text),
        "uuid" | "uuid3" | "uuid4" | "uuid5" => is_uuid(format, text),
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_card(text),
        "ssn" => SSN.is_match(text),
        "hexcolor" => HEX_COLOR.is_match(text),
        "rgbcolor" => RGB_COLOR.is_match(text),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text.replace(['\r', '\n'], "")).is_ok(),
        "k8sshortname" => names::NameRule::Label.check(text).is_empty(),
        "k8slongname" => names::NameRule::Subdomain.check(text).is_empty(),
        _ => true,
    }
}

/// An expression of this file; the tests match each of them.
struct Form(LazyLock<Option<Regex>>);

impl Form {
    const fn new(compile: fn() -> Option<Regex>) -> Self {
        Self(LazyLock::new(compile))
    }

    fn is_match(&self, text: &str) -> bool {
        self.0.as_ref().is_some_and(|form| form.is_match(text))
    }
}

fn form(pattern: &str) -> Option<Regex> {
    Regex::new(pattern).ok()
}

static EMAIL: Form = Form::new(|| form(r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*$"));
static HOSTNAME: Form = Form::new(|| {
    form(r"^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\.?$")
});
static MAC: Form = Form::new(|| {
    form(
        r"^([0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){7}|[0-9A-Fa-f]{4}(\.[0-9A-Fa-f]{4}){2,3})$",
    )
});
static SSN: Form = Form::new(|| form(r"^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$"));
static HEX_COLOR: Form = Form::new(|| form(r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"));
static RGB_COLOR: Form = Form::new(|| {
    let n = "([01]?[0-9]{1,2}|2[0-4][0-9]|25[0-5])";
    form(&format!(r"^rgb\(\s*{n}\s*,\s*{n}\s*,\s*{n}\s*\)$"))
});
static UNIT: Form = Form::new(|| {
    form(
        r"^([0-9]+)\s*(nanoseconds?|nanos?|ns|microseconds?|micros?|us|\x{b5}s|\x{3bc}s|milliseconds?|millis?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|hr|h|days?|d|weeks?|wks?|w)$",
    )
});

/// Go's durations, and numbers with a unit that is spelt out.
fn is_duration(text: &str) -> bool {
    static GO: Form = Form::new(|| form(r"^[-+]?(0|(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|\x{b5}s|\x{3bc}s|ms|s|m|h))+)$"));
    GO.is_match(text) || UNIT.is_match(&text.trim().to_lowercase())
}

/// `url.ParseRequestURI`: absolute, or a path.
fn is_uri(text: &str) -> bool {
    static URI: Form = Form::new(|| form(r"^([A-Za-z][A-Za-z0-9+.-]*:[^\s\x00-\x1f\x7f]*|/[^\x00-\x1f\x7f]*)$"));
    URI.is_match(text)
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let bits = match (address.parse::<Ipv4Addr>(), address.parse::<Ipv6Addr>()) {
        (Ok(_), _) => 32,
        (_, Ok(_)) => 128,
        _ => return false,
    };
    length.bytes().all(|b| b.is_ascii_digit()) && length.parse::<u8>().is_ok_and(|n| n <= bits)
}

fn is_uuid(format: &str, text: &str) -> bool {
    let Ok(uuid) = text.parse::<uuid::Uuid>() else { return false };
    let plain = text.len() == 36 || text.len() == 32;
    plain && format.strip_prefix("uuid").and_then(|v| v.parse().ok()).is_none_or(|v: usize| uuid.get_version_num() == v)
}

fn digits(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, ' ' | '-')).collect()
}

fn is_isbn10(text: &str) -> bool {
    let clean = digits(text);
    let values: Option<Vec<u32>> = clean
        .chars()
        .enumerate()
        .map(|(i, c)| if i == 9 && matches!(c, 'X' | 'x') { Some(10) } else { c.to_digit(10) })
        .collect();
    values.is_some_and(|v| v.len() == 10 && v.iter().zip(1..).map(|(d, i)| d * i).sum::<u32>() % 11 == 0)
}

fn is_isbn13(text: &str) -> bool {
    let values: Option<Vec<u32>> = digits(text).chars().map(|c| c.to_digit(10)).collect();
    values.is_some_and(|v| {
        v.len() == 13 && v.iter().enumerate().map(|(i, d)| if i % 2 == 0 { *d } else { 3 * d }).sum::<u32>() % 10 == 0
    })
}

fn is_card(text: &str) -> bool {
    let values: Option<Vec<u32>> = digits(text).chars().map(|c| c.to_digit(10)).collect();
    values.is_some_and(|v| {
        let luhn = |(i, d): (usize, &u32)| match (i % 2, d * 2) {
            (0, _) => *d,
            (_, twice) => twice / 10 + twice % 10,
        };
        (13..=19).contains(&v.len()) && v.iter().rev().enumerate().map(luhn).sum::<u32>() % 10 == 0
    })
}

#[cfg(test)]
mod tests {
    use super::is_valid;

    #[test]
    fn texts_of_formats() {
        for (format, good, bad) in [
            ("date-time", "2026-01-02T03:04:05Z", "2026-01-02"),
            ("datetime", "2026-01-02T03:04:05.5+01:00", "x"),
            ("date", "2026-01-02", "2026-13-02"),
            ("duration", "1h30m", "1x"),
            ("duration", "3 days", "three days"),
            ("uri", "https://a/b", "a b"),
            ("email", "a@b.c", "a@"),
            ("hostname", "a.b-c", "-a"),
            ("ipv4", "10.0.0.1", "10.0.0"),
            ("ipv6", "::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("cidr", "fd00::/64", "fd00::/+4"),
            ("mac", "01:23:45:67:89:ab", "01:23"),
            ("uuid", "123e4567-e89b-42d3-a456-426614174000", "123e"),
            ("uuid4", "123e4567-e89b-42d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
            ("isbn", "0-306-40615-2", "0-306-40615-3"),
            ("isbn13", "978-0-306-40615-7", "978-0-306-40615-8"),
            ("creditcard", "4111 1111 1111 1111", "4111 1111 1111 1112"),
            ("ssn", "123-45-6789", "1"),
            ("hexcolor", "#fff", "#ff"),
            ("rgbcolor", "rgb(1, 2,255)", "rgb(1,2,256)"),
            ("byte", "YQ==", "?"),
            ("bsonobjectid", "507f1f77bcf86cd799439011", "x"),
            ("k8s-short-name", "a-b", "A"),
            ("k8s-long-name", "a.b", "a..b"),
        ] {
            assert!(is_valid(format, good), "{format} {good}");
            assert!(!is_valid(format, bad), "{format} {bad}");
        }
        assert!(is_valid("nobody-knows", "x") && is_valid("password", ""));
    }
}
