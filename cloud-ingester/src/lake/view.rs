//! A table at one version, and what changed between two.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use deltalake::DeltaTable;
use deltalake::delta_datafusion::DeltaScanNext;
use deltalake::kernel::engine::arrow_conversion::TryIntoArrow as _;
use deltalake::kernel::{Action, Add};
use deltalake::logstore::get_actions;
use serde_json::Value;
use shared::time::Timestamp;

use super::commit::{delta, delta as delta_of, txn_of};
use super::error::LakeError;
use super::tables::Table;

/// A table at one version. Does not move; ask [`super::Lake::view`] for the newest.
#[derive(Clone)]
pub struct View {
    table: Table,
    delta: DeltaTable,
}

/// What one commit did to a table.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// The version the commit made.
    pub version: i64,
    /// Files with new rows. Files that only hold old rows laid out anew are not here.
    pub adds: Vec<Add>,
    /// Whether rows were removed: what was built on them has to be refreshed.
    pub removes: bool,
    /// Progress carried by the commit: app id and version.
    pub txns: Vec<(String, i64)>,
    /// The commit's `commitInfo`, with what its writer kept there.
    pub info: HashMap<String, Value>,
}

impl View {
    pub(super) fn new(table: Table, delta: DeltaTable) -> Self {
        Self { table, delta }
    }

    /// Which table.
    #[must_use]
    pub fn table(&self) -> Table {
        self.table
    }

    /// The version; 0 is the empty table.
    #[must_use]
    pub fn version(&self) -> i64 {
        let version = self.delta.version().unwrap_or_default();
        i64::try_from(version).unwrap_or(i64::MAX)
    }

    /// The same table as it was at an earlier version.
    ///
    /// # Errors
    /// [`LakeError::Gone`] when the log does not reach back so far.
    pub async fn at(&self, version: i64) -> Result<Self, LakeError> {
        if version == self.version() {
            return Ok(self.clone());
        }
        let gone = || LakeError::Gone { table: self.table.full_name(), version };
        let mut delta = self.delta.clone();
        delta.load_version(u64::try_from(version).map_err(|_| gone())?).await.map_err(|_| gone())?;
        Ok(Self { table: self.table, delta })
    }

    /// The same table as it was at a moment; `None` before it was created.
    ///
    /// # Errors
    /// When the log can't be read.
    pub async fn as_of(&self, at: Timestamp) -> Result<Option<Self>, LakeError> {
        let created = self.created_ms().unwrap_or_default();
        if at.millis() < created {
            return Ok(None);
        }
        let moment = chrono::DateTime::from_timestamp_micros(at.micros()).unwrap_or_default();
        let mut delta = self.delta.clone();
        delta.load_with_datetime(moment).await.map_err(delta_of("look back at", self.table))?;
        Ok(Some(Self { table: self.table, delta }))
    }

    pub(super) fn delta(&self) -> &DeltaTable {
        &self.delta
    }

    fn state(&self) -> &deltalake::table::state::DeltaTableState {
        self.delta.snapshot().expect("a view is made of a loaded table")
    }

    /// The table's `metaData.id`: stays through refreshes, changes when the table is created anew.
    #[must_use]
    pub fn id(&self) -> String {
        self.state().metadata().id().to_owned()
    }

    /// When the table was created, in milliseconds since the epoch.
    #[must_use]
    pub fn created_ms(&self) -> Option<i64> {
        self.state().metadata().created_time()
    }

    /// The progress of `app` at this version.
    ///
    /// # Errors
    /// When the log can't be read.
    pub async fn txn(&self, app: &str) -> Result<Option<i64>, LakeError> {
        txn_of(&self.delta, self.table, app).await
    }

    /// Rows at this version, from the log's statistics.
    #[must_use]
    pub fn rows(&self) -> u64 {
        let files = self.state().log_data();
        files.iter().filter_map(|file| file.num_records()).map(|rows| rows as u64).sum()
    }

    /// Files and their bytes at this version.
    #[must_use]
    pub fn files(&self) -> (u64, u64) {
        self.state()
            .log_data()
            .iter()
            .fold((0, 0), |(files, bytes), file| (files + 1, bytes + u64::try_from(file.size()).unwrap_or(0)))
    }

    /// All rows at this version, for SQL.
    ///
    /// # Errors
    /// When the table can't be scanned.
    pub async fn provider(&self) -> Result<Arc<dyn TableProvider>, LakeError> {
        self.scan(None).await
    }

    /// The rows of some of this version's files, for SQL. Columns and partition values are the table's.
    ///
    /// # Errors
    /// When the table can't be scanned; a file that is not part of this version fails the scan.
    pub async fn provider_of(&self, adds: Vec<Add>) -> Result<Arc<dyn TableProvider>, LakeError> {
        self.scan(Some(adds)).await
    }

    async fn scan(&self, adds: Option<Vec<Add>>) -> Result<Arc<dyn TableProvider>, LakeError> {
        let builder = DeltaScanNext::builder()
            .with_log_store(self.delta.log_store())
            .with_eager_snapshot(Arc::new(self.state().snapshot().clone()));
        let builder = match adds {
            Some(adds) => builder.with_adds(adds),
            None => builder,
        };
        let built = builder.build().await;
        let scan = built.map_err(|source| LakeError::Query { act: "scan a table", source: Box::new(source) })?;
        Ok(Arc::new(scan))
    }

    /// Whether the table is the one we mean.
    ///
    /// # Errors
    /// [`LakeError::Foreign`].
    pub fn check(&self) -> Result<(), LakeError> {
        check(self.table, &self.delta)
    }

    /// What the commits `after < version <= self.version()` did, in order.
    ///
    /// # Errors
    /// [`LakeError::Gone`] when the log does not reach back to `after`.
    pub async fn changes(&self, after: i64) -> Result<Vec<Change>, LakeError> {
        let mut changes = vec![];
        for version in after + 1..=self.version() {
            changes.push(self.change(version).await?);
        }
        Ok(changes)
    }

    /// What the newest commit that keeps books says, as metadata for another one.
    ///
    /// # Errors
    /// When the log can't be read.
    pub async fn books(&self) -> Result<Vec<(String, Value)>, LakeError> {
        const BOOKS: [&str; 2] = ["totals", "highs"];
        if self.table != Table::SilverReadings {
            return Ok(vec![]);
        }
        for version in (0..=self.version()).rev() {
            match self.change(version).await {
                Ok(change) if change.info.contains_key(BOOKS[0]) => {
                    let kept = BOOKS.iter().filter_map(|name| Some((*name, change.info.get(*name)?)));
                    return Ok(kept.map(|(name, value)| (name.to_owned(), value.clone())).collect());
                }
                Ok(_) => {}
                Err(LakeError::Gone { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(vec![])
    }

    /// A property of the table.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<String> {
        self.state().metadata().configuration().get(name).cloned()
    }

    /// What the commit that made `version` did.
    ///
    /// # Errors
    /// [`LakeError::Gone`] when its log entry is not there any more.
    pub async fn change(&self, version: i64) -> Result<Change, LakeError> {
        super::steps::step();
        let failed = delta("read the log of", self.table);
        let gone = || LakeError::Gone { table: self.table.full_name(), version };
        let number = u64::try_from(version).map_err(|_| gone())?;
        let log_store = self.delta.log_store();
        let entry = log_store.read_commit_entry(number).await.map_err(&failed)?;
        let entry = entry.ok_or_else(gone)?;
        let mut change = Change { version, ..Change::default() };
        for action in get_actions(number, &entry).map_err(&failed)? {
            match action {
                Action::Add(add) if add.data_change => change.adds.push(add),
                Action::Remove(remove) => change.removes |= remove.data_change,
                Action::Txn(txn) => change.txns.push((txn.app_id, txn.version)),
                Action::CommitInfo(info) => change.info = info.info,
                _ => {}
            }
        }
        Ok(change)
    }
}

/// Whether a table that was found is the one we mean.
pub(super) fn check(table: Table, found: &DeltaTable) -> Result<(), LakeError> {
    let foreign = |detail: String| LakeError::Foreign { table: table.full_name(), detail };
    let state = found.snapshot().map_err(delta("load", table))?;
    let protocol = state.protocol();
    if protocol.min_reader_version() > 1 || protocol.min_writer_version() > 2 {
        return Err(foreign(format!(
            "its protocol is {}/{}, and many readers stop at 1/2",
            protocol.min_reader_version(),
            protocol.min_writer_version()
        )));
    }
    let schema = state.schema();
    let columns: arrow::datatypes::Schema =
        schema.as_ref().try_into_arrow().map_err(|error: arrow::error::ArrowError| foreign(error.to_string()))?;
    for wanted in table.schema().fields() {
        match columns.field_with_name(wanted.name()) {
            // Of an earlier version; who opens the lake to write adds it.
            Err(_) if wanted.is_nullable() && !matches!(table, Table::Own(_)) => {}
            Err(_) => return Err(foreign(format!("it has no column `{}`", wanted.name()))),
            Ok(column) if column.data_type() != wanted.data_type() => {
                return Err(foreign(format!(
                    "its column `{}` is {}, not {}",
                    wanted.name(),
                    column.data_type(),
                    wanted.data_type()
                )));
            }
            Ok(_) => {}
        }
    }
    let partitions = state.metadata().partition_columns();
    if partitions != table.partition_columns() {
        return Err(foreign(format!("it is partitioned by {partitions:?}")));
    }
    Ok(())
}
