//! Rows of this hop -> Arrow.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, Date32Builder, Float64Builder, Int32Builder, Int64Builder, ListBuilder, MapBuilder,
    MapFieldNames, RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field};
use shared::reading::Value;
use shared::time::Timestamp;

use super::decode::DIRECT;
use super::rows::{GapRow, Origin, ReadingRow, RefusedRow};
use crate::lake::Table;

fn times() -> TimestampMicrosecondBuilder {
    TimestampMicrosecondBuilder::new().with_timezone("UTC")
}

fn days(time: Timestamp) -> i32 {
    i32::try_from(time.days()).expect("every instant of an i64 lies within 107 million days of 1970")
}

/// What several tables say of the Event a row is from.
struct OriginColumns {
    hub: StringBuilder,
    incarnation: Int64Builder,
    partition_id: Int32Builder,
    sequence_number: Int64Builder,
}

impl OriginColumns {
    fn new() -> Self {
        Self {
            hub: StringBuilder::new(),
            incarnation: Int64Builder::new(),
            partition_id: Int32Builder::new(),
            sequence_number: Int64Builder::new(),
        }
    }

    fn push(&mut self, origin: &Origin) {
        self.hub.append_value(&origin.hub);
        self.incarnation.append_value(origin.incarnation);
        self.partition_id.append_value(origin.partition_id);
        self.sequence_number.append_value(origin.sequence_number);
    }

    fn finish(&mut self) -> [ArrayRef; 4] {
        [
            Arc::new(self.hub.finish()),
            Arc::new(self.incarnation.finish()),
            Arc::new(self.partition_id.finish()),
            Arc::new(self.sequence_number.finish()),
        ]
    }
}

/// Rows of silver.readings, column by column.
pub struct Readings {
    rows: usize,
    reading_id: StringBuilder,
    gateway_id: StringBuilder,
    epoch: StringBuilder,
    seq: Int64Builder,
    high: Int64Builder,
    source_seq: Int64Builder,
    device_id: StringBuilder,
    metric: StringBuilder,
    value: Float64Builder,
    value_text: StringBuilder,
    value_kind: StringBuilder,
    unit: StringBuilder,
    event_time: TimestampMicrosecondBuilder,
    received_time: TimestampMicrosecondBuilder,
    time_quality: StringBuilder,
    enqueued_time: TimestampMicrosecondBuilder,
    ingest_time: TimestampMicrosecondBuilder,
    origin: OriginColumns,
    message_index: Int32Builder,
    rules: StringBuilder,
    rescued: StringBuilder,
    event_date: Date32Builder,
}

impl Default for Readings {
    fn default() -> Self {
        Self {
            rows: 0,
            reading_id: StringBuilder::new(),
            gateway_id: StringBuilder::new(),
            epoch: StringBuilder::new(),
            seq: Int64Builder::new(),
            high: Int64Builder::new(),
            source_seq: Int64Builder::new(),
            device_id: StringBuilder::new(),
            metric: StringBuilder::new(),
            value: Float64Builder::new(),
            value_text: StringBuilder::new(),
            value_kind: StringBuilder::new(),
            unit: StringBuilder::new(),
            event_time: times(),
            received_time: times(),
            time_quality: StringBuilder::new(),
            enqueued_time: times(),
            ingest_time: times(),
            origin: OriginColumns::new(),
            message_index: Int32Builder::new(),
            rules: StringBuilder::new(),
            rescued: StringBuilder::new(),
            event_date: Date32Builder::new(),
        }
    }
}

impl Readings {
    /// Adds a row.
    pub fn push(&mut self, row: &ReadingRow<'_>, origin: &Origin) {
        self.rows += 1;
        row.write_id(origin, &mut self.reading_id).expect("a builder of texts takes any");
        self.reading_id.append_value("");
        match &row.numbered {
            Some(numbered) => {
                self.gateway_id.append_value(&numbered.gateway);
                self.epoch.append_value(&numbered.epoch);
                self.seq.append_value(numbered.seq);
                self.high.append_value(numbered.high);
            }
            None => {
                self.gateway_id.append_value(DIRECT);
                self.epoch.append_null();
                self.seq.append_null();
                self.high.append_null();
            }
        }
        self.source_seq.append_option(row.source_seq);
        self.device_id.append_value(&row.device);
        self.metric.append_value(&row.metric);
        let (value, text) = match &row.value {
            Value::Number(number) => (Some(*number), None),
            Value::Bool(on) => (Some(f64::from(u8::from(*on))), None),
            Value::Text(text) => (None, Some(text)),
        };
        self.value.append_option(value);
        self.value_text.append_option(text);
        self.value_kind.append_value(row.value.kind());
        self.unit.append_option(row.unit.as_ref());
        self.event_time.append_value(row.event_time.micros());
        self.received_time.append_option(row.received_time.map(Timestamp::micros));
        self.time_quality.append_option(row.time_quality.as_ref());
        self.enqueued_time.append_option(origin.enqueued.map(Timestamp::micros));
        self.ingest_time.append_value(origin.ingested.micros());
        self.origin.push(origin);
        self.message_index.append_value(row.index);
        self.rules.append_option(row.rules.as_ref());
        self.rescued.append_option(row.rescued.as_ref());
        self.event_date.append_value(days(row.event_time));
    }

    /// Rows so far.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// The rows; begins anew.
    pub fn take(&mut self) -> RecordBatch {
        self.rows = 0;
        let [hub, incarnation, partition_id, sequence_number] = self.origin.finish();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.reading_id.finish()),
            Arc::new(self.gateway_id.finish()),
            Arc::new(self.epoch.finish()),
            Arc::new(self.seq.finish()),
            Arc::new(self.high.finish()),
            Arc::new(self.source_seq.finish()),
            Arc::new(self.device_id.finish()),
            Arc::new(self.metric.finish()),
            Arc::new(self.value.finish()),
            Arc::new(self.value_text.finish()),
            Arc::new(self.value_kind.finish()),
            Arc::new(self.unit.finish()),
            Arc::new(self.event_time.finish()),
            Arc::new(self.received_time.finish()),
            Arc::new(self.time_quality.finish()),
            Arc::new(self.enqueued_time.finish()),
            Arc::new(self.ingest_time.finish()),
            hub,
            incarnation,
            partition_id,
            sequence_number,
            Arc::new(self.message_index.finish()),
            Arc::new(self.rules.finish()),
            Arc::new(self.rescued.finish()),
            Arc::new(self.event_date.finish()),
        ];
        RecordBatch::try_new(Table::SilverReadings.schema(), columns).expect("one builder per column, in order")
    }
}

/// Rows of silver.quarantine, column by column.
pub struct Quarantine {
    rows: usize,
    id: StringBuilder,
    gateway_id: StringBuilder,
    epoch: StringBuilder,
    seq: Int64Builder,
    high: Int64Builder,
    device_id: StringBuilder,
    metric: StringBuilder,
    layer: StringBuilder,
    reasons: ListBuilder<StringBuilder>,
    raw: BinaryBuilder,
    raw_len: Int64Builder,
    topic: StringBuilder,
    rules: StringBuilder,
    enqueued_time: TimestampMicrosecondBuilder,
    ingest_time: TimestampMicrosecondBuilder,
    origin: OriginColumns,
    message_index: Int32Builder,
    replayed_at: TimestampMicrosecondBuilder,
    rescued: StringBuilder,
    ingest_date: Date32Builder,
}

impl Default for Quarantine {
    fn default() -> Self {
        Self {
            rows: 0,
            id: StringBuilder::new(),
            gateway_id: StringBuilder::new(),
            epoch: StringBuilder::new(),
            seq: Int64Builder::new(),
            high: Int64Builder::new(),
            device_id: StringBuilder::new(),
            metric: StringBuilder::new(),
            layer: StringBuilder::new(),
            reasons: ListBuilder::new(StringBuilder::new()).with_field(Field::new("element", DataType::Utf8, true)),
            raw: BinaryBuilder::new(),
            raw_len: Int64Builder::new(),
            topic: StringBuilder::new(),
            rules: StringBuilder::new(),
            enqueued_time: times(),
            ingest_time: times(),
            origin: OriginColumns::new(),
            message_index: Int32Builder::new(),
            replayed_at: times(),
            rescued: StringBuilder::new(),
            ingest_date: Date32Builder::new(),
        }
    }
}

impl Quarantine {
    /// Adds a row; `replayed`: when what it refuses was taken up again.
    pub fn push(&mut self, row: &RefusedRow, origin: &Origin, replayed: Option<Timestamp>) {
        self.rows += 1;
        self.id.append_value(row.id(origin));
        match &row.numbered {
            Some(numbered) => {
                self.gateway_id.append_value(&numbered.gateway);
                self.epoch.append_value(&numbered.epoch);
                self.seq.append_value(numbered.seq);
                self.high.append_value(numbered.high);
            }
            None => {
                self.gateway_id.append_option(row.gateway.as_ref());
                self.epoch.append_null();
                self.seq.append_null();
                self.high.append_null();
            }
        }
        self.device_id.append_option(row.device.as_ref());
        self.metric.append_option(row.metric.as_ref());
        self.layer.append_value(row.by.as_str());
        for reason in &row.reasons {
            self.reasons.values().append_value(reason);
        }
        self.reasons.append(true);
        self.raw.append_value(&row.raw);
        self.raw_len.append_value(row.raw_len);
        self.topic.append_option(row.topic.as_ref());
        self.rules.append_option(row.rules.as_ref());
        self.enqueued_time.append_option(origin.enqueued.map(Timestamp::micros));
        self.ingest_time.append_value(origin.ingested.micros());
        self.origin.push(origin);
        self.message_index.append_value(row.index);
        self.replayed_at.append_option(replayed.map(Timestamp::micros));
        self.rescued.append_option(row.rescued.as_ref());
        self.ingest_date.append_value(days(origin.ingested));
    }

    /// Rows so far.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// The rows; begins anew.
    pub fn take(&mut self) -> RecordBatch {
        self.rows = 0;
        let [hub, incarnation, partition_id, sequence_number] = self.origin.finish();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.id.finish()),
            Arc::new(self.gateway_id.finish()),
            Arc::new(self.epoch.finish()),
            Arc::new(self.seq.finish()),
            Arc::new(self.high.finish()),
            Arc::new(self.device_id.finish()),
            Arc::new(self.metric.finish()),
            Arc::new(self.layer.finish()),
            Arc::new(self.reasons.finish()),
            Arc::new(self.raw.finish()),
            Arc::new(self.raw_len.finish()),
            Arc::new(self.topic.finish()),
            Arc::new(self.rules.finish()),
            Arc::new(self.enqueued_time.finish()),
            Arc::new(self.ingest_time.finish()),
            hub,
            incarnation,
            partition_id,
            sequence_number,
            Arc::new(self.message_index.finish()),
            Arc::new(self.replayed_at.finish()),
            Arc::new(self.rescued.finish()),
            Arc::new(self.ingest_date.finish()),
        ];
        RecordBatch::try_new(Table::SilverQuarantine.schema(), columns).expect("one builder per column, in order")
    }
}

/// Rows of silver.gaps as a batch.
#[must_use]
pub fn gaps(rows: &[GapRow]) -> RecordBatch {
    let (mut gateway_id, mut epoch) = (StringBuilder::new(), StringBuilder::new());
    let (mut from, mut to) = (Int64Builder::new(), Int64Builder::new());
    let (mut kind, mut reason) = (StringBuilder::new(), StringBuilder::new());
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut readings = MapBuilder::new(Some(names), StringBuilder::new(), Int64Builder::new());
    let mut origin = OriginColumns::new();
    let (mut rescued, mut ingest_date) = (StringBuilder::new(), Date32Builder::new());
    for row in rows {
        gateway_id.append_option(row.gateway_id.as_ref());
        epoch.append_option(row.epoch.as_ref());
        from.append_value(row.from);
        to.append_value(row.to);
        kind.append_value(row.kind.as_str());
        reason.append_option(row.reason.as_ref());
        for (device, count) in &row.readings {
            readings.keys().append_value(device);
            readings.values().append_value(*count);
        }
        readings.append(true).expect("as many keys as values");
        origin.push(&row.origin);
        rescued.append_option(row.rescued.as_ref());
        ingest_date.append_value(days(row.origin.ingested));
    }
    let [hub, incarnation, partition_id, sequence_number] = origin.finish();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(gateway_id.finish()),
        Arc::new(epoch.finish()),
        Arc::new(from.finish()),
        Arc::new(to.finish()),
        Arc::new(kind.finish()),
        Arc::new(reason.finish()),
        Arc::new(readings.finish()),
        hub,
        incarnation,
        partition_id,
        sequence_number,
        Arc::new(rescued.finish()),
        Arc::new(ingest_date.finish()),
    ];
    RecordBatch::try_new(Table::SilverGaps.schema(), columns).expect("one builder per column, in order")
}
