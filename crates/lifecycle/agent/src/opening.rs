//! How a conversation is opened: by whom, what for, and with which claim to the host's lock.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Who works on a host, and what for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// `USER@DESK`.
    pub by: String,
    /// kinit's process on the desk.
    pub pid: u32,
    /// The verb: `init`, `reset`, ...
    pub operation: String,
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`kinit {}` of {} (process {} there)", self.operation, self.by, self.pid)
    }
}

/// A claim to the host's lock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockMode {
    /// Takes it, and waits for its holder to end.
    #[default]
    Take,
    /// Takes it, and makes its holder stop before its next step.
    Break,
    /// Takes none: the agent only looks, and refuses everything else.
    Look,
}

/// How a conversation is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// Who opens it.
    pub caller: Caller,
    /// With which claim.
    pub lock: LockMode,
}

impl Opening {
    /// The argument of `kinit host-agent`: JSON in hexadecimal, which no shell touches.
    pub fn to_argument(&self) -> String {
        serde_json::to_vec(self).unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads that argument.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn from_argument(text: &str) -> Result<Self, String> {
        let digits: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
        let json = digits.ok_or_else(|| "not hexadecimal".to_owned())?;
        serde_json::from_slice(&json).map_err(|error| error.to_string())
    }
}

fn byte(digits: &[u8]) -> Option<u8> {
    let digit = |d: u8| char::from(d).to_digit(16);
    let [high, low] = digits else { return None };
    u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()
}

/// Who has a host's lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Who.
    pub caller: Caller,
    /// Since when, by the host's clock, in seconds since 1970.
    pub since: i64,
    /// Tells this holding from all others.
    pub(crate) id: String,
}

/// A holder as one sees it who waits: `seconds` is for how long it has had the lock, by the host's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Who; unknown for the moment between taking the lock and writing it down.
    pub holder: Option<Holder>,
    /// For how long.
    pub seconds: u64,
}

impl Held {
    pub(crate) fn now(holder: Option<Holder>) -> Self {
        let since = holder.as_ref().map_or(0, |holder| holder.since);
        let seconds = u64::try_from(unix_time() - since).unwrap_or(0);
        Self { holder, seconds }
    }
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(holder) = &self.holder else { return f.write_str("a kinit that has only just begun") };
        let since = date_and_time(holder.since);
        write!(f, "{}, since {since} ({})", holder.caller, duration(self.seconds))
    }
}

/// `2026-11-28 22:51:23 UTC`.
pub(crate) fn date_and_time(unix: i64) -> String {
    match OffsetDateTime::from_unix_timestamp(unix) {
        Ok(t) => format!("{} {:02}:{:02}:{:02} UTC", t.date(), t.hour(), t.minute(), t.second()),
        Err(_) => format!("{unix} s after 1970"),
    }
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

/// Seconds since 1970.
pub(crate) fn unix_time() -> i64 {
    let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_survives_any_shell() {
        let caller = Caller { by: "o'neil $(x)@desk".into(), pid: 7, operation: "init".into() };
        let opening = Opening { caller, lock: LockMode::Break };
        let argument = opening.to_argument();
        assert!(argument.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_eq!(Opening::from_argument(&argument).unwrap(), opening);
        for bad in ["", "a", "zz", "7b7d", "é"] {
            assert!(Opening::from_argument(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_holder_is_named_with_operation_and_time() {
        let caller = Caller { by: "alice@laptop".into(), pid: 123, operation: "init".into() };
        let held = Held { holder: Some(Holder { caller, since: 1_800_000_000, id: "x".into() }), seconds: 200 };
        let words = "`kinit init` of alice@laptop (process 123 there), since 2027-01-15 08:00:00 UTC (3 min)";
        assert_eq!(held.to_string(), words);
        assert_eq!([duration(119), duration(7199), duration(7200)], ["119 s", "119 min", "2 h"]);
    }
}
