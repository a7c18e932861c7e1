//! Times as recordings write them. Pure.
//!
//! RFC 3339; `2013-12-02 21:15:00`, with or without seconds, fractions, a `T` or a zone; a date and a time of day from
//! two columns, the hour with one digit or two; seconds, milliseconds or microseconds since 1970, told apart by their
//! size. No zone means UTC.

use shared::time::Timestamp;
use time::{Date, Month};

const DAY_SECONDS: i64 = 86_400;

/// The time in `cells`: of one column, or of several that are joined by a space.
pub fn parse(cells: &[&str]) -> Option<Timestamp> {
    let joined;
    let text = match cells {
        [only] => only.trim(),
        several => {
            joined = several.iter().map(|cell| cell.trim()).collect::<Vec<_>>().join(" ");
            joined.trim()
        }
    };
    let time = calendar(text).or_else(|| epoch(text))?;
    time.is_printable().then_some(time)
}

/// `YYYY-MM-DD[T| ]H:MM[:SS[.fff]][Z|±HH:MM]`, or only the date.
fn calendar(text: &str) -> Option<Timestamp> {
    let (date, rest) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], text[at + 1..].trim_start()),
        None => (text, ""),
    };
    let mut parts = date.splitn(3, ['-', '/']);
    let year = number(parts.next()?, 4, 4)?; // year first: the other orders cannot be told apart
    let month = number(parts.next()?, 1, 2)?;
    let day = number(parts.next()?, 1, 2)?;
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(day).ok()?).ok()?;
    let (clock, offset) = zone(rest)?;
    let micros = if clock.is_empty() { 0 } else { of_day(clock)? };
    let days = i64::from(date.to_julian_day()) - i64::from(time::macros::date!(1970 - 01 - 01).to_julian_day());
    Some(Timestamp::from_micros((days * DAY_SECONDS - offset) * 1_000_000 + micros))
}

/// Splits a zone off the end; its offset east of UTC, in seconds.
fn zone(text: &str) -> Option<(&str, i64)> {
    if let Some(clock) = text.strip_suffix(['Z', 'z']) {
        return Some((clock.trim_end(), 0));
    }
    let Some(at) = text.rfind(['+', '-']) else { return Some((text, 0)) };
    let (hours, minutes) = match &text[at + 1..] {
        offset if offset.contains(':') => offset.split_once(':')?,
        offset if offset.len() == 4 && offset.is_ascii() => offset.split_at(2),
        offset => (offset, "00"),
    };
    let (hours, minutes) = (number(hours, 1, 2)?, number(minutes, 2, 2)?);
    let seconds = hours * 3_600 + minutes * 60;
    if 24 <= hours || 60 <= minutes {
        return None;
    }
    Some((text[..at].trim_end(), if text[at..].starts_with('-') { -seconds } else { seconds }))
}

/// Microseconds since midnight of `H:MM[:SS[.fff]]`; the leap second counts as the next minute's first.
fn of_day(text: &str) -> Option<i64> {
    let mut parts = text.splitn(3, ':');
    let hour = number(parts.next()?, 1, 2)?;
    let minute = number(parts.next()?, 2, 2)?;
    let (second, fraction) = match parts.next() {
        None => (0, 0),
        Some(seconds) => match seconds.split_once(['.', ',']) {
            None => (number(seconds, 2, 2)?, 0),
            Some((second, digits)) => {
                number(digits, 1, 18)?;
                let micros: String = digits.chars().chain("000000".chars()).take(6).collect();
                (number(second, 2, 2)?, number(&micros, 6, 6)?)
            }
        },
    };
    let valid = hour < 24 && minute < 60 && second <= 60;
    valid.then_some(((hour * 60 + minute) * 60 + second) * 1_000_000 + fraction)
}

/// Seconds up to 10^11 (the year 5138), milliseconds up to 10^14, above that microseconds. Only seconds may have a
/// fraction.
fn epoch(text: &str) -> Option<Timestamp> {
    if let Ok(whole) = text.parse::<i64>() {
        let factor = match whole.unsigned_abs() {
            size if size < 100_000_000_000 => 1_000_000,
            size if size < 100_000_000_000_000 => 1_000,
            _ => 1,
        };
        let micros = whole.checked_mul(factor)?;
        return Some(Timestamp::from_micros(micros));
    }
    let (whole, fraction) = text.split_once('.')?;
    let whole: i64 = whole.parse().ok()?;
    number(fraction, 1, 18)?;
    let digits: String = fraction.chars().chain("000000".chars()).take(6).collect();
    let in_seconds = (0..100_000_000_000).contains(&whole);
    in_seconds.then_some(Timestamp::from_micros(whole * 1_000_000 + number(&digits, 6, 6)?))
}

/// A number of `least` to `most` decimal digits, and nothing else.
fn number(text: &str, least: usize, most: usize) -> Option<i64> {
    let well_formed = (least..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    well_formed.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_time_is_read() {
        for (cells, expected) in [
            (&["2013-12-02 21:15:00"] as &[&str], "2013-12-02T21:15:00Z"),
            (&["2004-03-10", "18:00:00"], "2004-03-10T18:00:00Z"),
            (&["2004-03-11", "0:00:00"], "2004-03-11T00:00:00Z"),
            (&["2004/3/1", " 9:05 "], "2004-03-01T09:05:00Z"),
            (&["2026-11-23T10:00:00.5+01:00"], "2026-11-23T09:00:00.5Z"),
            (&["2026-11-23T10:00:00-0530"], "2026-11-23T15:30:00Z"),
            (&["2026-11-23T10:00:00Z"], "2026-11-23T10:00:00Z"),
            (&["2026-11-23 10:00:00,123456789"], "2026-11-23T10:00:00.123456Z"),
            (&["2026-11-23"], "2026-11-23T00:00:00Z"),
            (&["1385846100"], "2013-11-30T21:15:00Z"),
            (&["1385846100.25"], "2013-11-30T21:15:00.25Z"),
            (&["1385846100000"], "2013-11-30T21:15:00Z"),
            (&["1385846100000001"], "2013-11-30T21:15:00.000001Z"),
            (&["0"], "1970-01-01T00:00:00Z"),
            (&["1969-12-31 23:59:59"], "1969-12-31T23:59:59Z"),
            (&["2024-02-29 12:00"], "2024-02-29T12:00:00Z"),
        ] {
            let read = parse(cells).map(|time| time.to_string());
            assert_eq!(read.as_deref(), Some(expected), "{cells:?}");
        }
    }

    #[test]
    fn what_is_no_time_or_may_mean_two_is_refused() {
        for cells in [
            &[""] as &[&str],
            &["", ""],
            &["yesterday"],
            &["10/03/2004", "18.00.00"],
            &["2023-02-29"],
            &["2023-13-01"],
            &["2023-01-01 24:00:00"],
            &["2023-01-01 10:60"],
            &["2023-01-01 10:00:00+25:00"],
            &["99999999999999999999"],
            &["12.3.2004"],
            &["-62135596801000000"],
            &["\u{e9}2023-01-01"],
        ] {
            assert_eq!(parse(cells), None, "{cells:?}");
        }
    }
}
