//! From what metrics ask for to what is done: stabilization and limits (`normalizeDesiredReplicas`,
//! `normalizeDesiredReplicasWithBehaviors`).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};

use super::history::{History, before};

/// A number, and why it is that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limited {
    /// Wanted in the end.
    pub replicas: i32,
    /// Reason and message of the condition AbleToScale, which is true.
    pub able: (&'static str, &'static str),
    /// Status, reason and message of the condition ScalingLimited.
    pub limited: (bool, &'static str, &'static str),
}

/// Between what.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub min: i32,
    pub max: i32,
    pub current: i32,
}

const READY: (&str, &str) = ("ReadyForNewScale", "recommended size matches current size");
const UP: (&str, &str) = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const DOWN: (&str, &str) = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_FAST: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_SLOW: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_MANY: (&str, &str) = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: (&str, &str) = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");

/// Without a behavior: at most twice as many, or four; down after `window`.
pub fn plain(bounds: Bounds, desired: i32, window: Duration, history: &mut History, now: Timestamp) -> Limited {
    let cutoff = before(now, window);
    let recent = history.recommendations.iter().filter(|(at, _)| *at >= cutoff).map(|(_, replicas)| *replicas);
    let stable = recent.fold(desired, i32::max);
    history.recommend(desired, now, cutoff);
    let able = if stable == desired { READY } else { DOWN };
    let fastest = bounds.current.saturating_mul(2).max(4);
    let (most, why) = if bounds.max > fastest { (fastest, TOO_FAST) } else { (bounds.max, TOO_MANY) };
    let (replicas, (reason, message)) = match stable {
        few if few < bounds.min => (bounds.min, TOO_FEW),
        many if many > most => (most, why),
        stable => (stable, WITHIN),
    };
    Limited { replicas, able, limited: (replicas != stable, reason, message) }
}

/// With a behavior whose rules are whole ([`complete`]).
pub fn with_behavior(
    bounds: Bounds,
    desired: i32,
    behavior: &HorizontalPodAutoscalerBehavior,
    history: &mut History,
    now: Timestamp,
) -> Limited {
    let none = HPAScalingRules::default();
    let (up, down) = (behavior.scale_up.as_ref().unwrap_or(&none), behavior.scale_down.as_ref().unwrap_or(&none));
    let stable = stabilized(bounds.current, desired, window(up), window(down), history, now);
    let able = match stable == desired {
        true => READY,
        false if desired >= bounds.current => UP,
        false => DOWN,
    };
    let (replicas, (reason, message)) = rated(bounds, stable, up, down, history, now);
    Limited { replicas, able, limited: (replicas != stable, reason, message) }
}

fn window(rules: &HPAScalingRules) -> Duration {
    Duration::from_secs(rules.stabilization_window_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(0))
}

/// As near to what is there as the recommendations of both windows allow.
fn stabilized(current: i32, desired: i32, up: Duration, down: Duration, history: &mut History, now: Timestamp) -> i32 {
    let since = |window: Duration| {
        let cutoff = before(now, window);
        history.recommendations.iter().filter(move |(at, _)| *at > cutoff).map(|(_, replicas)| *replicas)
    };
    let (lowest, highest) = (since(up).fold(desired, i32::min), since(down).fold(desired, i32::max));
    let stable = current.max(lowest).min(highest);
    history.recommend(desired, now, before(now, up.max(down)));
    stable
}

fn rated(
    bounds: Bounds,
    desired: i32,
    up: &HPAScalingRules,
    down: &HPAScalingRules,
    history: &History,
    now: Timestamp,
) -> (i32, (&'static str, &'static str)) {
    if desired > bounds.current {
        let fastest = most(bounds.current, up, history, now).max(bounds.current);
        let (most, why) = if bounds.max > fastest { (fastest, TOO_FAST) } else { (bounds.max, TOO_MANY) };
        if desired > most {
            return (most, why);
        }
    } else if desired < bounds.current {
        let fastest = least(bounds.current, down, history, now).min(bounds.current);
        let (least, why) = if bounds.min < fastest { (fastest, TOO_SLOW) } else { (bounds.min, TOO_FEW) };
        if desired < least {
            return (least, why);
        }
    }
    (desired, WITHIN)
}

/// How many there were when a policy's period began.
fn at_start(current: i32, policy: &HPAScalingPolicy, history: &History, now: Timestamp) -> i32 {
    let period = Duration::from_secs(u64::try_from(policy.period_seconds).unwrap_or(0));
    current.saturating_sub(history.net(before(now, period)))
}

/// How many there may be after scaling up (`calculateScaleUpLimitWithScalingRules`).
#[allow(clippy::cast_possible_truncation)]
fn most(current: i32, rules: &HPAScalingRules, history: &History, now: Timestamp) -> i32 {
    let allowed = rules.policies.iter().flatten().map(|policy| {
        let start = at_start(current, policy, history, now);
        match policy.type_.as_str() {
            "Percent" => (f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
            _ => start.saturating_add(policy.value),
        }
    });
    match rules.select_policy.as_deref() {
        Some("Disabled") => current,
        Some("Min") => allowed.min().unwrap_or(i32::MAX),
        _ => allowed.max().unwrap_or(i32::MIN),
    }
}

/// How few there may be after scaling down (`calculateScaleDownLimitWithBehaviors`).
#[allow(clippy::cast_possible_truncation)]
fn least(current: i32, rules: &HPAScalingRules, history: &History, now: Timestamp) -> i32 {
    let allowed = rules.policies.iter().flatten().map(|policy| {
        let start = at_start(current, policy, history, now);
        match policy.type_.as_str() {
            "Percent" => (f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
            _ => start.saturating_sub(policy.value),
        }
    });
    match rules.select_policy.as_deref() {
        Some("Disabled") => current,
        Some("Min") => allowed.max().unwrap_or(i32::MIN),
        _ => allowed.min().unwrap_or(i32::MAX),
    }
}

/// A behavior with what the API's defaults leave open, and with those defaults where another server has none
/// (`GenerateHPAScaleUpRules`, `GenerateHPAScaleDownRules`, `maybeInitScaleDownStabilizationWindow`).
pub fn complete(behavior: &HorizontalPodAutoscalerBehavior, down_window: Duration) -> HorizontalPodAutoscalerBehavior {
    let policy = |type_: &str, value| HPAScalingPolicy { type_: type_.to_owned(), value, period_seconds: 15 };
    let fill = |rules: &Option<HPAScalingRules>, window: i32, policies: Vec<HPAScalingPolicy>| {
        let mut rules = rules.clone().unwrap_or_default();
        rules.stabilization_window_seconds.get_or_insert(window);
        rules.select_policy.get_or_insert_with(|| "Max".to_owned());
        rules.policies.get_or_insert(policies);
        Some(rules)
    };
    let window = i32::try_from(down_window.as_secs()).unwrap_or(i32::MAX);
    HorizontalPodAutoscalerBehavior {
        scale_up: fill(&behavior.scale_up, 0, vec![policy("Pods", 4), policy("Percent", 100)]),
        scale_down: fill(&behavior.scale_down, window, vec![policy("Percent", 100)]),
    }
}

/// The longest period of a direction's policies.
pub fn longest_period(rules: Option<&HPAScalingRules>) -> Duration {
    let periods = rules.and_then(|r| r.policies.as_ref()).into_iter().flatten().map(|p| p.period_seconds);
    Duration::from_secs(periods.max().and_then(|s| u64::try_from(s).ok()).unwrap_or(0))
}
