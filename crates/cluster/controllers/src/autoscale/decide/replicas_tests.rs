//! Proposals as tables; the numbers are worked out by hand from the documented algorithm.

use std::time::Duration;

use jiff::Timestamp;

use super::pods::{Groups, Sample, Samples};
use super::replicas::{Proposal, Target, Tolerances, of_pods, of_shared, of_value};

const TEN: Tolerances = Tolerances { down: 0.1, up: 0.1 };

/// Pods `p0`, `p1`, ... with these samples; the rest of the groups is named by number.
fn samples(values: &[i64]) -> Samples {
    let sample = |milli: &i64| Sample { time: Timestamp::UNIX_EPOCH, window: Duration::from_secs(60), milli: *milli };
    values.iter().enumerate().map(|(i, milli)| (format!("p{i}"), sample(milli))).collect()
}

fn groups(ready: usize, unready: &[usize], missing: &[usize], ignored: &[usize]) -> Groups {
    let named = |list: &[usize]| list.iter().map(|i| format!("p{i}")).collect();
    Groups { ready, unready: named(unready), missing: named(missing), ignored: named(ignored) }
}

/// Percent of 1000m each.
fn percent(target: i32) -> Target {
    Target::Utilization(target, (0..10).map(|i| (format!("p{i}"), 1000)).collect())
}

#[test]
fn percent_of_what_is_requested() {
    for (what, current, target, values, groups, replicas, now) in [
        ("above", 3, 30, vec![300, 500, 700], groups(3, &[], &[], &[]), 5, 50),
        ("below", 5, 50, vec![100, 300, 500, 250, 250], groups(5, &[], &[], &[]), 3, 28),
        ("within ten percent above", 3, 91, vec![1000, 1000, 1000], groups(3, &[], &[], &[]), 3, 100),
        ("within ten percent below", 3, 100, vec![910, 920, 930], groups(3, &[], &[], &[]), 3, 92),
        // 50/30 over two ready pods is four; the unready third counts as idle: 100/3 = 33 percent, which is within.
        ("unready pods hold back", 3, 30, vec![500, 500, 9], groups(2, &[2], &[], &[]), 3, 50),
        // 90/30 = 3; with an idle third 60/30 = 2, over three pods.
        ("unready pods slow down", 3, 30, vec![900, 900, 9], groups(2, &[2], &[], &[]), 6, 90),
        ("unready pods do not matter below", 3, 50, vec![100, 100, 9000], groups(2, &[2], &[], &[]), 1, 10),
        // 10/100 over four; the missing one counts as 1000m: 1400/5 = 28 percent.
        ("missing pods count as busy below", 5, 100, vec![100, 100, 100, 100], groups(4, &[], &[4], &[]), 2, 10),
        // A target above 100 makes them busier: (200 + 2 * 1500) / 4 = 80 percent of 150 turn to 2.13 of 4 pods.
        ("missing pods count as busy as the target", 4, 150, vec![100, 100], groups(2, &[], &[2, 3], &[]), 3, 10),
        // 100/50 over two; the missing two count as idle: 50/50, within.
        ("missing pods count as idle above", 4, 50, vec![1000, 1000], groups(2, &[], &[2, 3], &[]), 4, 100),
        ("missing pods turn the direction", 4, 50, vec![700, 700], groups(2, &[], &[2, 3], &[]), 4, 70),
        ("missing pods at the target", 3, 50, vec![500, 500], groups(2, &[], &[2], &[]), 3, 50),
        ("ending pods are not there", 3, 50, vec![1000, 1000, 0], groups(2, &[], &[], &[2]), 4, 100),
    ] {
        let proposal = of_pods(current, &percent(target), TEN, samples(&values), &groups).unwrap();
        assert_eq!((proposal.replicas, proposal.utilization), (replicas, Some(now)), "{what}");
    }
}

#[test]
fn an_average() {
    for (what, current, values, groups, replicas, average) in [
        ("above", 3, vec![20_000, 10_000, 30_000], groups(3, &[], &[], &[]), 4, 20_000),
        ("below", 5, vec![10_000, 10_000, 10_000, 10_000, 10_000], groups(5, &[], &[], &[]), 4, 10_000),
        ("within", 3, vec![15_000, 16_000, 15_000], groups(3, &[], &[], &[]), 3, 15_333),
        ("missing and below", 3, vec![5_000, 5_000], groups(2, &[], &[2], &[]), 2, 5_000),
        ("missing and above", 3, vec![60_000, 60_000], groups(2, &[], &[2], &[]), 8, 60_000),
        ("unready and above", 2, vec![60_000, 1], groups(1, &[1], &[], &[]), 4, 60_000),
    ] {
        let proposal = of_pods(current, &Target::Average(15_000), TEN, samples(&values), &groups).unwrap();
        let expected = Proposal { replicas, utilization: None, value: average };
        assert_eq!(proposal, expected, "{what}");
    }
}

#[test]
fn a_tolerance_of_its_own() {
    let none = Tolerances { down: 0.5, up: 0.0 };
    for (values, replicas) in [(vec![510, 510], 3), (vec![260, 260], 2), (vec![240, 240], 1)] {
        let proposal = of_pods(2, &percent(50), none, samples(&values), &groups(2, &[], &[], &[])).unwrap();
        assert_eq!(proposal.replicas, replicas, "{values:?}");
    }
}

#[test]
fn nothing_to_go_by() {
    let failed = |values: &[i64], groups: Groups, target: &Target| {
        of_pods(2, target, TEN, samples(values), &groups).unwrap_err()
    };
    let none = "did not receive metrics for any ready pods";
    assert_eq!(failed(&[], groups(0, &[], &[0, 1], &[]), &percent(50)), none);
    assert_eq!(failed(&[1], groups(0, &[0], &[], &[]), &Target::Average(1)), none);
    let strangers = Target::Utilization(50, [("other".to_owned(), 1000)].into());
    assert_eq!(failed(&[1], groups(1, &[], &[], &[]), &strangers), "no metrics returned matched known pods");
}

#[test]
fn one_value() {
    for (current, value, target, ready, replicas) in [
        (3, 20_000, 15_000, 3, 4),
        (3, 15_500, 15_000, 3, 3),
        (3, 20_000, 15_000, 2, 3),
        (0, 20_000, 15_000, 0, 2),
        (5, 0, 15_000, 5, 0),
    ] {
        let proposal = of_value(current, value, target, TEN, ready);
        assert_eq!((proposal.replicas, proposal.value), (replicas, value), "{current} {value} {target} {ready}");
    }
    for (current, value, target, replicas, share) in
        [(4, 400, 50, 8, 100), (5, 0, 100, 0, 0), (3, 8600, 2867, 3, 2867), (3, 10, 3, 4, 4), (0, 100, 50, 2, 0)]
    {
        let proposal = of_shared(current, value, target, TEN);
        assert_eq!((proposal.replicas, proposal.value), (replicas, share), "{current} {value} {target}");
    }
}
