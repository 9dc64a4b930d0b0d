//! Which signal is crossed, and which pod goes for it. No IO.

use std::collections::BTreeMap;

use crate::quantity;

/// What runs short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// `memory.available`
    Memory,
    /// `nodefs.available`
    NodeFs,
    /// `nodefs.inodesFree`
    NodeFsInodes,
    /// `imagefs.available`
    ImageFs,
    /// `imagefs.inodesFree`
    ImageFsInodes,
    /// `pid.available`
    Pid,
}

impl Signal {
    /// All of them, memory first: it is what kills.
    pub const ALL: [Self; 6] =
        [Self::Memory, Self::NodeFs, Self::NodeFsInodes, Self::ImageFs, Self::ImageFsInodes, Self::Pid];

    /// Its name in `evictionHard`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory.available",
            Self::NodeFs => "nodefs.available",
            Self::NodeFsInodes => "nodefs.inodesFree",
            Self::ImageFs => "imagefs.available",
            Self::ImageFsInodes => "imagefs.inodesFree",
            Self::Pid => "pid.available",
        }
    }

    /// The node condition it makes true.
    pub fn condition(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Pid => "PIDPressure",
            _ => "DiskPressure",
        }
    }

    /// The resource as messages name it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::NodeFs | Self::ImageFs => "ephemeral-storage",
            Self::NodeFsInodes | Self::ImageFsInodes => "inodes",
            Self::Pid => "pids",
        }
    }
}

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// What is left.
    pub available: i128,
    /// All of it.
    pub total: i128,
}

/// What was measured.
pub type Levels = BTreeMap<Signal, Level>;

/// A crossed threshold: the signal, the threshold, the level.
pub type Crossed = (Signal, i128, Level);

/// A quantity, or a share of the total.
pub fn threshold(text: &str, total: i128) -> Option<i128> {
    match text.strip_suffix('%') {
        Some(percent) => percent.parse::<f64>().ok().map(|p| (total as f64 * p / 100.0) as i128),
        None => quantity::milli(text).map(|m| m / 1000),
    }
}

/// Signals below their thresholds, in the order in which they are dealt with. A threshold of 0 is none.
pub fn crossed(levels: &Levels, thresholds: &BTreeMap<String, String>) -> Vec<Crossed> {
    let below = |signal: Signal| {
        let level = *levels.get(&signal).filter(|l| l.total > 0)?;
        let limit = threshold(thresholds.get(signal.name())?, level.total)?;
        (limit > 0 && level.available < limit).then_some((signal, limit, level))
    };
    Signal::ALL.into_iter().filter_map(below).collect()
}

/// A pod that could go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Its uid.
    pub uid: String,
    /// Its priority.
    pub priority: i32,
    /// What it asked for of what runs short; 0 for what cannot be asked for.
    pub request: i128,
    /// What it uses of it.
    pub usage: i128,
    /// What its containers use of it.
    pub containers: BTreeMap<String, (i128, i128)>,
}

/// The one that goes (`eviction/helpers.go`: rankMemoryPressure, rankDiskPressure, rankPIDPressure): first who uses
/// more than it asked for, then the least important, then who is furthest over.
pub fn first(signal: Signal, candidates: &[Candidate]) -> Option<&Candidate> {
    let asks = !matches!(signal, Signal::Pid | Signal::NodeFsInodes | Signal::ImageFsInodes);
    candidates.iter().min_by_key(|c| {
        let within = asks && c.usage <= c.request;
        let over = if asks { c.usage - c.request } else { c.usage };
        (within, c.priority, -over, c.uid.clone())
    })
}

/// The message of a pod that goes (`eviction/helpers.go: evictionMessage`).
pub fn message((signal, limit, level): &Crossed, candidate: &Candidate) -> String {
    let (limit, available) = (shown(*signal, *limit), shown(*signal, level.available));
    let mut text = format!(
        "The node was low on resource: {}. Threshold quantity: {limit}, available: {available}. ",
        signal.resource()
    );
    for (name, (usage, request)) in candidate.containers.iter().filter(|(_, (usage, request))| usage > request) {
        text.push_str(&format!(
            "Container {name} was using {}, request is {}, has larger consumption of {}. ",
            shown(*signal, *usage),
            shown(*signal, *request),
            signal.resource()
        ));
    }
    text
}

fn shown(signal: Signal, value: i128) -> String {
    match signal {
        Signal::Memory | Signal::NodeFs | Signal::ImageFs if value >= 1024 => format!("{}Ki", value / 1024),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thresholds(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn what_is_crossed() {
        let all = thresholds(&[("memory.available", "100"), ("nodefs.available", "10%"), ("pid.available", "0")]);
        for (signal, available, expected) in [
            (Signal::Memory, 100, false),
            (Signal::Memory, 99, true),
            (Signal::NodeFs, 100, false),
            (Signal::NodeFs, 99, true),
            (Signal::ImageFs, 0, false),
            (Signal::Pid, -5, false),
        ] {
            let levels = [(signal, Level { available, total: 1000 })].into();
            assert_eq!(!crossed(&levels, &all).is_empty(), expected, "{signal:?} {available}");
        }
        let nothing = [(Signal::NodeFsInodes, Level { available: 0, total: 0 })].into();
        assert!(crossed(&nothing, &thresholds(&[("nodefs.inodesFree", "5%")])).is_empty(), "btrfs has no inodes");
    }

    #[test]
    fn who_goes_first() {
        let pod = |uid: &str, priority, request, usage| Candidate {
            uid: uid.into(),
            priority,
            request,
            usage,
            ..Candidate::default()
        };
        for (signal, pods, expected) in [
            // Over its request goes before an unimportant one that keeps to it.
            (Signal::Memory, vec![pod("keeps", 0, 100, 90), pod("over", 1000, 10, 20)], "over"),
            // Both over: the less important.
            (Signal::Memory, vec![pod("low", 0, 10, 11), pod("high", 10, 10, 500)], "low"),
            // As important: the one that is furthest over.
            (Signal::Memory, vec![pod("little", 0, 100, 110), pod("much", 0, 10, 60)], "much"),
            (Signal::NodeFs, vec![pod("little", 0, 0, 1), pod("much", 0, 0, 2)], "much"),
            // What cannot be asked for: priority, then use.
            (Signal::Pid, vec![pod("few", 0, 0, 2), pod("many", 0, 0, 9), pod("high", 1, 0, 99)], "many"),
        ] {
            assert_eq!(first(signal, &pods).map(|c| c.uid.as_str()), Some(expected), "{signal:?}");
        }
        assert_eq!(first(Signal::Memory, &[]), None);
    }

    #[test]
    fn the_message_names_the_guilty() {
        let candidate = Candidate {
            containers: [("a".to_owned(), (2048, 1024)), ("b".to_owned(), (1, 1024))].into(),
            ..Candidate::default()
        };
        let text = message(&(Signal::Memory, 10_240, Level { available: 5120, total: 99_999 }), &candidate);
        assert_eq!(
            text,
            "The node was low on resource: memory. Threshold quantity: 10Ki, available: 5Ki. Container a was using 2Ki, request is 1Ki, has larger consumption of memory. "
        );
    }
}
