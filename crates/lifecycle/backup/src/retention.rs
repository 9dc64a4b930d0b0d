//! Which backups are kept.

use std::collections::BTreeSet;

use jiff::civil::ISOWeekDate;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde::{Deserialize, Serialize};

/// How many are kept: the newest ones, and the newest of each of the last hours, days, weeks and months that have any.
/// All counts are in UTC. What one rule keeps is kept; with no rule at all everything is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retention {
    /// The newest.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub last: u32,
    /// One an hour.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hourly: u32,
    /// One a day.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub daily: u32,
    /// One a week (ISO 8601).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub weekly: u32,
    /// One a month.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub monthly: u32,
}

// Taken by reference because serde calls it so.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Retention {
    /// Whether it keeps everything.
    pub fn keeps_all(&self) -> bool {
        *self == Self::default()
    }
}

/// Names the period in which a moment is.
type Period = fn(&Zoned) -> String;

/// The names of those that are not kept. The newest proven one always is, and so is the newest of all: a rule that is
/// mistyped must not delete the last backup.
pub fn outdated(backups: &[(String, Timestamp, bool)], rule: Retention) -> Vec<String> {
    if rule.keeps_all() {
        return Vec::new();
    }
    let mut newest_first: Vec<&(String, Timestamp, bool)> = backups.iter().collect();
    newest_first.sort_by(|a, b| (b.1, &b.0).cmp(&(a.1, &a.0)));
    let mut kept: BTreeSet<&str> =
        newest_first.iter().take((rule.last as usize).max(1)).map(|b| b.0.as_str()).collect();
    kept.extend(newest_first.iter().find(|b| b.2).map(|b| b.0.as_str()));
    let periods: [(u32, Period); 4] = [
        (rule.hourly, |t| t.strftime("%Y-%m-%dT%H").to_string()),
        (rule.daily, |t| t.strftime("%Y-%m-%d").to_string()),
        (rule.weekly, |t| {
            let week: ISOWeekDate = t.date().iso_week_date();
            format!("{}-W{}", week.year(), week.week())
        }),
        (rule.monthly, |t| t.strftime("%Y-%m").to_string()),
    ];
    for (count, period) in periods {
        let mut seen = BTreeSet::new();
        for (name, time, _) in &newest_first {
            if seen.len() < count as usize && seen.insert(period(&time.to_zoned(TimeZone::UTC))) {
                kept.insert(name);
            }
        }
    }
    newest_first.iter().map(|b| b.0.as_str()).filter(|name| !kept.contains(name)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every(minutes: i64, count: i64, proven: bool) -> Vec<(String, Timestamp, bool)> {
        let end: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
        (0..count)
            .map(|n| {
                let time = end - jiff::SignedDuration::from_mins(minutes * n);
                (time.to_string(), time, proven)
            })
            .collect()
    }

    fn kept(backups: &[(String, Timestamp, bool)], rule: Retention) -> Vec<String> {
        let gone = outdated(backups, rule);
        backups.iter().map(|b| b.0.clone()).filter(|name| !gone.contains(name)).collect()
    }

    #[test]
    fn the_newest_of_each_period_stays() {
        let list = every(30, 96, true);
        let rule = Retention { last: 3, hourly: 2, daily: 2, ..Retention::default() };
        let expected = ["12:00:00Z", "11:30:00Z", "11:00:00Z", "2026-11-28T23:30:00Z"];
        let kept = kept(&list, rule);
        assert_eq!(kept.len(), 4, "{kept:?}");
        assert!(expected.iter().zip(&kept).all(|(end, name)| name.ends_with(end)), "{kept:?}");
        let days = every(24 * 60, 100, true);
        let rule = Retention { weekly: 3, monthly: 3, ..Retention::default() };
        let left = super::tests::kept(&days, rule);
        // 29 November is the Sunday of its week, and the newest of its month.
        assert_eq!(
            left,
            [
                "2026-11-29T12:00:00Z",
                "2026-11-22T12:00:00Z",
                "2026-11-15T12:00:00Z",
                "2026-10-31T12:00:00Z",
                "2026-09-30T12:00:00Z"
            ]
        );
    }

    #[test]
    fn the_last_backup_and_the_last_proven_one_are_never_outdated() {
        let mut list = every(60, 5, false);
        list[3].2 = true;
        let rule = Retention { last: 1, ..Retention::default() };
        assert_eq!(kept(&list, rule), [list[0].0.clone(), list[3].0.clone()]);
        assert_eq!(outdated(&list, Retention::default()), Vec::<String>::new());
        assert_eq!(outdated(&[], rule), Vec::<String>::new());
    }
}
