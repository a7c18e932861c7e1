//! Arrow -> Events: what this hop reads of bronze.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use shared::time::Timestamp;

use super::decode::{Event, Properties, Replay};
use super::rows::Origin;

/// What silver reads of bronze.
pub const BRONZE_COLUMNS: [&str; 12] = [
    "body",
    "body_encoding",
    "hub",
    "incarnation",
    "partition_id",
    "sequence_number",
    "enqueued_time",
    "device_id",
    "message_id",
    "properties",
    "system_properties",
    "ingest_time",
];

/// Property of a bronze row that tells of events which expired in the hub.
pub const HUB_RETENTION: &str = "hub-retention";
/// System property by which the hub says what an Event comes from.
pub const MESSAGE_SOURCE: &str = "iothub-message-source";

/// The hub of the ingester's own Events that take refusals up again; its incarnation is when bronze was created.
pub const REPLAY_HUB: &str = "replay";
/// Property of such an Event: the id of the refusal.
pub const REPLAY_OF: &str = "replay-of";
/// Property of such an Event: [`REPLAY_REPAIRED`], or anything else where the body is the original one.
pub const REPLAY_BODY: &str = "replay-body";
/// The body is an Envelope of repaired readings.
pub const REPLAY_REPAIRED: &str = "repaired";

/// What is read of bronze to find its replays: see [`replay_ids`].
pub const REPLAY_COLUMNS: [&str; 3] = ["hub", "incarnation", "properties"];

/// The refusals that Events of our own among these rows take up again; `own`: their incarnation.
#[must_use]
pub fn replay_ids(batch: &RecordBatch, own: i64) -> Vec<String> {
    let column = |name: &str| batch.column_by_name(name).expect("read with REPLAY_COLUMNS");
    let (hub, properties) = (column("hub").as_string::<i32>(), column("properties").as_map());
    let incarnation = column("incarnation").as_primitive::<Int64Type>();
    let ours = (0..batch.num_rows()).filter(|&at| hub.value(at) == REPLAY_HUB && incarnation.value(at) == own);
    ours.filter_map(|at| Properties::Stored(properties, at).get(REPLAY_OF).map(str::to_owned)).collect()
}

/// The Events of a batch of bronze rows; `own`: the incarnation of those that are the ingester's own replays.
#[must_use]
pub fn events(batch: &RecordBatch, own: i64) -> Vec<Event<'_>> {
    let column = |name: &str| batch.column_by_name(name).expect("read with BRONZE_COLUMNS");
    let text = |name: &str| column(name).as_string::<i32>();
    let (body, encoding, hub) = (column("body").as_binary::<i32>(), text("body_encoding"), text("hub"));
    let incarnation = column("incarnation").as_primitive::<Int64Type>();
    let partition_id = column("partition_id").as_primitive::<Int32Type>();
    let sequence_number = column("sequence_number").as_primitive::<Int64Type>();
    let enqueued = column("enqueued_time").as_primitive::<TimestampMicrosecondType>();
    let ingested = column("ingest_time").as_primitive::<TimestampMicrosecondType>();
    let (device, message_id) = (text("device_id"), text("message_id"));
    let (properties, system) = (column("properties").as_map(), column("system_properties").as_map());
    let mut hubs: HashMap<&str, Arc<str>> = HashMap::new();
    (0..batch.num_rows())
        .map(|at| {
            let name = hub.value(at);
            let given = Properties::Stored(properties, at);
            // No hub of anybody else was created in the very millisecond in which bronze was, under this name.
            let replay = (name == REPLAY_HUB && incarnation.value(at) == own).then(|| {
                let repaired = given.get(REPLAY_BODY) == Some(REPLAY_REPAIRED);
                given.get(REPLAY_OF).map(|of| Replay { of, repaired })
            });
            Event {
                origin: Origin {
                    hub: Arc::clone(hubs.entry(name).or_insert_with(|| name.into())),
                    incarnation: incarnation.value(at),
                    partition_id: partition_id.value(at),
                    sequence_number: sequence_number.value(at),
                    enqueued: time(enqueued, at),
                    ingested: time(ingested, at).unwrap_or_default(),
                },
                body: if body.is_valid(at) { body.value(at) } else { &[] },
                packed: encoding.is_valid(at) && !matches!(encoding.value(at), "" | "identity" | "utf-8"),
                device: device.is_valid(at).then(|| device.value(at)),
                message_id: message_id.is_valid(at).then(|| message_id.value(at)),
                message_source: Properties::Stored(system, at).get(MESSAGE_SOURCE),
                hub_retention: given.get(HUB_RETENTION).is_some(),
                properties: given,
                replay: replay.flatten(),
            }
        })
        .collect()
}

/// The entries of a map column of the first of some bronze rows.
#[must_use]
pub fn pairs(row: &RecordBatch, column: &str) -> Vec<(String, String)> {
    let Some(map) = row.column_by_name(column).map(|column| column.as_map()) else { return vec![] };
    if map.is_null(0) {
        return vec![];
    }
    let entries = map.value(0);
    let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_string::<i32>());
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    keys.iter().zip(values.iter()).map(|(key, value)| (text(key), text(value))).collect()
}

fn time(column: &TimestampMicrosecondArray, at: usize) -> Option<Timestamp> {
    column.is_valid(at).then(|| Timestamp::from_micros(column.value(at)))
}
