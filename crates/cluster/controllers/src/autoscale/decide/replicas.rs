//! How many replicas a metric asks for (`replica_calculator.go`, `metrics/utilization.go`). Values are thousandths.

use std::collections::BTreeMap;

use super::pods::{Groups, Sample, Samples};

/// How far from the target a ratio may be without a change, for each direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerances {
    /// Below the target.
    pub down: f64,
    /// Above it.
    pub up: f64,
}

impl Tolerances {
    fn accept(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// A number of replicas, and what the metric is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proposal {
    /// Wanted.
    pub replicas: i32,
    /// Percent of what is requested, where the target is one.
    pub utilization: Option<i32>,
    /// The value, for each pod or as a whole.
    pub value: i64,
}

/// What a pod is to use.
#[derive(Debug, Clone)]
pub enum Target {
    /// Percent of what each pod requests.
    Utilization(i32, BTreeMap<String, i64>),
    /// A value.
    Average(i64),
}

/// What the samples make of the target.
struct Ratio {
    ratio: f64,
    utilization: Option<i32>,
    average: i64,
}

impl Target {
    fn ratio(&self, samples: &Samples) -> Result<Ratio, String> {
        match self {
            Self::Utilization(target, requests) => utilization(samples, requests, *target),
            Self::Average(target) => {
                let total = samples.values().fold(0i64, |sum, s| sum.saturating_add(s.milli));
                let average = total / i64::try_from(samples.len().max(1)).unwrap_or(i64::MAX);
                Ok(Ratio { ratio: average as f64 / *target as f64, utilization: None, average })
            }
        }
    }

    /// What a pod without a sample is taken to use when others use too little.
    fn full(&self, pod: &str) -> i64 {
        match self {
            Self::Utilization(target, requests) => {
                let (request, percent) = (requests.get(pod).copied().unwrap_or(0), (*target).max(100));
                request.saturating_mul(i64::from(percent)) / 100
            }
            Self::Average(target) => *target,
        }
    }
}

fn utilization(samples: &Samples, requests: &BTreeMap<String, i64>, target: i32) -> Result<Ratio, String> {
    let (mut used, mut requested, mut count) = (0i64, 0i64, 0i64);
    for (pod, sample) in samples {
        let Some(request) = requests.get(pod) else { continue };
        used = used.saturating_add(sample.milli);
        requested = requested.saturating_add(*request);
        count += 1;
    }
    if requested == 0 {
        return Err("no metrics returned matched known pods".to_owned());
    }
    let percent = i32::try_from(used.saturating_mul(100) / requested).unwrap_or(i32::MAX);
    let ratio = f64::from(percent) / f64::from(target);
    Ok(Ratio { ratio, utilization: Some(percent), average: used / count })
}

/// For metrics of which each pod has a sample (`GetResourceReplicas`, `calcPlainMetricReplicas`).
pub fn of_pods(
    current: i32,
    target: &Target,
    tolerances: Tolerances,
    mut samples: Samples,
    groups: &Groups,
) -> Result<Proposal, String> {
    samples.retain(|pod, _| !groups.unready.contains(pod) && !groups.ignored.contains(pod));
    if samples.is_empty() {
        return Err("did not receive metrics for any ready pods".to_owned());
    }
    let Ratio { ratio, utilization, average } = target.ratio(&samples)?;
    let proposal = |replicas| Ok(Proposal { replicas, utilization, value: average });
    let with_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !with_unready && groups.missing.is_empty() {
        return match tolerances.accept(ratio) {
            true => proposal(current),
            false => proposal(ceil(ratio * groups.ready as f64)),
        };
    }
    // Who is not known is taken to use what makes for the smaller change.
    let (any, is_plain) = (samples.values().next().copied(), matches!(target, Target::Average(_)));
    let mut assume = |pod: &str, milli: i64| {
        if let Some(any) = any {
            samples.insert(pod.to_owned(), Sample { milli, ..any });
        }
    };
    for pod in &groups.missing {
        if ratio < 1.0 {
            assume(pod, target.full(pod));
        } else if ratio > 1.0 || is_plain {
            assume(pod, 0);
        }
    }
    if with_unready {
        groups.unready.iter().for_each(|pod| assume(pod, 0));
    }
    let again = target.ratio(&samples)?.ratio;
    let turns = (ratio < 1.0 && again > 1.0) || (ratio > 1.0 && again < 1.0);
    if tolerances.accept(again) || turns {
        return proposal(current);
    }
    let replicas = ceil(again * samples.len() as f64);
    if (again < 1.0 && replicas > current) || (again > 1.0 && replicas < current) {
        return proposal(current);
    }
    proposal(replicas)
}

/// For one value that stands for the whole (`GetObjectMetricReplicas`, `GetExternalMetricReplicas`). `ready` counts the
/// pods that are.
pub fn of_value(current: i32, value: i64, target: i64, tolerances: Tolerances, ready: usize) -> Proposal {
    let ratio = value as f64 / target as f64;
    let replicas = match current {
        0 => ceil(ratio),
        _ if tolerances.accept(ratio) => current,
        _ => ceil(ratio * ready as f64),
    };
    Proposal { replicas, utilization: None, value }
}

/// For one value that the pods share (`GetObjectPerPodMetricReplicas`, `GetExternalPerPodMetricReplicas`).
pub fn of_shared(current: i32, value: i64, target: i64, tolerances: Tolerances) -> Proposal {
    let ratio = value as f64 / (target as f64 * f64::from(current));
    let replicas = if tolerances.accept(ratio) { current } else { ceil(value as f64 / target as f64) };
    let share = match current {
        0 => 0,
        current => whole((value as f64 / f64::from(current)).ceil()),
    };
    Proposal { replicas, utilization: None, value: share }
}

/// `as` saturates, and makes nothing of what is no number.
#[allow(clippy::cast_possible_truncation)]
fn ceil(value: f64) -> i32 {
    value.ceil() as i32
}

#[allow(clippy::cast_possible_truncation)]
fn whole(value: f64) -> i64 {
    value as i64
}
