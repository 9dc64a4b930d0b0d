//! How fast the kubelet may try again.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// Repairs further apart than this have nothing to do with each other.
const FORGET: Duration = Duration::from_secs(60);

/// Spaces repairs of one object: the first is due at once, but two who overwrite each other must not do so at full
/// speed.
#[derive(Debug, Default)]
pub struct Repairs {
    last: Option<(Instant, Duration)>,
}

impl Repairs {
    /// When a repair that is found necessary at `now` may be made; it counts as made then.
    pub fn next(&mut self, now: Instant) -> Instant {
        let (at, pause) = match self.last {
            Some((last, pause)) if now.saturating_duration_since(last) < FORGET => {
                (now.max(last + pause), (pause * 2).min(LONGEST))
            }
            _ => (now, FIRST),
        };
        self.last = Some((at, pause));
        at
    }
}

/// So many a second, and some at once above that (`flowcontrol.NewTokenBucketRateLimiter`).
#[derive(Debug)]
pub struct Bucket {
    rate: f64,
    burst: f64,
    /// Tokens, and when they were counted.
    state: Mutex<(f64, Instant)>,
}

impl Bucket {
    /// A full bucket; `None` for a rate that is no limit.
    pub fn new(rate: i32, burst: i32) -> Option<Self> {
        let burst = f64::from(burst.max(1));
        (rate > 0).then(|| Self { rate: f64::from(rate), burst, state: Mutex::new((burst, Instant::now())) })
    }

    /// Whether one more may go at `now`; it counts as gone then.
    pub fn take(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        let gained = now.saturating_duration_since(state.1).as_secs_f64() * self.rate;
        let tokens = (state.0 + gained).min(self.burst);
        let granted = tokens >= 1.0;
        *state = (if granted { tokens - 1.0 } else { tokens }, now.max(state.1));
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_runs_dry_and_fills() {
        let bucket = Bucket::new(5, 2).unwrap();
        let start = Instant::now();
        let taken: Vec<bool> = [0, 0, 0, 100, 200, 250].map(|ms| bucket.take(start + Duration::from_millis(ms))).into();
        assert_eq!(taken, [true, true, false, false, true, false]);
        assert!(Bucket::new(0, 10).is_none());
    }

    #[test]
    fn repairs_slow_down_and_recover() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut repairs = Repairs::default();
        for (found, made) in
            [(0, 0), (0, 1), (1, 3), (4, 7), (40, 40), (40, 56), (56, 86), (86, 116), (176, 176), (176, 177)]
        {
            assert_eq!(repairs.next(at(found)), at(made), "found after {found} s");
        }
    }
}
