//! A count of objects against what admission has charged.
//!
//! Admission charges a quota before the object is written, so that for a moment the charge is right and the count is
//! low. A count therefore raises `status.used` at once and lowers it only when nothing was charged for a while; that
//! also takes back the charges of writes that failed after their admission. (Upstream lowers at once, and counts only
//! on deletions and every five minutes.)

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use kinit_client::informer::{Change, key_of};
use kinit_component_helpers::requests::{Amounts, amounts};
use parking_lot::Mutex;
use tokio::time::Instant;

/// From a charge to the moment that its object is seen here, with much to spare.
const ON_THE_WAY: Duration = Duration::from_secs(2);

/// When each quota was last charged.
#[derive(Default)]
pub struct Charges(Mutex<HashMap<String, Instant>>);

impl Charges {
    /// Notes what a change of a quota says.
    pub fn see(&self, change: &Change<ResourceQuota>) {
        let key = key_of(&**change.object());
        match change {
            Change::Updated { old, new } if is_raised(old.status.as_ref(), new.status.as_ref()) => {
                self.0.lock().insert(key, Instant::now());
            }
            Change::Deleted(_) => {
                self.0.lock().remove(&key);
            }
            _ => {}
        }
    }

    /// Keeps what was charged lately in what was counted; how long until that may be lowered, if something is to be.
    pub fn settle(&self, key: &str, now: Instant, charged: &Amounts, counted: &mut Amounts) -> Option<Duration> {
        let at = self.0.lock().get(key).copied()?;
        let wait = ON_THE_WAY.checked_sub(now.saturating_duration_since(at)).filter(|w| !w.is_zero())?;
        keep(charged, counted).then_some(wait)
    }
}

/// Raises the counts to the charges; whether any was lower.
fn keep(charged: &Amounts, counted: &mut Amounts) -> bool {
    let mut kept = false;
    for (name, amount) in charged {
        if counted.get(name).is_none_or(|count| count < amount) {
            counted.insert(name.clone(), *amount);
            kept = true;
        }
    }
    kept
}

fn is_raised(old: Option<&ResourceQuotaStatus>, new: Option<&ResourceQuotaStatus>) -> bool {
    let of = |s: Option<&ResourceQuotaStatus>| amounts(s.and_then(|s| s.used.as_ref()));
    let old = of(old);
    of(new).iter().any(|(name, amount)| old.get(name).is_some_and(|before| before < amount))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(pods: &str) -> ResourceQuotaStatus {
        serde_json::from_value(serde_json::json!({"used": {"pods": pods}})).unwrap()
    }

    #[test]
    fn only_a_charge_is_a_raise() {
        for (old, new, expected) in [("1", "2", true), ("2", "1", false), ("1", "1000m", false)] {
            assert_eq!(is_raised(Some(&used(old)), Some(&used(new))), expected, "{old} {new}");
        }
        assert!(!is_raised(None, Some(&used("1"))), "the first count is no charge");
    }

    #[test]
    fn a_late_charge_is_kept() {
        for (charged, counted, kept, result) in [("3", "2", true, "3"), ("2", "3", false, "3"), ("2", "2", false, "2")]
        {
            let of = |text: &str| amounts(used(text).used.as_ref());
            let mut count = of(counted);
            assert_eq!(keep(&of(charged), &mut count), kept);
            assert_eq!(count, of(result), "{charged} {counted}");
        }
    }

    #[test]
    fn an_old_charge_is_not() {
        let of = |text: &str| amounts(used(text).used.as_ref());
        let (charges, start) = (Charges::default(), Instant::now());
        charges.0.lock().insert("a/q".into(), start);
        for (key, at, expected, result) in [
            ("a/other", 500, None, "1"),
            ("a/q", 500, Some(Duration::from_millis(1500)), "2"),
            ("a/q", 2500, None, "1"),
        ] {
            let mut count = of("1");
            let wait = charges.settle(key, start + Duration::from_millis(at), &of("2"), &mut count);
            assert_eq!((wait, count), (expected, of(result)), "{key} {at}");
        }
    }
}
