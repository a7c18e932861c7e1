//! Arrow -> Events: what this hop reads of bronze.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _, MapArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use shared::time::Timestamp;

use super::decode::Event;
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

/// The Events of a batch of bronze rows.
#[must_use]
pub fn events(batch: &RecordBatch) -> Vec<Event<'_>> {
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
                message_source: entry(system, at, MESSAGE_SOURCE),
                hub_retention: entry(properties, at, HUB_RETENTION).is_some(),
            }
        })
        .collect()
}

fn time(column: &TimestampMicrosecondArray, at: usize) -> Option<Timestamp> {
    column.is_valid(at).then(|| Timestamp::from_micros(column.value(at)))
}

fn entry<'a>(map: &'a MapArray, at: usize, wanted: &str) -> Option<&'a str> {
    if map.is_null(at) {
        return None;
    }
    let (keys, values) = (map.keys().as_string::<i32>(), map.values().as_string::<i32>());
    let offsets = map.value_offsets();
    let (from, to) = (usize::try_from(offsets[at]).ok()?, usize::try_from(offsets[at + 1]).ok()?);
    let found = (from..to).find(|&entry| keys.value(entry) == wanted)?;
    Some(if values.is_valid(found) { values.value(found) } else { "" })
}
