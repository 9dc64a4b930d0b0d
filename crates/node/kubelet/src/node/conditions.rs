//! The node's conditions, from what was measured: pure (`pkg/kubelet/nodestatus/setters.go`, eviction thresholds).

use std::collections::BTreeMap;

use crate::quantity;

/// What was measured.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// Why the runtime is not ready; `None` when it is.
    pub runtime_problem: Option<String>,
    /// Why its network is not ready.
    pub network_problem: Option<String>,
    /// Available memory in bytes.
    pub memory_available: i64,
    /// Total memory in bytes.
    pub memory_total: i64,
    /// Free bytes of the kubelet's file system.
    pub disk_available: u64,
    /// Size of it.
    pub disk_total: u64,
    /// Free inodes.
    pub inodes_free: u64,
    /// All inodes.
    pub inodes_total: u64,
    /// Processes, and the most there may be.
    pub pids: Option<(i64, i64)>,
}

/// One condition: (type, true?, reason, message).
pub type Condition = (&'static str, bool, &'static str, String);

/// Decides; `thresholds` is `evictionHard`.
pub fn conditions(m: &Measured, thresholds: &BTreeMap<String, String>) -> Vec<Condition> {
    let below = |signal: &str, available: i128, total: i128| {
        thresholds.get(signal).and_then(|t| threshold(t, total)).is_some_and(|limit| available < limit)
    };
    let memory = below("memory.available", m.memory_available.into(), m.memory_total.into());
    let disk = below("nodefs.available", m.disk_available.into(), m.disk_total.into())
        || (m.inodes_total > 0 && below("nodefs.inodesFree", m.inodes_free.into(), m.inodes_total.into()));
    let pids =
        m.pids.is_some_and(|(now, most)| below("pid.available", (most - now).into(), most.into()) || most - now < 100);
    let pressure = |kind, yes: bool, bad: &'static str, good: &'static str, words: (&str, &str)| {
        (kind, yes, if yes { bad } else { good }, format!("kubelet has {}", if yes { words.1 } else { words.0 }))
    };
    let problems: Vec<String> = [&m.runtime_problem, &m.network_problem].into_iter().flatten().cloned().collect();
    let ready = problems.is_empty();
    vec![
        pressure(
            "MemoryPressure",
            memory,
            "KubeletHasInsufficientMemory",
            "KubeletHasSufficientMemory",
            ("sufficient memory available", "insufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            disk,
            "KubeletHasDiskPressure",
            "KubeletHasNoDiskPressure",
            ("no disk pressure", "disk pressure"),
        ),
        pressure(
            "PIDPressure",
            pids,
            "KubeletHasInsufficientPID",
            "KubeletHasSufficientPID",
            ("sufficient PID available", "insufficient PID available"),
        ),
        (
            "Ready",
            ready,
            if ready { "KubeletReady" } else { "KubeletNotReady" },
            if ready { "kubelet is posting ready status".to_owned() } else { problems.join(", ") },
        ),
    ]
}

/// A quantity, or a share of the total.
fn threshold(text: &str, total: i128) -> Option<i128> {
    match text.strip_suffix('%') {
        Some(percent) => percent.parse::<f64>().ok().map(|p| (total as f64 * p / 100.0) as i128),
        None => quantity::milli(text).map(|m| m / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_make_conditions() {
        let thresholds: BTreeMap<String, String> = [("memory.available", "100Mi"), ("nodefs.available", "10%")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let well = Measured {
            memory_available: 1 << 30,
            memory_total: 2 << 30,
            disk_available: 50,
            disk_total: 100,
            ..Measured::default()
        };
        let truths = |m: &Measured| conditions(m, &thresholds).into_iter().map(|c| c.1).collect::<Vec<_>>();
        assert_eq!(truths(&well), [false, false, false, true]);
        assert_eq!(truths(&Measured { memory_available: 1, ..well.clone() }), [true, false, false, true]);
        assert_eq!(truths(&Measured { disk_available: 9, ..well.clone() }), [false, true, false, true]);
        assert_eq!(truths(&Measured { network_problem: Some("cni".into()), ..well }), [false, false, false, false]);
    }
}
