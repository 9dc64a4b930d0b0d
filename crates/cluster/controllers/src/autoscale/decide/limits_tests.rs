//! Stabilization and limits as tables.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerBehavior;
use serde_json::{Value, json};

use super::history::History;
use super::limits::{Bounds, Limited, complete, longest_period, plain, with_behavior};

const WINDOW: Duration = Duration::from_secs(300);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn bounds(min: i32, max: i32, current: i32) -> Bounds {
    Bounds { min, max, current }
}

fn reported(limited: &Limited) -> (i32, &str, &str, bool) {
    (limited.replicas, limited.able.0, limited.limited.1, limited.limited.0)
}

#[test]
fn without_a_behavior() {
    for (what, bounds, desired, expected) in [
        ("as it is", bounds(1, 10, 3), 3, (3, "ReadyForNewScale", "DesiredWithinRange", false)),
        ("up", bounds(1, 10, 3), 5, (5, "ReadyForNewScale", "DesiredWithinRange", false)),
        ("twice as many at most", bounds(1, 100, 10), 50, (20, "ReadyForNewScale", "ScaleUpLimit", true)),
        ("four at least are allowed", bounds(1, 100, 1), 50, (4, "ReadyForNewScale", "ScaleUpLimit", true)),
        ("no more than the maximum", bounds(1, 5, 3), 50, (5, "ReadyForNewScale", "TooManyReplicas", true)),
        ("down only later", bounds(1, 10, 8), 2, (8, "ScaleDownStabilized", "DesiredWithinRange", false)),
    ] {
        let mut history = History::default();
        history.begin(bounds.current, at(0));
        assert_eq!(reported(&plain(bounds, desired, WINDOW, &mut history, at(10))), expected, "{what}");
    }
}

#[test]
fn down_after_the_window() {
    let mut history = History::default();
    history.begin(8, at(0));
    for (when, desired, expected) in [(10, 2, 8), (100, 5, 8), (299, 1, 8), (301, 1, 5), (399, 1, 5), (401, 1, 1)] {
        assert_eq!(plain(bounds(1, 10, 8), desired, WINDOW, &mut history, at(when)).replicas, expected, "{when}");
    }
    assert!(history.recommendations.len() <= 5, "what is old is forgotten");
    let few = plain(bounds(2, 10, 8), 0, WINDOW, &mut History::default(), at(0));
    assert_eq!(reported(&few), (2, "ReadyForNewScale", "TooFewReplicas", true));
}

fn behavior(value: Value) -> HorizontalPodAutoscalerBehavior {
    complete(&serde_json::from_value(value).unwrap(), WINDOW)
}

fn policies(list: &[(&str, i32, i32)], select: &str) -> Value {
    let policies: Vec<Value> =
        list.iter().map(|(t, v, p)| json!({"type": t, "value": v, "periodSeconds": p})).collect();
    json!({"policies": policies, "selectPolicy": select, "stabilizationWindowSeconds": 0})
}

#[test]
fn policies_limit_the_pace() {
    let up = |list, select| behavior(json!({"scaleUp": policies(list, select)}));
    let down = |list, select| behavior(json!({"scaleDown": policies(list, select)}));
    let both = [("Pods", 4, 60), ("Percent", 50, 60)];
    for (what, behavior, current, desired, expected) in [
        ("the larger", up(&both, "Max"), 10, 50, (15, "ScaleUpLimit")),
        ("the larger of few", up(&both, "Max"), 2, 50, (6, "ScaleUpLimit")),
        ("the smaller", up(&both, "Min"), 10, 50, (14, "ScaleUpLimit")),
        ("a percent is rounded up", up(&[("Percent", 10, 60)], "Max"), 3, 50, (4, "ScaleUpLimit")),
        ("none", up(&both, "Disabled"), 10, 50, (10, "ScaleUpLimit")),
        ("up to the maximum", up(&[("Percent", 900, 60)], "Max"), 90, 200, (100, "TooManyReplicas")),
        ("within", up(&both, "Max"), 10, 12, (12, "DesiredWithinRange")),
        ("down, the larger", down(&both, "Max"), 20, 1, (10, "ScaleDownLimit")),
        ("down, the smaller", down(&both, "Min"), 20, 1, (16, "ScaleDownLimit")),
        ("down, none", down(&both, "Disabled"), 20, 1, (20, "ScaleDownLimit")),
        ("down, a percent is rounded down", down(&[("Percent", 10, 60)], "Max"), 5, 1, (4, "ScaleDownLimit")),
        ("down to the minimum", down(&[("Percent", 100, 60)], "Max"), 5, 0, (1, "TooFewReplicas")),
    ] {
        let limited = with_behavior(bounds(1, 100, current), desired, &behavior, &mut History::default(), at(0));
        assert_eq!((limited.replicas, limited.limited.1), expected, "{what}");
    }
}

#[test]
fn what_was_done_within_the_period_counts() {
    let behavior = behavior(
        json!({"scaleUp": policies(&[("Pods", 4, 60)], "Max"), "scaleDown": policies(&[("Pods", 2, 60)], "Max")}),
    );
    let mut history = History::default();
    let longest = longest_period(behavior.scale_up.as_ref());
    let (mut current, mut seen) = (10, Vec::new());
    for (when, desired) in [(0, 12), (15, 50), (30, 50), (61, 50), (76, 50), (90, 1), (105, 1)] {
        let next = with_behavior(bounds(1, 100, current), desired, &behavior, &mut history, at(when)).replicas;
        if next != current {
            history.scaled(current, next, longest, at(when));
        }
        seen.push(next);
        current = next;
    }
    // At 61 the two of second 0 are a minute old, at 76 the two of second 15; at 90 four were added since second 30,
    // so that the count went from 14 to 18 and may go down to 12.
    assert_eq!(seen, [12, 14, 14, 16, 18, 12, 12]);
}

#[test]
fn windows_of_both_directions() {
    let behavior = behavior(json!({
        "scaleUp": {"stabilizationWindowSeconds": 60, "policies": [{"type": "Percent", "value": 1000, "periodSeconds": 15}]},
        "scaleDown": {"stabilizationWindowSeconds": 120, "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}}));
    let mut history = History::default();
    history.begin(5, at(0));
    for (when, desired, expected) in [
        (15, 9, (5, "ScaleUpStabilized")),
        (30, 12, (5, "ScaleUpStabilized")),
        (61, 10, (9, "ScaleUpStabilized")),
        (70, 2, (5, "ScaleDownStabilized")),
    ] {
        let limited = with_behavior(bounds(1, 100, 5), desired, &behavior, &mut history, at(when));
        assert_eq!((limited.replicas, limited.able.0), expected, "{when}");
    }
    // Twelve was recommended 116 s ago, ten 85 s ago; two is the lowest of the last minute.
    let limited = with_behavior(bounds(1, 100, 20), 1, &behavior, &mut history, at(146));
    assert_eq!((limited.replicas, limited.able.0), (12, "ScaleDownStabilized"));
    let limited = with_behavior(bounds(1, 100, 20), 1, &behavior, &mut history, at(182));
    assert_eq!((limited.replicas, limited.able.0), (2, "ScaleDownStabilized"));
}

#[test]
fn what_is_open_is_filled() {
    let filled = behavior(json!({"scaleUp": {"selectPolicy": "Min"}}));
    let (up, down) = (filled.scale_up.unwrap(), filled.scale_down.unwrap());
    assert_eq!((up.select_policy.as_deref(), up.policies.as_ref().map(Vec::len)), (Some("Min"), Some(2)));
    assert_eq!((up.stabilization_window_seconds, down.stabilization_window_seconds), (Some(0), Some(300)));
    assert_eq!(longest_period(Some(&down)), Duration::from_secs(15));
}
