//! What came before, out of the tables. Only key columns are read.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use futures::TryStreamExt as _;
use shared::time::Timestamp;

use super::events::{BRONZE_COLUMNS, events};
use super::judge::Rules;
use super::rows::{GapKind, GapRow, Origin};
use super::seen::{Seen, Where};
use crate::lake::{Add, LakeError, Table, View};

/// Rebuilds what was seen from the three tables, each as it was before whatever is to be done again.
///
/// # Errors
/// When a file can't be read.
pub async fn rebuild(readings: &View, quarantine: &View, gaps: &View) -> Result<Seen, LakeError> {
    let mut seen = Seen::default();
    for view in [readings, quarantine, gaps] {
        learn(&mut seen, view, &view.all_files()).await?;
    }
    Ok(seen)
}

/// Learns what was seen from some files of one of the three tables.
///
/// # Errors
/// When a file can't be read.
pub async fn learn(seen: &mut Seen, view: &View, adds: &[Add]) -> Result<(), LakeError> {
    let (columns, place): (&[&str], _) = match view.table() {
        Table::SilverGaps => (&GAPS, None),
        Table::SilverQuarantine => (&QUARANTINE, Some(Where::Quarantine)),
        _ => (&QUARANTINE[..QUARANTINE.len() - 1], Some(Where::Readings)),
    };
    for add in adds {
        let mut rows = view.stream(add, columns).await?;
        while let Some(batch) = rows.try_next().await? {
            match place {
                Some(place) => admit(seen, place, &batch),
                None => admit_gaps(seen, &batch),
            }
        }
    }
    Ok(())
}

/// Readings have all of them but the last.
const QUARANTINE: [&str; 6] = ["gateway_id", "epoch", "seq", "high", "enqueued_time", "replayed_at"];
const GAPS: [&str; 8] = ["gateway_id", "epoch", "from_seq", "to_seq", "kind", "hub", "incarnation", "partition_id"];

/// The longest that a hub keeps an Event for its reader (IoT Hub's own limit): so much later than another of the same
/// time may one come.
const LATE_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Learns from bronze, as it was when silver had read it, which messages were seen of devices that number them.
///
/// # Errors
/// When a file can't be read.
pub async fn rebuild_messages(bronze: &View, rules: &Rules, seen: &mut Seen) -> Result<(), LakeError> {
    let own = bronze.created_ms().unwrap_or_default();
    let day = |text: &str| Timestamp::parse_rfc3339(&format!("{text}T00:00:00Z"));
    let mut newest = None;
    let _none = bronze.files_in("ingest_date", |date| {
        newest = newest.max(day(date));
        false
    });
    let Some(newest) = newest else { return Ok(()) };
    let oldest = newest.minus(rules.unique.horizon).minus(LATE_MAX);
    for add in bronze.files_in("ingest_date", |date| day(date).is_none_or(|day| oldest <= day)) {
        let mut rows = bronze.stream(&add, &BRONZE_COLUMNS).await?;
        while let Some(batch) = rows.try_next().await? {
            for event in events(&batch, own).into_iter().filter(|event| event.replay.is_none()) {
                seen.messages.is_repeat(&event, rules);
            }
        }
    }
    Ok(())
}

fn admit(seen: &mut Seen, place: Where, batch: &RecordBatch) {
    let column = |name: &str| batch.column_by_name(name).expect("asked for");
    let (gateway, epoch) = (column("gateway_id").as_string::<i32>(), column("epoch").as_string::<i32>());
    let (seq, high) = (column("seq").as_primitive::<Int64Type>(), column("high").as_primitive::<Int64Type>());
    let enqueued = column("enqueued_time").as_primitive::<TimestampMicrosecondType>();
    let replayed = batch.column_by_name("replayed_at");
    for at in 0..batch.num_rows() {
        // Rows of direct devices and Events refused as a whole have no seq; a replayed refusal stands in readings.
        if epoch.is_null(at)
            || seq.is_null(at)
            || gateway.is_null(at)
            || replayed.is_some_and(|column| column.is_valid(at))
        {
            continue;
        }
        let high = if high.is_valid(at) { high.value(at) } else { 0 };
        let enqueued = enqueued.is_valid(at).then(|| Timestamp::from_micros(enqueued.value(at)));
        seen.admit(place, gateway.value(at), epoch.value(at), seq.value(at), high, enqueued);
    }
}

fn admit_gaps(seen: &mut Seen, batch: &RecordBatch) {
    let column = |name: &str| batch.column_by_name(name).expect("asked for");
    let text = |name: &str| column(name).as_string::<i32>();
    let long = |name: &str| column(name).as_primitive::<Int64Type>();
    let (gateway, epoch, kind, hub) = (text("gateway_id"), text("epoch"), text("kind"), text("hub"));
    let (from, to, incarnation) = (long("from_seq"), long("to_seq"), long("incarnation"));
    let partition_id = column("partition_id").as_primitive::<Int32Type>();
    for at in 0..batch.num_rows() {
        // A kind of a later version covers nothing here.
        let Some(kind) = GapKind::named(kind.value(at)) else {
            continue;
        };
        seen.admit_gap(&GapRow {
            gateway_id: gateway.is_valid(at).then(|| gateway.value(at).to_owned()),
            epoch: epoch.is_valid(at).then(|| epoch.value(at).to_owned()),
            from: from.value(at),
            to: to.value(at),
            kind,
            reason: None,
            readings: BTreeMap::new(),
            rescued: None,
            origin: Origin {
                hub: hub.value(at).into(),
                incarnation: incarnation.value(at),
                partition_id: partition_id.value(at),
                sequence_number: 0,
                enqueued: None,
                ingested: Timestamp::default(),
            },
        });
    }
}
