//! How fast the kubelet may try again.

use std::time::Duration;

use kube::runtime::utils::Backoff;
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

/// Pauses of a broken watch: 0.2 s to 2 s. A node that was cut off must hear soon what became of it and its pods.
#[derive(Debug)]
pub struct Rewatch(Duration);

impl Rewatch {
    const FIRST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(2);
}

impl Default for Rewatch {
    fn default() -> Self {
        Self(Self::FIRST)
    }
}

impl Iterator for Rewatch {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(Self::LONGEST);
        // Nodes that lost the same server do not come back all at once.
        Some(pause.mul_f64(rand::random_range(0.75..1.25)))
    }
}

impl Backoff for Rewatch {
    fn reset(&mut self) {
        self.0 = Self::FIRST;
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
