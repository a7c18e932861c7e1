//! A time in one of many shapes: RFC 3339, local time, a number since the Unix epoch.

use shared::time::Timestamp;

use super::tree::Node;
use crate::presilver::mapping::TimeUnit;
use crate::presilver::mapping::plan::When;

/// A time as it stands in a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// An instant.
    At(Timestamp),
    /// What a clock on a wall showed, as if it stood in UTC.
    Local(Timestamp),
}

/// Reads a time.
///
/// # Errors
/// Why it is none.
pub fn read(node: &Node, when: When) -> Result<Read, String> {
    let at = match node {
        Node::Time(time) => Read::At(*time),
        Node::Int(number) => Read::At(of_number(i128::from(*number), when.unit).ok_or_else(|| far(node))?),
        Node::Float(number) => Read::At(of_fraction(*number, when.unit).ok_or_else(|| far(node))?),
        Node::Text(text) => of_text(text, when).ok_or_else(|| {
            let what = "neither RFC 3339, nor a local time, nor a number since the Unix epoch";
            format!("time: {what}: {}", node.shown())
        })?,
        node => return Err(format!("time: neither a text nor a number: {}", node.shown())),
    };
    match at {
        Read::At(time) | Read::Local(time) if !time.is_printable() => Err(far(node)),
        at => Ok(at),
    }
}

fn far(node: &Node) -> String {
    format!("time: outside the years 1 to 9999: {}", node.shown())
}

fn of_text(text: &str, when: When) -> Option<Read> {
    if let Some(time) = Timestamp::parse_rfc3339(text) {
        return Some(Read::At(time));
    }
    if !text.is_ascii() || 40 < text.len() {
        return None;
    }
    let local = Timestamp::parse_rfc3339(&format!("{}Z", text.replacen(' ', "T", 1)))?;
    Some(match when.offset_s {
        Some(offset_s) => Read::At(Timestamp::from_micros(local.micros().saturating_sub(offset_s * 1_000_000))),
        None => Read::Local(local),
    })
}

fn of_number(number: i128, unit: TimeUnit) -> Option<Timestamp> {
    let micros = match unit {
        TimeUnit::S => number.checked_mul(1_000_000)?,
        TimeUnit::Ms => number.checked_mul(1_000)?,
        TimeUnit::Us => number,
        TimeUnit::Ns => number.div_euclid(1_000),
    };
    i64::try_from(micros).ok().map(Timestamp::from_micros)
}

fn of_fraction(number: f64, unit: TimeUnit) -> Option<Timestamp> {
    let factor = match unit {
        TimeUnit::S => 1e6,
        TimeUnit::Ms => 1e3,
        TimeUnit::Us => 1.0,
        TimeUnit::Ns => 1e-3,
    };
    micros_of(number * factor).map(Timestamp::from_micros)
}

/// Whole microseconds, where 64 bits hold them.
pub fn micros_of(micros: f64) -> Option<i64> {
    let micros = micros.round();
    (micros.abs() < 9.2e18).then_some(micros as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_in_the_shape_it_has() {
        let plain = When { unit: TimeUnit::Us, offset_s: None };
        let seconds = When { unit: TimeUnit::S, offset_s: Some(3_600) };
        for (node, when, shown) in [
            (Node::Text("2026-11-23T10:00:00+01:00".into()), plain, "2026-11-23T09:00:00Z"),
            (Node::Text("2026-11-23 10:00:00".into()), seconds, "2026-11-23T09:00:00Z"),
            (Node::Text("2026-11-23T10:00:00".into()), plain, "local 2026-11-23T10:00:00Z"),
            (Node::Int(1_790_000_000), seconds, "2026-09-21T14:13:20Z"),
            (Node::Float(1_790_000_000.5), seconds, "2026-09-21T14:13:20.5Z"),
            (Node::Int(i64::MAX), seconds, "time: outside the years 1 to 9999: 9223372036854775807"),
            (Node::Float(1e300), seconds, "time: outside"),
            (Node::Text("yesterday".into()), plain, "time: neither RFC 3339"),
            (Node::Bool(true), plain, "time: neither a text nor a number: true"),
        ] {
            let read = match read(&node, when) {
                Ok(Read::At(time)) => time.to_string(),
                Ok(Read::Local(time)) => format!("local {time}"),
                Err(fault) => fault,
            };
            assert!(read.starts_with(shown), "{node:?}: {read}");
        }
    }
}
