//! The last two points of nodes and containers, and what follows from them (metrics-server's `pkg/storage`). Pure.

use std::collections::HashMap;
use std::time::Duration;

/// A container that is younger tells too little.
const FRESH: i64 = 10_000;

/// What was used until a moment. Times are milliseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Point {
    /// When it started; 0 when that is unknown.
    pub start: i64,
    /// When this was measured.
    pub time: i64,
    /// CPU time since the start, in nanoseconds.
    pub cpu: u64,
    /// Memory that is not easily given back, in bytes.
    pub memory: u64,
}

/// The containers of a pod, by name.
pub type PodPoints = Vec<(Box<str>, Point)>;

/// What one round brought.
#[derive(Debug, Default)]
pub struct Batch {
    /// By node.
    pub nodes: Vec<(Box<str>, Point)>,
    /// By `NAMESPACE/NAME`.
    pub pods: Vec<(Box<str>, PodPoints)>,
}

/// What is used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Billionths of a core.
    pub nano_cores: u64,
    /// Bytes.
    pub memory: u64,
}

/// When and over which time something was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When {
    /// Milliseconds since 1970.
    pub time: i64,
    /// Over which CPU was averaged.
    pub window: Duration,
}

/// A point, and the one before it where there is one of the same life.
#[derive(Debug, Clone, Copy, Default)]
struct Two {
    last: Point,
    before: Option<Point>,
}

/// The store. Of a container both points are of one life: restarts begin anew.
#[derive(Debug)]
pub struct Storage {
    resolution: i64,
    nodes: HashMap<Box<str>, Two>,
    pods: HashMap<Box<str>, Vec<(Box<str>, Two)>>,
}

impl Storage {
    /// Empty; rounds come every `resolution`.
    pub fn new(resolution: Duration) -> Self {
        let resolution = i64::try_from(resolution.as_millis()).unwrap_or(i64::MAX);
        Self { resolution, nodes: HashMap::new(), pods: HashMap::new() }
    }

    /// Takes a round's points. What is not among them is forgotten.
    pub fn store(&mut self, batch: Batch) {
        let mut nodes = HashMap::with_capacity(batch.nodes.len());
        for (name, point) in batch.nodes {
            let before = self.nodes.get(&name).and_then(|known| known.followed_by(point));
            nodes.insert(name, Two { last: point, before });
        }
        let mut pods = HashMap::with_capacity(batch.pods.len());
        for (name, containers) in batch.pods {
            let known = self.pods.get(&name);
            let two = |(container, point): (Box<str>, Point)| {
                let known = known.and_then(|list| list.iter().find(|(n, _)| *n == container)).map(|(_, two)| *two);
                (container, Two { last: point, before: self.before(point, known) })
            };
            let containers: Vec<_> = containers.into_iter().map(two).collect();
            pods.insert(name, containers);
        }
        (self.nodes, self.pods) = (nodes, pods);
    }

    /// The point before a container's new one.
    fn before(&self, point: Point, known: Option<Two>) -> Option<Point> {
        let age = point.time.saturating_sub(point.start);
        if point.start > 0 && (FRESH..self.resolution).contains(&age) {
            // It began after the last round, with nothing used.
            return Some(Point { time: point.start, cpu: 0, ..point });
        }
        known.filter(|known| point.start < known.last.time)?.followed_by(point)
    }

    /// What a node uses.
    pub fn node(&self, name: &str) -> Option<(Usage, When)> {
        let two = self.nodes.get(name)?;
        rate(two.last, two.before?)
    }

    /// What a pod's containers use, by `NAMESPACE/NAME`; nothing as long as one of them was seen only once.
    pub fn pod(&self, key: &str) -> Option<(Vec<(&str, Usage)>, When)> {
        let (mut out, mut when): (Vec<(&str, Usage)>, Option<When>) = (Vec::new(), None);
        for (name, two) in self.pods.get(key)? {
            let (usage, measured) = rate(two.last, two.before?)?;
            out.push((&**name, usage));
            if when.is_none_or(|earliest| measured.time < earliest.time) {
                when = Some(measured);
            }
        }
        Some((out, when?))
    }

    /// Nodes and containers of which the use is known.
    pub fn known(&self) -> (usize, usize) {
        let both = |two: &&Two| two.before.is_some();
        let containers = self.pods.values().flatten().map(|(_, two)| two);
        (self.nodes.values().filter(both).count(), containers.filter(both).count())
    }
}

impl Two {
    /// What stands before a new point: the last one when the new one is newer, else what stood before it.
    fn followed_by(&self, point: Point) -> Option<Point> {
        if point.time > self.last.time {
            Some(self.last)
        } else {
            self.before.filter(|before| before.time < point.time)
        }
    }
}

/// Nothing where the counter went back or no time passed.
fn rate(last: Point, before: Point) -> Option<(Usage, When)> {
    let millis = u64::try_from(last.time.checked_sub(before.time)?).ok().filter(|millis| *millis > 0)?;
    let used = last.cpu.checked_sub(before.cpu)?;
    if last.start < before.start {
        return None;
    }
    let nano_cores = u64::try_from(u128::from(used) * 1000 / u128::from(millis)).unwrap_or(u64::MAX);
    let when = When { time: last.time, window: Duration::from_millis(millis) };
    Some((Usage { nano_cores, memory: last.memory }, when))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds.
    fn point(start: i64, time: i64, cpu: u64) -> Point {
        Point { start: start * 1000, time: time * 1000, cpu: cpu * 1_000_000_000, memory: 7 }
    }

    fn storage() -> Storage {
        Storage::new(Duration::from_secs(15))
    }

    fn rounds(rounds: &[Point]) -> Storage {
        let mut storage = storage();
        for point in rounds {
            storage.store(Batch {
                nodes: vec![("n".into(), *point)],
                pods: vec![("ns/p".into(), vec![("c".into(), *point)])],
            });
        }
        storage
    }

    fn cores(storage: &Storage) -> (Option<u64>, Option<u64>) {
        let node = storage.node("n").map(|(usage, _)| usage.nano_cores);
        (node, storage.pod("ns/p").map(|(list, _)| list[0].1.nano_cores))
    }

    #[test]
    fn two_points_make_a_rate() {
        let billion = 1_000_000_000;
        for (points, node, pod) in [
            (vec![point(1, 100, 10)], None, None),
            (vec![point(1, 100, 10), point(1, 115, 25)], Some(billion), Some(billion)),
            // The kubelet has nothing new: the same answer.
            (vec![point(1, 100, 10), point(1, 115, 25), point(1, 115, 25)], Some(billion), Some(billion)),
            // Older than what is there.
            (vec![point(1, 100, 10), point(1, 115, 25), point(1, 90, 5)], None, None),
            // The counter went back.
            (vec![point(1, 100, 10), point(1, 115, 5)], None, None),
            // It started again, so long ago that the last round may have missed it, or just now.
            (vec![point(1, 100, 10), point(100, 115, 30)], None, None),
            (vec![point(1, 100, 10), point(112, 115, 30)], None, None),
        ] {
            let storage = rounds(&points);
            // A node's start is not looked at: it is unknown.
            let seen = cores(&storage);
            assert_eq!(seen.1, pod, "{points:?}");
            if points.iter().all(|p| p.start == points[0].start) {
                assert_eq!(seen.0, node, "{points:?}");
            }
        }
    }

    #[test]
    fn a_young_container_is_measured_from_its_start() {
        let storage = rounds(&[point(103, 115, 6)]);
        let (list, when) = storage.pod("ns/p").unwrap();
        assert_eq!((list[0].1.nano_cores, when.window.as_secs()), (500_000_000, 12));
        assert_eq!(rounds(&[point(110, 115, 6)]).pod("ns/p"), None, "too young");
        assert_eq!(rounds(&[point(95, 115, 6)]).pod("ns/p"), None, "older than a round");
    }

    #[test]
    fn a_pod_is_whole_or_absent() {
        let mut storage = storage();
        let pods = |list: &[(&str, Point)]| Batch {
            pods: vec![("ns/p".into(), list.iter().map(|(n, p)| ((*n).into(), *p)).collect())],
            ..Batch::default()
        };
        storage.store(pods(&[("a", point(1, 100, 1))]));
        storage.store(pods(&[("a", point(1, 115, 1)), ("b", point(1, 114, 1))]));
        assert_eq!((storage.pod("ns/p"), storage.known()), (None, (0, 1)));
        storage.store(pods(&[("a", point(1, 130, 1)), ("b", point(1, 129, 16))]));
        let (list, when) = storage.pod("ns/p").unwrap();
        assert_eq!((list.len(), when.time), (2, 129_000), "the earliest time counts");
        storage.store(Batch::default());
        assert_eq!((storage.pod("ns/p"), storage.known()), (None, (0, 0)));
    }
}
