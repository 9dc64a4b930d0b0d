//! Durations on the command line.

use std::time::Duration;

use crate::errors::Usage;

/// `90s`, `5m`, `24h`, `7d`, or `0`; several in a row as Go writes them (`1h30m`).
pub(crate) fn duration(flag: &str, text: &str) -> Result<Duration, Usage> {
    let wrong = || Usage(format!("{flag}: {text:?} is no duration such as 90s, 5m, 24h or 7d"));
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut seconds, mut number) = (0u64, String::new());
    for c in text.chars() {
        let factor = match c {
            '0'..='9' => {
                number.push(c);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(wrong()),
        };
        let count: u64 = number.parse().map_err(|_| wrong())?;
        seconds = count.checked_mul(factor).and_then(|more| seconds.checked_add(more)).ok_or_else(wrong)?;
        number.clear();
    }
    if text.is_empty() || !number.is_empty() { Err(wrong()) } else { Ok(Duration::from_secs(seconds)) }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_have_units() {
        for (text, expected) in [("90s", 90), ("5m", 300), ("2h", 7200), ("1d", 86_400), ("1h30m", 5400), ("0", 0)] {
            assert_eq!(duration("--x", text).unwrap().as_secs(), expected);
        }
        for wrong in ["", "5", "-1s", "1.5h", "é", "5 m", "s", "1h30", "99999999999999999999s", "9999999999999999999d"]
        {
            assert!(duration("--x", wrong).is_err(), "{wrong:?}");
        }
    }
}
