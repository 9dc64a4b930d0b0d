//! The node's conditions, from what was measured: pure (`pkg/kubelet/nodestatus/setters.go`, eviction thresholds).

use std::collections::BTreeMap;

use crate::evict::rank::{Levels, Signal, crossed};

/// What was measured.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// Why the runtime is not ready; `None` when it is.
    pub runtime_problem: Option<String>,
    /// Why its network is not ready.
    pub network_problem: Option<String>,
    /// What is left of memory, disks and process ids.
    pub levels: Levels,
    /// Conditions whose signals were crossed not long ago.
    pub lasting: Vec<&'static str>,
}

/// One condition: (type, true?, reason, message).
pub type Condition = (&'static str, bool, &'static str, String);

/// Decides; `thresholds` is `evictionHard`.
pub fn conditions(m: &Measured, thresholds: &BTreeMap<String, String>) -> Vec<Condition> {
    let crossed = crossed(&m.levels, thresholds);
    let holds = |condition: &str| {
        m.lasting.contains(&condition) || crossed.iter().any(|(signal, ..)| signal.condition() == condition)
    };
    let (memory, disk) = (holds("MemoryPressure"), holds("DiskPressure"));
    // Without a threshold of its own, a node that cannot start another program says so.
    let exhausted = m.levels.get(&Signal::Pid).is_some_and(|l| l.available < 100);
    let pids = holds("PIDPressure") || exhausted;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evict::rank::Level;

    #[test]
    fn thresholds_make_conditions() {
        let thresholds: BTreeMap<String, String> =
            [("memory.available", "100Mi"), ("nodefs.available", "10%"), ("imagefs.available", "15%")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into();
        let well = || Measured {
            levels: [
                (Signal::Memory, Level { available: 1 << 30, total: 2 << 30 }),
                (Signal::NodeFs, Level { available: 50, total: 100 }),
                (Signal::ImageFs, Level { available: 50, total: 100 }),
            ]
            .into(),
            ..Measured::default()
        };
        let low = |signal, available| {
            let mut m = well();
            m.levels.insert(signal, Level { available, total: 100 });
            m
        };
        let truths = |m: &Measured| conditions(m, &thresholds).into_iter().map(|c| c.1).collect::<Vec<_>>();
        assert_eq!(truths(&well()), [false, false, false, true]);
        assert_eq!(truths(&low(Signal::Memory, 1)), [true, false, false, true]);
        assert_eq!(truths(&low(Signal::NodeFs, 9)), [false, true, false, true]);
        assert_eq!(truths(&low(Signal::ImageFs, 14)), [false, true, false, true]);
        assert_eq!(truths(&low(Signal::Pid, 9)), [false, false, true, true]);
        assert_eq!(truths(&Measured { lasting: vec!["DiskPressure"], ..well() }), [false, true, false, true]);
        assert_eq!(truths(&Measured { network_problem: Some("cni".into()), ..well() }), [false, false, false, false]);
    }
}
