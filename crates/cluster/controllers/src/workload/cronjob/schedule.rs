//! Cron schedules: five fields, `@hourly` and its kin, or `@every 1h30m` (`robfig/cron`'s standard parser). No IO.

use jiff::civil::{Date, DateTime, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use kinit_component_base::flags::duration;

/// When to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// By the calendar.
    Calendar(Calendar),
    /// So long after the last time, in whole seconds and at least one (`cron.ConstantDelaySchedule`).
    Every(SignedDuration),
}

/// Bit sets of minutes, hours, days, months and weekdays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calendar {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Neither days nor weekdays are restricted by `*`: a day that fits either counts.
    either_day: bool,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    /// Parses; the error says which field is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(pause) = text.trim().strip_prefix("@every ") {
            let seconds = duration(pause)?.as_secs().max(1);
            let seconds = i64::try_from(seconds).map_err(|_| format!("{pause:?} is too long"))?;
            return Ok(Self::Every(SignedDuration::from_secs(seconds)));
        }
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other if other.starts_with('@') => return Err(format!("unrecognized descriptor: {other}")),
            other => other,
        };
        Calendar::parse(text).map(Self::Calendar)
    }

    /// The first time after `after`, by the clocks of `zone`; `None` when there is none within five years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Calendar(calendar) => calendar.next(after, zone),
            Self::Every(pause) => Timestamp::from_second(after.as_second()).ok()?.checked_add(*pause).ok(),
        }
    }
}

impl Schedule {
    /// The moment from which on starts are to be counted when those before `earliest` do not matter. A schedule of
    /// pauses keeps its phase: counted from `earliest` itself it would never be due.
    pub fn from(&self, since: Timestamp, earliest: Timestamp) -> Timestamp {
        match self {
            Self::Every(pause) if earliest > since => {
                let whole = earliest.duration_since(since).as_secs() / pause.as_secs().max(1);
                since.saturating_add(SignedDuration::from_secs(whole * pause.as_secs())).unwrap_or(earliest)
            }
            _ => since.max(earliest),
        }
    }
}

impl Calendar {
    fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(format!("schedule {text:?} does not have five fields"));
        };
        let weekdays = field(weekday, 0, 7, &WEEKDAYS)?;
        Ok(Self {
            minutes: field(minute, 0, 59, &[])?,
            hours: field(hour, 0, 23, &[])?,
            days: field(day, 1, 31, &[])?,
            months: field(month, 1, 12, &MONTHS)?,
            // 7 is Sunday too.
            weekdays: weekdays & 0x7f | weekdays >> 7,
            either_day: !is_any(day) && !is_any(weekday),
        })
    }

    fn has_day(&self, date: Date) -> bool {
        let bit = |set: u64, n: i8| u32::try_from(n).is_ok_and(|n| set >> n & 1 == 1);
        let weekday = match date.weekday() {
            Weekday::Sunday => 0,
            other => other.to_monday_one_offset(),
        };
        let (by_day, by_weekday) = (bit(self.days, date.day()), bit(self.weekdays, weekday));
        bit(self.months, date.month()) && if self.either_day { by_day || by_weekday } else { by_day && by_weekday }
    }

    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = zone.to_datetime(after);
        let mut date = start.date();
        let last = date.checked_add(5.years()).ok()?;
        while date <= last {
            if self.has_day(date) {
                for hour in (0..24_i8).filter(|h| self.hours >> h & 1 == 1) {
                    for minute in (0..60_i8).filter(|m| self.minutes >> m & 1 == 1) {
                        let at = DateTime::from_parts(date, jiff::civil::time(hour, minute, 0, 0));
                        // A time that the clocks skip happens when they have moved on.
                        let at = zone.to_timestamp(at).ok()?;
                        if at > after {
                            return Some(at);
                        }
                    }
                }
            }
            date = date.tomorrow().ok()?;
        }
        None
    }
}

fn is_any(field: &str) -> bool {
    field == "?" || field.split(',').any(|part| part == "*" || part.starts_with("*/1") && part == "*/1")
}

fn field(text: &str, low: u32, high: u32, names: &[&str]) -> Result<u64, String> {
    let mut set = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                let step = step.parse::<u32>().ok().filter(|s| *s > 0);
                (range, step.ok_or_else(|| format!("{part:?}: the step is no positive number"))?)
            }
            None => (part, 1),
        };
        let stepped = part.contains('/');
        let (first, last) = match range {
            "*" | "?" => (low, if high == 7 { 6 } else { high }),
            range => match range.split_once('-') {
                Some((first, last)) => (number(first, low, names)?, number(last, low, names)?),
                None => {
                    let first = number(range, low, names)?;
                    (first, if stepped { high } else { first })
                }
            },
        };
        if first < low || last > high || first > last {
            return Err(format!("{part:?} is not within {low}-{high}"));
        }
        let mut n = first;
        while n <= last {
            set |= 1 << n;
            n += step;
        }
    }
    Ok(set)
}

fn number(text: &str, low: u32, names: &[&str]) -> Result<u32, String> {
    if let Some(index) = names.iter().position(|n| n.eq_ignore_ascii_case(text)) {
        return Ok(u32::try_from(index).unwrap_or(0) + low);
    }
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_times() {
        let after: Timestamp = "2026-01-30T10:15:30Z".parse().unwrap();
        for (text, expected) in [
            ("* * * * *", "2026-01-30T10:16:00Z"),
            ("*/5 * * * *", "2026-01-30T10:20:00Z"),
            ("@hourly", "2026-01-30T11:00:00Z"),
            ("30 9 * * *", "2026-01-31T09:30:00Z"),
            ("0 0 31 * *", "2026-01-31T00:00:00Z"),
            ("0 0 29 feb *", "2028-02-29T00:00:00Z"),
            ("0 12 * * mon-fri", "2026-01-30T12:00:00Z"),
            ("0 9 * * 7", "2026-02-01T09:00:00Z"),
            ("0 0 13 * 5", "2026-02-06T00:00:00Z"),
            ("10-20/5 10 * * *", "2026-01-30T10:20:00Z"),
            ("@every 1h", "2026-01-30T11:15:30Z"),
            ("@every 1h30m15s", "2026-01-30T11:45:45Z"),
            ("@every 1.9s", "2026-01-30T10:15:31Z"),
            ("@every 5ms", "2026-01-30T10:15:31Z"),
        ] {
            let next = Schedule::parse(text).unwrap().next(after, &TimeZone::UTC);
            assert_eq!(next.map(|t| t.to_string()).as_deref(), Some(expected), "{text}");
        }
        let every = Schedule::parse("@every 1h").unwrap();
        let earliest: Timestamp = "2026-01-30T13:15:29Z".parse().unwrap();
        assert_eq!(every.from(after, earliest), "2026-01-30T12:15:30Z".parse().unwrap());
        assert_eq!(every.from(earliest, after), earliest);
        assert_eq!(Schedule::parse("0 0 31 2 *").unwrap().next(after, &TimeZone::UTC), None);
        let late: Timestamp = "2026-01-30T10:15:30.9Z".parse().unwrap();
        let every = Schedule::parse("@every 2s").unwrap().next(late, &TimeZone::UTC);
        assert_eq!(every, Some("2026-01-30T10:15:32Z".parse().unwrap()), "whole seconds");
        for text in [
            "@every",
            "@every x",
            "@every -1h",
            "@fortnightly",
            "",
            "* * * *",
            "60 * * * *",
            "*/0 * * * *",
            "a * * * *",
            "5-1 * * * *",
        ] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }
}
