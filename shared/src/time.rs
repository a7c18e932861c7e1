//! Instants as this product stores and prints them: whole microseconds since the Unix epoch, UTC.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// An instant in whole microseconds since 1970-01-01T00:00:00Z. Every `i64` is a valid instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest instant that prints as RFC 3339 (year 0001).
    pub const PRINTABLE_MIN: Timestamp = Timestamp(-62_135_596_800_000_000);
    /// The latest instant that prints as RFC 3339 (end of year 9999).
    pub const PRINTABLE_MAX: Timestamp = Timestamp(253_402_300_799_999_999);

    /// From microseconds since the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From milliseconds since the Unix epoch; saturates.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since the Unix epoch, rounded down.
    pub const fn millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// Days since 1970-01-01, rounded down: the number a Delta or Arrow `date` holds.
    pub const fn days(self) -> i64 {
        self.0.div_euclid(86_400_000_000)
    }

    /// True where the instant has a year of one to four digits, as RFC 3339 and every Delta reader want.
    pub const fn is_printable(self) -> bool {
        Self::PRINTABLE_MIN.0 <= self.0 && self.0 <= Self::PRINTABLE_MAX.0
    }

    /// Reads RFC 3339 (`2026-11-23T10:00:00.5Z`, any offset). Digits past the microsecond are cut off.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000)).ok().map(Self)
    }

    /// This instant plus `duration`; saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }

    /// This instant minus `duration`; saturates.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }

    /// How long after `earlier` this is; zero if it is not after.
    pub fn since(self, earlier: Timestamp) -> Duration {
        let micros = self.0.saturating_sub(earlier.0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC where the year allows it, else the number of microseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let printed = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000)
            .ok()
            .filter(|_| self.is_printable())
            .and_then(|at| at.format(&Rfc3339).ok());
        match printed {
            Some(text) => f.write_str(&text),
            None => write!(f, "{}us", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_is_read_to_the_microsecond_and_printed_back() {
        for (text, micros, printed) in [
            ("1970-01-01T00:00:00Z", 0, "1970-01-01T00:00:00Z"),
            ("2026-11-23T10:00:00.5+01:00", 1_795_424_400_500_000, "2026-11-23T09:00:00.5Z"),
            ("1969-12-31T23:59:59.999999Z", -1, "1969-12-31T23:59:59.999999Z"),
            ("2026-11-23T10:00:00.1234567Z", 1_795_428_000_123_456, "2026-11-23T10:00:00.123456Z"),
        ] {
            let at = Timestamp::parse_rfc3339(text).expect(text);
            assert_eq!((at.micros(), at.to_string().as_str()), (micros, printed), "{text}");
        }
        for bad in ["", "now", "2026-11-23", "2026-13-01T00:00:00Z", "2026-11-23T10:00:00"] {
            assert_eq!(Timestamp::parse_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_number_of_microseconds_prints_without_a_panic() {
        assert_eq!(Timestamp::from_micros(i64::MAX).to_string(), "9223372036854775807us");
        assert_eq!(Timestamp::from_micros(i64::MIN).to_string(), "-9223372036854775808us");
        assert_eq!(Timestamp::from_micros(-1).days(), -1);
    }
}
