//! One commit: what it carries, whether it still fits, and one try at making it.
//!
//! - The guard reads `txn` from the very snapshot the commit is built on. Delta itself accepts the same version twice
//!   and even a lower one; what it refuses is a commit whose app id somebody else used since the snapshot.
//! - A hop's commit is made on the version it was built on or not at all: Delta never moves it onto another one, since
//!   only we check the lease again before the next try.
//! - Files of a failed commit are never deleted: it may have landed. That is vacuum's job.
//! - Checkpoints and log cleanup never run inside a commit: a hook that fails would make it look failed.

use std::collections::HashSet;

use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::kernel::{Action, Add, Transaction};
use deltalake::parquet::basic::{Compression, ZstdLevel};
use deltalake::parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use deltalake::parquet::schema::types::ColumnPath;
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::table::state::DeltaTableState;
use deltalake::writer::{DeltaWriter as _, RecordBatchWriter};
use deltalake::{DeltaTable, DeltaTableError};
use serde_json::Value;

use super::attempt::{Fit, fit};
use super::error::LakeError;
use super::evolve::{columns, conform};
use super::tables::Table;

/// Parquet files are rolled at about this size.
pub(super) const FILE_BYTES: u64 = 128 << 20;

/// Progress carried by a commit: `app` moves from `expected` to `version`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Txn {
    /// The app id.
    pub app: String,
    /// What the caller saw when it cut the rows; `None` when there was nothing.
    pub expected: Option<i64>,
    /// What the app id says after the commit; above `expected`. Equal to it in a refresh at the same source version,
    /// which carries a second txn that moves.
    pub version: i64,
}

/// How a commit changes its table.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Rows are added. Without rows the commit holds only its progress.
    Append,
    /// Files that [`Lake::writer`] wrote are added, others removed; `batches` is empty.
    Files {
        /// What to add.
        adds: Vec<Add>,
        /// What to remove.
        removes: Removes,
    },
    /// Files are replaced by others that hold the same rows. Whoever follows the table's changes sees none.
    SameRows {
        /// What to add.
        adds: Vec<Add>,
        /// The files at these paths are removed; all must be part of the table.
        removes: HashSet<String>,
    },
    /// The table gets these properties; its rows stay as they are.
    Properties(Vec<(String, String)>),
}

/// Which files of the table a commit removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removes {
    /// None.
    Nothing,
    /// All there are.
    All,
    /// The files at these paths. All must be part of the table: rows that went on into new files would stand twice.
    These(HashSet<String>),
}

/// One commit to come.
#[derive(Clone, Debug)]
pub struct TableCommit {
    /// Where to.
    pub table: Table,
    /// How.
    pub kind: Kind,
    /// The rows; columns as [`Table::schema`] says, matched by name.
    pub batches: Vec<RecordBatch>,
    /// The progress; at least one, or an ambiguous answer could not be resolved.
    pub txns: Vec<Txn>,
    /// Kept in the commit's `commitInfo`.
    pub metadata: Vec<(String, Value)>,
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landed {
    /// It is this version of the table.
    Now(i64),
    /// Its progress was there already: by an earlier try whose answer was lost, or by a repeat. The table's version.
    Before(i64),
}

impl Landed {
    /// The version of the table in which the rows are.
    #[must_use]
    pub const fn version(self) -> i64 {
        match self {
            Self::Now(version) | Self::Before(version) => version,
        }
    }
}

/// How the progress in `table` fits the commit; where it does not, what was found.
pub(super) async fn look(table: &DeltaTable, commit: &TableCommit) -> Result<(Fit, Vec<Option<i64>>), LakeError> {
    let mut found = vec![];
    for txn in &commit.txns {
        found.push(txn_of(table, commit.table, &txn.app).await?);
    }
    Ok((fit(&commit.txns, &found), found))
}

pub(super) async fn txn_of(delta_table: &DeltaTable, table: Table, app: &str) -> Result<Option<i64>, LakeError> {
    let failed = delta("read the progress of", table);
    let snapshot = match delta_table.snapshot() {
        Ok(snapshot) => snapshot,
        Err(error) => return Err(failed(error)),
    };
    let log_store = delta_table.log_store();
    let found = snapshot.transaction_version(log_store.as_ref(), app).await;
    found.map_err(failed)
}

pub(super) fn version(table: &DeltaTable) -> i64 {
    table.version().map_or(-1, |version| i64::try_from(version).unwrap_or(i64::MAX))
}

/// Wraps what Delta says with the act that failed.
pub(super) fn delta(act: &'static str, table: Table) -> impl Fn(DeltaTableError) -> LakeError {
    move |source| LakeError::Delta { act, table: table.full_name(), source: Box::new(source) }
}

/// Columns of which hardly a value comes twice, or one as often as it likes in a row: a dictionary is filled in vain and
/// given up when it is full, or does no better than compression.
const WITHOUT_DICTIONARY: [&str; 10] = [
    "reading_id",
    "id",
    "raw",
    "seq",
    "high",
    "source_seq",
    "sequence_number",
    "event_time",
    "received_time",
    "enqueued_time",
];

/// How a table's files are written.
pub(super) fn writer_properties(table: Table) -> WriterProperties {
    let level = ZstdLevel::try_new(1).unwrap_or_default();
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level));
    let without = |properties: WriterPropertiesBuilder, name: &str| {
        properties.set_column_dictionary_enabled(ColumnPath::from(name), false)
    };
    let properties = WITHOUT_DICTIONARY.into_iter().fold(properties, without);
    // Texts that the log keeps no statistics of are not searched by: their ends would be found in vain.
    let schema = table.schema();
    let known: Vec<&str> = table.stats_columns().split(',').collect();
    let texts = schema.fields().iter().filter(|field| *field.data_type() == DataType::Utf8);
    texts
        .filter(|field| !known.contains(&field.name().as_str()))
        .fold(properties, |properties, field| {
            properties.set_column_statistics_enabled(ColumnPath::from(field.name().as_str()), EnabledStatistics::None)
        })
        .build()
}

pub(super) async fn write_files(table: &DeltaTable, commit: &TableCommit) -> Result<Vec<Action>, LakeError> {
    if commit.batches.iter().all(|batch| batch.num_rows() == 0) {
        return Ok(vec![]);
    }
    let failed = delta("write rows of", commit.table);
    let mut writer = RecordBatchWriter::for_table(table)
        .map_err(&failed)?
        .with_writer_properties(writer_properties(commit.table))
        .with_target_file_size(FILE_BYTES);
    let columns = columns(commit.table, table)?;
    for batch in commit.batches.iter().filter(|batch| batch.num_rows() > 0) {
        let batch = conform(batch.clone(), &columns).map_err(|error| failed(error.into()))?;
        writer.write(batch).await.map_err(&failed)?;
    }
    let adds = writer.flush().await.map_err(&failed)?;
    Ok(adds.into_iter().map(Action::Add).collect())
}

/// Whether every file that is to be removed is part of the table: rows that went on into new files would stand twice.
pub(super) fn still_there(table: &DeltaTable, commit: &TableCommit) -> Result<(), LakeError> {
    let (Kind::Files { removes: Removes::These(paths), .. } | Kind::SameRows { removes: paths, .. }) = &commit.kind
    else {
        return Ok(());
    };
    let snapshot = table.snapshot().map_err(delta("load", commit.table))?;
    let there = snapshot.log_data().iter().filter(|file| paths.contains(&*file.path())).count();
    if there == paths.len() {
        return Ok(());
    }
    Err(LakeError::Overtaken { table: commit.table.full_name() })
}

/// What becomes of a commit when somebody else committed since its snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overtaken {
    /// It fails. For those who hold the lease: nobody else should have committed, so the lease is checked again first.
    Fails,
    /// Delta moves it onto the newer version, unless that one used an app id of ours. For appends of several writers.
    MovesOn,
}

/// One try; the new state of the handle.
pub(super) async fn build(
    table: &DeltaTable,
    commit: &TableCommit,
    files: &[Action],
    overtaken: Overtaken,
) -> Result<DeltaTableState, DeltaTableError> {
    let txns = commit.txns.iter().map(|txn| Transaction::new(&txn.app, txn.version));
    let properties = CommitProperties::default()
        .with_application_transactions(txns.collect())
        .with_metadata(commit.metadata.clone())
        .with_max_retries(match overtaken {
            Overtaken::Fails => 0,
            Overtaken::MovesOn => 3,
        })
        .with_create_checkpoint(false)
        .with_cleanup_expired_logs(Some(false));
    let snapshot = table.snapshot()?;
    let removed = |gone: &dyn Fn(&str) -> bool, data_change: bool| -> Vec<Action> {
        let files = snapshot.log_data();
        let gone = files.iter().filter(|file| gone(&file.path()));
        gone.map(|file| Action::Remove(file.remove_action(data_change))).collect()
    };
    let partition_by = commit.table.partition_columns();
    let write = |mode: SaveMode| DeltaOperation::Write {
        mode,
        partition_by: (!partition_by.is_empty())
            .then(|| partition_by.iter().map(|&column| column.to_owned()).collect()),
        predicate: None,
    };
    let (operation, actions) = match &commit.kind {
        Kind::Properties(properties) => super::retention::actions(snapshot, properties)?,
        Kind::Append => (write(SaveMode::Append), files.to_vec()),
        Kind::Files { adds, removes } => {
            let gone = |path: &str| match removes {
                Removes::Nothing => false,
                Removes::All => true,
                Removes::These(paths) => paths.contains(path),
            };
            let removed = removed(&gone, true);
            let mode = if removed.is_empty() { SaveMode::Append } else { SaveMode::Overwrite };
            (write(mode), removed.into_iter().chain(adds.iter().cloned().map(Action::Add)).collect())
        }
        Kind::SameRows { adds, removes } => {
            let added = adds.iter().cloned().map(|add| Action::Add(Add { data_change: false, ..add }));
            let operation = DeltaOperation::Optimize {
                predicate: None,
                target_size: i64::try_from(FILE_BYTES).unwrap_or(i64::MAX),
            };
            (operation, removed(&|path| removes.contains(path), false).into_iter().chain(added).collect())
        }
    };
    let landed = CommitBuilder::from(properties)
        .with_actions(actions)
        .build(Some(snapshot.snapshot()), table.log_store(), operation)
        .await?;
    Ok(landed.snapshot())
}
