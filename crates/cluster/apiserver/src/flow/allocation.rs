//! How the server's seats are divided, and how idle levels lend theirs
//! (`k8s.io/apiserver/pkg/util/flowcontrol`, `computeConcurrencyAllocation`).

use super::config::LevelConfig;

/// What a level has by its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Its own seats.
    pub nominal: u32,
    /// What it never lends.
    pub least: u32,
    /// What it may have with all that others lend.
    pub most: u32,
}

/// Divides `total` seats by shares. Rounded up, so that nobody who has a share has no seat.
pub fn bounds(total: u32, levels: &[LevelConfig]) -> Vec<Bounds> {
    let shares: f64 = levels.iter().map(|l| f64::from(l.shares)).sum::<f64>().max(1.0);
    let of = |level: &LevelConfig| {
        let nominal = whole((f64::from(total) * f64::from(level.shares) / shares).ceil());
        let lent = whole((f64::from(nominal) * f64::from(level.lendable) / 100.0).round());
        let most = match level.borrowing {
            Some(percent) => nominal.saturating_add(whole((f64::from(nominal) * f64::from(percent) / 100.0).round())),
            None => u32::MAX,
        };
        Bounds { nominal, least: nominal - lent.min(nominal), most }
    };
    let own: Vec<Bounds> = levels.iter().map(of).collect();
    let lendable: u32 = own.iter().map(|b| b.nominal - b.least).sum();
    own.into_iter().map(|b| Bounds { most: b.most.min(b.nominal.saturating_add(lendable)), ..b }).collect()
}

/// What a level needed lately.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Demand {
    /// The most seats that were taken or waited for.
    pub high: f64,
    /// A value that falls slowly and rises at once.
    pub smooth: f64,
}

/// How much of the last value remains, once per period (`seatDemandSmoothingCoefficient`: half of it after 5 minutes).
const REMAINS: f64 = 0.977;

impl Demand {
    /// After a period with this average, deviation and maximum.
    pub fn after(self, average: f64, deviation: f64, high: f64) -> Self {
        let envelope = (average + deviation).min(high);
        Self { high, smooth: envelope.max(self.smooth * REMAINS + envelope * (1.0 - REMAINS)) }
    }
}

/// Seats of each level for the next period: everybody gets what is not lent, or needed of their own; what is left is
/// divided in proportion to demand.
pub fn current(total: u32, levels: &[(Bounds, Demand)]) -> Vec<u32> {
    let floor = |(bounds, demand): &(Bounds, Demand)| {
        f64::from(bounds.least).max(f64::from(bounds.nominal).min(demand.high.ceil()))
    };
    let floors: Vec<f64> = levels.iter().map(floor).collect();
    let target = |i: usize| floors[i].max(levels[i].1.smooth).max(0.1);
    let seats = |proportion: f64| -> Vec<f64> {
        (0..levels.len())
            .map(|i| (target(i) * proportion).clamp(floors[i], f64::from(levels[i].0.most).max(floors[i])))
            .collect()
    };
    let (mut low, mut high) = (0.0, f64::from(total.max(1)) * 10.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if seats(middle).iter().sum::<f64>() > f64::from(total) { high = middle } else { low = middle }
    }
    seats(low).into_iter().map(|s| whole(s.round())).collect()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
fn whole(number: f64) -> u32 {
    number.clamp(0.0, f64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::super::queues::Shape;
    use super::*;

    fn level(shares: u32, lendable: u32, borrowing: Option<u32>) -> LevelConfig {
        let shape = Shape { queues: 1, hand: 1, longest: 1 };
        LevelConfig { name: "l".into(), uid: String::new(), exempt: false, shares, lendable, borrowing, shape }
    }

    #[test]
    fn shares_become_seats() {
        let levels = [level(30, 33, None), level(40, 25, Some(50)), level(5, 0, Some(0)), level(0, 0, None)];
        let bounds = bounds(600, &levels);
        assert_eq!(bounds.iter().map(|b| b.nominal).collect::<Vec<_>>(), [240, 320, 40, 0]);
        assert_eq!(bounds.iter().map(|b| b.least).collect::<Vec<_>>(), [161, 240, 40, 0]);
        assert_eq!(bounds.iter().map(|b| b.most).collect::<Vec<_>>(), [399, 479, 40, 159]);
    }

    #[test]
    fn who_is_idle_lends_and_gets_it_back() {
        let levels = [level(50, 50, None), level(50, 50, None)];
        let bounds = bounds(100, &levels);
        let idle = Demand::default();
        let busy = Demand::default().after(200.0, 10.0, 220.0);
        let seats = current(100, &[(bounds[0], busy), (bounds[1], idle)]);
        assert_eq!(seats, [75, 25], "half of its own is never lent");
        assert_eq!(current(100, &[(bounds[0], busy), (bounds[1], busy)]), [50, 50]);
        let both = current(100, &[(bounds[0], idle), (bounds[1], idle)]);
        assert!((both[0] + both[1]).abs_diff(100) <= 1, "nothing lies about: {both:?}");
    }

    #[test]
    fn demand_rises_at_once_and_falls_slowly() {
        let high = Demand::default().after(50.0, 0.0, 50.0);
        assert!((high.smooth - 50.0).abs() < 1e-9);
        let later = high.after(0.0, 0.0, 0.0);
        assert!(later.smooth > 48.0 && later.high == 0.0);
    }
}
