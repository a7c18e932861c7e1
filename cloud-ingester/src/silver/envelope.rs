//! An Envelope -> its rows and gaps.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;
use shared::envelope::{self, Closing, Gap};
use shared::reading::{DeviceId, Epoch, MetricName, Value};
use shared::time::Timestamp;

use super::decode::{DIRECT, Decoded, Event, High, length};
use super::members::{Reader, Split, clip, keep, number, object, split, text, truth, whole};
use super::rows::{GapKind, GapRow, Name, Numbered, Origin, ReadingRow, RefusedBy, RefusedRow, Row};

/// Longest unit, in bytes.
pub(super) const UNIT_BYTES_MAX: usize = 64;

/// Members of an Envelope.
const ENVELOPE: [&str; 9] = ["v", "gw", "epoch", "high", "rules", "readings", "rejected", "gaps", "closed"];
/// Members of a reading.
const READING: [&str; 11] = ["s", "d", "m", "v", "vb", "vs", "u", "t", "r", "q", "n"];
/// Members of a refusal. Its length, digest and number are told by its bytes.
const REJECTED: [&str; 7] = ["s", "d", "m", "topic", "reasons", "raw", "raw_len"];
/// Members of a gap.
const GAP: [&str; 5] = ["epoch", "from", "to", "reason", "readings"];
/// Members of a closing.
const CLOSING: [&str; 3] = ["epoch", "last", "mark"];

/// Where the fields of the Envelope itself stand within `_rescued`.
const OF_ENVELOPE: &str = "$envelope";

/// The members of a body that is meant to be an Envelope.
pub(super) type Parts<'a> = Split<'a, 9>;

/// The members of a body, if it is meant to be an Envelope: it has `v`, `gw` and `epoch`.
pub(super) fn parts(body: &str) -> Option<Parts<'_>> {
    split(body, &ENVELOPE).ok().filter(|parts: &Parts<'_>| parts.known[..3].iter().all(Option::is_some))
}

/// What the rows of one Envelope share.
struct Sender {
    gateway: Arc<str>,
    epoch: Arc<str>,
    high: i64,
    rules: Option<Arc<str>>,
    /// Fields of the Envelope this code does not know, as members.
    rest: String,
    /// Readings have numbers; those of a repaired message of a direct device have none.
    numbered: bool,
}

impl Sender {
    fn numbered(&self, seq: i64) -> Result<Option<Numbered<'static>>, String> {
        if !self.numbered {
            return Ok(None);
        }
        if seq < 1 {
            return Err(format!("seq: {seq} is below 1"));
        }
        Ok(Some(Numbered {
            gateway: Name::Held(Arc::clone(&self.gateway)),
            epoch: Name::Held(Arc::clone(&self.epoch)),
            seq,
            high: self.high.max(seq),
        }))
    }

    fn rescued(&self, mut rest: String) -> Option<String> {
        if let Some(of_envelope) = object(&self.rest) {
            keep(&mut rest, OF_ENVELOPE, &of_envelope);
        }
        object(&rest)
    }

    /// An element that is refused here, with all it was.
    fn refused(
        &self,
        raw: &RawValue,
        index: i32,
        numbered: Option<Numbered<'static>>,
        reasons: Vec<String>,
    ) -> RefusedRow {
        RefusedRow {
            numbered,
            named: None,
            gateway: Some(self.gateway.to_string()),
            device: None,
            metric: None,
            by: RefusedBy::Silver,
            reasons,
            raw: raw.get().as_bytes().to_vec(),
            raw_len: length(raw.get().as_bytes()),
            topic: None,
            rules: self.rules.clone(),
            rescued: self.rescued(String::new()),
            index,
        }
    }
}

/// Whose word an Envelope is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Word<'a> {
    /// A gateway's, that the hub knows as this device.
    Gateway(&'a str),
    /// This program's own: readings of a replay.
    Own,
}

/// Its rows and gaps.
///
/// # Errors
/// Why the Event is refused as a whole.
pub(super) fn rows<'a>(
    event: &Event<'a>,
    body: &'a str,
    parts: Parts<'a>,
    word: Word<'_>,
) -> Result<Decoded<'a>, String> {
    if let Some(name) = parts.twice.first() {
        return Err(format!("undecodable: `{name}` stands twice in the Envelope"));
    }
    let [version, gateway, epoch, high, rules, readings, rejected, gaps, closed] = parts.known;
    let mut reader = Reader::default();
    let version = reader.maybe("v", version, "whole number", whole);
    let gateway = reader.maybe("gw", gateway, "text", text);
    let epoch = reader.maybe("epoch", epoch, "text", text);
    let high = reader.maybe("high", high, "whole number", whole).unwrap_or(0);
    let rules = reader.maybe("rules", rules, "text", text);
    let lists = [("readings", readings), ("rejected", rejected), ("gaps", gaps), ("closed", closed)];
    let [readings, rejected, gaps, closed] = lists.map(|(name, raw)| {
        let list =
            raw.filter(|raw| raw.get() != "null").map(|raw| serde_json::from_str::<Vec<&'a RawValue>>(raw.get()));
        list.transpose().unwrap_or_else(|_| {
            reader.reasons.push(format!("type: `{name}` is no list"));
            None
        })
    });
    if let Some(reason) = reader.reasons.first() {
        return Err(format!("undecodable: the Envelope: {reason}"));
    }
    let gateway = gateway.unwrap_or_default();
    match word {
        Word::Gateway(device) if gateway != device => {
            return Err(format!("identity: the Envelope says {gateway:?}, the hub says {device:?}"));
        }
        Word::Gateway(_) if gateway == DIRECT => {
            return Err(format!("identity: {DIRECT:?} stands for direct devices and cannot be a gateway"));
        }
        _ => {}
    }
    let version = version.unwrap_or(0);
    if version != i64::from(envelope::VERSION) {
        return Err(format!("undecodable: Envelope version {version} is not known, {} is", envelope::VERSION));
    }
    let numbered = gateway != DIRECT;
    let epoch = epoch.unwrap_or_default();
    if numbered {
        epoch.parse::<Epoch>().map_err(|error| format!("undecodable: {error}"))?;
    }
    let sender = Sender {
        gateway: gateway.into(),
        epoch: epoch.into(),
        high,
        rules: rules.map(Into::into),
        rest: parts.rest,
        numbered,
    };

    let named = High {
        gateway: Name::Held(Arc::clone(&sender.gateway)),
        epoch: Name::Held(Arc::clone(&sender.epoch)),
        seq: high,
    };
    let mut decoded = Decoded { high: numbered.then_some(named), ..Decoded::default() };
    let mut index = 0..i32::MAX;
    let mut next = || index.next().expect("a body of 8 MiB holds fewer elements");
    for raw in readings.unwrap_or_default() {
        decoded.rows.push(reading(&sender, raw, next()));
    }
    for raw in rejected.unwrap_or_default() {
        decoded.rows.push(Row::Refused(rejection(&sender, raw, next())));
    }
    for (raws, read) in [(gaps, gap as fn(&Sender, &RawValue, &Origin) -> _), (closed, closing)] {
        for raw in raws.unwrap_or_default() {
            let index = next();
            match read(&sender, raw, &event.origin) {
                Ok(gap) => decoded.gaps.push(gap),
                // It has no seq of its own.
                Err(reason) => decoded.rows.push(Row::Refused(sender.refused(raw, index, None, vec![reason]))),
            }
        }
    }
    if decoded.rows.is_empty() && decoded.gaps.is_empty() && !sender.rest.is_empty() {
        let reason = "unknown: fields of the Envelope that no row of it could carry".to_owned();
        let whole: &RawValue = serde_json::from_str(body).map_err(|error| format!("undecodable: {error}"))?;
        decoded.rows.push(Row::Refused(sender.refused(whole, next(), None, vec![reason])));
    }
    Ok(decoded)
}

fn reading<'a>(sender: &Sender, raw: &'a RawValue, index: i32) -> Row<'a> {
    let parts: Split<'a, 11> = match split(raw.get(), &READING) {
        Ok(parts) => parts,
        Err(error) => {
            return Row::Refused(sender.refused(raw, index, None, vec![format!("undecodable: {error}")]));
        }
    };
    let [s, d, m, v, vb, vs, u, t, r, q, n] = parts.known;
    let mut reader = Reader::default();
    reader.reasons.extend(parts.twice.iter().map(|name| format!("type: `{name}` stands twice")));
    let device = reader.must("d", d, "text", text);
    let metric = reader.must("m", m, "text", text);
    reader.reasons.extend(device.as_deref().and_then(DeviceId::fault));
    reader.reasons.extend(metric.as_deref().and_then(MetricName::fault));
    let value = value(&mut reader, [v, vb, vs]);
    let unit = reader.maybe("u", u, "text", text);
    if unit.as_ref().is_some_and(|unit| UNIT_BYTES_MAX < unit.len() || unit.chars().any(char::is_control)) {
        reader.reasons.push(format!("unit: longer than {UNIT_BYTES_MAX} bytes, or holds a control character"));
    }
    let event_time = reader.must("t", t, "whole number of microseconds", whole);
    let received = reader.maybe("r", r, "whole number of microseconds", whole);
    let time_quality = reader.maybe("q", q, "text", text);
    let source_seq = reader.maybe("n", n, "whole number", whole);
    let numbered = numbered(sender, &mut reader, s, &parts.twice);
    match (value, event_time, device, metric) {
        (Some(value), Some(event_time), Some(device), Some(metric)) if reader.reasons.is_empty() => {
            Row::Reading(ReadingRow {
                numbered,
                named: None,
                source_seq,
                device,
                metric,
                value,
                unit,
                event_time: Timestamp::from_micros(event_time),
                received_time: received.map(Timestamp::from_micros).filter(|time| time.is_printable()),
                time_quality,
                index,
                rules: sender.rules.clone().map(Name::Held),
                rescued: sender.rescued(parts.rest),
                raw: raw.get().as_bytes(),
            })
        }
        (_, _, device, metric) => {
            let [device, metric] = [device, metric].map(|name| name.map(Cow::into_owned));
            Row::Refused(RefusedRow { device, metric, ..sender.refused(raw, index, numbered, reader.reasons) })
        }
    }
}

/// The seq under which an element stands; one that stands twice is believed in neither place.
fn numbered(sender: &Sender, reader: &mut Reader, s: Option<&RawValue>, twice: &[&str]) -> Option<Numbered<'static>> {
    let seq = reader.must("s", s, "whole number of 64 bits", whole).filter(|_| !twice.contains(&"s"))?;
    match sender.numbered(seq) {
        Ok(numbered) => numbered,
        Err(reason) => {
            reader.reasons.push(reason);
            None
        }
    }
}

fn value(reader: &mut Reader, [v, vb, vs]: [Option<&RawValue>; 3]) -> Option<Value> {
    let before = reader.reasons.len();
    let number = reader.maybe("v", v, "number that a double can hold", number).map(Value::Number);
    let truth = reader.maybe("vb", vb, "boolean", truth).map(Value::Bool);
    let text = reader.maybe("vs", vs, "text", text).map(|text| Value::Text(text.into_owned()));
    let mut found = [number, truth, text].into_iter().flatten();
    match (found.next(), found.next()) {
        (Some(value), None) => Some(value),
        (None, _) if before < reader.reasons.len() => None,
        _ => {
            reader.reasons.push("type: not exactly one of v, vb and vs".to_owned());
            None
        }
    }
}

fn rejection(sender: &Sender, raw: &RawValue, index: i32) -> RefusedRow {
    let parts: Split<'_, 7> = match split(raw.get(), &REJECTED) {
        Ok(parts) => parts,
        Err(error) => return sender.refused(raw, index, None, vec![format!("undecodable: {error}")]),
    };
    let [s, d, m, topic, reasons, bytes, raw_len] = parts.known;
    let mut reader = Reader::default();
    reader.reasons.extend(parts.twice.iter().map(|name| format!("type: `{name}` stands twice")));
    let device = reader.must("d", d, "text", text).map(Cow::into_owned);
    let metric = reader.maybe("m", m, "text", text).map(Cow::into_owned);
    let topic = reader.maybe("topic", topic, "text", text).unwrap_or_default().into_owned();
    let said = reader.must("reasons", reasons, "list of texts", |json| serde_json::from_str::<Vec<String>>(json).ok());
    let bytes = reader.maybe("raw", bytes, "text", text).unwrap_or_default();
    let raw_len = reader.maybe("raw_len", raw_len, "whole number", whole).unwrap_or(0);
    let numbered = numbered(sender, &mut reader, s, &parts.twice);
    let (Some(said), true) = (said, reader.reasons.is_empty()) else {
        return RefusedRow { device, metric, ..sender.refused(raw, index, numbered, reader.reasons) };
    };
    // Not base64: the text itself is what there is.
    let bytes = STANDARD.decode(bytes.as_bytes()).unwrap_or_else(|_| bytes.into_owned().into_bytes());
    RefusedRow {
        numbered,
        named: None,
        gateway: None,
        device,
        metric,
        by: RefusedBy::Edge,
        reasons: said,
        raw_len: raw_len.max(length(&bytes)),
        raw: bytes,
        topic: Some(topic),
        rules: sender.rules.clone(),
        rescued: sender.rescued(known_by_its_bytes(&parts.rest)),
        index,
    }
}

/// Drops what a refusal says of its own bytes and time: no field of a later version.
fn known_by_its_bytes(rest: &str) -> String {
    let whole = object(rest).unwrap_or_else(|| "{}".to_owned());
    split(&whole, &["raw_sha256", "n"]).map_or_else(|_| rest.to_owned(), |split| split.rest)
}

fn gap(sender: &Sender, raw: &RawValue, origin: &Origin) -> Result<GapRow, String> {
    let gap: Gap = serde_json::from_str(raw.get()).map_err(|error| format!("undecodable: gap: {error}"))?;
    if gap.from.0 < 1 || gap.to < gap.from {
        return Err(format!("gap: {}..{} is no range of seqs", gap.from, gap.to));
    }
    let rest = split(raw.get(), &GAP).map_err(|error| format!("undecodable: gap: {error}"))?.rest;
    Ok(GapRow {
        gateway_id: Some(sender.gateway.to_string()),
        epoch: Some(gap.epoch.to_string()),
        from: gap.from.0,
        to: gap.to.0,
        kind: GapKind::GivenUp,
        reason: Some(gap.reason),
        readings: gap.readings,
        rescued: sender.rescued(rest),
        origin: origin.clone(),
    })
}

fn closing(sender: &Sender, raw: &RawValue, origin: &Origin) -> Result<GapRow, String> {
    let closing: Closing = serde_json::from_str(raw.get()).map_err(|error| format!("undecodable: closing: {error}"))?;
    let (kind, to) = match (closing.last, closing.mark) {
        (Some(last), _) if last.0 < 1 => return Err(format!("closing: an epoch cannot end at seq {last}")),
        (Some(last), _) => (GapKind::Closed, last.0),
        (None, Some(mark)) if mark.0 < 0 => return Err(format!("closing: no mark can be at seq {mark}")),
        (None, Some(mark)) => (GapKind::UnknownLoss, mark.0),
        (None, None) => return Err(format!("closing: neither `last` nor `mark`: {}", clip(raw.get()))),
    };
    let rest = split(raw.get(), &CLOSING).map_err(|error| format!("undecodable: closing: {error}"))?.rest;
    Ok(GapRow {
        gateway_id: Some(sender.gateway.to_string()),
        epoch: Some(closing.epoch.to_string()),
        from: 1,
        to,
        kind,
        reason: None,
        readings: BTreeMap::new(),
        rescued: sender.rescued(rest),
        origin: origin.clone(),
    })
}
