//! The selector a receiver begins with: `amqp.annotation.x-opt-offset > '123'` and its relatives.

use shared::time::Timestamp;

use crate::hub::log::Position;

/// Why a selector is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadFilter {
    /// Not of the form `amqp.annotation.NAME > 'VALUE'`.
    #[error("the filter `{0}` cannot be read; expected amqp.annotation.NAME > 'VALUE' or >= 'VALUE'")]
    Form(String),
    /// Of that form, with a name the service does not filter by.
    #[error("`{0}` cannot be filtered by; use x-opt-offset, x-opt-sequence-number or x-opt-enqueued-time")]
    Name(String),
    /// Of that form, with a value that is not a number.
    #[error("`{value}` is not a value for {name}")]
    Value { name: String, value: String },
}

/// Reads a selector. White space is free, the quotes may be missing.
pub(super) fn parse(text: &str) -> Result<Position, BadFilter> {
    let form = || BadFilter::Form(text.to_owned());
    let (name, rest) = text.split_once('>').ok_or_else(form)?;
    let name = name.trim().strip_prefix("amqp.annotation.").ok_or_else(form)?;
    let (inclusive, value) = match rest.strip_prefix('=') {
        Some(value) => (true, value.trim()),
        None => (false, rest.trim()),
    };
    let value = value.strip_prefix('\'').map_or(Some(value), |value| value.strip_suffix('\'')).ok_or_else(form)?;
    let number =
        || value.parse::<i64>().map_err(|_| BadFilter::Value { name: name.to_owned(), value: value.to_owned() });
    match name {
        "x-opt-offset" => match value {
            "-1" => Ok(Position::Earliest),
            "@latest" => Ok(Position::Latest),
            _ => Ok(Position::Offset { offset: number()?, inclusive }),
        },
        "x-opt-sequence-number" => Ok(Position::Sequence { sequence_number: number()?, inclusive }),
        "x-opt-enqueued-time" | "x-opt-enqueuedtimeutc" => {
            Ok(Position::EnqueuedTime { time: Timestamp::from_millis(number()?), inclusive })
        }
        _ => Err(BadFilter::Name(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_spelling_the_sdks_use_is_read() {
        let offset = |offset, inclusive| Position::Offset { offset, inclusive };
        let sequence = |sequence_number, inclusive| Position::Sequence { sequence_number, inclusive };
        let time = |ms, inclusive| Position::EnqueuedTime { time: Timestamp::from_millis(ms), inclusive };
        for (text, position) in [
            ("amqp.annotation.x-opt-offset > '-1'", Position::Earliest),
            ("amqp.annotation.x-opt-offset >'-1'", Position::Earliest),
            ("amqp.annotation.x-opt-offset >= '-1'", Position::Earliest),
            ("amqp.annotation.x-opt-offset > '@latest'", Position::Latest),
            ("amqp.annotation.x-opt-offset >= '@latest'", Position::Latest),
            ("amqp.annotation.x-opt-offset >'123'", offset(123, false)),
            ("amqp.annotation.x-opt-offset >='123'", offset(123, true)),
            ("amqp.annotation.x-opt-offset > 123", offset(123, false)),
            ("  amqp.annotation.x-opt-sequence-number  >=  '0'  ", sequence(0, true)),
            ("amqp.annotation.x-opt-sequence-number > '-1'", sequence(-1, false)),
            ("amqp.annotation.x-opt-sequence-number >'9223372036854775807'", sequence(i64::MAX, false)),
            ("amqp.annotation.x-opt-enqueued-time > '1790000000000'", time(1_790_000_000_000, false)),
            ("amqp.annotation.x-opt-enqueued-time >='0'", time(0, true)),
            ("amqp.annotation.x-opt-enqueuedtimeutc > '-5'", time(-5, false)),
        ] {
            assert_eq!(parse(text), Ok(position), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        for (text, says) in [
            ("", "cannot be read"),
            ("1 = 1", "cannot be read"),
            ("x-opt-offset > '1'", "cannot be read"),
            ("amqp.annotation.x-opt-offset < '1'", "cannot be read"),
            ("amqp.annotation.x-opt-offset > '1", "cannot be read"),
            ("amqp.annotation.x-opt-offset > ''", "is not a value for x-opt-offset"),
            ("amqp.annotation.x-opt-offset > 'later'", "is not a value for x-opt-offset"),
            ("amqp.annotation.x-opt-sequence-number > '@latest'", "is not a value for x-opt-sequence-number"),
            ("amqp.annotation.x-opt-sequence-number > '9223372036854775808'", "is not a value"),
            ("amqp.annotation.x-opt-enqueued-time > '2026-11-23'", "is not a value"),
            ("amqp.annotation.colour > 'blue'", "`colour` cannot be filtered by"),
            ("amqp.annotation.x-opt-offset > '1' OR 1 > '0'", "is not a value"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    proptest! {
        #![proptest_config(super::super::tests::fuzz())]

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,60}", tail in "[>= '@a-z0-9-]{0,20}") {
            let _ = parse(&text);
            let _ = parse(&format!("amqp.annotation.x-opt-offset {tail}"));
        }
    }
}
