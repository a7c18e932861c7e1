//! The columns of every table of the lake, and their types.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};

use super::tables::Table;

/// The one type of time in the lake: microseconds, UTC.
#[must_use]
pub fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// `map<string,V>` with the field names Delta uses, so that batches need no cast.
#[must_use]
pub fn map_of(value: DataType) -> DataType {
    let entries = Field::new(
        "key_value",
        DataType::Struct(vec![Field::new("key", DataType::Utf8, false), Field::new("value", value, true)].into()),
        false,
    );
    DataType::Map(Arc::new(entries), false)
}

/// `array<string>` with the field name Delta uses.
#[must_use]
pub fn strings() -> DataType {
    DataType::List(Arc::new(Field::new("element", DataType::Utf8, true)))
}

pub(super) fn columns(table: Table) -> Vec<Field> {
    use DataType::{Binary, Date32, Float64, Int32, Int64, Utf8};
    let key = |name: &str, data_type: DataType| Field::new(name, data_type, false);
    let maybe = |name: &str, data_type: DataType| Field::new(name, data_type, true);
    match table {
        Table::BronzeMessages => vec![
            key("body", Binary),
            maybe("body_encoding", Utf8),
            key("hub", Utf8),
            key("incarnation", Int64),
            key("partition_id", Int32),
            key("sequence_number", Int64),
            maybe("hub_offset", Utf8),
            maybe("enqueued_time", timestamp()),
            maybe("device_id", Utf8),
            maybe("message_id", Utf8),
            maybe("content_type", Utf8),
            maybe("properties", map_of(Utf8)),
            maybe("system_properties", map_of(Utf8)),
            key("ingest_time", timestamp()),
            key("ingest_date", Date32),
        ],
        Table::SilverReadings => vec![
            key("reading_id", Utf8),
            key("gateway_id", Utf8),
            maybe("epoch", Utf8),
            maybe("seq", Int64),
            maybe("high", Int64),
            maybe("source_seq", Int64),
            key("device_id", Utf8),
            key("metric", Utf8),
            maybe("value", Float64),
            maybe("value_text", Utf8),
            key("value_kind", Utf8),
            maybe("unit", Utf8),
            key("event_time", timestamp()),
            maybe("received_time", timestamp()),
            maybe("time_quality", Utf8),
            maybe("enqueued_time", timestamp()),
            key("ingest_time", timestamp()),
            key("hub", Utf8),
            key("incarnation", Int64),
            key("partition_id", Int32),
            key("sequence_number", Int64),
            key("message_index", Int32),
            maybe("rules", Utf8),
            maybe("_rescued", Utf8),
            key("event_date", Date32),
        ],
        Table::SilverQuarantine => vec![
            key("id", Utf8),
            maybe("gateway_id", Utf8),
            maybe("epoch", Utf8),
            maybe("seq", Int64),
            maybe("high", Int64),
            maybe("device_id", Utf8),
            maybe("metric", Utf8),
            key("layer", Utf8),
            maybe("reasons", strings()),
            maybe("raw", Binary),
            maybe("raw_len", Int64),
            maybe("topic", Utf8),
            maybe("rules", Utf8),
            maybe("enqueued_time", timestamp()),
            key("ingest_time", timestamp()),
            key("hub", Utf8),
            key("incarnation", Int64),
            key("partition_id", Int32),
            key("sequence_number", Int64),
            key("message_index", Int32),
            maybe("replayed_at", timestamp()),
            maybe("_rescued", Utf8),
            key("ingest_date", Date32),
        ],
        Table::SilverGaps => vec![
            maybe("gateway_id", Utf8),
            maybe("epoch", Utf8),
            key("from_seq", Int64),
            key("to_seq", Int64),
            key("kind", Utf8),
            maybe("reason", Utf8),
            maybe("readings", map_of(Int64)),
            key("hub", Utf8),
            key("incarnation", Int64),
            key("partition_id", Int32),
            key("sequence_number", Int64),
            maybe("_rescued", Utf8),
            key("ingest_date", Date32),
        ],
        Table::SilverDevices => vec![
            key("gateway_id", Utf8),
            key("device_id", Utf8),
            maybe("name", Utf8),
            maybe("site", Utf8),
            maybe("area", Utf8),
            maybe("timezone", Utf8),
            maybe("expected_interval_s", Float64),
            key("valid_from", timestamp()),
            maybe("valid_to", timestamp()),
        ],
        Table::GoldMetric1m | Table::GoldMetric1h | Table::GoldMetric1d => vec![
            maybe("gateway_id", Utf8),
            maybe("device_id", Utf8),
            maybe("metric", Utf8),
            maybe("unit", Utf8),
            maybe("window_start", timestamp()),
            maybe("window_end", timestamp()),
            maybe("readings", Int64),
            maybe("value_avg", Float64),
            maybe("value_min", Float64),
            maybe("value_max", Float64),
            maybe("value_stddev", Float64),
            maybe("value_p50", Float64),
            maybe("value_p95", Float64),
            maybe("value_first", Float64),
            maybe("value_last", Float64),
            maybe("window_date", Date32),
        ],
        Table::GoldDeviceLatest => vec![
            maybe("gateway_id", Utf8),
            maybe("device_id", Utf8),
            maybe("metric", Utf8),
            maybe("unit", Utf8),
            maybe("value", Float64),
            maybe("value_text", Utf8),
            maybe("value_kind", Utf8),
            maybe("event_time", timestamp()),
            maybe("received_time", timestamp()),
            maybe("reading_id", Utf8),
        ],
        Table::GoldDeviceHealth => vec![
            maybe("gateway_id", Utf8),
            maybe("device_id", Utf8),
            maybe("window_start", timestamp()),
            maybe("window_end", timestamp()),
            maybe("expected", Float64),
            maybe("received", Int64),
            maybe("rejected", Int64),
            maybe("availability", Float64),
            maybe("lateness_p95_s", Float64),
            maybe("window_date", Date32),
        ],
        Table::GoldWatermarks => vec![
            maybe("hub", Utf8),
            maybe("incarnation", Int64),
            maybe("partition_id", Int32),
            maybe("watermark", timestamp()),
        ],
        Table::Own(_) => table.schema().fields().iter().map(|field| field.as_ref().clone()).collect(),
        Table::GoldGatewayHealth => vec![
            maybe("gateway_id", Utf8),
            maybe("epoch", Utf8),
            maybe("state", Utf8),
            maybe("high", Int64),
            maybe("last", Int64),
            maybe("arrived", Int64),
            maybe("quarantined", Int64),
            maybe("given_up", Int64),
            maybe("gap_arrived", Int64),
            maybe("outstanding", Int64),
            maybe("missing", Int64),
            maybe("last_enqueued_time", timestamp()),
        ],
    }
}
