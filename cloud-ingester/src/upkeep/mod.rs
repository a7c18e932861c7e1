//! Upkeep: small files become large ones, files and log entries that nobody needs go.
//!
//! ```text
//! look at a table --policy--> merge (files written beside the hops, committed between two rounds)
//!                         --> vacuum, log cleanup (after their own proof)
//! ```
//!
//! - A merge is a commit of our own with a `txn` (app id [`APP`]) that removes and adds with `dataChange = false`: a second
//!   one planned on the same version is refused. Delta's own `optimize` would be accepted and double every row.
//! - The rows of the files removed and of those added are counted before the commit, and looked at after it.
//! - Files are removed for good once no reader can need them: neither the slowest hop, nor anybody who reads versions
//!   within the retention. A user's model that stays behind is waited for as long as its patience lasts.
//! - The log is cut at a checkpoint, after the table was opened as if the rest were gone and was the same.
//! - Compacted log entries (`x.y.compacted.json`) are not written: with a checkpoint every 20 versions they would save a
//!   reader at most 19 small reads, and not every reader knows them.

pub mod policy; // what a table needs [p]

mod readers; // who has yet to read a table

mod runner; // table after table, beside the hops

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use datafusion::error::DataFusionError;
use futures::{FutureExt as _, StreamExt as _};
use serde_json::json;
use shared::time::Timestamp;

pub use self::policy::Settings;
use self::policy::{Merge, Order, log_cut, merge, unneeded};
pub use self::readers::PutOff;
use self::readers::{Readers, readers};
pub(crate) use self::runner::Upkeep;
#[cfg(test)]
pub(crate) use self::runner::commit;
pub use self::runner::{Done, Report, is_whole, would};
use crate::lake::session::Limits;
use crate::lake::{Add, Kind, Lake, LakeError, Logged, Retention, Table, TableCommit, Txn, View, sorted};

/// The app id under which merges are counted.
pub const APP: &str = "upkeep";

/// Files of open days that are younger are left alone: hops are about to replace them.
const QUIET_MICROS: i64 = 10 * 60 * 1_000_000;

/// What a merge may use of memory; beyond it sorting spills to disk.
const SORTING: Limits = Limits { memory_bytes: 96 << 20 };

/// Entries of a log that are read at once.
const READ_AT_ONCE: usize = 8;

/// A merge whose files are written.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) commit: TableCommit,
    pub(crate) files: usize,
    pub(crate) into: usize,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

/// By which columns the rows of a closed partition are sorted: those by which people ask.
fn keys(table: Table) -> Vec<&'static str> {
    let columns = table.schema();
    let wanted = match table {
        Table::BronzeMessages => &["hub", "incarnation", "partition_id", "sequence_number"][..],
        _ => &["gateway_id", "device_id", "metric", "window_start", "event_time", "enqueued_time", "from_seq"][..],
    };
    wanted.iter().copied().filter(|name| columns.field_with_name(name).is_ok()).collect()
}

/// The column that holds time, by which the rows of an open partition are sorted.
fn time(table: Table) -> Option<&'static str> {
    let columns = table.schema();
    ["event_time", "window_start", "enqueued_time", "ingest_time"]
        .into_iter()
        .find(|name| columns.field_with_name(name).is_ok())
}

fn rows(adds: &[Add]) -> Option<u64> {
    adds.iter().map(|add| u64::try_from(add.get_stats().ok()??.num_records).ok()).sum()
}

/// The first day that is not closed.
fn open_from(settings: &Settings, now: Timestamp) -> String {
    let closed = i64::try_from(settings.closed_after.as_micros()).unwrap_or(i64::MAX);
    let day = Timestamp::from_micros(now.micros().saturating_sub(closed)).to_string();
    day.get(..10).unwrap_or_default().to_owned()
}

/// What is to be merged next in `table` but for these partitions, if anything.
///
/// # Errors
/// When the table can't be read.
pub async fn next_merge(
    lake: &Lake,
    table: Table,
    settings: &Settings,
    but: &BTreeSet<String>,
) -> Result<Option<(View, Merge)>, LakeError> {
    let column = table.partition_columns().first().copied();
    let view = lake.view(table).await?;
    let now = lake.clock().now();
    let quiet = Timestamp::from_micros(now.micros().saturating_sub(QUIET_MICROS)).micros() / 1_000;
    let mut files = view.all_files();
    files.retain(|add| !policy::partition(add, column).is_some_and(|partition| but.contains(partition)));
    Ok(merge(settings, files, column, &open_from(settings, now), quiet).map(|merge| (view, merge)))
}

/// Writes the files of a merge; nothing of the table changes yet. `None` where the log does not tell how many rows there
/// are.
///
/// # Errors
/// When files can't be read or written, or rows would be missing.
pub async fn prepare(
    lake: &Lake,
    view: &View,
    merge: Merge,
    settings: &Settings,
) -> Result<Option<Prepared>, LakeError> {
    let table = view.table();
    let failed = |source: DataFusionError| LakeError::Query { act: "sort a partition", source: Box::new(source) };
    let Some(before) = rows(&merge.files) else {
        tracing::warn!(table = table.full_name(), merge.partition, "files without statistics are left as they are");
        return Ok(None);
    };
    let by: Vec<&str> = match merge.order {
        Order::Time => time(table).into_iter().collect(),
        Order::Keys => keys(table),
    };
    let mut writer = lake.writer_of(table, settings.file_bytes).await?;
    let mut sorted = sorted(view, writer.shape(), merge.files.clone(), &by.join(", "), SORTING).await?;
    while let Some(batch) = sorted.next().await {
        // All the table's columns, also those that are not ours.
        writer.write(batch.map_err(failed)?).await?;
    }
    let adds = writer.finish().await?;
    let after = rows(&adds);
    if after != Some(before) {
        return Err(LakeError::Query {
            act: "sort a partition",
            source: Box::new(DataFusionError::Execution(format!(
                "{before} rows became {after:?}; nothing was committed"
            ))),
        });
    }
    let expected = view.txn(APP).await?;
    let metadata = vec![(
        "upkeep".to_owned(),
        json!({ "partition": merge.partition, "files": merge.files.len(), "rows": before, "by": by }),
    )];
    let prepared = Prepared {
        files: merge.files.len(),
        into: adds.len(),
        rows: before,
        bytes: merge.bytes(),
        commit: TableCommit {
            table,
            kind: Kind::SameRows { adds, removes: merge.files.into_iter().map(|add| add.path).collect() },
            batches: vec![],
            txns: vec![Txn { app: APP.to_owned(), expected, version: expected.unwrap_or(0) + 1 }],
            metadata,
        },
    };
    Ok(Some(prepared))
}

/// Gives a merge the books of the newest commit that keeps them: it will stand after it in the log.
///
/// # Errors
/// When the log can't be read.
pub(crate) async fn with_newest_books(commit: &mut TableCommit, view: &View) -> Result<(), LakeError> {
    let books = view.books().await?;
    commit.metadata.retain(|(name, _)| books.iter().all(|(book, _)| name != book));
    commit.metadata.extend(books);
    Ok(())
}

/// What can go for good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rubbish {
    /// Files with rows.
    pub files: Vec<String>,
    /// Their bytes.
    pub bytes: u64,
    /// Entries of the log.
    pub log: Vec<String>,
    /// Models for which nothing stays any more.
    pub put_off: Vec<PutOff>,
}

/// Looks what of `table` can go for good.
///
/// # Errors
/// When the table can't be read.
pub async fn rubbish(lake: &Lake, table: Table, settings: &Settings) -> Result<Rubbish, LakeError> {
    // In this order: what is committed while this looks is part of the newer view.
    let (listed, log) = lake.listing(table).await?;
    let view = lake.view(table).await?;
    let now = lake.clock().now().millis();
    let patience = i64::try_from(settings.model_patience.as_millis()).unwrap_or(i64::MAX);
    let Readers { slowest, put_off } = readers(lake, &view, &log, now.saturating_sub(patience)).await?;
    let floor = match slowest {
        None => i64::MAX,
        // Removed after the commit that the slowest hop read last: it may still read it.
        Some(read) => {
            let entry = log.iter().find(|entry| entry.version == read && !entry.checkpoint);
            entry.map_or(i64::MIN, |entry| entry.modified)
        }
    };
    let live: HashSet<String> = view.all_files().into_iter().map(|add| add.path).collect();
    let gone: HashMap<String, i64> = view.gone().await?;
    let files = unneeded(settings, listed, &live, &gone, now, floor);
    let cut = log_cut(settings, &log, now, slowest.unwrap_or(i64::MAX));
    let log = match cut {
        Some((begin, paths)) if same_without(lake, &view, &log, &paths).await? => {
            tracing::debug!(table = table.full_name(), begin, entries = paths.len(), "the log can be cut");
            paths
        }
        _ => vec![],
    };
    Ok(Rubbish {
        bytes: files.iter().map(|file| file.bytes).sum(),
        files: files.into_iter().map(|file| file.path).collect(),
        log,
        put_off,
    })
}

/// For how long what is removed from a table stays known and lies there, as these settings have it.
#[must_use]
pub const fn retention(settings: &Settings) -> Retention {
    Retention { log: settings.log_retention, files: settings.file_retention }
}

/// Whether a reader who finds only the rest of the log sees the same table: files, identity, and all progress that any
/// entry which goes ever told of.
async fn same_without(lake: &Lake, view: &View, log: &[Logged], paths: &[String]) -> Result<bool, LakeError> {
    let table = view.table();
    let rest = match lake.view_without(table, paths).await {
        Ok(rest) => rest,
        Err(error) => {
            tracing::warn!(table = table.full_name(), %error, "the log is not cut: its newest checkpoint does not open");
            return Ok(false);
        }
    };
    let rest = rest.at(view.version()).await?;
    let files = |view: &View| view.all_files().into_iter().map(|add| add.path).collect::<HashSet<_>>();
    let mut same = rest.id() == view.id() && files(&rest) == files(view);
    let goes: HashSet<&str> = paths.iter().map(String::as_str).collect();
    let entries = log.iter().filter(|entry| !entry.checkpoint && goes.contains(entry.path.as_str()));
    let versions: Vec<i64> = entries.map(|entry| entry.version).collect();
    let change = |version| {
        let view = view.clone();
        async move { view.change(version).await }.boxed()
    };
    let mut told: BTreeMap<String, i64> = BTreeMap::new();
    let mut changes = futures::stream::iter(versions.into_iter().map(change)).buffered(READ_AT_ONCE);
    while let Some(change) = changes.next().await {
        told.extend(change?.txns);
    }
    for (app, least) in told {
        let kept = rest.txn(&app).await?;
        same = same && kept == view.txn(&app).await? && kept.is_some_and(|kept| least <= kept);
    }
    if !same {
        tracing::warn!(table = table.full_name(), "the log is not cut: its newest checkpoint shows another table");
    }
    Ok(same)
}
