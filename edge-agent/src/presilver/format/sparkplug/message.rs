//! One Sparkplug message: what it says of its edge node's life, and its values.

use std::collections::{BTreeMap, BTreeSet};

use shared::payload::Measured;
use shared::reading::{MetricName, Value};
use shared::time::Timestamp;

use super::super::tree::{Node, unit_of};
use super::super::{LeftOut, Note, Part, Taken, units};
use super::topic::{self, Kind, Topic};
use super::wire::{self, Metric, Properties};
use super::{Born, Known, NodeState, REMEMBERED_MAX, value};
use crate::presilver::mapping::Nulls;
use crate::presilver::mapping::plan::Plan;

/// Most characters of a unit that are remembered: more than a unit may have.
const UNIT_CHARS_MAX: usize = 65;
/// Qualities that say that a value is none: bad, and stale.
const BAD: [(i64, &str); 2] = [(0, "bad"), (500, "stale")];

/// One message on its way through.
pub(super) struct Message<'m> {
    pub(super) topic: &'m Topic<'m>,
    /// Levels of the topic with a name.
    pub(super) names: &'m BTreeMap<&'m str, &'m str>,
    pub(super) plan: &'m Plan,
    pub(super) timestamp: Option<u64>,
    pub(super) seq: Option<u64>,
    /// How many more metrics may be remembered.
    pub(super) room: usize,
    pub(super) taken: Taken,
    pub(super) wants_rebirth: bool,
}

impl Message<'_> {
    pub(super) fn take(&mut self, state: &mut NodeState, metrics: &[Metric<'_>]) {
        match self.topic.kind {
            Kind::NodeBirth => {
                self.room += state.size();
                state.birth = self.timestamp.and_then(value::time);
                let bd_seq = bd_seq(metrics);
                state.born = Some(Born {
                    bd_seq,
                    seq: self.seq.map(|seq| (seq & 0xff) as u8),
                    latest_ms: self.timestamp.unwrap_or_default(),
                    devices: BTreeSet::new(),
                    aliases: BTreeMap::new(),
                    names: BTreeMap::new(),
                });
                if let Some(born) = &mut state.born {
                    self.learn(born, metrics);
                }
                self.online("", true, (bd_seq, None));
                self.values(state.born.as_ref(), metrics);
            }
            Kind::NodeDeath => self.node_death(state, bd_seq(metrics)),
            Kind::NodeData | Kind::DeviceData | Kind::DeviceBirth | Kind::DeviceDeath => {
                self.of_the_living(state, metrics)
            }
        }
    }

    /// What only an edge node that was born may send.
    fn of_the_living(&mut self, state: &mut NodeState, metrics: &[Metric<'_>]) {
        let device = self.topic.device.unwrap_or_default().to_owned();
        match &mut state.born {
            None => self.note("sparkplug-no-birth", "sends data, and no birth of it was seen".to_owned()),
            Some(born) => {
                self.in_turn(born);
                match self.topic.kind {
                    Kind::DeviceBirth => {
                        born.forget(&device);
                        if 0 < self.room {
                            self.room -= 1;
                            born.devices.insert(device.clone());
                        }
                        self.learn(born, metrics);
                    }
                    Kind::DeviceDeath => {
                        born.forget(&device);
                        born.devices.remove(&device);
                    }
                    Kind::DeviceData if !born.devices.contains(&device) => {
                        self.note(
                            "sparkplug-no-birth",
                            format!("sends data of `{device}`, and no birth of it was seen"),
                        );
                    }
                    _ => {}
                }
            }
        }
        match self.topic.kind {
            Kind::DeviceBirth => self.online(&device, true, (None, None)),
            Kind::DeviceDeath => return self.online(&device, false, (None, None)),
            _ => {}
        }
        self.values(state.born.as_ref(), metrics);
    }

    fn node_death(&mut self, state: &mut NodeState, bd_seq: Option<i64>) {
        // The broker speaks for the dead: the time in it is that of the connection, so it is not taken.
        self.timestamp = None;
        let stale =
            state.born.as_ref().is_some_and(|born| born.bd_seq.is_some() && bd_seq.is_some() && born.bd_seq != bd_seq);
        if stale {
            self.taken.left_out.push(LeftOut { what: "whole message".to_owned(), why: "stale-death" });
            return;
        }
        let devices = state.born.take().map(|born| born.devices).unwrap_or_default();
        self.online("", false, (bd_seq, state.birth));
        for device in devices {
            self.online(&device, false, (bd_seq, state.birth));
        }
    }

    /// Looks whether a message is the one after the last.
    fn in_turn(&mut self, born: &mut Born) {
        let Some(seq) = self.seq.map(|seq| (seq & 0xff) as u8) else {
            return self.note("sparkplug-no-number", "sends data without a sequence number".to_owned());
        };
        let at_ms = self.timestamp.unwrap_or_default();
        let expected = born.seq.map_or(seq, |last| last.wrapping_add(1));
        if seq == expected {
            born.seq = Some(seq);
            born.latest_ms = born.latest_ms.max(at_ms);
        } else if at_ms <= born.latest_ms && self.timestamp.is_some() {
            // Older than what was seen: a repeat. Its values are recognised one by one.
            self.taken
                .notes
                .push(Note { kind: "sparkplug-repeat", text: format!("{} repeats number {seq}", self.who()) });
        } else {
            let missing = seq.wrapping_sub(expected);
            self.note(
                "sparkplug-gap",
                format!("left out {missing} of its numbers (or more by 256s): {seq} instead of {expected}"),
            );
            born.seq = Some(seq);
            born.latest_ms = born.latest_ms.max(at_ms);
        }
    }

    fn who(&self) -> String {
        format!("edge node {}/{}", self.topic.group, self.topic.node)
    }

    /// A note that is a reason to ask for a rebirth.
    fn note(&mut self, kind: &'static str, what: String) {
        self.wants_rebirth = true;
        self.taken.notes.push(Note { kind, text: format!("{} {what}", self.who()) });
    }

    /// Remembers what a birth names.
    fn learn(&mut self, born: &mut Born, metrics: &[Metric<'_>]) {
        let device = self.topic.device.unwrap_or_default();
        for metric in metrics {
            let (Some(name), Some(datatype)) = (metric.name.and_then(text), metric.datatype) else { continue };
            if MetricName::fault(name).is_some() {
                continue; // refused with its value
            }
            // One that is too long for a unit is kept long enough to be refused with every value.
            let unit = properties(metric).unit.and_then(text).and_then(units::ucum);
            let unit = unit.map(|unit| unit.chars().take(UNIT_CHARS_MAX).collect());
            let known = Known { device: device.to_owned(), name: name.to_owned(), datatype, unit, is_ambiguous: false };
            if self.room < 2 {
                self.taken.notes.push(Note {
                    kind: "sparkplug-full",
                    text: format!(
                        "{REMEMBERED_MAX} metrics of births are remembered, no more: {} has others",
                        self.who()
                    ),
                });
                return;
            }
            self.room -= 2;
            if let Some(alias) = metric.alias {
                let other = born
                    .aliases
                    .get(&alias)
                    .filter(|other| other.is_ambiguous || other.name != name || other.device != device);
                let is_ambiguous = other.is_some();
                if is_ambiguous {
                    let text = format!("{} gives alias {alias} to two metrics", self.who());
                    self.taken.notes.push(Note { kind: "sparkplug-alias-twice", text });
                }
                born.aliases.insert(alias, Known { is_ambiguous, ..known.clone() });
            }
            born.names.insert((device.to_owned(), name.to_owned()), known);
        }
    }

    /// Says that a device is there, or not; with what tells it apart from other times.
    fn online(&mut self, device: &str, is_online: bool, (n, clock): (Option<i64>, Option<Timestamp>)) {
        let Some(metric) = self.plan.online.clone() else {
            self.taken.left_out.push(LeftOut { what: "birth or death".to_owned(), why: "online" });
            return;
        };
        let measured = vec![Measured { metric, value: Ok((Value::Bool(is_online), None)) }];
        let time = self.timestamp.and_then(value::time);
        self.taken.parts.push(Part { device: self.named(device), time, clock, n, measured, ..Part::default() });
    }

    fn named(&self, device: &str) -> String {
        topic::named(self.plan, self.names, self.topic, device)
    }

    /// The values of a message; each metric may have a time of its own.
    fn values(&mut self, born: Option<&Born>, metrics: &[Metric<'_>]) {
        let device = self.topic.device.unwrap_or_default().to_owned();
        for metric in metrics {
            let known = match (metric.name.and_then(text), metric.alias) {
                (Some(name), _) => born.and_then(|born| born.names.get(&(device.clone(), name.to_owned()))),
                (None, Some(alias)) => born.and_then(|born| born.aliases.get(&alias)),
                (None, None) => None,
            };
            let name = match (metric.name.and_then(text), known) {
                (Some(name), _) => name.to_owned(),
                (None, Some(known)) => known.name.clone(),
                (None, None) => metric.alias.map_or_else(|| "unnamed".to_owned(), |alias| format!("alias {alias}")),
            };
            if is_control(&name) {
                self.taken.left_out.push(LeftOut { what: name, why: "control" });
                continue;
            }
            if self.plan.leaves_out(&name) {
                self.taken.left_out.push(LeftOut { what: name, why: "leave-out" });
                continue;
            }
            if metric.is_null && self.plan.nulls == Nulls::LeaveOut {
                self.taken.left_out.push(LeftOut { what: name, why: "null" });
                continue;
            }
            let value = self.value(metric, &name, known, &device);
            let mut part = Part { device: self.named(&device), ..Part::default() };
            match metric.timestamp.or(self.timestamp) {
                None => {}
                Some(ms) => match value::time(ms) {
                    Some(time) => part.time = Some(time),
                    None => part.faults.push(format!("time: outside the years 1 to 9999: {ms} ms")),
                },
            }
            let measured = Measured { metric: name, value };
            match self.taken.parts.last_mut() {
                Some(last)
                    if last.time == part.time
                        && last.n.is_none()
                        && last.faults == part.faults
                        && last.device == part.device =>
                {
                    last.measured.push(measured);
                }
                _ => {
                    part.measured.push(measured);
                    self.taken.parts.push(part);
                }
            }
        }
    }

    fn value(
        &mut self,
        metric: &Metric<'_>,
        name: &str,
        known: Option<&Known>,
        device: &str,
    ) -> Result<(Value, Option<String>), String> {
        if metric.name.is_some_and(|name| text(name).is_none()) {
            return Err("name: the metric name is not UTF-8".to_owned());
        }
        if let (None, None) = (metric.name, known) {
            self.wants_rebirth = true;
            return Err("name: its alias was named by no birth that was seen; a rebirth is asked for".to_owned());
        }
        if metric.name.is_none() && known.is_some_and(|known| known.is_ambiguous) {
            return Err("name: its alias is that of two metrics".to_owned());
        }
        if metric.name.is_none() && known.is_some_and(|known| known.device != device) {
            return Err("name: its alias is that of another device's metric".to_owned());
        }
        if let Some(fault) = MetricName::fault(name) {
            return Err(fault);
        }
        let properties = properties(metric);
        if let Some((_, word)) = BAD.iter().find(|(code, _)| Some(*code) == properties.quality) {
            return Err(format!("quality: {word}, says the sender"));
        }
        if metric.is_null {
            return Err("type: null".to_owned());
        }
        let Some(datatype) = metric.datatype.or(known.map(|known| known.datatype)) else {
            self.wants_rebirth = true;
            return Err("type: neither the metric nor a birth says what it is".to_owned());
        };
        let raw = metric.value.ok_or_else(|| "type: a metric without a value".to_owned())?;
        let value = value::node(datatype, raw).value()?;
        let unit = properties.unit.and_then(text).and_then(units::ucum).or_else(|| known?.unit.clone());
        let unit = unit.map(|unit| unit_of(&Node::Text(unit))).transpose()?.flatten();
        Ok((value, unit))
    }
}

/// Controls and bookkeeping of the protocol are no values.
fn is_control(name: &str) -> bool {
    name == "bdSeq" || name.starts_with("Node Control/") || name.starts_with("Device Control/")
}

/// The number that ties a death to its birth.
fn bd_seq(metrics: &[Metric<'_>]) -> Option<i64> {
    let metric = metrics.iter().find(|metric| metric.name == Some(&b"bdSeq"[..]))?;
    match metric.value? {
        wire::Raw::Int(number) | wire::Raw::Long(number) => i64::try_from(number).ok(),
        _ => None,
    }
}

fn properties<'b>(metric: &Metric<'b>) -> Properties<'b> {
    metric.properties.and_then(|bytes| wire::properties(bytes).ok()).unwrap_or_default()
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}
