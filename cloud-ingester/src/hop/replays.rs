//! Which refusals a range of bronze takes up again, how they stand, and marking them in silver.quarantine.

use std::collections::{HashMap, HashSet};

use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::TimestampMicrosecondType;
use shared::time::Timestamp;

use super::error::HopError;
use super::runner::Hops;
use crate::lake::{Add, Change, LakeError, Removes, View};
use crate::silver::events::{REPLAY_COLUMNS, REPLAY_HUB, replay_ids};
use crate::silver::replays::{Replays, Standing};

impl Hops {
    /// The replays of a range, and how what they name stands in the tables before it.
    pub(super) async fn replays(
        &self,
        bronze: &View,
        changes: &[Change],
        quarantine: &View,
    ) -> Result<Replays, HopError> {
        let own = bronze.created_ms().unwrap_or_default();
        let mut wanted = HashSet::new();
        for add in changes.iter().flat_map(|change| &change.adds).filter(|add| may_replay(add)) {
            wanted.extend(ids_in(bronze, add, own).await?);
        }
        let mut standing: HashMap<String, Standing> = HashMap::new();
        for add in quarantine.all_files().iter().filter(|_| !wanted.is_empty()) {
            for batch in quarantine.read(add, &["id", "replayed_at"]).await? {
                let (id, at) = (batch.column(0).as_string::<i32>(), batch.column(1));
                for row in (0..batch.num_rows()).filter(|&row| wanted.contains(id.value(row))) {
                    let stands = if at.is_valid(row) { Standing::Done } else { Standing::Refused };
                    standing.insert(id.value(row).to_owned(), stands);
                }
            }
        }
        let absent: HashSet<String> = wanted.into_iter().filter(|id| !standing.contains_key(id)).collect();
        if !absent.is_empty() {
            // Refreshed since the replay was asked for: what was refused then may be a reading by now.
            let readings = self.lake.view(crate::lake::Table::SilverReadings).await?;
            for add in readings.all_files() {
                for batch in readings.read(&add, &["reading_id"]).await? {
                    let ids = batch.column(0).as_string::<i32>();
                    let found = ids.iter().flatten().filter(|id| absent.contains(*id));
                    standing.extend(found.map(|id| (id.to_owned(), Standing::Done)));
                }
            }
        }
        for id in absent {
            standing.entry(id).or_insert(Standing::Absent);
        }
        Ok(Replays::new(own, standing))
    }

    /// All replays of bronze, for tables that are filled anew.
    pub(super) async fn all_replays(&self, bronze: &View) -> Result<Replays, HopError> {
        let own = bronze.created_ms().unwrap_or_default();
        let mut standing = HashMap::new();
        for add in bronze.all_files().iter().filter(|add| may_replay(add)) {
            let ids = ids_in(bronze, add, own).await?;
            standing.extend(ids.into_iter().map(|id| (id, Standing::Absent)));
        }
        Ok(Replays::new(own, standing))
    }

    /// The files of quarantine in which one of `marks` stands, with it marked: rows to be written, and what they replace.
    pub(super) async fn mark(
        &self,
        quarantine: &View,
        marks: &HashMap<String, Timestamp>,
    ) -> Result<(Vec<RecordBatch>, Removes), HopError> {
        let failed = |source| LakeError::Query { act: "read refusals to be marked", source: Box::new(source) };
        let (mut rewritten, mut paths) = (vec![], HashSet::new());
        for add in quarantine.all_files() {
            let batches = quarantine.read(&add, &["id"]).await?;
            let named = |batch: &RecordBatch| {
                batch.column(0).as_string::<i32>().iter().flatten().any(|id| marks.contains_key(id))
            };
            if !batches.iter().any(named) {
                continue;
            }
            paths.insert(add.path.clone());
            // As SQL has them: with the columns others added, and those of the partition.
            let provider = quarantine.provider_of(vec![add]).await?;
            let frame = self.session.read_table(provider).map_err(failed)?;
            for batch in frame.collect().await.map_err(failed)? {
                rewritten.push(marked(&batch, marks).map_err(|error| failed(error.into()))?);
            }
        }
        let removes = if paths.is_empty() { Removes::Nothing } else { Removes::These(paths) };
        Ok((rewritten, removes))
    }
}

async fn ids_in(bronze: &View, add: &Add, own: i64) -> Result<Vec<String>, LakeError> {
    let batches = bronze.read(add, &REPLAY_COLUMNS).await?;
    Ok(batches.iter().flat_map(|batch| replay_ids(batch, own)).collect())
}

/// Whether a file may hold replays, by the log's statistics of its hubs.
fn may_replay(add: &Add) -> bool {
    let stats = add.stats.as_deref().and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    let stats = stats.unwrap_or_default();
    let end = |side: &str| stats.get(side)?.get("hub")?.as_str();
    end("minValues").is_none_or(|min| min <= REPLAY_HUB) && end("maxValues").is_none_or(|max| REPLAY_HUB <= max)
}

fn marked(batch: &RecordBatch, marks: &HashMap<String, Timestamp>) -> Result<RecordBatch, arrow::error::ArrowError> {
    let place = batch.schema().index_of("replayed_at")?;
    let id = arrow::compute::cast(
        batch.column_by_name("id").expect("a column of quarantine"),
        &arrow::datatypes::DataType::Utf8,
    )?;
    let (id, old) = (id.as_string::<i32>(), batch.column(place).as_primitive::<TimestampMicrosecondType>());
    let times = (0..batch.num_rows()).map(|row| {
        let mark = marks.get(id.value(row)).map(|time| time.micros());
        if old.is_valid(row) { Some(old.value(row)) } else { mark }
    });
    let times: TimestampMicrosecondArray = times.collect();
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    columns[place] = std::sync::Arc::new(times.with_timezone("UTC"));
    RecordBatch::try_new(batch.schema(), columns)
}
