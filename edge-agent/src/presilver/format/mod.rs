//! Payloads of every format -> [`Part`]s: values of one device with one time and one number.
//!
//! ```text
//! bytes --json, cbor--> tree --records, senml, zigbee2mqtt, tasmota--> parts
//! bytes --sparkplug, homie (they remember), plain--> parts
//! ```
//!
//! All of it is pure and bounded. A value that cannot be taken is a measurement with its reason; what a convention says
//! beside values is left out with a reason; a payload that cannot be read at all is one [`Unreadable`].

pub mod tree; // a payload as one tree, places in it

pub mod json; // JSON -> tree

pub mod cbor; // CBOR -> tree

pub mod when; // a time in one of many shapes

pub mod records; // tree + mapping -> parts

pub mod senml; // SenML's records -> parts

pub mod sparkplug; // Sparkplug B: protobuf, births and deaths

pub mod homie; // Homie: a topic per property

pub mod zigbee2mqtt;

pub mod tasmota;

pub mod plain; // one number as text

pub mod units; // units as conventions write them -> UCUM

#[cfg(test)]
mod shown; // what messages become, for the tests

use shared::payload::{Measured, Payload, Unreadable};
use shared::time::Timestamp;

pub use crate::intake::Ask;

/// Values of one device with one time and one number.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Part {
    /// The device's name, unchecked.
    pub device: String,
    /// The payload's own time.
    pub time: Option<Timestamp>,
    /// A time that tells repeats apart and is no instant: a local one whose offset from UTC nobody knows.
    pub clock: Option<Timestamp>,
    /// Without a time of its own: how much before (or after) its receipt it was measured, in microseconds.
    pub shift_us: i64,
    /// The device's own number.
    pub n: Option<i64>,
    /// What speaks against every value in it.
    pub faults: Vec<String>,
    /// The values, in the order sent.
    pub measured: Vec<Measured>,
    /// It is all that the device sends at a time: metrics that rules require must be in it.
    pub is_whole: bool,
}

impl Part {
    /// All that a device sends at a time.
    pub fn whole(device: String, payload: Payload) -> Self {
        Self { is_whole: true, ..Self::of(device, payload) }
    }

    /// Some of what a device sends.
    pub fn of(device: String, payload: Payload) -> Self {
        let Payload { time, n, faults, measured } = payload;
        Self { device, time, n, faults, measured, ..Self::default() }
    }
}

/// What a message holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Taken {
    /// The values.
    pub parts: Vec<Part>,
    /// What it says beside values.
    pub left_out: Vec<LeftOut>,
    /// What is worth telling a person.
    pub notes: Vec<Note>,
    /// What the sender is asked for.
    pub ask: Option<Ask>,
}

impl Taken {
    /// Values of one device.
    pub fn one(part: Part) -> Self {
        Self { parts: vec![part], ..Self::default() }
    }

    /// No values at all, and why.
    pub fn none(what: &str, why: &'static str) -> Self {
        Self { left_out: vec![LeftOut { what: what.to_owned(), why }], ..Self::default() }
    }
}

/// Something of a message that is no value: counted, not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The metric, or what it is.
    pub what: String,
    /// In a word or two, by which it is counted.
    pub why: &'static str,
}

/// Something that a person should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// By which it is counted.
    pub kind: &'static str,
    /// What happened, and to whom.
    pub text: String,
}

/// A payload that cannot be read as a whole, and tells nothing of itself.
pub fn unreadable(why: String) -> Unreadable {
    Unreadable { why, time: None, n: None }
}
