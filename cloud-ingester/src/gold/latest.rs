//! Models of mode `latest`: one row per key, the newest by event time.

use std::collections::{HashMap, HashSet};

use arrow::array::{AsArray as _, BooleanBuilder, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use datafusion::prelude::SessionContext;

use super::keys::{KeyReader, Keys};
use super::model::{KEYS, Model};
use super::rewrite::{Anew, Rewrite, as_table, keep_others, select};
use super::window::date_text;
use super::windowed::Scope;
use crate::lake::{Add, Extent, Lake, LakeError, Removes, View};

/// What `readings` holds.
const COLUMNS: [&str; 11] = [
    "gateway_id",
    "device_id",
    "metric",
    "unit",
    "value",
    "value_text",
    "value_kind",
    "event_time",
    "received_time",
    "reading_id",
    "source_seq",
];

/// A table of this many files is written anew as one, next time it changes.
const FILES_MAX: usize = 64;

/// The newest event time per key.
#[derive(Default)]
struct Tops {
    keys: Keys,
    times: Vec<i64>,
}

impl Tops {
    async fn read(view: &View, files: &[Add]) -> Result<Self, LakeError> {
        let mut tops = Self::default();
        for add in files {
            for batch in view.read(add, &["gateway_id", "device_id", "metric", "unit", "event_time"]).await? {
                let times = times_of(&batch);
                let mut reader = KeyReader::new(&batch, &KEYS);
                for at in 0..batch.num_rows() {
                    tops.raise(reader.at(at), times.value(at));
                }
            }
        }
        Ok(tops)
    }

    fn raise(&mut self, key: &[u8], time: i64) {
        let number = self.keys.number(key) as usize;
        match self.times.get_mut(number) {
            Some(top) => *top = time.max(*top),
            None => self.times.push(time),
        }
    }
}

fn times_of(batch: &RecordBatch) -> &TimestampMicrosecondArray {
    batch.column_by_name("event_time").expect("asked for").as_primitive::<TimestampMicrosecondType>()
}

/// Which readings decide what is newest, key by key.
struct Wanted {
    keys: Keys,
    /// By key number, the event time of the readings that decide.
    times: HashMap<u32, i64>,
}

impl Wanted {
    /// The rows of `batch` that decide.
    fn of(&self, batch: &RecordBatch) -> RecordBatch {
        let times = times_of(batch);
        let mut reader = KeyReader::new(batch, &KEYS);
        let mut mask = BooleanBuilder::with_capacity(batch.num_rows());
        for at in 0..batch.num_rows() {
            let time = self.keys.find(reader.at(at)).and_then(|key| self.times.get(&key));
            mask.append_value(time == Some(&times.value(at)));
        }
        filter_record_batch(batch, &mask.finish()).expect("a mask is as long as its batch")
    }
}

/// Computes the newest rows of the keys that new rows belong to, and says how the table changes.
///
/// # Errors
/// When a file can't be read or written, or the SELECT fails.
pub async fn recompute(
    lake: &Lake,
    session: &SessionContext,
    model: &Model,
    source: &View,
    scope: &Scope,
) -> Result<Rewrite, LakeError> {
    let target = lake.view(model.target).await?;
    let (new, old) = match scope {
        Scope::New(adds) => (adds.clone(), target.all_files()),
        Scope::All => (source.all_files(), vec![]),
    };
    let (mut tops, current) = (Tops::read(source, &new).await?, Tops::read(&target, &old).await?);

    // A key is written anew where a new row is as late as the row the table holds, or later. Where it is exactly as
    // late, the rows that came before decide as well.
    let mut wanted = Wanted { keys: std::mem::take(&mut tops.keys), times: HashMap::new() };
    let mut ties: HashSet<i64> = HashSet::new();
    let mut affected = HashSet::new();
    for (number, &time) in (0_u32..).zip(&tops.times) {
        wanted.times.insert(number, time);
        affected.insert(number);
    }
    for (key, number) in current.keys.iter() {
        let Some(mine) = wanted.keys.find(key) else { continue };
        let (new, held) = (tops.times[mine as usize], current.times[number as usize]);
        if new < held {
            wanted.times.remove(&mine);
            affected.remove(&mine);
        } else if new == held {
            ties.insert(held);
        }
    }
    if affected.is_empty() && matches!(scope, Scope::New(_)) {
        return Ok(Rewrite::nothing());
    }

    let mut rows: Vec<RecordBatch> = vec![];
    let mut read = HashSet::new();
    for add in &new {
        read.insert(add.path.clone());
        for batch in source.read(add, &COLUMNS).await? {
            rows.push(wanted.of(&batch));
        }
    }
    if !ties.is_empty() {
        let dates: HashSet<String> = ties.iter().map(|&time| date_text(time)).collect();
        for add in source.files_in("event_date", |date| dates.contains(date)) {
            let extent = Extent::of(&add, "event_time");
            let may = ties.iter().any(|&time| (extent.from.micros()..=extent.to.micros()).contains(&time));
            if may && read.insert(add.path.clone()) {
                for batch in source.read(&add, &COLUMNS).await? {
                    rows.push(wanted.of(&batch));
                }
            }
        }
    }
    rows.retain(|batch| 0 < batch.num_rows());

    let mut writer = lake.writer(model.target).await?;
    let hit = |batch: &RecordBatch| {
        let mut reader = KeyReader::new(batch, &KEYS);
        let mut mask = BooleanBuilder::with_capacity(batch.num_rows());
        for at in 0..batch.num_rows() {
            mask.append_value(wanted.keys.find(reader.at(at)).is_some_and(|key| affected.contains(&key)));
        }
        mask.finish()
    };
    let anew = if old.len() < FILES_MAX { Anew::Affected } else { Anew::All };
    let removes = match scope {
        Scope::All => Removes::All,
        Scope::New(_) => keep_others(&target, &old, anew, &mut writer, hit).await?,
    };
    let mut written = 0;
    for batch in select(session, &model.sql, "readings", rows).await? {
        written += batch.num_rows() as u64;
        writer.write(as_table(model.target, &batch)).await?;
    }
    Ok(Rewrite { adds: writer.finish().await?, removes, rows: written })
}
