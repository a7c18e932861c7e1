//! Events as rows of bronze.messages. Pure.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, Date32Array, Int32Array, Int64Array, MapBuilder, MapFieldNames, RecordBatch, StringArray,
    StringBuilder, TimestampMicrosecondArray,
};
use shared::envelope;
use shared::time::Timestamp;

use crate::lake::Table;
use crate::source::Event;

/// The name of the one transport compression there is, as property and as `body_encoding`.
pub const ZSTD: &str = "zstd";

/// Undoes the transport compression of the body. What does not unpack, or unpacks to more than
/// [`envelope::UNPACKED_BYTES_MAX`], stays as it came and says so in `body_encoding`.
#[must_use]
pub fn unpack(mut event: Event) -> Event {
    let says = |(name, value): &(String, String)| name == "enc" && value == ZSTD;
    let packed = event.properties.iter().any(says) || event.content_type.as_deref() == Some("application/zstd");
    if packed {
        match envelope::decompress(&event.body) {
            Ok(body) => event.body = body.into(),
            Err(_) => event.body_encoding = Some(ZSTD),
        }
    }
    event
}

/// The rows of `events`, ingested at `now`.
#[must_use]
pub fn batch(events: &[Event], now: Timestamp) -> RecordBatch {
    let rows = events.len();
    let mut bodies = BinaryBuilder::new();
    for event in events {
        bodies.append_value(&event.body);
    }
    let texts =
        |of: fn(&Event) -> Option<&str>| -> ArrayRef { Arc::new(events.iter().map(of).collect::<StringArray>()) };
    let numbers = |of: fn(&Event) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(events.iter().map(of))) };
    let enqueued: TimestampMicrosecondArray =
        events.iter().map(|event| event.enqueued_time.map(Timestamp::micros)).collect();
    let ingested = TimestampMicrosecondArray::from_value(now.micros(), rows);
    let today = i32::try_from(now.days()).unwrap_or(i32::MAX);
    let partitions = events.iter().map(|event| event.stream.partition);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(bodies.finish()),
        texts(|event| event.body_encoding),
        texts(|event| Some(&event.stream.hub)),
        numbers(|event| event.stream.incarnation),
        Arc::new(Int32Array::from_iter_values(partitions)),
        numbers(|event| event.sequence_number),
        texts(|event| event.offset.as_deref()),
        Arc::new(enqueued.with_timezone("UTC")),
        texts(|event| event.device_id.as_deref()),
        texts(|event| event.message_id.as_deref()),
        texts(|event| event.content_type.as_deref()),
        maps(events.iter().map(|event| &event.properties[..])),
        maps(events.iter().map(|event| &event.system_properties[..])),
        Arc::new(ingested.with_timezone("UTC")),
        Arc::new(Date32Array::from_value(today, rows)),
    ];
    RecordBatch::try_new(Table::BronzeMessages.schema(), columns)
        .expect("one column per column of the table, each of its type")
}

fn maps<'a>(of: impl Iterator<Item = &'a [(String, String)]>) -> ArrayRef {
    let names = MapFieldNames { entry: "key_value".to_owned(), key: "key".to_owned(), value: "value".to_owned() };
    let mut builder = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for pairs in of {
        // A map's keys are unique for every reader; the last of two equal ones wins, as in a property bag.
        for (at, (name, value)) in pairs.iter().enumerate() {
            if pairs[at + 1..].iter().any(|(later, _)| later == name) {
                continue;
            }
            builder.keys().append_value(name);
            builder.values().append_value(value);
        }
        builder.append(true).expect("as many keys as values");
    }
    Arc::new(builder.finish())
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray as _;

    use super::*;
    use crate::bronze::cutter::tests::event;

    fn packed(body: Vec<u8>) -> Event {
        Event {
            properties: vec![("enc".to_owned(), ZSTD.to_owned())],
            content_type: Some("application/zstd".to_owned()),
            body: body.into(),
            ..event(0, 1)
        }
    }

    #[test]
    fn compression_is_undone_up_to_the_limit_and_what_is_beyond_stays_as_it_came() {
        let plain = unpack(packed(envelope::compress(b"{\"v\":1}")));
        assert_eq!((&plain.body[..], plain.body_encoding), (&b"{\"v\":1}"[..], None));

        let largest = envelope::compress(&vec![b' '; envelope::UNPACKED_BYTES_MAX]);
        assert_eq!(unpack(packed(largest)).body_encoding, None);
        let bomb = envelope::compress(&vec![b' '; envelope::UNPACKED_BYTES_MAX + 1]);
        let kept = unpack(packed(bomb.clone()));
        assert_eq!((&kept.body[..], kept.body_encoding), (&bomb[..], Some(ZSTD)));

        let broken = unpack(packed(b"not zstd".to_vec()));
        assert_eq!((&broken.body[..], broken.body_encoding), (&b"not zstd"[..], Some(ZSTD)));

        let bytes = event(0, 1).body;
        assert_eq!(unpack(event(0, 1)).body, bytes);
    }

    #[test]
    fn a_row_holds_everything_the_event_held() {
        let mut first = event(3, 9);
        first.properties =
            vec![("a".to_owned(), "1".to_owned()), ("b".to_owned(), "x".to_owned()), ("a".to_owned(), "2".to_owned())];
        let now = Timestamp::from_millis(1_790_000_123_456);
        let batch = batch(&[first, event(0, 1)], now);
        assert_eq!(batch.num_rows(), 2);
        let text = |name: &str| batch.column_by_name(name).expect(name).as_string::<i32>().value(0).to_owned();
        assert_eq!(text("hub"), "h");
        assert_eq!(text("hub_offset"), "900");
        assert_eq!(text("device_id"), "gw-01");
        let map = batch.column_by_name("properties").expect("a column").as_map().value(0);
        let (keys, values) = (map.column(0).as_string::<i32>(), map.column(1).as_string::<i32>());
        let pairs: Vec<_> = keys.iter().flatten().zip(values.iter().flatten()).collect();
        assert_eq!(pairs, [("b", "x"), ("a", "2")]);
    }
}
