//! What messages become, a line per value: for the tests of the formats.

use shared::time::Timestamp;

use super::{Part, Taken};
use crate::presilver::mapping::plan::Plan;
use crate::presilver::mapping::{Format, Mapping, Mappings};

/// A mapping that reads messages in their order.
pub(super) struct Reader(Mappings);

impl Reader {
    /// Of a format as it is by default.
    pub(super) fn of(topic: &str, format: Format) -> Self {
        Self::with(Mapping { topic: topic.into(), format, ..Mapping::default() })
    }

    pub(super) fn with(mapping: Mapping) -> Self {
        if let Err(faults) = Plan::new(&mapping) {
            panic!("{faults:?}");
        }
        Self(Mappings::new(&[mapping]))
    }

    /// What a message becomes.
    pub(super) fn lines(&mut self, topic: &str, payload: impl AsRef<[u8]>) -> Vec<String> {
        let mapped = self.0.read(topic, payload.as_ref(), Timestamp::default()).expect("the topic fits");
        mapped.taken.map_or_else(|unreadable| vec![format!("! {unreadable}")], |taken| show(&taken))
    }

    /// Every message becomes the lines beside it.
    pub(super) fn check(&mut self, transcript: &[(&str, &str, &[&str])]) {
        for (topic, payload, lines) in transcript {
            assert_eq!(self.lines(topic, payload), *lines, "{topic} {payload}");
        }
    }
}

/// The values, what is left out, what is noticed, what is asked for.
pub(super) fn show(taken: &Taken) -> Vec<String> {
    let mut lines: Vec<String> = taken.parts.iter().flat_map(part).collect();
    lines.extend(taken.left_out.iter().map(|left| format!("left out {}: {}", left.what, left.why)));
    lines.extend(taken.notes.iter().map(|note| format!("note {}: {}", note.kind, note.text)));
    lines.extend(taken.ask.iter().map(|ask| format!("asks on {}", ask.topic)));
    lines
}

fn part(part: &Part) -> Vec<String> {
    let mut more = String::new();
    if let Some(time) = part.time {
        more.push_str(&format!(" at {time}"));
    }
    if let Some(clock) = part.clock {
        more.push_str(&format!(" by its clock {clock}"));
    }
    if part.shift_us != 0 {
        more.push_str(&format!(" {:+} s from now", part.shift_us as f64 / 1e6));
    }
    if let Some(n) = part.n {
        more.push_str(&format!(" n={n}"));
    }
    for fault in &part.faults {
        more.push_str(&format!(" ![{fault}]"));
    }
    let value = |measured: &shared::payload::Measured| match &measured.value {
        Ok((value, unit)) => {
            let unit = unit.as_ref().map(|unit| format!(" {unit}")).unwrap_or_default();
            format!("{} {} = {value}{unit}{more}", part.device, measured.metric)
        }
        Err(reason) => format!("{} {} ![{reason}]{more}", part.device, measured.metric),
    };
    part.measured.iter().map(value).collect()
}
