//! Values of command-line flags in the forms upstream's flags take.

use std::time::Duration;

/// Parses a Go duration (`300ms`, `1h30m`, `1.5s`), which must not be negative.
pub fn duration(text: &str) -> Result<Duration, String> {
    kinit_apimachinery::duration::parse(text)
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| format!("{text:?} is not a duration such as 300ms, 15s or 1h30m"))
}

/// Parses a Go boolean (`strconv.ParseBool`).
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// Accepts `false` alone, for features that are not there: `--profiling=true` must not be silently ignored.
pub fn only_false(text: &str) -> Result<bool, String> {
    match boolean(text)? {
        false => Ok(false),
        true => Err("this component cannot do that; only false is accepted".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in
            [("15s", 15_000), ("1h30m", 5_400_000), ("300ms", 300), ("1.5s", 1500), ("0", 0), ("0s", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "15", "s", "-1s", "1d", "1s5", "1e999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
