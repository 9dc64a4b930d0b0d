//! The pod row, whose status column has rules of its own (`printPod`).

use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::values::{condition, int, list, since};

struct Summary {
    ready: String,
    status: String,
    restarts: String,
}

pub fn ready(o: &Value) -> Value {
    summary(o).ready.into()
}
pub fn status(o: &Value) -> Value {
    summary(o).status.into()
}
pub fn restarts(o: &Value) -> Value {
    summary(o).restarts.into()
}
pub fn gates(o: &Value) -> Value {
    let gates = list(o, &["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".into();
    }
    let good = gates
        .iter()
        .filter(|g| condition(o, g.str_at(&["conditionType"])).is_some_and(|c| c.str_at(&["status"]) == "True"))
        .count();
    format!("{good}/{}", gates.len()).into()
}

fn sidecar(o: &Value, name: &str) -> bool {
    list(o, &["spec", "initContainers"])
        .iter()
        .any(|c| c.str_at(&["name"]) == name && c.str_at(&["restartPolicy"]) == "Always")
}

fn last_restart(status: &Value) -> String {
    status.str_at(&["lastState", "terminated", "finishedAt"]).to_owned()
}

/// What the statuses of containers add up to.
struct Sum {
    reason: String,
    ready: usize,
    restarts: i64,
    latest: String,
}

impl Sum {
    fn restarted(&mut self, status: &Value) {
        self.restarts += int(status, &["restartCount"]);
        self.latest = std::mem::take(&mut self.latest).max(last_restart(status));
    }

    /// Adds the init containers; whether one of them still keeps the others waiting.
    fn initialize(&mut self, o: &Value, inits: usize) -> bool {
        let is_true = |status: &Value, key: &str| status.get(key).and_then(Value::as_bool) == Some(true);
        for (i, status) in list(o, &["status", "initContainerStatuses"]).iter().enumerate() {
            let side = sidecar(o, status.str_at(&["name"]));
            self.restarted(status);
            let ended = status.at(&["state", "terminated"]).is_some();
            if ended && int(status, &["state", "terminated", "exitCode"]) == 0 {
                continue;
            }
            if side && is_true(status, "started") {
                self.ready += usize::from(is_true(status, "ready"));
                continue;
            }
            let waiting = status.str_at(&["state", "waiting", "reason"]);
            self.reason = if ended {
                format!("Init:{}", terminated(status))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{i}/{inits}")
            };
            return true;
        }
        false
    }

    /// Adds the containers.
    fn run(&mut self, o: &Value) {
        let mut running = false;
        for status in list(o, &["status", "containerStatuses"]).iter().rev() {
            self.restarted(status);
            let waiting = status.str_at(&["state", "waiting", "reason"]);
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if status.at(&["state", "terminated"]).is_some() {
                self.reason = terminated(status);
            } else if status.at(&["state", "running"]).is_some()
                && status.get("ready").and_then(Value::as_bool) == Some(true)
            {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            let is_ready = condition(o, "Ready").is_some_and(|c| c.str_at(&["status"]) == "True");
            self.reason = if is_ready { "Running" } else { "NotReady" }.into();
        }
    }
}

fn summary(o: &Value) -> Summary {
    let inits = list(o, &["spec", "initContainers"]);
    let sidecars = inits.iter().filter(|c| c.str_at(&["restartPolicy"]) == "Always").count();
    let total = list(o, &["spec", "containers"]).len() + sidecars;
    let mut reason = match o.str_at(&["status", "reason"]) {
        "" => o.str_at(&["status", "phase"]).to_owned(),
        reason => reason.to_owned(),
    };
    if condition(o, "PodScheduled").is_some_and(|c| c.str_at(&["reason"]) == "SchedulingGated") {
        reason = "SchedulingGated".into();
    }
    let mut sum = Sum { reason, ready: 0, restarts: 0, latest: String::new() };
    if !sum.initialize(o, inits.len()) {
        // Init containers that are over do not count, unless there are some that go on.
        sum.restarts = if sidecars > 0 { sum.restarts } else { 0 };
        sum.run(o);
    }
    let Sum { mut reason, ready, restarts, latest } = sum;
    if o.is_deleting() {
        reason = if o.str_at(&["status", "reason"]) == "NodeLost" { "Unknown" } else { "Terminating" }.into();
    }
    let restarts = if restarts > 0 && !latest.is_empty() {
        format!("{restarts} ({} ago)", since(&latest))
    } else {
        restarts.to_string()
    };
    Summary { ready: format!("{ready}/{total}"), status: reason, restarts }
}

fn terminated(status: &Value) -> String {
    match status.str_at(&["state", "terminated", "reason"]) {
        "" => match int(status, &["state", "terminated", "signal"]) {
            0 => format!("ExitCode:{}", int(status, &["state", "terminated", "exitCode"])),
            signal => format!("Signal:{signal}"),
        },
        reason => reason.to_owned(),
    }
}
