//! A bronze table as the ingester would have written it: Envelopes of gateways, some of them sent twice.

use std::io;
use std::path::Path;
use std::sync::Arc;

use cloud_ingester::bronze::rows;
use cloud_ingester::lake::{Kind, Lake, Location, Table, TableCommit, Txn};
use cloud_ingester::source::{Event, Stream};
use shared::envelope::{Envelope, WireReading};
use shared::reading::{Epoch, GatewayId, Seq};
use shared::time::Timestamp;

const GATEWAYS: u64 = 4;
const DEVICES: u64 = 100;
/// What is measured, with its unit.
pub(super) const METRICS: [(&str, &str); 4] =
    [("temperature", "Cel"), ("humidity", "%"), ("pressure", "hPa"), ("vibration", "mm/s")];
/// Readings of one gateway in a second of their own time.
const PER_SECOND: u64 = 500;
/// Each so many-th message comes twice, as after a lost PUBACK.
const TWICE_EVERY: u64 = 50;
/// As `bronze.rows-max` by default.
const ROWS_PER_COMMIT: usize = 10_000;
/// 1 October 2026.
const BEGIN: i64 = 1_790_812_800_000_000;

/// Writes `readings` readings, `per_message` in a message, into a lake below `lake`.
///
/// # Errors
/// The disk refuses.
pub(super) async fn make(lake: &Path, readings: u64, per_message: u64) -> io::Result<()> {
    let location = Location::parse(&lake.display().to_string(), Default::default()).map_err(io::Error::other)?;
    location.prepare().map_err(io::Error::other)?;
    let lake = Lake::open(location).map_err(io::Error::other)?;
    lake.create_tables().await.map_err(io::Error::other)?;
    let stream = Stream { hub: Arc::from("bench"), incarnation: 1_790_000_000_000, partition: 0 };
    let mut events = vec![];
    let mut number = 0_i64;
    for message in 0..readings.div_ceil(per_message) {
        let event = event(&stream, message, per_message);
        for _ in 0..=u64::from(message % TWICE_EVERY == TWICE_EVERY - 1) {
            events.push(Event { sequence_number: number, ..event.clone() });
            number += 1;
        }
        if ROWS_PER_COMMIT <= events.len() {
            commit(&lake, &stream, &mut events).await?;
        }
    }
    commit(&lake, &stream, &mut events).await
}

fn event(stream: &Stream, message: u64, per_message: u64) -> Event {
    let (gateway, own) = (message % GATEWAYS, message / GATEWAYS);
    let name = format!("gw-{gateway:02}");
    let high = Seq(signed((own + 1) * per_message));
    let mut envelope = Envelope::new(GatewayId::new(&name), epoch(gateway), high, "d2409bb8ddc4eeb9".to_owned());
    let first = own * per_message;
    envelope.readings = (first..first + per_message).map(|at| reading(gateway, at)).collect();
    let last = envelope.readings.last().map_or(BEGIN, |reading| reading.t);
    Event {
        stream: stream.clone(),
        sequence_number: 0,
        offset: Some(message.to_string()),
        enqueued_time: Some(Timestamp::from_micros(last + 500_000)),
        device_id: Some(name),
        message_id: Some(envelope.message_id()),
        content_type: Some("application/json".to_owned()),
        properties: vec![],
        system_properties: vec![("iothub-message-source".to_owned(), "Telemetry".to_owned())],
        body: envelope.to_json().into(),
        body_encoding: None,
    }
}

fn reading(gateway: u64, at: u64) -> WireReading {
    let (metric, unit) = METRICS[usize::try_from(at % 4).unwrap_or(0)];
    let device = gateway * DEVICES + at / 4 % DEVICES;
    let time = BEGIN + signed(at * (1_000_000 / PER_SECOND));
    // Spread like a sensor's last digits; the same in every run.
    let noise = (at ^ gateway << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 50;
    WireReading {
        s: Seq(signed(at + 1)),
        d: format!("device-{device:04}"),
        m: metric.to_owned(),
        v: Some(20.0 + noise as f64 / 1000.0),
        vb: None,
        vs: None,
        u: Some(unit.to_owned()),
        t: time,
        r: Some(time + 120_000),
        q: Some("device".to_owned()),
        n: Some(signed(at / 4)),
        rest: Default::default(),
    }
}

fn epoch(gateway: u64) -> Epoch {
    format!("{:016x}", 0xabcd_0000 + gateway).parse().expect("16 hex digits")
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

async fn commit(lake: &Lake, stream: &Stream, events: &mut Vec<Event>) -> io::Result<()> {
    let Some(last) = events.last().map(|event| event.sequence_number) else { return Ok(()) };
    let first = events[0].sequence_number;
    let batch = rows::batch(events, Timestamp::from_micros(BEGIN));
    let txn = Txn { app: stream.app_id(), expected: (first != 0).then_some(first - 1), version: last };
    let commit = TableCommit {
        table: Table::BronzeMessages,
        kind: Kind::Append,
        batches: vec![batch],
        txns: vec![txn],
        metadata: vec![],
    };
    lake.commit(commit, None).await.map_err(io::Error::other)?;
    events.clear();
    Ok(())
}
