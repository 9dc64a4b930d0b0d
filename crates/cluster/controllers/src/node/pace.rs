//! How fast lost nodes may be tainted `NoExecute`, zone by zone; without IO and without a clock of its own.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::health::{Zone, eviction_pause, zone_state};
use super::taints::Execute;

/// A zone's state and when a node of it may be tainted next.
#[derive(Debug)]
struct Pace {
    state: Zone,
    size: usize,
    next: Instant,
}

/// All zones.
#[derive(Debug, Default)]
pub struct Zones(HashMap<String, Pace>);

impl Zones {
    /// Notes which nodes are ready. After a time when all nodes were lost, the first ones back give the others `grace`
    /// to follow before any is tainted.
    pub fn count(&mut self, nodes: impl Iterator<Item = (String, bool)>, now: Instant, grace: Duration) {
        let mut counts: HashMap<String, (usize, usize)> = HashMap::new();
        for (zone, ready) in nodes {
            let count = counts.entry(zone).or_default();
            if ready { count.0 += 1 } else { count.1 += 1 }
        }
        let was_all_lost = self.all_lost();
        self.0.retain(|name, _| counts.contains_key(name));
        for (name, (ready, lost)) in counts {
            let (state, size) = (zone_state(ready, lost), ready + lost);
            let pace = self.0.entry(name.clone()).or_insert(Pace { state, size, next: now });
            if pace.state != state {
                tracing::info!(zone = name, ?state, ready, lost, "zone state");
            }
            (pace.state, pace.size) = (state, size);
        }
        if was_all_lost && !self.all_lost() {
            self.0.values_mut().for_each(|pace| pace.next = now + grace);
        }
    }

    /// All nodes everywhere: then the fault is more likely on our side.
    fn all_lost(&self) -> bool {
        !self.0.is_empty() && self.0.values().all(|pace| pace.state == Zone::Full)
    }

    /// What may be done to a node of this zone now. `adds` says that its turn would be used.
    pub fn turn(&mut self, zone: &str, adds: bool, now: Instant) -> Execute {
        if self.all_lost() {
            return Execute::Withdraw;
        }
        let Some(pace) = self.0.get_mut(zone) else { return Execute::Hold };
        match eviction_pause(pace.state, pace.size).filter(|_| now >= pace.next) {
            None => Execute::Hold,
            Some(pause) => {
                if adds {
                    pace.next = now + pause;
                }
                Execute::Follow
            }
        }
    }

    /// A turn was not used after all.
    pub fn give_back(&mut self, zone: &str, now: Instant) {
        if let Some(pace) = self.0.get_mut(zone) {
            pace.next = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_none_when_all_are_lost() {
        let (mut zones, start) = (Zones::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        let grace = Duration::from_secs(40);
        let nodes = |ready: usize, lost: usize| {
            (0..ready + lost).map(move |i| ("z".to_owned(), i < ready)).collect::<Vec<_>>().into_iter()
        };
        assert_eq!(zones.turn("z", true, at(0)), Execute::Hold, "nothing was counted yet");
        zones.count(nodes(3, 2), at(0), grace);
        for (second, adds, expected) in [
            (0, true, Execute::Follow),
            (1, true, Execute::Hold),
            (9, false, Execute::Hold),
            (10, true, Execute::Follow),
        ] {
            assert_eq!(zones.turn("z", adds, at(second)), expected, "{second}");
        }
        zones.give_back("z", at(11));
        assert_eq!(zones.turn("z", false, at(11)), Execute::Follow);
        zones.count(nodes(2, 3), at(20), grace);
        assert_eq!(zones.turn("z", true, at(30)), Execute::Hold, "a small zone that is mostly lost");
        zones.count(nodes(0, 5), at(40), grace);
        assert_eq!(zones.turn("z", true, at(50)), Execute::Withdraw);
        zones.count(nodes(3, 2), at(60), grace);
        assert_eq!(zones.turn("z", true, at(99)), Execute::Hold, "the others may still come back");
        assert_eq!(zones.turn("z", true, at(100)), Execute::Follow);
    }
}
