//! Which images go. No IO.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// An image of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its id.
    pub id: String,
    /// Bytes.
    pub size: u64,
    /// A container, running or dead, was made from it.
    pub used: bool,
    /// The runtime keeps it, whoever asks.
    pub pinned: bool,
}

impl Image {
    /// Whether it may go at all.
    pub fn is_free(&self) -> bool {
        !self.used && !self.pinned
    }
}

/// A file system.
#[derive(Debug, Clone, Copy)]
pub struct Disk {
    /// Its size in bytes.
    pub total: u64,
    /// Bytes that are free.
    pub free: u64,
}

/// When images go.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Per cent of the disk from which on images go.
    pub high: u8,
    /// Per cent down to which they go.
    pub low: u8,
    /// Younger ones stay.
    pub youngest: Duration,
    /// Ones that were not used for longer go, however much room there is.
    pub oldest: Option<Duration>,
}

/// What goes, and how much had to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Bytes to be freed.
    pub wanted: u64,
    /// Ids and sizes.
    pub remove: Vec<(String, u64)>,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    /// `None` for those that were here before this process: old enough.
    seen: Option<Instant>,
    used: Option<Instant>,
    /// Since when its age counts.
    known: Instant,
}

/// What is remembered of images.
#[derive(Debug, Default)]
pub struct Records {
    by_id: BTreeMap<String, Record>,
    looked: bool,
}

impl Records {
    fn update(&mut self, images: &[Image], now: Instant) {
        let first = !std::mem::replace(&mut self.looked, true);
        for image in images {
            let fresh = Record { seen: (!first).then_some(now), used: None, known: now };
            let record = self.by_id.entry(image.id.clone()).or_insert(fresh);
            if image.used {
                record.used = Some(now);
            }
        }
        let there: BTreeSet<&str> = images.iter().map(|i| i.id.as_str()).collect();
        self.by_id.retain(|id, _| there.contains(id.as_str()));
    }

    /// Forgets an image that went.
    pub fn forget(&mut self, id: &str) {
        self.by_id.remove(id);
    }

    /// Takes note of what is there and decides.
    pub fn plan(&mut self, images: &[Image], disk: Disk, limits: &Limits, now: Instant) -> Plan {
        self.update(images, now);
        let mut free: Vec<(&Image, Record)> =
            images.iter().filter(|i| i.is_free()).filter_map(|i| self.by_id.get(&i.id).map(|r| (i, *r))).collect();
        // Never used comes first, then what was used longest ago.
        free.sort_by_key(|(i, r)| (r.used, r.seen, i.id.clone()));
        let mut plan = Plan { wanted: wanted(disk, limits), remove: Vec::new() };
        let mut freed = 0;
        for (image, record) in free {
            let idle = now.saturating_duration_since(record.used.unwrap_or(record.known));
            let stale = limits.oldest.is_some_and(|most| idle > most);
            let young = record.seen.is_some_and(|seen| now.saturating_duration_since(seen) < limits.youngest);
            if stale || (freed < plan.wanted && !young) {
                freed += image.size;
                plan.remove.push((image.id.clone(), image.size));
            }
        }
        plan
    }
}

/// Bytes to free: from the high mark on, down to the low one.
fn wanted(disk: Disk, limits: &Limits) -> u64 {
    if disk.total == 0 {
        return 0;
    }
    let percent = |p: u8| disk.total / 100 * u64::from(p.min(100));
    let used = disk.total.saturating_sub(disk.free);
    if limits.high >= 100 || used < percent(limits.high) { 0 } else { used.saturating_sub(percent(limits.low)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, used: bool, pinned: bool) -> Image {
        Image { id: id.into(), size: 10, used, pinned }
    }

    const LIMITS: Limits = Limits { high: 85, low: 80, youngest: Duration::from_secs(120), oldest: None };

    fn ids(plan: &Plan) -> Vec<&str> {
        plan.remove.iter().map(|(id, _)| id.as_str()).collect()
    }

    #[test]
    fn thresholds() {
        for (free, expected) in [(50, 0), (16, 0), (15, 5), (5, 15), (0, 20)] {
            assert_eq!(wanted(Disk { total: 100, free }, &LIMITS), expected, "{free} free");
        }
        assert_eq!(wanted(Disk { total: 100, free: 0 }, &Limits { high: 100, ..LIMITS }), 0, "100 turns it off");
    }

    #[test]
    fn the_longest_unused_go_and_never_the_pinned() {
        let (start, mut records) = (Instant::now(), Records::default());
        let calm = Disk { total: 100, free: 60 };
        let all = |a, b| {
            vec![image("a", a, false), image("b", b, false), image("c", false, false), image("pause", false, true)]
        };
        assert_eq!(records.plan(&all(true, true), calm, &LIMITS, start), Plan::default());
        let later = |s| start + Duration::from_secs(s);
        records.plan(&all(false, true), calm, &LIMITS, later(10));
        records.plan(&all(false, false), calm, &LIMITS, later(20));
        let full = |free| Disk { total: 100, free };
        // 10 bytes each: never used first, then in the order of their last use.
        assert_eq!(ids(&records.plan(&all(false, false), full(11), &LIMITS, later(30))), ["c"]);
        assert_eq!(ids(&records.plan(&all(false, false), full(5), &LIMITS, later(30))), ["c", "a"]);
        let most = records.plan(&all(false, false), full(0), &Limits { low: 0, ..LIMITS }, later(30));
        assert_eq!((ids(&most), most.wanted), (vec!["c", "a", "b"], 100), "what is pinned stays however full it is");
        assert_eq!(ids(&records.plan(&all(false, true), full(0), &Limits { low: 0, ..LIMITS }, later(30))), ["c", "a"]);
    }

    #[test]
    fn ages() {
        let (start, mut records) = (Instant::now(), Records::default());
        let full = Disk { total: 100, free: 0 };
        records.plan(&[], full, &LIMITS, start);
        let fresh = [image("new", false, false)];
        let later = |s| start + Duration::from_secs(s);
        assert!(ids(&records.plan(&fresh, full, &LIMITS, later(1))).is_empty(), "it was just pulled for somebody");
        assert_eq!(ids(&records.plan(&fresh, full, &LIMITS, later(122))), ["new"]);
        let (calm, old) = (Disk { total: 100, free: 90 }, Limits { oldest: Some(Duration::from_secs(3600)), ..LIMITS });
        assert!(ids(&records.plan(&fresh, calm, &old, later(3600))).is_empty());
        assert_eq!(ids(&records.plan(&fresh, calm, &old, later(3602))), ["new"]);
    }
}
