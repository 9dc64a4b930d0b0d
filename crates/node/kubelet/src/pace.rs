//! How fast the kubelet may try again.

use std::time::Duration;

use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// Repairs further apart than this have nothing to do with each other.
const FORGET: Duration = Duration::from_secs(60);

/// Spaces repairs of one object: the first is due at once, but two who overwrite each other must not do so at full speed.
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

#[cfg(test)]
mod tests {
    use super::*;

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
