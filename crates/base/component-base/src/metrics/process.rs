//! What every program says of itself, under the names of Prometheus' client libraries and of upstream's
//! `component-base/metrics`.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::Metrics;
use crate::version::{GIT_VERSION, MAJOR, MINOR};

type Float = Gauge<f64, AtomicU64>;

/// Units of times in `/proc`: hundredths of a second on every x86-64 Linux (`USER_HZ`).
const TICKS: f64 = 100.0;
const PAGE: u64 = 4096;

/// A look at the process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Seen {
    cpu: f64,
    /// Since the machine was started.
    started: f64,
    resident: u64,
    virtual_size: u64,
}

/// Adds them; they are read when somebody asks.
pub fn register(metrics: &Metrics) {
    let build: Family<[(&'static str, &'static str); 3], Gauge> = Family::default();
    build.get_or_create(&[("major", MAJOR), ("minor", MINOR), ("git_version", GIT_VERSION)]).set(1);
    metrics.register("kubernetes_build_info", "A metric with a constant 1 value, labeled by version", build);
    let cpu = Counter::<f64, AtomicU64>::default();
    let (started, resident, size, files, most) = (
        Float::default(),
        Gauge::<i64>::default(),
        Gauge::<i64>::default(),
        Gauge::<i64>::default(),
        Gauge::<i64>::default(),
    );
    metrics.register("process_cpu_seconds", "Total user and system CPU time spent in seconds", cpu.clone());
    let help = "Start time of the process since unix epoch in seconds";
    metrics.register("process_start_time_seconds", help, started.clone());
    metrics.register("process_resident_memory_bytes", "Resident memory size in bytes", resident.clone());
    metrics.register("process_virtual_memory_bytes", "Virtual memory size in bytes", size.clone());
    metrics.register("process_open_fds", "Number of open file descriptors", files.clone());
    metrics.register("process_max_fds", "Maximum number of open file descriptors", most.clone());
    metrics.before_render(move || {
        if let Some(seen) = stat(&read("/proc/self/stat")) {
            cpu.inc_by((seen.cpu - cpu.get()).max(0.0));
            started.set(boot_time(&read("/proc/stat")).unwrap_or(0.0) + seen.started);
            resident.set(seen.resident.cast_signed());
            size.set(seen.virtual_size.cast_signed());
        }
        files.set(std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as i64);
        most.set(open_files(&read("/proc/self/limits")).unwrap_or(0));
    });
}

/// Empty where it cannot be read: metrics fail nothing.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Fields 14, 15, 22, 23 and 24 of proc_pid_stat(5), counted from behind the name, which may contain anything.
fn stat(text: &str) -> Option<Seen> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<u64> = rest.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let at = |number: usize| fields.get(number - 3).copied();
    Some(Seen {
        cpu: (at(14)? + at(15)?) as f64 / TICKS,
        started: at(22)? as f64 / TICKS,
        virtual_size: at(23)?,
        resident: at(24)? * PAGE,
    })
}

/// `btime` of proc_stat(5).
fn boot_time(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

/// The soft limit of `Max open files`.
fn open_files(text: &str) -> Option<i64> {
    text.lines().find_map(|line| line.strip_prefix("Max open files")?.split_ascii_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_behind_any_name() {
        let text = "42 (a) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 7 7 20 0 9 0 1234 8192 3 99";
        let want = Seen { cpu: 3.0, started: 12.34, virtual_size: 8192, resident: 3 * 4096 };
        assert_eq!(stat(text), Some(want));
        assert_eq!((stat("42 (a) S 1"), stat("")), (None, None));
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\nprocesses 3"), Some(1_700_000_000.0));
        let limits =
            "Limit Soft Hard Units\nMax open files            1024                 4096                 files\n";
        assert_eq!(open_files(limits), Some(1024));
    }

    #[test]
    fn a_process_tells_of_itself() {
        let metrics = Metrics::default();
        register(&metrics);
        let text = metrics.render();
        let value = |name: &str| -> f64 {
            let line =
                text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
            line.trim().parse().unwrap()
        };
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        assert!((now - value("process_start_time_seconds ")).abs() < 3600.0, "{now} {text}");
        assert!(value("process_resident_memory_bytes ") > 100_000.0);
        assert!(value("process_cpu_seconds_total ") >= 0.0);
        assert!(value("process_open_fds ") >= 3.0 && value("process_max_fds ") >= 3.0);
        assert!(text.contains("kubernetes_build_info{major=\"1\",minor=\"36\",git_version=\"v1.36"));
    }
}
