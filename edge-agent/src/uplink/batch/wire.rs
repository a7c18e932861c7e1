//! Rows and gaps as they travel: each alone keeps far below what a message holds.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use shared::envelope::{Gap, MESSAGE_BYTES_MAX, RAW_BYTES_MAX, WireReading, WireRejected, sha256_hex};
use shared::reading::{Reading, Seq, Value};

use crate::outbox::{HeldGap, HeldItem, Row};

/// A text that takes more JSON than this is too long for any message.
const TEXT_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 4;
/// A refusal whose reasons take more JSON than this in total loses the rest of them.
const REASONS_BYTES_MAX: usize = 64 * 1024;

/// JSON bytes of a row, about. Exactness would cost as much as packing.
pub(super) fn estimate(row: &Row) -> usize {
    match &row.item {
        HeldItem::Reading(reading) => {
            let value = match &reading.value {
                Value::Number(_) => 8,
                Value::Bool(_) => 5,
                Value::Text(text) => escaped(text) + 2,
            };
            let unit = reading.unit.as_ref().map_or(0, |unit| unit.len() + 7);
            92 + reading.device.as_str().len() + reading.metric.as_str().len() + value + unit
        }
        HeldItem::Rejected { rejected, .. } => {
            let reasons: usize = rejected.reasons.iter().map(|reason| escaped(reason) + 3).sum();
            220 + escaped(&rejected.topic) + reasons + rejected.raw.len().min(RAW_BYTES_MAX) * 4 / 3
        }
    }
}

/// Bytes of a text in JSON, without its quotes: control characters take two or six.
fn escaped(text: &str) -> usize {
    text.bytes().map(escaped_byte).sum()
}

fn escaped_byte(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\x08' | b'\t' | b'\n' | b'\x0c' | b'\r' => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

pub(super) enum Wire {
    Reading(WireReading),
    Rejected(WireRejected),
}

/// A row as it travels. A text too long for any message travels as a refusal, under its own seq: it is kept in
/// quarantine, named, instead of stopping everything behind it.
pub(super) fn wire(row: &Row) -> Wire {
    match &row.item {
        HeldItem::Reading(reading) => match &reading.value {
            Value::Text(text) if TEXT_BYTES_MAX < escaped(text) => Wire::Rejected(too_large(row.seq, reading, text)),
            _ => Wire::Reading(WireReading::new(row.seq, reading)),
        },
        HeldItem::Rejected { rejected, raw_len, raw_sha256 } => {
            let mut wire = WireRejected::new(row.seq, rejected);
            wire.raw_len = *raw_len;
            wire.raw_sha256 = raw_sha256.clone();
            shorten(&mut wire.reasons);
            Wire::Rejected(wire)
        }
    }
}

fn too_large(seq: Seq, reading: &Reading, text: &str) -> WireRejected {
    let bytes = text.as_bytes();
    WireRejected {
        s: seq,
        d: reading.device.as_str().to_owned(),
        m: Some(reading.metric.as_str().to_owned()),
        topic: String::new(),
        reasons: vec![format!("size: a text of {} bytes in JSON, at most {TEXT_BYTES_MAX} travel", escaped(text))],
        raw: STANDARD.encode(&bytes[..bytes.len().min(RAW_BYTES_MAX)]),
        raw_len: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
        raw_sha256: sha256_hex(bytes),
        n: reading.source_seq,
        rest: Default::default(),
    }
}

fn shorten(reasons: &mut Vec<String>) {
    let mut left = REASONS_BYTES_MAX;
    let all = reasons.len();
    reasons.retain_mut(|reason| {
        let keep = left != 0;
        let bytes = escaped(reason);
        if left < bytes {
            clip(reason, left);
            left = 0;
        } else {
            left -= bytes;
        }
        keep
    });
    if reasons.len() < all {
        reasons.push(format!("reasons: {} more", all - reasons.len()));
    }
}

/// Cuts a text to at most `bytes` of JSON.
fn clip(text: &mut String, bytes: usize) {
    let mut sum = 0;
    let end = text.char_indices().find(|(at, char)| {
        sum += escaped(&text[*at..*at + char.len_utf8()]);
        bytes < sum
    });
    if let Some((end, _)) = end {
        text.truncate(end);
    }
}

/// A gap as it travels. One with so many devices that it fits into no message travels without the tally.
pub(super) fn wire_gap(held: &HeldGap, alone: bool) -> Gap {
    let tally: usize = held.gap.readings.keys().map(|device| escaped(device) + 12).sum();
    if alone && MESSAGE_BYTES_MAX / 2 < tally {
        Gap { readings: Default::default(), ..held.gap.clone() }
    } else {
        held.gap.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_text_in_json_are_counted_as_they_are_written() {
        let every: String = (0..0x300).filter_map(char::from_u32).chain("€\u{2028}😀".chars()).collect();
        for text in ["", "plain", "\"\\/", "\0\u{1}\u{8}\t\n\u{b}\u{c}\r\u{1f} \u{7f}", &every] {
            assert_eq!(escaped(text) + 2, serde_json::to_string(text).expect("a text").len(), "{text:?}");
        }
    }

    #[test]
    fn reasons_are_cut_by_what_they_take_in_json() {
        for reason in ["\0", "état "] {
            let mut reasons = vec![reason.repeat(10_000); 3];
            shorten(&mut reasons);
            let json = serde_json::to_vec(&reasons).expect("texts").len();
            assert!(json <= REASONS_BYTES_MAX + 100, "{json}");
            assert!(reasons[0].starts_with(reason), "{reasons:?}");
        }
    }
}
