//! An engine that runs a plan and knows nothing of what the steps mean.
//!
//! ```text
//! stages, one after the other; each ends in a barrier
//!   └ lanes (hosts), side by side up to a bound, or one after the other
//!       └ steps, in order            ── Event ──► listeners: bars, lines, JSON, timing
//! ```

use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use serde::Serialize;

/// Steps of one host (or of the cluster, whose name is empty), in order.
#[derive(Debug, Clone)]
pub struct Lane<S> {
    /// The host's name.
    pub name: String,
    /// What to do.
    pub steps: Vec<S>,
}

/// Lanes that end in a barrier.
#[derive(Debug, Clone)]
pub struct Stage<S> {
    /// The phase it belongs to.
    pub phase: &'static str,
    /// One lane after the other: a restart must not hit all members at once.
    pub serial: bool,
    /// The lanes.
    pub lanes: Vec<Lane<S>>,
}

/// What happens during a run.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "camelCase")]
pub enum Event {
    /// A phase begins, with so many steps.
    PhaseStarted {
        /// Its name.
        phase: &'static str,
        /// Steps in it.
        steps: usize,
    },
    /// A host begins a batch of steps.
    LaneStarted {
        /// The phase.
        phase: &'static str,
        /// The host.
        host: String,
        /// Steps in the batch.
        steps: usize,
        /// The first of them.
        first: String,
    },
    /// A step is done.
    StepDone {
        /// The phase.
        phase: &'static str,
        /// The host.
        host: String,
        /// What was done.
        step: String,
        /// How long it took.
        milliseconds: u64,
        /// The step that comes next on this host.
        next: Option<String>,
    },
    /// A step failed.
    StepFailed {
        /// The phase.
        phase: &'static str,
        /// The host.
        host: String,
        /// What was tried.
        step: String,
        /// Why it failed.
        error: String,
    },
    /// A phase ended well.
    PhaseDone {
        /// Its name.
        phase: &'static str,
        /// How long it took.
        milliseconds: u64,
    },
}

/// Hears of everything.
pub trait Listener: Send + Sync {
    /// Must return quickly.
    fn on(&self, event: &Event);
}

/// Carries out a lane's steps.
#[async_trait::async_trait]
pub trait Executor<S: Sync>: Sync {
    /// What a step does, for people.
    fn describe(&self, step: &S) -> String;
    /// Does the steps in order and reports each by its index with its duration; stops at the first failure.
    async fn run(&self, lane: &Lane<S>, report: &(dyn Fn(usize, Duration) + Sync)) -> Result<(), StepError>;
}

/// A step that failed.
#[derive(Debug)]
pub struct StepError {
    /// Its index in the lane.
    pub index: usize,
    /// Why.
    pub error: anyhow::Error,
}

/// Why a run ended early: every failure of the stage in which it ended.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(|f| format!("{}: {}: {}: {}", f.phase, f.host, f.step, f.error)).collect::<Vec<_>>().join("\n"))]
pub struct RunError(pub Vec<Failure>);

/// One failure.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The phase.
    pub phase: &'static str,
    /// The host; `cluster` for steps of none.
    pub host: String,
    /// What was tried.
    pub step: String,
    /// Why it failed, with its causes.
    pub error: String,
}

/// Runs the stages in order. Within a stage, lanes that have begun finish their steps even when another fails.
pub async fn run<S, E>(
    stages: &[Stage<S>],
    executor: &E,
    listener: &dyn Listener,
    parallelism: usize,
) -> Result<(), RunError>
where
    S: Sync + Send,
    E: Executor<S>,
{
    let mut rest = stages;
    while let Some(first) = rest.first() {
        let same = rest.iter().take_while(|s| s.phase == first.phase).count();
        let (phase, later) = rest.split_at(same);
        let started = Instant::now();
        let steps = phase.iter().flat_map(|s| &s.lanes).map(|l| l.steps.len()).sum();
        listener.on(&Event::PhaseStarted { phase: first.phase, steps });
        for stage in phase {
            run_stage(stage, executor, listener, parallelism).await?;
        }
        listener.on(&Event::PhaseDone { phase: first.phase, milliseconds: millis(started.elapsed()) });
        rest = later;
    }
    Ok(())
}

async fn run_stage<S, E>(
    stage: &Stage<S>,
    executor: &E,
    listener: &dyn Listener,
    parallelism: usize,
) -> Result<(), RunError>
where
    S: Sync + Send,
    E: Executor<S>,
{
    let at_once = if stage.serial { 1 } else { parallelism.max(1) };
    let mut running = stream::iter(&stage.lanes)
        .map(|lane| run_lane(stage.phase, lane, executor, listener))
        .buffer_unordered(at_once);
    let mut failures = Vec::new();
    while let Some(result) = running.next().await {
        if let Err(failure) = result {
            failures.push(failure);
            if stage.serial {
                break;
            }
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(RunError(failures)) }
}

async fn run_lane<S, E>(
    phase: &'static str,
    lane: &Lane<S>,
    executor: &E,
    listener: &dyn Listener,
) -> Result<(), Failure>
where
    S: Sync + Send,
    E: Executor<S>,
{
    let describe = |index: usize| lane.steps.get(index).map(|s| executor.describe(s));
    let first = describe(0).unwrap_or_default();
    listener.on(&Event::LaneStarted { phase, host: lane.name.clone(), steps: lane.steps.len(), first });
    let report = |index: usize, took: Duration| {
        let step = describe(index).unwrap_or_default();
        listener.on(&Event::StepDone {
            phase,
            host: lane.name.clone(),
            step,
            milliseconds: millis(took),
            next: describe(index + 1),
        });
    };
    executor.run(lane, &report).await.map_err(|StepError { index, error }| {
        let step = describe(index).unwrap_or_default();
        let error = format!("{error:#}");
        listener.on(&Event::StepFailed { phase, host: lane.name.clone(), step: step.clone(), error: error.clone() });
        let host = if lane.name.is_empty() { "cluster".to_owned() } else { lane.name.clone() };
        Failure { phase, host, step, error }
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Script;

    #[async_trait::async_trait]
    impl Executor<&'static str> for Script {
        fn describe(&self, step: &&'static str) -> String {
            (*step).to_owned()
        }
        async fn run(
            &self,
            lane: &Lane<&'static str>,
            report: &(dyn Fn(usize, Duration) + Sync),
        ) -> Result<(), StepError> {
            for (index, step) in lane.steps.iter().enumerate() {
                if *step == "fail" {
                    return Err(StepError { index, error: anyhow::anyhow!("as told") });
                }
                report(index, Duration::ZERO);
            }
            Ok(())
        }
    }

    #[derive(Default)]
    struct Log(Mutex<Vec<String>>);

    impl Listener for Log {
        fn on(&self, event: &Event) {
            let line = match event {
                Event::PhaseStarted { phase, steps } => format!("{phase} {steps}"),
                Event::StepDone { host, step, .. } => format!("{host} {step}"),
                Event::StepFailed { host, step, error, .. } => format!("{host} {step}: {error}"),
                _ => return,
            };
            self.0.lock().unwrap().push(line);
        }
    }

    fn stage(phase: &'static str, serial: bool, lanes: &[(&str, &[&'static str])]) -> Stage<&'static str> {
        Stage {
            phase,
            serial,
            lanes: lanes.iter().map(|(n, s)| Lane { name: (*n).to_owned(), steps: s.to_vec() }).collect(),
        }
    }

    #[tokio::test]
    async fn a_failure_stops_at_the_barrier_and_names_itself() {
        let log = Log::default();
        let stages = [
            stage("a", false, &[("h1", &["x", "fail", "never"]), ("h2", &["y"])]),
            stage("b", false, &[("h1", &["z"])]),
        ];
        let error = run(&stages, &Script, &log, 4).await.unwrap_err();
        assert_eq!(error.to_string(), "a: h1: fail: as told");
        assert_eq!(*log.0.lock().unwrap(), ["a 4", "h1 x", "h1 fail: as told", "h2 y"]);
    }

    #[tokio::test]
    async fn a_serial_stage_leaves_the_other_members_alone_after_a_failure() {
        let log = Log::default();
        let stages = [stage("etcd", true, &[("h1", &["fail"]), ("h2", &["y"])])];
        run(&stages, &Script, &log, 4).await.unwrap_err();
        assert_eq!(*log.0.lock().unwrap(), ["etcd 2", "h1 fail: as told"]);
    }
}
