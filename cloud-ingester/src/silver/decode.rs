//! An Event -> the rows and gaps it holds. Nothing is judged by time here and nothing is compared with what came before.
//!
//! Nothing in a body can make this fail: what cannot be read becomes a refused row, as small as possible. One element that
//! cannot be read costs only itself; only a body that cannot be read at all, or a gateway that is not who it says it is,
//! costs the whole Event.

use std::collections::BTreeMap;

use arrow::array::{Array as _, AsArray as _, MapArray};
use serde::Deserialize;
use shared::envelope;

use super::envelope::Word;
use super::judge::Rules;
use super::rows::{GapKind, GapRow, Name, Origin, RefusedBy, RefusedRow, Row};
use super::{direct, envelope as wire, plain};

/// What stands in `gateway_id` for a device that talks to the hub directly.
pub const DIRECT: &str = "-";

/// What a sender attached to a message.
#[derive(Debug, Clone, Copy, Default)]
pub enum Properties<'a> {
    /// Nothing.
    #[default]
    None,
    /// A row of a column of bronze.
    Stored(&'a MapArray, usize),
}

impl<'a> Properties<'a> {
    /// The value of `wanted`, if it is there.
    #[must_use]
    pub fn get(&self, wanted: &str) -> Option<&'a str> {
        let Self::Stored(map, at) = *self else { return None };
        if map.is_null(at) {
            return None;
        }
        let (keys, values) = (map.keys().as_string::<i32>(), map.values().as_string::<i32>());
        let offsets = map.value_offsets();
        let (from, to) = (usize::try_from(offsets[at]).ok()?, usize::try_from(offsets[at + 1]).ok()?);
        let found = (from..to).find(|&entry| keys.value(entry) == wanted)?;
        Some(if values.is_valid(found) { values.value(found) } else { "" })
    }
}

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
    /// What its sender attached.
    pub properties: Properties<'a>,
    /// The id of the refusal that this Event of our own repairs.
    pub replay: Option<Replay<'a>>,
}

/// What an Event holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decoded<'a> {
    /// Readings and refusals. Each counts one in the books.
    pub rows: Vec<Row<'a>>,
    /// Gaps and closings.
    pub gaps: Vec<GapRow>,
    /// How far its gateway says it is; none of what is no Envelope.
    pub high: Option<High<'a>>,
}

/// The highest seq given in an epoch, as an Envelope names it: with or without rows of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct High<'a> {
    /// The gateway's device id at the hub.
    pub gateway: Name<'a>,
    /// Epoch, 16 hex digits.
    pub epoch: Name<'a>,
    /// The seq; 0 if none was given yet.
    pub seq: i64,
}

/// An Event of our own that takes a refusal up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replay<'a> {
    /// Id of the row of silver.quarantine.
    pub of: &'a str,
    /// The body is an Envelope with the repaired readings; otherwise it is the original body.
    pub repaired: bool,
}

/// Takes an Event apart.
#[must_use]
pub fn decode<'a>(event: &Event<'a>, rules: &Rules) -> Decoded<'a> {
    let mut rows = vec![];
    let mut decoded = decode_to(event, rules, &mut rows);
    rows.append(&mut decoded.rows);
    Decoded { rows, ..decoded }
}

/// Takes an Event apart, and adds its rows to those of others: most Events hold few, and a list for each would cost as much
/// as reading it. A replay is looked at as a whole and keeps its rows.
#[must_use]
pub fn decode_to<'a>(event: &Event<'a>, rules: &Rules, rows: &mut Vec<Row<'a>>) -> Decoded<'a> {
    // Only rows the ingester wrote itself have no device: a device cannot forge this by setting a property.
    if event.hub_retention && event.device.is_none() {
        let mut decoded = hub_retention(event);
        rows.append(&mut decoded.rows);
        return decoded;
    }
    if event.message_source.is_some_and(|source| source != "Telemetry") {
        return Decoded::default();
    }
    let read = match event.replay {
        Some(Replay { repaired: true, .. }) => repaired(event),
        Some(_) => sent(event).and_then(|(body, device)| carefully(event, body, device, rules)),
        None => sent(event).and_then(|(body, device)| match plain::rows(body, device, rows) {
            Some(high) => Ok(Decoded { high: Some(high), ..Decoded::default() }),
            None => carefully(event, body, device, rules),
        }),
    };
    let mut decoded = match read {
        Ok(decoded) => decoded,
        Err(reason) => Decoded { rows: vec![Row::Refused(refused_whole(event, reason))], ..Decoded::default() },
    };
    match event.replay {
        Some(replay) => name(&mut decoded.rows, replay),
        None => rows.append(&mut decoded.rows),
    }
    decoded
}

/// Rows of a replay have the id of what was refused: the first reading as it is, all others with `.2`, `.3`, ….
fn name(rows: &mut [Row<'_>], replay: Replay<'_>) {
    rows.sort_by_key(|row| matches!(row, Row::Refused(_)));
    let mut place = 1;
    for row in rows.iter_mut().filter(|row| replay.repaired || row.numbered().is_none()) {
        // The refusal itself keeps its id.
        place = if matches!(row, Row::Refused(_)) { place.max(2) } else { place };
        row.name(if place == 1 { replay.of.to_owned() } else { format!("{}.{place}", replay.of) });
        place += 1;
    }
}

fn text<'a>(event: &Event<'a>) -> Result<&'a str, String> {
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
    std::str::from_utf8(event.body)
        .map_err(|error| format!("undecodable: payload: not UTF-8 from byte {}", error.valid_up_to()))
}

/// What a device sent, and which.
fn sent<'a>(event: &Event<'a>) -> Result<(&'a str, &'a str), String> {
    let body = text(event)?;
    Ok((body, event.device.ok_or("identity: the hub names no device")?))
}

/// Reads what may be odd.
fn carefully<'a>(event: &Event<'a>, body: &'a str, device: &'a str, rules: &Rules) -> Result<Decoded<'a>, String> {
    match wire::parts(body) {
        Some(parts) => wire::rows(event, body, parts, Word::Gateway(device)),
        None => Ok(Decoded { rows: direct::rows(event, device, body, rules)?, ..Decoded::default() }),
    }
}

fn repaired<'a>(event: &Event<'a>) -> Result<Decoded<'a>, String> {
    let body = text(event)?;
    let parts = wire::parts(body).ok_or("undecodable: a repaired reading is an Envelope")?;
    wire::rows(event, body, parts, Word::Own)
}

fn refused_whole(event: &Event<'_>, reason: String) -> RefusedRow {
    RefusedRow {
        numbered: None,
        named: None,
        gateway: event.device.map(str::to_owned),
        device: event.device.map(str::to_owned),
        metric: None,
        by: RefusedBy::Silver,
        reasons: vec![reason],
        raw: event.body.to_vec(),
        raw_len: length(event.body),
        topic: None,
        rules: None,
        rescued: None,
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
                rescued: None,
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

/// How many bytes, as a table holds it.
pub(super) fn length(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).unwrap_or(i64::MAX)
}

#[cfg(test)]
pub(super) mod tests;
