//! How many replicas each ReplicaSet should have next. No IO.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

/// Annotation: the Deployment's replicas when the set was last scaled.
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// Annotation: replicas plus surge at that time.
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// A set and the replicas it is to have.
pub type Scale = (String, i32);

/// `spec.replicas`, 1 when absent.
pub fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// Available pods of a set.
pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

/// A Deployment's wanted replicas.
pub fn desired(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// Whether pods are replaced a few at a time, rather than all at once.
pub fn is_rolling(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref());
    strategy.and_then(|s| s.type_.as_deref()) != Some("Recreate")
}

/// Surge and unavailability in pods (`deploymentutil.ResolveFenceposts`): surge rounds up, unavailability down, and not
/// both are 0.
pub fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    if !is_rolling(deployment) {
        return (0, 0);
    }
    let rolling = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".into());
    let surge = rolling.and_then(|r| r.max_surge.clone()).unwrap_or_else(|| quarter.clone());
    let down = rolling.and_then(|r| r.max_unavailable.clone()).unwrap_or(quarter);
    let total = desired(deployment);
    let (surge, down) = (of_total(&surge, total, true), of_total(&down, total, false));
    if surge == 0 && down == 0 { (0, 1) } else { (surge, down) }
}

fn of_total(value: &IntOrString, total: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(n) => *n,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent * i64::from(total);
            let count = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(count).unwrap_or(i32::MAX)
        }
    }
}

/// Pods that may be unavailable (`deploymentutil.MaxUnavailable`).
pub fn max_unavailable(deployment: &Deployment) -> i32 {
    let total = desired(deployment);
    if !is_rolling(deployment) || total == 0 { 0 } else { fenceposts(deployment).1.min(total) }
}

/// The replicas a new set starts with or grows to (`deploymentutil.NewRSNewReplicas`).
pub fn new_set_replicas(deployment: &Deployment, all: &[&ReplicaSet], current: i32) -> i32 {
    let total = desired(deployment);
    if !is_rolling(deployment) {
        return total;
    }
    let most = total + fenceposts(deployment).0;
    let now: i32 = all.iter().map(|s| replicas(s)).sum();
    if now >= most { current } else { current + (most - now).min(total - current) }
}

/// One step of a rolling update: up with the new set first; when it cannot grow, down with the old ones.
pub fn rolling(deployment: &Deployment, new: &ReplicaSet, old: &[&ReplicaSet]) -> Vec<Scale> {
    let all: Vec<&ReplicaSet> = old.iter().copied().chain([new]).collect();
    let (current, total) = (replicas(new), desired(deployment));
    let wanted = if current > total { total } else { new_set_replicas(deployment, &all, current) };
    if wanted != current {
        return vec![(new.name_any(), wanted)];
    }
    scale_down_old(deployment, new, old)
}

fn scale_down_old(deployment: &Deployment, new: &ReplicaSet, old: &[&ReplicaSet]) -> Vec<Scale> {
    let total: i32 = old.iter().map(|s| replicas(s)).sum::<i32>() + replicas(new);
    let least = desired(deployment) - max_unavailable(deployment);
    let new_unavailable = replicas(new) - available(new);
    let most_down = total - least - new_unavailable;
    if most_down <= 0 {
        return Vec::new();
    }
    let mut sets: Vec<(&ReplicaSet, i32)> = old.iter().map(|s| (*s, replicas(s))).filter(|(_, n)| *n > 0).collect();
    sets.sort_by_key(|(s, _)| s.metadata.creation_timestamp.as_ref().map(|t| t.0));
    // Pods that are not available serve nobody: they go first.
    let mut cleaned = 0;
    for (set, count) in &mut sets {
        let down = (most_down - cleaned).min(*count - available(set)).max(0);
        *count -= down;
        cleaned += down;
    }
    // Then as many available ones as the rest can be missed without.
    let serving: i32 = old.iter().map(|s| available(s)).sum::<i32>() + available(new);
    let mut spare = serving - least;
    for (_, count) in &mut sets {
        let down = spare.min(*count).max(0);
        *count -= down;
        spare -= down;
    }
    sets.iter().filter(|(s, n)| *n != replicas(s)).map(|(s, n)| (s.name_any(), *n)).collect()
}

/// Whether `spec.replicas` changed since the sets were last scaled.
pub fn is_scaling_event(deployment: &Deployment, active: &[&ReplicaSet]) -> bool {
    active.iter().any(|s| annotation(s, DESIRED).is_some_and(|n| n != desired(deployment)))
}

fn annotation(set: &ReplicaSet, name: &str) -> Option<i32> {
    set.annotations().get(name)?.parse().ok()
}

/// A change of `spec.replicas`, spread over the sets in proportion to their sizes, so that a rollout under way keeps
/// its course.
pub fn proportional(deployment: &Deployment, new: Option<&ReplicaSet>, old: &[&ReplicaSet]) -> Vec<Scale> {
    let total = desired(deployment);
    let mut active: Vec<&ReplicaSet> = old.iter().copied().chain(new).filter(|s| replicas(s) > 0).collect();
    let only = match active.as_slice() {
        [] => new.or_else(|| old.iter().copied().max_by_key(|s| s.metadata.creation_timestamp.as_ref().map(|t| t.0))),
        [one] => Some(*one),
        _ => None,
    };
    if active.len() <= 1 {
        return only.filter(|s| replicas(s) != total).map(|s| (s.name_any(), total)).into_iter().collect();
    }
    // The new set has all it should: what is left of the old ones is no longer needed.
    if new.is_some_and(|n| replicas(n) == total && available(n) == total && annotation(n, DESIRED) == Some(total)) {
        return old.iter().filter(|s| replicas(s) > 0).map(|s| (s.name_any(), 0)).collect();
    }
    if !is_rolling(deployment) {
        return Vec::new();
    }
    let sum: i32 = active.iter().map(|s| replicas(s)).sum();
    let most = if total > 0 { total + fenceposts(deployment).0 } else { 0 };
    let to_add = most - sum;
    let born = |s: &ReplicaSet| s.metadata.creation_timestamp.as_ref().map(|t| t.0);
    // Large first; of equals, the newest grows and the oldest shrinks first.
    active.sort_by(|a, b| {
        let age = if to_add > 0 { born(b).cmp(&born(a)) } else { born(a).cmp(&born(b)) };
        replicas(b).cmp(&replicas(a)).then(age)
    });
    let mut sizes: Vec<i32> = active.iter().map(|s| replicas(s)).collect();
    let mut added = 0;
    if to_add != 0 {
        for (set, size) in active.iter().zip(&mut sizes) {
            let share = proportion(set, total, most, to_add, added);
            *size += share;
            added += share;
        }
        if let Some(first) = sizes.first_mut() {
            *first = (*first + to_add - added).max(0);
        }
    }
    active.iter().zip(sizes).filter(|(s, n)| replicas(s) != *n).map(|(s, n)| (s.name_any(), n)).collect()
}

fn proportion(set: &ReplicaSet, total: i32, most: i32, to_add: i32, added: i32) -> i32 {
    let size = replicas(set);
    let allowed = to_add - added;
    let fraction = if total == 0 {
        -size
    } else {
        let annotated = annotation(set, MAX).filter(|n| *n > 0).unwrap_or(total).max(1);
        let exact = f64::from(size) * f64::from(most) / f64::from(annotated);
        // At most i32::MAX pods, well within f64.
        #[allow(clippy::cast_possible_truncation)]
        let rounded = exact.round() as i32;
        rounded - size
    };
    if to_add > 0 { fraction.min(allowed) } else { fraction.max(allowed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(replicas: i32, surge: serde_json::Value, down: serde_json::Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "d"},
            "spec": {"replicas": replicas, "selector": {}, "template": {},
                     "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": down}}}
        }))
        .unwrap()
    }

    fn set(name: &str, replicas: i32, available: i32, desired: i32, max: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": name, "annotations": {DESIRED: desired.to_string(), MAX: max.to_string()}},
            "spec": {"replicas": replicas, "selector": {}},
            "status": {"replicas": replicas, "availableReplicas": available}
        }))
        .unwrap()
    }

    #[test]
    fn fenceposts_round_as_upstream() {
        for (n, surge, down, expected) in [
            (10, json!("25%"), json!("25%"), (3, 2)),
            (1, json!("25%"), json!("25%"), (1, 0)),
            (3, json!(0), json!("10%"), (0, 1)),
            (4, json!(2), json!(1), (2, 1)),
        ] {
            assert_eq!(fenceposts(&deployment(n, surge.clone(), down)), expected, "{n} {surge}");
        }
    }

    #[test]
    fn a_rolling_update_never_falls_below_its_least() {
        let d = deployment(4, json!(1), json!(1));
        for (new, old, expected) in [
            // (replicas, available) of the new and the old set
            ((0, 0), (4, 4), vec![("new", 1)]),
            ((1, 0), (4, 4), vec![("old", 3)]),
            ((1, 0), (3, 3), vec![("new", 2)]),
            ((2, 0), (3, 3), vec![]),
            ((2, 1), (3, 3), vec![("old", 2)]),
            ((2, 0), (3, 1), vec![]),
            ((4, 4), (1, 1), vec![("old", 0)]),
            ((4, 4), (0, 0), vec![]),
            ((1, 1), (4, 2), vec![("old", 2)]),
        ] {
            let (n, o) = (set("new", new.0, new.1, 4, 5), set("old", old.0, old.1, 4, 5));
            let expected: Vec<Scale> = expected.iter().map(|(s, n)| ((*s).to_owned(), *n)).collect();
            assert_eq!(rolling(&d, &n, &[&o]), expected, "new {new:?} old {old:?}");
        }
    }

    #[test]
    fn scaling_in_mid_rollout_is_proportional() {
        let d = deployment(20, json!(0), json!("25%"));
        let (new, old) = (set("new", 4, 4, 10, 10), set("old", 6, 6, 10, 10));
        let mut scales = proportional(&d, Some(&new), &[&old]);
        scales.sort();
        assert_eq!(scales, [("new".to_owned(), 8), ("old".to_owned(), 12)]);
        let d = deployment(5, json!(0), json!("25%"));
        let mut scales = proportional(&d, Some(&new), &[&old]);
        scales.sort();
        assert_eq!(scales, [("new".to_owned(), 2), ("old".to_owned(), 3)]);
        assert_eq!(proportional(&d, Some(&set("new", 3, 3, 3, 3)), &[]), [("new".to_owned(), 5)]);
        let done = set("new", 5, 5, 5, 5);
        assert_eq!(proportional(&d, Some(&done), &[&old]), [("old".to_owned(), 0)]);
        assert!(is_scaling_event(&d, &[&new]) && !is_scaling_event(&d, &[&done]));
    }
}
