//! Timestamps and durations.

use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, Zoned};

use super::{Row, args};
use crate::eval::{EvalError, Outcome, fail};
use crate::value::Value;

pub(super) const ROWS: &[Row] = &[
    (
        "_+_(timestamp, duration) timestamp",
        |_, args| args!(args, [Value::Time(a), Value::Duration(b)] => moved(*a, *b)),
    ),
    (
        "_+_(duration, timestamp) timestamp",
        |_, args| args!(args, [Value::Duration(b), Value::Time(a)] => moved(*a, *b)),
    ),
    (
        "_-_(timestamp, duration) timestamp",
        |_, args| args!(args, [Value::Time(a), Value::Duration(b)] => moved(*a, -*b)),
    ),
    (
        "_-_(timestamp, timestamp) duration",
        |_, args| args!(args, [Value::Time(a), Value::Time(b)] => span(a.as_nanosecond() - b.as_nanosecond())),
    ),
    (
        "_+_(duration, duration) duration",
        |_, args| args!(args, [Value::Duration(a), Value::Duration(b)] => span(a.as_nanos() + b.as_nanos())),
    ),
    (
        "_-_(duration, duration) duration",
        |_, args| args!(args, [Value::Duration(a), Value::Duration(b)] => span(a.as_nanos() - b.as_nanos())),
    ),
    ("-_(duration) duration", |_, args| args!(args, [Value::Duration(a)] => span(-a.as_nanos()))),
    ("timestamp.getFullYear() int", |_, args| part(args, |t| i64::from(t.year()))),
    ("timestamp.getFullYear(string) int", |_, args| part(args, |t| i64::from(t.year()))),
    ("timestamp.getMonth() int", |_, args| part(args, |t| i64::from(t.month()) - 1)),
    ("timestamp.getMonth(string) int", |_, args| part(args, |t| i64::from(t.month()) - 1)),
    ("timestamp.getDate() int", |_, args| part(args, |t| i64::from(t.day()))),
    ("timestamp.getDate(string) int", |_, args| part(args, |t| i64::from(t.day()))),
    ("timestamp.getDayOfMonth() int", |_, args| part(args, |t| i64::from(t.day()) - 1)),
    ("timestamp.getDayOfMonth(string) int", |_, args| part(args, |t| i64::from(t.day()) - 1)),
    ("timestamp.getDayOfWeek() int", |_, args| part(args, weekday)),
    ("timestamp.getDayOfWeek(string) int", |_, args| part(args, weekday)),
    ("timestamp.getDayOfYear() int", |_, args| part(args, |t| i64::from(t.day_of_year()) - 1)),
    ("timestamp.getDayOfYear(string) int", |_, args| part(args, |t| i64::from(t.day_of_year()) - 1)),
    ("timestamp.getHours() int", |_, args| part(args, |t| i64::from(t.hour()))),
    ("timestamp.getHours(string) int", |_, args| part(args, |t| i64::from(t.hour()))),
    ("timestamp.getMinutes() int", |_, args| part(args, |t| i64::from(t.minute()))),
    ("timestamp.getMinutes(string) int", |_, args| part(args, |t| i64::from(t.minute()))),
    ("timestamp.getSeconds() int", |_, args| part(args, |t| i64::from(t.second()))),
    ("timestamp.getSeconds(string) int", |_, args| part(args, |t| i64::from(t.second()))),
    ("timestamp.getMilliseconds() int", |_, args| part(args, |t| i64::from(t.millisecond()))),
    ("timestamp.getMilliseconds(string) int", |_, args| part(args, |t| i64::from(t.millisecond()))),
    ("duration.getHours() int", |_, args| whole(args, 3_600_000_000_000)),
    ("duration.getMinutes() int", |_, args| whole(args, 60_000_000_000)),
    ("duration.getSeconds() int", |_, args| whole(args, 1_000_000_000)),
    (
        "duration.getMilliseconds() int",
        |_, args| args!(args, [Value::Duration(d)] => Ok(Value::Int(i64::from(d.subsec_millis())))),
    ),
];

fn moved<'a>(time: Timestamp, by: SignedDuration) -> Outcome<'a> {
    match time.checked_add(by) {
        // The years 1 to 9999, as of RFC 3339.
        Ok(time) if (-62_135_596_800..=253_402_300_799).contains(&time.as_second()) => Ok(Value::Time(time)),
        _ => fail("timestamp overflow"),
    }
}

fn span<'a>(nanos: i128) -> Outcome<'a> {
    match i64::try_from(nanos) {
        Ok(nanos) => Ok(Value::Duration(SignedDuration::from_nanos(nanos))),
        Err(_) => fail("duration overflow"),
    }
}

fn weekday(time: &Zoned) -> i64 {
    i64::from(time.weekday().to_sunday_zero_offset())
}

fn part<'a>(args: &[Value<'a>], of: impl Fn(&Zoned) -> i64) -> Outcome<'a> {
    let (time, zone) = match args {
        [Value::Time(time)] => (time, TimeZone::UTC),
        [Value::Time(time), Value::Text(name)] => (time, zone(name)?),
        _ => return fail("no such overload"),
    };
    Ok(Value::Int(of(&time.to_zoned(zone))))
}

/// A zone by name, or by its distance: `-08:00`, `02:00`.
fn zone(name: &str) -> Result<TimeZone, EvalError> {
    let unknown = || EvalError::Failed(format!("unknown time zone {name:.64}"));
    let Some((hours, minutes)) = name.split_once(':') else { return TimeZone::get(name).map_err(|_| unknown()) };
    let (sign, hours) = hours.strip_prefix('-').map_or((1, hours.trim_start_matches('+')), |rest| (-1, rest));
    let (hours, minutes): (i32, i32) = hours.parse().ok().zip(minutes.parse().ok()).ok_or_else(unknown)?;
    if !(0..=23).contains(&hours) || !(0..=59).contains(&minutes) {
        return Err(unknown());
    }
    Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).map(TimeZone::fixed).map_err(|_| unknown())
}

fn whole<'a>(args: &[Value<'a>], unit: i128) -> Outcome<'a> {
    args!(args, [Value::Duration(d)] => match i64::try_from(d.as_nanos() / unit) {
        Ok(n) => Ok(Value::Int(n)),
        Err(_) => fail("integer overflow"),
    })
}
