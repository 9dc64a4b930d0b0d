//! Which bundles are accepted.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::validate::Errors;

/// Which bundles are accepted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bundles {
    /// A bundle must be signed by one of these; when there is none, signatures are not asked for.
    #[serde(default)]
    pub trusted_keys: Vec<TrustedKey>,
}

/// A key that may sign bundles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustedKey {
    /// `ed25519:BASE64`, as `kinit bundle new-key` prints it.
    pub key: String,
    /// The last day (`2027-12-31`, in UTC) or moment (RFC 3339) at which it is trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
}

impl Bundles {
    /// Whether nothing is asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl TrustedKey {
    /// The end of its trust in seconds since 1970; the error where its text is no time.
    pub fn end(&self) -> Result<Option<i64>, String> {
        let Some(text) = &self.not_after else { return Ok(None) };
        if let Ok(moment) = text.parse::<Timestamp>() {
            return Ok(Some(moment.as_second()));
        }
        let day = text.parse::<Date>().and_then(|day| day.tomorrow()).and_then(|day| day.to_zoned(TimeZone::UTC));
        let end = day.map_err(|_| format!("{text:?} is neither a day (2027-12-31) nor a time (RFC 3339)"))?;
        Ok(Some(end.timestamp().as_second() - 1))
    }
}

pub(crate) fn validate(bundles: &Bundles, errors: &mut Errors) {
    for (index, key) in bundles.trusted_keys.iter().enumerate() {
        let path = format!("spec.bundles.trustedKeys[{index}]");
        if !is_key(&key.key) {
            errors.add(
                format!("{path}.key"),
                format!("{:?} is no key (ed25519:BASE64, `kinit bundle new-key`)", key.key),
            );
        }
        if let Err(why) = key.end() {
            errors.add(format!("{path}.notAfter"), why);
        }
    }
}

/// 32 bytes in base64.
fn is_key(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/');
    let Some(body) = text.strip_prefix("ed25519:").and_then(|text| text.strip_suffix('=')) else { return false };
    body.len() == 43 && body.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_ends_are_checked() {
        let good = format!("ed25519:{}=", "A".repeat(43));
        assert!(is_key(&good));
        for wrong in ["", "ed25519:", "ed25519:AAAA", &good.replace("ed25519", "rsa"), &good.replacen('A', "!", 1)] {
            assert!(!is_key(wrong), "{wrong}");
        }
        let end = |text: &str| TrustedKey { key: good.clone(), not_after: Some(text.to_owned()) }.end();
        assert_eq!(end("1970-01-01"), Ok(Some(86_399)));
        assert_eq!(end("1970-01-01T00:00:10Z"), Ok(Some(10)));
        assert!(end("soon").is_err());
    }
}
