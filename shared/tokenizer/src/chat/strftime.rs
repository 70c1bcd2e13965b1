//! Dates for chat templates: the directives of `strftime` that templates use, in English and UTC.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const DAY_SECONDS: u64 = 86_400;
const WEEKDAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A directive that is not known.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown date directive {0:?}")]
pub(super) struct UnknownDirective(String);

/// Writes a time. Times before 1970 count as 1970.
pub(super) fn utc(time: SystemTime, format: &str) -> Result<String, UnknownDirective> {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let date = Date::of(seconds / DAY_SECONDS);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let hour12 = if hour % 12 == 0 { 12 } else { hour % 12 };
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        if char != '%' {
            text.push(char);
            continue;
        }
        let directive = chars.next();
        let written = match directive {
            Some('Y') => write!(text, "{}", date.year),
            Some('y') => write!(text, "{:02}", date.year % 100),
            Some('m') => write!(text, "{:02}", date.month),
            Some('d') => write!(text, "{:02}", date.day),
            Some('e') => write!(text, "{:>2}", date.day),
            Some('j') => write!(text, "{:03}", date.day_of_year),
            Some('B') => write!(text, "{}", date.month_name()),
            Some('b') => write!(text, "{}", &date.month_name()[..3]),
            Some('A') => write!(text, "{}", date.weekday_name()),
            Some('a') => write!(text, "{}", &date.weekday_name()[..3]),
            Some('H') => write!(text, "{hour:02}"),
            Some('I') => write!(text, "{hour12:02}"),
            Some('M') => write!(text, "{minute:02}"),
            Some('S') => write!(text, "{second:02}"),
            Some('p') => write!(text, "{}", if hour < 12 { "AM" } else { "PM" }),
            Some('Z') => write!(text, "UTC"),
            Some('z') => write!(text, "+0000"),
            Some('F') => write!(text, "{}-{:02}-{:02}", date.year, date.month, date.day),
            Some('T') => write!(text, "{hour:02}:{minute:02}:{second:02}"),
            Some('%') => write!(text, "%"),
            other => return Err(UnknownDirective(other.map_or("%".into(), |other| format!("%{other}")))),
        };
        debug_assert!(written.is_ok(), "writing into a string does not fail");
    }
    Ok(text)
}

struct Date {
    year: u64,
    /// From 1.
    month: usize,
    day: u64,
    day_of_year: u64,
    /// Days since a Monday.
    weekday: usize,
}

impl Date {
    fn of(days_since_1970: u64) -> Self {
        let mut year = 1970;
        let mut left = days_since_1970;
        // Whole cycles of the calendar first, so that the loop below is short for any time.
        const CYCLE_DAYS: u64 = 146_097;
        year += left / CYCLE_DAYS * 400;
        left %= CYCLE_DAYS;
        while left >= days_of_year(year) {
            left -= days_of_year(year);
            year += 1;
        }
        let day_of_year = left + 1;
        let mut month = 1;
        while left >= days_of_month(year, month) {
            left -= days_of_month(year, month);
            month += 1;
        }
        // 1 January 1970 was a Thursday.
        let weekday = usize::try_from((days_since_1970 + 3) % 7).unwrap_or(0);
        Self {
            year,
            month,
            day: left + 1,
            day_of_year,
            weekday,
        }
    }

    fn month_name(&self) -> &'static str {
        MONTHS[self.month - 1]
    }

    fn weekday_name(&self) -> &'static str {
        WEEKDAYS[self.weekday]
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of_year(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_of_month(year: u64, month: usize) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64, format: &str) -> String {
        utc(UNIX_EPOCH + Duration::from_secs(seconds), format).unwrap()
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(at(0, "%A %d %B %Y %H:%M:%S"), "Thursday 01 January 1970 00:00:00");
        assert_eq!(at(951_782_400, "%Y-%m-%d %a %j"), "2000-02-29 Tue 060");
        assert_eq!(at(1_709_164_800, "%d %b %Y"), "29 Feb 2024");
        assert_eq!(at(1_735_689_599, "%F %T %I %p"), "2024-12-31 23:59:59 11 PM");
        assert_eq!(at(4_107_542_400, "%F %a"), "2100-03-01 Mon");
        assert_eq!(at(13_574_563_200, "%F"), "2400-02-29");
        assert_eq!(at(12 * 3600, "%I%p %y%% %e"), "12PM 70%  1");
    }

    #[test]
    fn unknown_directives_are_named() {
        assert_eq!(utc(UNIX_EPOCH, "%Q"), Err(UnknownDirective("%Q".into())));
        assert_eq!(utc(UNIX_EPOCH, "50 %"), Err(UnknownDirective("%".into())));
    }
}
