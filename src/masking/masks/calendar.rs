//! Dates and timestamps as Postgres writes them under DateStyle ISO, and their days.
//!
//! The calendar is the proleptic Gregorian, years before 1 marked `BC` at the very end (datetime.c of Postgres, `EncodeDateTime`). Days count from
//! 1970-01-01.

use std::cmp::Ordering;
use std::fmt::Write;

/// 4714-11-24 BC, where Julian days and Postgres's dates begin (`DATETIME_MIN_JULIAN` of datatype/timestamp.h); the manual says 4713 BC.
const FIRST_DAY: i64 = -2_440_588;
/// 5874897-12-31, the day before `DATE_END_JULIAN`.
const LAST_DATE: i64 = 2_145_042_905;
/// 294276-12-31, the day before `TIMESTAMP_END_JULIAN`.
const LAST_TIMESTAMP: i64 = 106_762_939;

/// A date, and what stands behind it.
pub(super) struct Moment<'a> {
    pub day: i64,
    /// The time of day with its zone, its blank before it; empty for a date.
    pub time: &'a str,
}

/// Reads `2024-02-29`, and if `timed` `2024-02-29 23:59:59.5+00`, each with ` BC` or not. `None` for all else, infinities too.
pub(super) fn parse(text: &str, timed: bool) -> Option<Moment<'_>> {
    let (rest, before_christ) = match text.strip_suffix(" BC") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let (date, time) = rest.split_at(rest.find(' ').unwrap_or(rest.len()));
    if time.is_empty() == timed || (timed && !is_time(time)) {
        return None;
    }
    let mut fields = date.split('-');
    let mut field = |digits: std::ops::RangeInclusive<usize>| -> Option<i64> {
        let text = fields.next()?;
        let fits = digits.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| fits)
    };
    let (year, month, day) = (field(4..=7)?, field(2..=2)?, field(2..=2)?);
    let year = if before_christ { 1 - year } else { year };
    let real =
        year != i64::from(before_christ) && (1..=12).contains(&month) && (1..=days_of(year, month)).contains(&day);
    (fields.next().is_none() && real).then(|| Moment { day: day_number(year, month, day), time })
}

/// Appends `day` with `time` as [`parse`] reads them.
pub(super) fn write(day: i64, time: &str, out: &mut String) {
    let (year, month, day_of_month) = civil(day);
    let (shown, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    write!(out, "{shown:04}-{month:02}-{day_of_month:02}{time}{era}").expect("a string takes all that is written");
}

/// Whether `day` is before, within or after what Postgres has. A timestamp's first and last few days count as outside: its zone could carry it over the edge.
pub(super) fn side_of_range(day: i64, timed: bool) -> Ordering {
    let (first, last) = if timed { (FIRST_DAY + 2, LAST_TIMESTAMP - 2) } else { (FIRST_DAY, LAST_DATE) };
    match day {
        before if before < first => Ordering::Less,
        after if after > last => Ordering::Greater,
        _ => Ordering::Equal,
    }
}

/// The zone at the end of a time, `+05:30` say, or nothing.
pub(super) fn zone(time: &str) -> &str {
    time.find(['+', '-']).map_or("", |at| &time[at..])
}

/// ` hh:mm:ss`, then a fraction, then a zone, or neither.
fn is_time(text: &str) -> bool {
    let Some(after_blank) = text.strip_prefix(' ') else { return false };
    let zone = zone(after_blank);
    let (clock, fraction) = match after_blank[..after_blank.len() - zone.len()].split_once('.') {
        Some((clock, fraction)) => (clock, Some(fraction)),
        None => (&after_blank[..after_blank.len() - zone.len()], None),
    };
    let pairs = |text: &str| text.split(':').all(|pair| pair.len() == 2 && is_digits(pair));
    clock.len() == "hh:mm:ss".len()
        && pairs(clock)
        && fraction.is_none_or(|fraction| (1..=6).contains(&fraction.len()) && is_digits(fraction))
        && (zone.is_empty() || pairs(&zone[1..]))
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Days of a month.
fn days_of(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`: years begin in March, 400 of them have 146097 days.
fn day_number(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`day_number`], `civil_from_days`: year, month, day.
fn civil(day: i64) -> (i64, i64, i64) {
    let since_march_0 = day + 719_468;
    let (era, day_of_era) = (since_march_0.div_euclid(146_097), since_march_0.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = (shifted_month + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted_month + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> Option<i64> {
        parse(text, false).map(|moment| moment.day)
    }

    #[test]
    fn days_are_those_of_postgres() {
        assert_eq!(day("1970-01-01"), Some(0));
        assert_eq!(day("2000-03-01"), Some(11_017));
        assert_eq!(day("4714-11-24 BC"), Some(FIRST_DAY));
        assert_eq!(day("5874897-12-31"), Some(LAST_DATE));
        assert_eq!(day("294276-12-31"), Some(LAST_TIMESTAMP));
        assert_eq!(day("0001-01-01").map(|day| day - 1), day("0001-12-31 BC"));
    }

    #[test]
    fn every_day_comes_back() {
        let edges = [FIRST_DAY, LAST_DATE - 1000, -720_000, 0].map(|from| from..from + 1000);
        for number in edges.into_iter().flatten().chain((FIRST_DAY..LAST_DATE).step_by(1_234_567)) {
            let mut text = String::new();
            write(number, "", &mut text);
            assert_eq!(day(&text), Some(number), "{text}");
        }
    }

    #[test]
    fn only_dates_and_times_are_read() {
        for text in [
            "2023-02-29",
            "2024-13-01",
            "0000-01-01",
            "24-01-01",
            "2024-01-01 ",
            "2024-01-01-",
            "infinity",
            "",
            " BC",
            "2024-01-0é",
        ] {
            assert!(parse(text, false).is_none(), "{text}");
        }
        for time in [" 00:00:00", " 23:59:60.123456+05:30", " 00:00:00-01:02:03", " 12:00:00.5"] {
            assert_eq!(
                parse(&format!("2024-02-29{time} BC"), true).map(|moment| moment.time),
                None,
                "1-based BC leap years differ"
            );
            assert_eq!(parse(&format!("2024-02-29{time}"), true).map(|moment| moment.time), Some(time));
        }
        for time in ["", " ", " 0:00:00", " 00:00", " 00:00:00+", " 00:00:00 Mary", " 00:00:00.", "T00:00:00"] {
            assert!(parse(&format!("2024-02-29{time}"), true).is_none(), "{time}");
        }
    }
}
