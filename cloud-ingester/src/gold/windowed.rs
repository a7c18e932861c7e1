//! Models of mode `window`: each window that a new row falls into is computed again from all its rows, whether it is
//! final or not. Late rows need nothing of their own.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::{AsArray as _, BooleanArray, BooleanBuilder, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, Schema, TimestampMicrosecondType};
use datafusion::prelude::SessionContext;

use super::keys::{KeyReader, Keys};
use super::model::{KEYS, Model};
use super::rewrite::{Anew, Rewrite, as_table, keep_others, select};
use super::window::{Tumbling, cut, date_text};
use crate::lake::tables::timestamp;
use crate::lake::{Add, Extent, FileWriter, Lake, LakeError, Removes, View};

/// What `windowed` holds beside window_start and window_end.
const COLUMNS: [&str; 8] =
    ["gateway_id", "device_id", "metric", "unit", "event_time", "source_seq", "value", "value_text"];

/// Rows whose windows are computed together, where a single window does not have more.
const ROWS_MAX: u64 = 2_000_000;

/// Which rows a hop starts from.
#[derive(Debug, Clone)]
pub enum Scope {
    /// The new rows in these files.
    New(Vec<Add>),
    /// All: a full refresh.
    All,
}

/// The windows to compute, and of which keys.
struct Affected {
    size: Tumbling,
    starts: Vec<i64>,
    keys: Keys,
    /// Key and window start; `None`: every key.
    pairs: Option<HashSet<(u32, i64)>>,
}

impl Affected {
    async fn of(size: Tumbling, source: &View, scope: &Scope) -> Result<Self, LakeError> {
        let mut starts = BTreeSet::new();
        let mut keys = Keys::default();
        let mut pairs = HashSet::new();
        let (files, columns, by_key) = match scope {
            Scope::New(adds) => (adds.clone(), &["gateway_id", "device_id", "metric", "unit", "event_time"][..], true),
            Scope::All => (source.all_files(), &["event_time"][..], false),
        };
        for add in &files {
            for batch in source.read(add, columns).await? {
                let times = column_of(&batch, "event_time");
                let mut reader = by_key.then(|| KeyReader::new(&batch, &KEYS));
                for at in 0..batch.num_rows() {
                    let start = size.start(times.value(at));
                    if let Some(reader) = &mut reader {
                        pairs.insert((keys.number(reader.at(at)), start));
                    } else {
                        starts.insert(start);
                    }
                }
            }
        }
        starts.extend(pairs.iter().map(|(_, start)| *start));
        Ok(Self { size, starts: starts.into_iter().collect(), keys, pairs: by_key.then_some(pairs) })
    }

    /// Whether the window at `start` of this key is computed again.
    fn holds(&self, reader: &mut KeyReader<'_>, at: usize, start: i64) -> bool {
        match &self.pairs {
            None => self.starts.binary_search(&start).is_ok(),
            Some(pairs) => self.keys.find(reader.at(at)).is_some_and(|key| pairs.contains(&(key, start))),
        }
    }

    /// Whether rows between these times may fall into one of the windows.
    fn touches(&self, extent: &Extent) -> bool {
        let first = self.starts.partition_point(|&start| self.size.end(start) <= extent.from.micros());
        self.starts.get(first).is_some_and(|&start| start <= extent.to.micros())
    }

    /// The partitions the windows lie in, as the log writes them.
    fn dates(&self) -> HashSet<String> {
        self.starts.iter().map(|&start| date_text(start)).collect()
    }
}

fn column_of<'a>(batch: &'a RecordBatch, name: &str) -> &'a TimestampMicrosecondArray {
    batch.column_by_name(name).expect("asked for").as_primitive::<TimestampMicrosecondType>()
}

/// Computes the affected windows of `model` and says how its table changes.
///
/// # Errors
/// When a file can't be read or written, or the SELECT fails.
pub async fn recompute(
    lake: &Lake,
    session: &SessionContext,
    model: &Model,
    size: Tumbling,
    source: &View,
    scope: &Scope,
) -> Result<Rewrite, LakeError> {
    let affected = Affected::of(size, source, scope).await?;
    if affected.starts.is_empty() && matches!(scope, Scope::New(_)) {
        return Ok(Rewrite::nothing());
    }
    let dates = affected.dates();
    let mut writer = lake.writer(model.target).await?;
    let removes = match scope {
        Scope::All => Removes::All,
        Scope::New(_) => {
            let target = lake.view(model.target).await?;
            let mut candidates = target.files_in("window_date", |date| dates.contains(date));
            candidates.retain(|add| affected.touches(&Extent::of(add, "window_start")));
            let hit = |batch: &RecordBatch| stale(&affected, batch);
            keep_others(&target, &candidates, Anew::Affected, &mut writer, hit).await?
        }
    };

    let files: Vec<(Add, Extent)> = source
        .files_in("event_date", |date| dates.contains(date))
        .into_iter()
        .map(|add| {
            let extent = Extent::of(&add, "event_time");
            (add, extent)
        })
        .filter(|(_, extent)| affected.touches(extent))
        .collect();
    let extents: Vec<Extent> = files.iter().map(|(_, extent)| *extent).collect();
    let mut rows = 0;
    for slice in cut(&affected.starts, size, &extents, ROWS_MAX) {
        let starts = &affected.starts[slice.windows.clone()];
        let (Some(&first), Some(&last)) = (starts.first(), starts.last()) else {
            continue;
        };
        let mut windowed = vec![];
        for &file in &slice.files {
            for batch in source.read(&files[file].0, &COLUMNS).await? {
                windowed.extend(within(&affected, &batch, first..=last));
            }
        }
        rows += write_selected(session, model, windowed, &mut writer).await?;
    }
    Ok(Rewrite { adds: writer.finish().await?, removes, rows })
}

async fn write_selected(
    session: &SessionContext,
    model: &Model,
    windowed: Vec<RecordBatch>,
    writer: &mut FileWriter,
) -> Result<u64, LakeError> {
    let mut rows = 0;
    for batch in select(session, &model.sql, "windowed", windowed).await? {
        rows += batch.num_rows() as u64;
        writer.write(as_table(model.target, &batch)).await?;
    }
    writer.seal().await?;
    Ok(rows)
}

/// Rows of the target whose window is computed again.
fn stale(affected: &Affected, batch: &RecordBatch) -> BooleanArray {
    let starts = column_of(batch, "window_start");
    let mut reader = KeyReader::new(batch, &KEYS);
    let mut mask = BooleanBuilder::with_capacity(batch.num_rows());
    for at in 0..batch.num_rows() {
        mask.append_value(affected.holds(&mut reader, at, starts.value(at)));
    }
    mask.finish()
}

/// The rows of a batch of readings that belong to affected windows, with the windows' ends.
fn within(affected: &Affected, batch: &RecordBatch, range: std::ops::RangeInclusive<i64>) -> Option<RecordBatch> {
    let times = column_of(batch, "event_time");
    let mut reader = KeyReader::new(batch, &KEYS);
    let mut mask = BooleanBuilder::with_capacity(batch.num_rows());
    for at in 0..batch.num_rows() {
        let start = affected.size.start(times.value(at));
        mask.append_value(range.contains(&start) && affected.holds(&mut reader, at, start));
    }
    let mask = mask.finish();
    if mask.true_count() == 0 {
        return None;
    }
    let kept = filter_record_batch(batch, &mask).expect("a mask is as long as its batch");
    let starts = column_of(&kept, "event_time").unary(|time| affected.size.start(time));
    let starts: TimestampMicrosecondArray = starts;
    let ends: TimestampMicrosecondArray = starts.unary(|start| affected.size.end(start));
    let mut fields: Vec<Field> = kept.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(Field::new("window_start", timestamp(), false));
    fields.push(Field::new("window_end", timestamp(), false));
    let mut columns = kept.columns().to_vec();
    columns.push(Arc::new(starts.with_timezone("UTC")));
    columns.push(Arc::new(ends.with_timezone("UTC")));
    Some(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("two more columns, as long as the others"))
}
