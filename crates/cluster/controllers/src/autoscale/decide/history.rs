//! What was recommended and what was done of late: for stabilization, and for limits of so many in so much time.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Of one autoscaler. A restart forgets it, as upstream's does.
#[derive(Debug, Default, Clone)]
pub struct History {
    /// Unstabilized recommendations.
    pub recommendations: Vec<(Timestamp, i32)>,
    /// Replicas added, when.
    pub added: Vec<(Timestamp, i32)>,
    /// Replicas taken away, when.
    pub removed: Vec<(Timestamp, i32)>,
}

/// The moment so long before.
pub fn before(now: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    now.checked_sub(by).unwrap_or(Timestamp::MIN)
}

impl History {
    /// Until there is a recommendation, what is there counts as one: nothing is taken away right after a start.
    pub fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, current));
        }
    }

    /// Keeps a recommendation, and forgets those from before `cutoff`.
    pub fn recommend(&mut self, replicas: i32, now: Timestamp, cutoff: Timestamp) {
        self.recommendations.retain(|(at, _)| *at >= cutoff);
        self.recommendations.push((now, replicas));
    }

    /// Keeps a change for as long as the longest period of a policy.
    pub fn scaled(&mut self, from: i32, to: i32, longest: Duration, now: Timestamp) {
        let (events, change) =
            if to > from { (&mut self.added, to - from) } else { (&mut self.removed, from.saturating_sub(to)) };
        let cutoff = before(now, longest);
        events.retain(|(at, _)| *at >= cutoff);
        events.push((now, change));
    }

    /// How many replicas were added less those taken away since then.
    pub fn net(&self, since: Timestamp) -> i32 {
        let sum = |events: &[(Timestamp, i32)]| {
            events.iter().filter(|(at, _)| *at > since).fold(0i32, |sum, (_, change)| sum.saturating_add(*change))
        };
        sum(&self.added).saturating_sub(sum(&self.removed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let mut history = History::default();
        history.begin(3, at(0));
        history.begin(9, at(1));
        assert_eq!(history.recommendations, [(at(0), 3)]);
        history.recommend(5, at(10), at(1));
        assert_eq!(history.recommendations, [(at(10), 5)]);
        for (from, to, when) in [(1, 4, 0), (4, 2, 30), (2, 7, 70)] {
            history.scaled(from, to, Duration::from_secs(60), at(when));
        }
        assert_eq!((history.added.len(), history.removed.len()), (1, 1));
        assert_eq!((history.net(at(0)), history.net(at(30)), history.net(at(70))), (3, 5, 0));
    }
}
