//! An Event -> the rows and gaps it holds. Nothing is judged by time here and nothing is compared with what came before.
//!
//! Nothing in a body can make this fail: what cannot be read becomes a refused row, as small as possible. One element that
//! cannot be read costs only itself; only a body that cannot be read at all, or a gateway that is not who it says it is,
//! costs the whole Event.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json};
use shared::envelope::{self, Closing, Gap, WireReading, WireRejected};
use shared::payload;
use shared::reading::{DeviceId, Epoch, MetricName};
use shared::time::Timestamp;

use super::rows::{GapKind, GapRow, Numbered, Origin, ReadingRow, RefusedBy, RefusedRow, Row};

/// What stands in `gateway_id` for a device that talks to the hub directly.
pub const DIRECT: &str = "-";
/// Longest unit, in bytes.
const UNIT_BYTES_MAX: usize = 64;

/// An Event, as bronze holds it.
#[derive(Debug, Clone)]
pub struct Event<'a> {
    /// Where it stands and when it came.
    pub origin: Origin,
    /// The body; transport compression undone unless `packed`.
    pub body: &'a [u8],
    /// The body is still compressed, because undoing it failed.
    pub packed: bool,
    /// The device the hub authenticated; none for rows the ingester wrote itself.
    pub device: Option<&'a str>,
    /// The id its sender gave the message.
    pub message_id: Option<&'a str>,
    /// What the hub says the Event comes from; none where it does not say.
    pub message_source: Option<&'a str>,
    /// The row tells of events the hub let expire.
    pub hub_retention: bool,
}

/// What an Event holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decoded<'a> {
    /// Readings and refusals. Each counts one in the books.
    pub rows: Vec<Row<'a>>,
    /// Gaps and closings.
    pub gaps: Vec<GapRow>,
    /// How far its gateway says it is; none of what is no Envelope.
    pub high: Option<High>,
}

/// The highest seq given in an epoch, as an Envelope names it: with or without rows of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct High {
    /// The gateway's device id at the hub.
    pub gateway: Arc<str>,
    /// Epoch, 16 hex digits.
    pub epoch: Arc<str>,
    /// The seq; 0 if none was given yet.
    pub seq: i64,
}

/// Takes an Event apart.
#[must_use]
pub fn decode<'a>(event: &Event<'a>) -> Decoded<'a> {
    // Only rows the ingester wrote itself have no device: a device cannot forge this by setting a property.
    if event.hub_retention && event.device.is_none() {
        return hub_retention(event);
    }
    if event.message_source.is_some_and(|source| source != "Telemetry") {
        return Decoded::default();
    }
    match read(event) {
        Ok(decoded) => decoded,
        Err(reason) => Decoded { rows: vec![Row::Refused(refused_whole(event, reason))], ..Decoded::default() },
    }
}

fn read<'a>(event: &Event<'a>) -> Result<Decoded<'a>, String> {
    if event.packed {
        return Err(match envelope::decompress(event.body) {
            Err(envelope::UnpackError::TooLarge) => format!("too-large: {}", envelope::UnpackError::TooLarge),
            Err(error) => format!("undecodable: {error}"),
            Ok(_) => "undecodable: the body was compressed in a way this reader does not undo".to_owned(),
        });
    }
    if envelope::UNPACKED_BYTES_MAX < event.body.len() {
        return Err(format!("too-large: {} bytes", event.body.len()));
    }
    let device = event.device.ok_or("identity: the hub names no device")?;
    let members: Option<BTreeMap<String, &'a RawValue>> = serde_json::from_slice(event.body).ok();
    match members {
        Some(members) if ["v", "gw", "epoch"].iter().all(|name| members.contains_key(*name)) => {
            envelope_rows(event, device, members)
        }
        _ => direct_rows(event, device),
    }
}

/// What the rows of one Envelope share.
struct Sender {
    gateway: Arc<str>,
    epoch: Arc<str>,
    high: i64,
    rules: Option<Arc<str>>,
    /// Fields of the Envelope this code does not know.
    rest: Map<String, Json>,
}

impl Sender {
    fn numbered(&self, seq: i64) -> Result<Numbered, String> {
        if seq < 1 {
            return Err(format!("seq: {seq} is below 1"));
        }
        Ok(Numbered {
            gateway: Arc::clone(&self.gateway),
            epoch: Arc::clone(&self.epoch),
            seq,
            high: self.high.max(seq),
        })
    }

    fn rescued(&self, rest: Map<String, Json>) -> Option<String> {
        let mut kept = rest;
        if !self.rest.is_empty() {
            kept.insert("$envelope".into(), Json::Object(self.rest.clone()));
        }
        (!kept.is_empty()).then(|| Json::Object(kept).to_string())
    }

    /// An element that cannot be read: under its seq if that can be.
    fn unreadable(&self, raw: &RawValue, index: i32, reasons: Vec<String>) -> RefusedRow {
        #[derive(Deserialize)]
        struct OnlySeq {
            s: i64,
        }
        let seq = serde_json::from_str::<OnlySeq>(raw.get()).ok().map(|only| only.s);
        RefusedRow {
            numbered: seq.and_then(|seq| self.numbered(seq).ok()),
            gateway: Some(self.gateway.to_string()),
            device: None,
            metric: None,
            by: RefusedBy::Silver,
            reasons,
            raw: raw.get().as_bytes().to_vec(),
            raw_len: length(raw.get().as_bytes()),
            topic: None,
            rules: self.rules.clone(),
            index,
        }
    }
}

fn envelope_rows<'a>(
    event: &Event<'a>,
    device: &str,
    mut members: BTreeMap<String, &'a RawValue>,
) -> Result<Decoded<'a>, String> {
    let version: i64 = member(&mut members, "v")?.unwrap_or(0);
    let gateway: String = member(&mut members, "gw")?.unwrap_or_default();
    if gateway != device {
        return Err(format!("identity: the Envelope says {gateway:?}, the hub says {device:?}"));
    }
    if gateway == DIRECT {
        return Err(format!("identity: {DIRECT:?} stands for direct devices and cannot be a gateway"));
    }
    if version != i64::from(envelope::VERSION) {
        return Err(format!("undecodable: Envelope version {version} is not known, {} is", envelope::VERSION));
    }
    let epoch: Epoch = member::<String>(&mut members, "epoch")?
        .unwrap_or_default()
        .parse()
        .map_err(|error| format!("undecodable: {error}"))?;
    let high: i64 = member(&mut members, "high")?.unwrap_or(0);
    let rules: Option<String> = member(&mut members, "rules")?;
    let readings: Vec<&'a RawValue> = member(&mut members, "readings")?.unwrap_or_default();
    let rejected: Vec<&'a RawValue> = member(&mut members, "rejected")?.unwrap_or_default();
    let gaps: Vec<&'a RawValue> = member(&mut members, "gaps")?.unwrap_or_default();
    let closed: Vec<&'a RawValue> = member(&mut members, "closed")?.unwrap_or_default();
    let sender = Sender {
        gateway: gateway.into(),
        epoch: epoch.to_string().into(),
        high,
        rules: rules.map(Into::into),
        rest: members.into_iter().map(|(name, raw)| (name, json_of(raw))).collect(),
    };

    let named = High { gateway: Arc::clone(&sender.gateway), epoch: Arc::clone(&sender.epoch), seq: high };
    let mut decoded = Decoded { high: Some(named), ..Decoded::default() };
    let mut index = 0..i32::MAX;
    let mut next = || index.next().expect("a body of 8 MiB holds fewer elements");
    for raw in readings {
        decoded.rows.push(reading(&sender, raw, next()));
    }
    for raw in rejected {
        decoded.rows.push(Row::Refused(rejection(&sender, raw, next())));
    }
    for raw in gaps {
        let index = next();
        match gap(&sender, raw, &event.origin) {
            Ok(gap) => decoded.gaps.push(gap),
            Err(reason) => decoded.rows.push(Row::Refused(nameless(&sender, raw, index, reason))),
        }
    }
    for raw in closed {
        let index = next();
        match closing(&sender, raw, &event.origin) {
            Ok(gap) => decoded.gaps.push(gap),
            Err(reason) => decoded.rows.push(Row::Refused(nameless(&sender, raw, index, reason))),
        }
    }
    Ok(decoded)
}

fn member<'a, T: Deserialize<'a>>(
    members: &mut BTreeMap<String, &'a RawValue>,
    name: &str,
) -> Result<Option<T>, String> {
    match members.remove(name) {
        None => Ok(None),
        Some(raw) => {
            serde_json::from_str(raw.get()).map_err(|error| format!("undecodable: `{name}` of the Envelope: {error}"))
        }
    }
}

/// A value kept for later readers; what is too deep or too large a number to hold is kept as its text.
fn json_of(raw: &RawValue) -> Json {
    serde_json::from_str(raw.get()).unwrap_or_else(|_| Json::String(raw.get().to_owned()))
}

fn reading<'a>(sender: &Sender, raw: &'a RawValue, index: i32) -> Row<'a> {
    let wire: WireReading = match serde_json::from_str(raw.get()) {
        Ok(wire) => wire,
        Err(error) => return Row::Refused(sender.unreadable(raw, index, vec![format!("undecodable: {error}")])),
    };
    let mut reasons = Vec::new();
    reasons.extend(DeviceId::fault(&wire.d));
    reasons.extend(MetricName::fault(&wire.m));
    if wire.u.as_ref().is_some_and(|unit| UNIT_BYTES_MAX < unit.len() || unit.chars().any(char::is_control)) {
        reasons.push(format!("unit: longer than {UNIT_BYTES_MAX} bytes, or holds a control character"));
    }
    let value = wire.value();
    if value.is_none() {
        reasons.push("type: not exactly one of v, vb and vs".to_owned());
    }
    let numbered = sender.numbered(wire.s.0);
    if let Err(reason) = &numbered {
        reasons.push(reason.clone());
    }
    match (value, numbered) {
        (Some(value), Ok(numbered)) if reasons.is_empty() => Row::Reading(ReadingRow {
            numbered: Some(numbered),
            source_seq: wire.n,
            device: wire.d,
            metric: wire.m,
            value,
            unit: wire.u,
            event_time: Timestamp::from_micros(wire.t),
            received_time: wire.r.map(Timestamp::from_micros).filter(|time| time.is_printable()),
            time_quality: wire.q,
            index,
            rules: sender.rules.clone(),
            rescued: sender.rescued(wire.rest),
            raw: raw.get().as_bytes(),
        }),
        _ => Row::Refused(RefusedRow {
            device: Some(wire.d),
            metric: Some(wire.m),
            ..sender.unreadable(raw, index, reasons)
        }),
    }
}

fn rejection(sender: &Sender, raw: &RawValue, index: i32) -> RefusedRow {
    let wire: WireRejected = match serde_json::from_str(raw.get()) {
        Ok(wire) => wire,
        Err(error) => return sender.unreadable(raw, index, vec![format!("undecodable: {error}")]),
    };
    let numbered = match sender.numbered(wire.s.0) {
        Ok(numbered) => numbered,
        Err(reason) => return sender.unreadable(raw, index, vec![reason]),
    };
    let (bytes, raw_len) = match wire.raw_bytes() {
        Some(bytes) => (bytes, wire.raw_len),
        // Not base64: the text itself is what there is.
        None => (wire.raw.into_bytes(), wire.raw_len),
    };
    RefusedRow {
        numbered: Some(numbered),
        gateway: None,
        device: Some(wire.d),
        metric: wire.m,
        by: RefusedBy::Edge,
        reasons: wire.reasons,
        raw_len: raw_len.max(length(&bytes)),
        raw: bytes,
        topic: Some(wire.topic),
        rules: sender.rules.clone(),
        index,
    }
}

fn gap(sender: &Sender, raw: &RawValue, origin: &Origin) -> Result<GapRow, String> {
    let gap: Gap = serde_json::from_str(raw.get()).map_err(|error| format!("undecodable: gap: {error}"))?;
    if gap.from.0 < 1 || gap.to < gap.from {
        return Err(format!("gap: {}..{} is no range of seqs", gap.from, gap.to));
    }
    Ok(GapRow {
        gateway_id: Some(sender.gateway.to_string()),
        epoch: Some(gap.epoch.to_string()),
        from: gap.from.0,
        to: gap.to.0,
        kind: GapKind::GivenUp,
        reason: Some(gap.reason),
        readings: gap.readings,
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
        (None, None) => return Err("closing: neither `last` nor `mark`".to_owned()),
    };
    Ok(GapRow {
        gateway_id: Some(sender.gateway.to_string()),
        epoch: Some(closing.epoch.to_string()),
        from: 1,
        to,
        kind,
        reason: None,
        readings: BTreeMap::new(),
        origin: origin.clone(),
    })
}

/// A gap or closing that cannot be read: it has no seq of its own.
fn nameless(sender: &Sender, raw: &RawValue, index: i32, reason: String) -> RefusedRow {
    RefusedRow { numbered: None, ..sender.unreadable(raw, index, vec![reason]) }
}

fn direct_rows<'a>(event: &Event<'a>, device: &str) -> Result<Decoded<'a>, String> {
    let payload =
        payload::object(event.body, &payload::Fields::default()).map_err(|error| format!("undecodable: {error}"))?;
    let own_name = DeviceId::fault(device);
    let rows = payload
        .measured
        .into_iter()
        .zip(0..)
        .map(|(measured, index)| {
            let mut reasons = payload.faults.clone();
            reasons.extend(own_name.clone());
            match measured.value {
                Ok((value, unit)) if reasons.is_empty() => Row::Reading(ReadingRow {
                    numbered: None,
                    source_seq: payload.n,
                    device: device.to_owned(),
                    metric: measured.metric,
                    value,
                    unit,
                    event_time: payload.time.unwrap_or(event.origin.reference_time()),
                    received_time: None,
                    time_quality: payload.time.map(|_| "device".to_owned()),
                    index,
                    rules: None,
                    rescued: None,
                    raw: event.body,
                }),
                value => {
                    reasons.extend(value.err());
                    Row::Refused(RefusedRow {
                        numbered: None,
                        gateway: Some(DIRECT.to_owned()),
                        device: Some(device.to_owned()),
                        metric: Some(measured.metric),
                        by: RefusedBy::Silver,
                        reasons,
                        raw: event.body.to_vec(),
                        raw_len: length(event.body),
                        topic: None,
                        rules: None,
                        index,
                    })
                }
            }
        })
        .collect();
    Ok(Decoded { rows, ..Decoded::default() })
}

fn refused_whole(event: &Event<'_>, reason: String) -> RefusedRow {
    RefusedRow {
        numbered: None,
        gateway: event.device.map(str::to_owned),
        device: event.device.map(str::to_owned),
        metric: None,
        by: RefusedBy::Silver,
        reasons: vec![reason],
        raw: event.body.to_vec(),
        raw_len: length(event.body),
        topic: None,
        rules: None,
        index: 0,
    }
}

fn hub_retention<'a>(event: &Event<'a>) -> Decoded<'a> {
    #[derive(Deserialize)]
    struct Lost {
        from: i64,
        to: i64,
    }
    match serde_json::from_slice::<Lost>(event.body) {
        Ok(lost) => Decoded {
            rows: vec![],
            gaps: vec![GapRow {
                gateway_id: None,
                epoch: None,
                from: lost.from,
                to: lost.to,
                kind: GapKind::HubRetention,
                reason: Some("not in the hub any more when it was to be read".to_owned()),
                readings: BTreeMap::new(),
                origin: event.origin.clone(),
            }],
            ..Decoded::default()
        },
        Err(error) => Decoded {
            rows: vec![Row::Refused(refused_whole(event, format!("undecodable: hub-retention: {error}")))],
            ..Decoded::default()
        },
    }
}

fn length(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
