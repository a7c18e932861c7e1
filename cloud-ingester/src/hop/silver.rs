//! The silver hop: side tables first, readings last.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use futures::StreamExt as _;
use serde_json::Value;

use super::changes::{Marks, News, news};
use super::error::HopError;
use super::piped::{Ahead, Writing, on_thread};
use super::plan::{Plan, Why};
use super::runner::{Hops, Memory};
use super::seen::At;
use crate::lake::{Change, Kind, LakeError, Removes, Table, TableCommit, Txn, View, sorted};
use crate::silver::events::{BRONZE_COLUMNS, REPLAY_HUB};
use crate::silver::{Highs, Rules, Seen, Totals, held};

/// The tables this hop writes, in the order in which they are committed.
pub(super) const TARGETS: [Table; 3] = [Table::SilverQuarantine, Table::SilverGaps, Table::SilverReadings];

/// What a silver hop did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SilverReport {
    /// Versions of bronze read.
    pub versions: u64,
    /// Rows committed to silver.readings.
    pub readings: u64,
    /// Rows committed to silver.quarantine.
    pub quarantined: u64,
    /// Rows committed to silver.gaps.
    pub gaps: u64,
    /// How the totals moved.
    pub moved: Totals,
    /// Everything was done anew.
    pub refreshed: bool,
}

/// Where a readings commit keeps the highs that stand in no row.
const HIGHS: &str = "highs";

/// The highs a commit of silver.readings keeps.
pub(super) fn highs(change: &Change) -> Highs {
    change.info.get(HIGHS).and_then(|kept| serde_json::from_value(kept.clone()).ok()).unwrap_or_default()
}

/// The app id whose version counts the refreshes of a table.
pub(super) fn refresh_app(table: Table) -> String {
    table.app_id("refresh")
}

/// Versions of bronze to be worked off.
pub(super) struct NewRange {
    /// The first.
    pub(super) from: i64,
    /// The last.
    pub(super) to: i64,
    /// What each added.
    pub(super) changes: Vec<Change>,
    /// By which it is judged.
    pub(super) rules: Arc<Rules>,
    /// silver.quarantine as it was before the range.
    pub(super) quarantine: View,
    /// Where each of [`TARGETS`] stood when the range was chosen: whoever moved one since makes its commit fail.
    pub(super) stood: [Option<i64>; 3],
    /// And at which version it was then.
    pub(super) at: [At; 3],
}

/// The progress of each of [`TARGETS`].
pub(super) async fn stands(targets: &[View; 3], app: impl Fn(Table) -> String) -> Result<[Option<i64>; 3], LakeError> {
    let mut stands = [None; 3];
    for (stand, view) in stands.iter_mut().zip(targets) {
        *stand = view.txn(&app(view.table())).await?;
    }
    Ok(stands)
}

impl Hops {
    /// Reads what is new in bronze, up to the limit of one commit.
    pub(super) async fn silver(&mut self) -> Result<Option<SilverReport>, HopError> {
        let bronze = self.lake.view(Table::BronzeMessages).await?;
        let targets = self.targets().await?;
        let stood = stands(&targets, |table| table.app_id(&bronze.id())).await?;
        let [quarantine, _, readings] = &targets;
        match news(&bronze, readings, stood[2], self.settings.chunk_bytes, Marks::Replaced).await? {
            News::Nothing => Ok(None),
            News::Refresh(why) => self.refresh_silver(why).await.map(Some),
            News::Some { from, to, changes } => {
                let rules = Arc::clone(&self.rules);
                let at = targets.each_ref().map(At::of);
                let range = NewRange { from, to, changes, rules, quarantine: quarantine.clone(), stood, at };
                match Box::pin(self.range(&bronze, range)).await {
                    Err(error) if error.is_file_gone() => self.refresh_silver(Why::FileGone).await.map(Some),
                    Err(error) if error.is_log_gone() => self.refresh_silver(Why::LogGone).await.map(Some),
                    done => done.map(Some),
                }
            }
        }
    }

    /// The three tables as they are now.
    pub(super) async fn targets(&self) -> Result<[View; 3], LakeError> {
        let [quarantine, gaps, readings] = TARGETS;
        Ok([self.lake.view(quarantine).await?, self.lake.view(gaps).await?, self.lake.view(readings).await?])
    }

    pub(super) async fn range(&mut self, bronze: &View, range: NewRange) -> Result<SilverReport, HopError> {
        let NewRange { from, to, changes, rules, quarantine, stood, at: mut upto } = range;
        // Taken, so that a hop that fails midway leaves nothing half counted: the next one asks the tables.
        let Memory { mut seen, mut totals } = match self.memory.take() {
            Some(memory) => memory,
            None => self.remember(&rules, None).await?,
        };
        let mut replays = self.replays(bronze, &changes, &quarantine).await?;
        let before = totals;
        let writing = Writing::begin(&self.lake);
        let versions = changes.len() as u64;
        let mut versions_read = Ahead::new(bronze, changes);
        while let Some(rows) = versions_read.next().await {
            (seen, totals, replays) = on_thread(rows?, Arc::clone(&rules), seen, totals, replays, &writing).await?;
        }
        let mut out = writing.end().await?;
        for batch in held(&mut replays) {
            out.write(&self.lake, 0, batch).await?;
        }
        let ahead = |at: usize| stood[at].is_some_and(|done| to <= done);
        let mut marked = Removes::Nothing;
        if !replays.marks().is_empty() && !ahead(0) {
            let (rewritten, removes) = self.mark(&quarantine, replays.marks()).await?;
            for batch in rewritten {
                out.add(&self.lake, 0, batch).await?;
            }
            marked = removes;
        }
        let plan = Plan {
            source: Table::BronzeMessages.full_name().to_owned(),
            from,
            to,
            rules: rules.digest().to_string(),
            catalogue: self.catalogue_version(),
            full: false,
        };
        let rows = out.rows;
        for (at, table) in TARGETS.into_iter().enumerate() {
            let files = out.files(at).await?;
            let app = table.app_id(&bronze.id());
            let expected = stood[at];
            let main = table == Table::SilverReadings;
            if (files.is_empty() && !main) || ahead(at) {
                continue;
            }
            let removes = if at == 0 { std::mem::replace(&mut marked, Removes::Nothing) } else { Removes::Nothing };
            #[cfg(test)]
            if self.end_before == Some(table) {
                return Err(HopError::Ended);
            }
            let commit = TableCommit {
                table,
                kind: Kind::Files { adds: files, removes },
                batches: vec![],
                txns: vec![Txn { app, expected, version: to }],
                metadata: metadata(&plan, main.then_some((&totals, &seen))),
            };
            upto[at].version = self.lake.commit(commit, Some(&self.lease)).await?.version();
            if !main {
                shared::crash::here("silver-side-committed");
            }
        }
        self.note_seen(upto, &seen).await;
        self.memory = Some(Memory { seen, totals });
        Ok(report(versions, rows, before, totals, false))
    }

    /// Does everything anew by the rules of now: readers see the old rows until each table's commit.
    pub(super) async fn refresh_silver(&mut self, why: Why) -> Result<SilverReport, HopError> {
        let bronze = self.lake.view(Table::BronzeMessages).await?;
        let targets = self.targets().await?;
        let mut upto = targets.each_ref().map(At::of);
        let stood = stands(&targets, |table| table.app_id(&bronze.id())).await?;
        let refreshes = stands(&targets, refresh_app).await?;
        tracing::info!(target = "silver", version = bronze.version(), %why, "full refresh begins");
        self.memory = None;
        self.keep_rules().await?;
        let (mut seen, mut totals) = (Seen::default(), Totals::default());
        let mut replays = self.all_replays(&bronze).await?;
        let mut rows = self.in_order(&bronze).await?;
        let writing = Writing::begin(&self.lake);
        while let Some(batch) = rows.next().await {
            let batch = vec![as_bronze(&batch.map_err(failed)?)?];
            (seen, totals, replays) =
                on_thread(batch, Arc::clone(&self.rules), seen, totals, replays, &writing).await?;
        }
        let mut out = writing.end().await?;
        for batch in held(&mut replays) {
            out.write(&self.lake, 0, batch).await?;
        }
        let plan = Plan {
            source: Table::BronzeMessages.full_name().to_owned(),
            from: 0,
            to: bronze.version(),
            rules: self.rules.digest().to_string(),
            catalogue: self.catalogue_version(),
            full: true,
        };
        // All three count the same refresh, so that a side table that is ahead is known by it.
        let count = refreshes.iter().flatten().max().map_or(1, |count| count + 1);
        let rows = out.rows;
        for (at, table) in TARGETS.into_iter().enumerate() {
            let main = table == Table::SilverReadings;
            #[cfg(test)]
            if self.end_before == Some(table) {
                return Err(HopError::Ended);
            }
            let adds = out.files(at).await?;
            let app = table.app_id(&bronze.id());
            let commit = TableCommit {
                table,
                kind: Kind::Files { adds, removes: Removes::All },
                batches: vec![],
                txns: vec![
                    Txn { app, expected: stood[at], version: plan.to },
                    Txn { app: refresh_app(table), expected: refreshes[at], version: count },
                ],
                metadata: metadata(&plan, main.then_some((&totals, &seen))),
            };
            upto[at].version = self.lake.commit(commit, Some(&self.lease)).await?.version();
            if !main {
                shared::crash::here("silver-side-committed");
            }
        }
        self.noted = None;
        self.note_seen(upto, &seen).await;
        tracing::info!(target = "silver", readings = rows[2], quarantined = rows[0], "full refresh done");
        self.memory = Some(Memory { seen, totals });
        Ok(report(0, rows, Totals::default(), totals, true))
    }

    /// Keeps the text of the rules under its digest, beside the tables.
    pub(super) async fn keep_rules(&self) -> Result<(), LakeError> {
        let path = rules_path(self.rules.digest());
        if self.lake.get_beside(&path).await?.is_none() {
            self.lake.put_beside(&path, self.rules.text().as_bytes().to_vec()).await?;
        }
        Ok(())
    }

    /// All of bronze in the hub's order; sorts on disk where memory does not suffice.
    async fn in_order(&self, bronze: &View) -> Result<datafusion::physical_plan::SendableRecordBatchStream, HopError> {
        let shape = self.lake.writer(bronze.table()).await?.shape().only(&BRONZE_COLUMNS);
        // Our own replays last: what they take up comes before.
        let own = bronze.created_ms().unwrap_or_default();
        let order =
            format!("hub = '{REPLAY_HUB}' and incarnation = {own}, incarnation, hub, partition_id, sequence_number");
        Ok(sorted(bronze, shape, bronze.all_files(), &order, self.settings.limits).await?)
    }
}

pub(super) fn rules_path(digest: &str) -> String {
    format!("silver/_rules/{digest}.json")
}

fn failed(source: datafusion::error::DataFusionError) -> LakeError {
    LakeError::Query { act: "read bronze in order", source: Box::new(source) }
}

/// DataFusion hands out views of texts; this module reads plain ones.
fn as_bronze(batch: &RecordBatch) -> Result<RecordBatch, LakeError> {
    let schema = Table::BronzeMessages.schema();
    let schema = schema.project(&BRONZE_COLUMNS.map(|name| schema.index_of(name).expect("a column of bronze")));
    let schema = Arc::new(schema.expect("indices of this schema"));
    let columns = schema.fields().iter().map(|field| {
        let column = batch.column_by_name(field.name()).expect("selected");
        cast(column, field.data_type())
    });
    let shaped =
        columns.collect::<Result<Vec<_>, _>>().and_then(|columns| RecordBatch::try_new(schema.clone(), columns));
    shaped.map_err(|error| failed(error.into()))
}

fn metadata(plan: &Plan, books: Option<(&Totals, &Seen)>) -> Vec<(String, Value)> {
    let plan = serde_json::to_value(plan).expect("a plan is plain data");
    let mut metadata = vec![("plan".to_owned(), plan)];
    if let Some((totals, seen)) = books {
        metadata.push(("totals".to_owned(), serde_json::to_value(totals).expect("totals are plain data")));
        metadata.push((HIGHS.to_owned(), serde_json::to_value(seen.highs()).expect("highs are plain data")));
    }
    metadata
}

fn report(versions: u64, rows: [u64; 3], before: Totals, after: Totals, refreshed: bool) -> SilverReport {
    SilverReport {
        versions,
        readings: rows[2],
        quarantined: rows[0],
        gaps: rows[1],
        moved: Totals {
            events: after.events - before.events,
            decoded: after.decoded - before.decoded,
            duplicates: after.duplicates - before.duplicates,
            gap_arrived: after.gap_arrived - before.gap_arrived,
        },
        refreshed,
    }
}
