//! gold.gateway_health: the proof, one row per gateway and epoch.
//!
//! Computed from what silver has seen ([`crate::silver::Seen`]); the tables only say which epochs changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, BooleanBuilder, Int64Builder, RecordBatch, StringBuilder,
    TimestampMicrosecondBuilder,
};
use shared::time::Timestamp;

use super::keys::{KeyReader, Keys};
use super::rewrite::{Anew, Rewrite, keep_others};
use super::windowed::Scope;
use crate::lake::{Add, Lake, LakeError, Removes, Table, View};
use crate::silver::{EpochKey, Seen};

const KEYS: [&str; 2] = ["gateway_id", "epoch"];

/// A table of this many files is written anew as one, next time it changes.
const FILES_MAX: usize = 64;

/// The epochs that rows in these files belong to. Direct devices have none.
///
/// # Errors
/// When a file can't be read.
pub async fn epochs_of(view: &View, adds: &[Add]) -> Result<BTreeSet<EpochKey>, LakeError> {
    let mut found = BTreeSet::new();
    for add in adds {
        for batch in view.read(add, &KEYS).await? {
            let column = |name: &str| batch.column_by_name(name).expect("asked for").as_string::<i32>();
            let (gateway, epoch) = (column("gateway_id"), column("epoch"));
            let mut last: Option<(&str, &str)> = None;
            for at in 0..batch.num_rows() {
                if gateway.is_null(at) || epoch.is_null(at) {
                    continue;
                }
                // Rows of one Event are of one epoch: no need to look each of them up.
                let this = (gateway.value(at), epoch.value(at));
                if last != Some(this) {
                    last = Some(this);
                    found.insert(EpochKey { gateway: this.0.to_owned(), epoch: this.1.to_owned() });
                }
            }
        }
    }
    Ok(found)
}

/// Writes the rows of the epochs that changed, or of all.
///
/// # Errors
/// When a file can't be read or written.
pub async fn recompute(
    lake: &Lake,
    seen: &Seen,
    changed: BTreeSet<EpochKey>,
    scope: &Scope,
) -> Result<Rewrite, LakeError> {
    let keys = match scope {
        Scope::New(_) => changed.into_iter().collect(),
        Scope::All => seen.keys(),
    };
    if keys.is_empty() && matches!(scope, Scope::New(_)) {
        return Ok(Rewrite::nothing());
    }
    let target = lake.view(Table::GoldGatewayHealth).await?;
    let mut writer = lake.writer(Table::GoldGatewayHealth).await?;
    let rows = rows(seen, &keys);
    let removes = match scope {
        Scope::All => Removes::All,
        Scope::New(_) => {
            let mut affected = Keys::default();
            let mut reader = KeyReader::new(&rows, &KEYS);
            for at in 0..rows.num_rows() {
                affected.number(reader.at(at));
            }
            let hit = |batch: &RecordBatch| {
                let mut reader = KeyReader::new(batch, &KEYS);
                let mut mask = BooleanBuilder::with_capacity(batch.num_rows());
                for at in 0..batch.num_rows() {
                    mask.append_value(affected.find(reader.at(at)).is_some());
                }
                mask.finish()
            };
            let old = target.all_files();
            let anew = if old.len() < FILES_MAX { Anew::Affected } else { Anew::All };
            keep_others(&target, &old, anew, &mut writer, None, hit).await?
        }
    };
    let count = rows.num_rows() as u64;
    writer.write(rows).await?;
    Ok(Rewrite { adds: writer.finish().await?, removes, rows: count })
}

fn rows(seen: &Seen, keys: &[EpochKey]) -> RecordBatch {
    let mut text: [StringBuilder; 3] = std::array::from_fn(|_| StringBuilder::new());
    let mut numbers: [Int64Builder; 8] = std::array::from_fn(|_| Int64Builder::new());
    let mut last_enqueued = TimestampMicrosecondBuilder::new().with_timezone("UTC");
    for key in keys {
        let Some(health) = seen.epoch(key).map(crate::silver::seen::EpochBooks::health) else {
            continue;
        };
        for (builder, value) in text.iter_mut().zip([key.gateway.as_str(), &key.epoch, health.state]) {
            builder.append_value(value);
        }
        let values = [
            health.high,
            health.last,
            health.arrived,
            health.quarantined,
            health.given_up,
            health.gap_arrived,
            health.outstanding,
            health.missing,
        ];
        for (builder, value) in numbers.iter_mut().zip(values) {
            builder.append_value(value);
        }
        last_enqueued.append_option(health.last_enqueued.map(Timestamp::micros));
    }
    let text = text.into_iter().map(|mut builder| Arc::new(builder.finish()) as ArrayRef);
    let numbers = numbers.into_iter().map(|mut builder| Arc::new(builder.finish()) as ArrayRef);
    let columns = text.chain(numbers).chain([Arc::new(last_enqueued.finish()) as ArrayRef]);
    RecordBatch::try_new(Table::GoldGatewayHealth.schema(), columns.collect())
        .expect("one builder per column, in order")
}
