//! What a user sees of a run: bars on a terminal, plain lines otherwise, JSON when asked for; and where the time went.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use kinit_workflow::{Event, Listener};

/// Form of the output.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Progress bars on a terminal, plain lines otherwise
    Text,
    /// One JSON object per line
    Jsonl,
}

impl Output {
    /// Whether it is for programs.
    pub(crate) fn is_jsonl(self) -> bool {
        self == Self::Jsonl
    }
}

/// The listeners for an output form.
pub fn listeners(output: Output, verbose: bool) -> (Box<dyn Listener>, std::sync::Arc<Timing>) {
    let timing = std::sync::Arc::new(Timing::default());
    let shown: Box<dyn Listener> = match output {
        Output::Jsonl => Box::new(Jsonl),
        Output::Text if std::io::stderr().is_terminal() => Box::new(Bars { verbose, ..Bars::default() }),
        Output::Text => Box::new(Lines { verbose }),
    };
    (Box::new(Both(shown, timing.clone())), timing)
}

struct Both(Box<dyn Listener>, std::sync::Arc<Timing>);

impl Listener for Both {
    fn on(&self, event: &Event) {
        self.0.on(event);
        self.1.on(event);
    }
}

struct Jsonl;

impl Listener for Jsonl {
    fn on(&self, event: &Event) {
        if let Ok(line) = serde_json::to_string(event) {
            say!("{line}");
        }
    }
}

struct Lines {
    verbose: bool,
}

impl Listener for Lines {
    fn on(&self, event: &Event) {
        let slow = matches!(event, Event::StepDone { milliseconds, .. } if *milliseconds >= 1000);
        if let Some(line) = line(event, self.verbose || slow) {
            tell!("{line}");
        }
    }
}

/// An event as a line; steps that went well only where `steps` says so.
fn line(event: &Event, steps: bool) -> Option<String> {
    let name = |host: &str| if host.is_empty() { "cluster".to_owned() } else { host.to_owned() };
    Some(match event {
        Event::PhaseStarted { phase, steps } => format!("[{phase}] {steps} step{}", if *steps == 1 { "" } else { "s" }),
        Event::StepDone { host, step, milliseconds, .. } if steps => {
            format!("[{}] {step} ({})", name(host), seconds(*milliseconds))
        }
        Event::StepFailed { host, step, error, .. } => format!("[{}] FAILED {step}: {error}", name(host)),
        Event::PhaseDone { phase, milliseconds } => format!("[{phase}] done in {}", seconds(*milliseconds)),
        Event::StepDone { .. } | Event::LaneStarted { .. } => return None,
    })
}

#[derive(Default)]
struct Bars {
    all: MultiProgress,
    bars: Mutex<BTreeMap<String, ProgressBar>>,
    verbose: bool,
}

impl Bars {
    fn bar(&self, host: &str) -> ProgressBar {
        let Ok(mut bars) = self.bars.lock() else { return ProgressBar::hidden() };
        let name = if host.is_empty() { "cluster" } else { host };
        let make = || {
            let bar = self.all.add(ProgressBar::new(0));
            // The template is a constant; were it wrong, the plain style would do.
            let style = ProgressStyle::with_template("{prefix:<12} {bar:20} {pos:>3}/{len:<3} {elapsed:>4} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(name.to_owned());
            // So that the time runs on while a step does.
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        };
        bars.entry(name.to_owned()).or_insert_with(make).clone()
    }
}

impl Listener for Bars {
    fn on(&self, event: &Event) {
        if let Some(line) = line(event, self.verbose) {
            drop(self.all.println(crate::say::printable(&line)));
        }
        match event {
            Event::PhaseStarted { .. } => {}
            Event::LaneStarted { host, steps, first, .. } => {
                let bar = self.bar(host);
                bar.reset();
                bar.set_length(*steps as u64);
                bar.set_message(first.clone());
            }
            Event::StepDone { host, next, .. } => {
                let bar = self.bar(host);
                bar.inc(1);
                // The time shown is the step's.
                bar.reset_elapsed();
                bar.set_message(next.clone().unwrap_or_default());
            }
            Event::StepFailed { host, step, .. } => self.bar(host).abandon_with_message(format!("failed: {step}")),
            Event::PhaseDone { .. } => {
                if let Ok(mut bars) = self.bars.lock() {
                    bars.values().for_each(ProgressBar::finish_and_clear);
                    bars.clear();
                }
            }
        }
    }
}

fn seconds(milliseconds: u64) -> String {
    format!("{:.1} s", Duration::from_millis(milliseconds).as_secs_f64())
}

/// Hosts the table has columns for; of more, it names only the slowest step's.
const MOST_COLUMNS: usize = 10;

/// Time per phase, and per host within it.
#[derive(Default)]
pub struct Timing {
    rows: Mutex<Vec<Row>>,
}

struct Row {
    phase: &'static str,
    total: u64,
    hosts: BTreeMap<String, u64>,
    slowest: (u64, String),
}

impl Listener for Timing {
    fn on(&self, event: &Event) {
        let Ok(mut rows) = self.rows.lock() else { return };
        match event {
            Event::PhaseStarted { phase, .. } => {
                rows.push(Row { phase, total: 0, hosts: BTreeMap::new(), slowest: (0, String::new()) })
            }
            Event::StepDone { host, step, milliseconds, .. } => {
                let Some(row) = rows.last_mut() else { return };
                *row.hosts.entry(host.clone()).or_default() += milliseconds;
                if *milliseconds >= row.slowest.0 {
                    row.slowest = (*milliseconds, format!("{host} {step}").trim().to_owned());
                }
            }
            Event::PhaseDone { milliseconds, .. } => {
                if let Some(row) = rows.last_mut() {
                    row.total = *milliseconds;
                }
            }
            _ => {}
        }
    }
}

impl Timing {
    /// The table for people: a column a host, as long as they fit on a line.
    pub fn table(&self) -> String {
        let Ok(rows) = self.rows.lock() else { return String::new() };
        let hosts: BTreeSet<&str> =
            rows.iter().flat_map(|r| r.hosts.keys()).map(String::as_str).filter(|h| !h.is_empty()).collect();
        let hosts = if hosts.len() > MOST_COLUMNS { BTreeSet::new() } else { hosts };
        let width = |host: &str| host.len().max(5) + 2;
        let mut text = format!("{:<20} {:>7}", "PHASE", "SECONDS");
        hosts.iter().for_each(|h| text.push_str(&format!("{h:>0$}", width(h))));
        text.push_str("  SLOWEST STEP\n");
        for row in rows.iter() {
            text.push_str(&format!("{:<20} {:>7.1}", row.phase, row.total as f64 / 1000.0));
            for host in &hosts {
                let time = row.hosts.get(*host).map_or(String::new(), |ms| format!("{:.1}", *ms as f64 / 1000.0));
                text.push_str(&format!("{time:>0$}", width(host)));
            }
            text.push_str(&format!("  {} ({})\n", row.slowest.1, seconds(row.slowest.0)));
        }
        let total: u64 = rows.iter().map(|r| r.total).sum();
        text.push_str(&format!("{:<20} {:>7.1}\n", "total", total as f64 / 1000.0));
        text
    }

    /// The same as JSON, for benchmarks.
    pub fn json(&self) -> serde_json::Value {
        let Ok(rows) = self.rows.lock() else { return serde_json::Value::Null };
        rows.iter()
            .map(|r| serde_json::json!({ "phase": r.phase, "milliseconds": r.total, "hosts": r.hosts }))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbose_shows_every_step_and_failures_are_always_shown() {
        let done = |milliseconds| Event::StepDone {
            phase: "certs",
            host: "cp1".into(),
            step: "issue x".into(),
            milliseconds,
            next: None,
        };
        assert_eq!(line(&done(20), true).as_deref(), Some("[cp1] issue x (0.0 s)"));
        assert_eq!(line(&done(20), false), None);
        let failed = Event::StepFailed { phase: "certs", host: String::new(), step: "x".into(), error: "no".into() };
        assert_eq!(line(&failed, false).as_deref(), Some("[cluster] FAILED x: no"));
    }
}
