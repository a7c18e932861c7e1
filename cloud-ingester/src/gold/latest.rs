//! Models of mode `latest`: one row per key, the newest by event time.

use std::collections::{HashMap, HashSet};

use arrow::array::{AsArray as _, BooleanBuilder, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use datafusion::prelude::SessionContext;

use super::inputs::{File, Inputs};
use super::keys::{KeyReader, Keys};
use super::model::Model;
use super::rewrite::{Anew, Rewrite, as_table, keep_others, select};
use super::window::{DAY, date_text};
use super::windowed::Scope;
use crate::lake::{Add, Lake, LakeError, Removes, View};

/// A table of this many files is written anew as one, next time it changes.
const FILES_MAX: usize = 64;

/// The newest event time per key.
#[derive(Default)]
struct Tops {
    keys: Keys,
    times: Vec<i64>,
}

impl Tops {
    async fn of_source(inputs: &Inputs, files: &[File], keys: &[String]) -> Result<Self, LakeError> {
        let mut tops = Self::default();
        let asked = with_time(keys);
        for file in files {
            for batch in inputs.read(file.source, &file.add, &asked).await? {
                tops.learn(&batch, keys);
            }
        }
        Ok(tops)
    }

    async fn of_target(view: &View, files: &[Add], keys: &[String]) -> Result<Self, LakeError> {
        let mut tops = Self::default();
        let asked = with_time(keys);
        let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
        for add in files {
            for batch in view.read(add, &asked).await? {
                tops.learn(&batch, keys);
            }
        }
        Ok(tops)
    }

    fn learn(&mut self, batch: &RecordBatch, keys: &[String]) {
        let times = times_of(batch);
        let mut reader = KeyReader::new(batch, keys);
        for at in 0..batch.num_rows() {
            self.raise(reader.at(at), times.value(at));
        }
    }

    fn raise(&mut self, key: &[u8], time: i64) {
        let number = self.keys.number(key) as usize;
        match self.times.get_mut(number) {
            Some(top) => *top = time.max(*top),
            None => self.times.push(time),
        }
    }
}

fn with_time(keys: &[String]) -> Vec<String> {
    let mut asked = keys.to_vec();
    if !keys.iter().any(|key| key == "event_time") {
        asked.push("event_time".to_owned());
    }
    asked
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
    fn of(&self, columns: &[String], batch: &RecordBatch) -> RecordBatch {
        let times = times_of(batch);
        let mut reader = KeyReader::new(batch, columns);
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
    inputs: &Inputs,
    scope: &Scope,
) -> Result<Rewrite, LakeError> {
    let keys = &model.draft.keys;
    let target = lake.view(model.target).await?;
    let (new, old) = match scope {
        Scope::New(files) => (files.clone(), target.all_files()),
        Scope::All => (inputs.all_files(), vec![]),
    };
    let mut tops = Tops::of_source(inputs, &new, keys).await?;
    let current = Tops::of_target(&target, &old, keys).await?;

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
    for file in &new {
        read.insert(file.add.path.clone());
        for batch in inputs.read(file.source, &file.add, &model.columns).await? {
            rows.push(wanted.of(keys, &batch));
        }
    }
    if !ties.is_empty() {
        let dates: HashSet<String> = ties.iter().map(|&time| date_text(time.div_euclid(DAY))).collect();
        for file in inputs.files_on(&dates) {
            let extent = file.extent;
            let may = ties.iter().any(|&time| (extent.from.micros()..=extent.to.micros()).contains(&time));
            if may && read.insert(file.add.path.clone()) {
                for batch in inputs.read(file.source, &file.add, &model.columns).await? {
                    rows.push(wanted.of(keys, &batch));
                }
            }
        }
    }
    rows.retain(|batch| 0 < batch.num_rows());

    let mut writer = lake.writer(model.target).await?;
    let hit = |batch: &RecordBatch| {
        let mut reader = KeyReader::new(batch, keys);
        let mut mask = BooleanBuilder::with_capacity(batch.num_rows());
        for at in 0..batch.num_rows() {
            mask.append_value(wanted.keys.find(reader.at(at)).is_some_and(|key| affected.contains(&key)));
        }
        mask.finish()
    };
    let anew = if old.len() < FILES_MAX { Anew::Affected } else { Anew::All };
    let filled = async {
        let removes = match scope {
            Scope::All => Removes::All,
            Scope::New(_) => keep_others(&target, &old, anew, &mut writer, None, hit).await?,
        };
        let mut written = 0;
        for batch in select(session, &model.draft.sql, "readings", rows).await? {
            written += batch.num_rows() as u64;
            writer.write(as_table(model.target, &batch, None)?).await?;
        }
        Ok::<_, LakeError>((removes, written))
    };
    let filled = filled.await;
    let (adds, (removes, rows)) = writer.finish_if(filled).await?;
    Ok(Rewrite { adds, removes, rows })
}
