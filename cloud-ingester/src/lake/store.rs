//! The lake: every table's handle, and how a commit gets there whatever the storage answers.
//!
//! - Any error may hide a commit that landed: the table is loaded again, and progress at or above ours means success.
//! - Every [`CHECKPOINT_EVERY`] versions a checkpoint is written after the commit and the handle is opened anew, since
//!   a handle gets slower with each commit after its checkpoint.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use deltalake::kernel::engine::arrow_conversion::TryIntoKernel as _;
use deltalake::kernel::{Action, StructType};
use deltalake::logstore::StorageConfig;
use deltalake::logstore::object_store::{Error as StoreError, ObjectStoreExt as _};
use deltalake::protocol::SaveMode;
use deltalake::{DeltaTable, DeltaTableError, ObjectStore, Path, TableProperty};
use serde_json::Value;
use tokio::sync::Mutex;

use super::commit::{Fit, Kind, Landed, Overtaken, TableCommit, Txn, build, delta, fit, txn_of, version, write_files};
use super::door::Door;
use super::error::LakeError;
use super::files::FileWriter;
use super::lease::Lease;
use super::location::Location;
use super::tables::{Layer, Table};
use super::view::View;

/// Versions between two checkpoints of a table.
pub const CHECKPOINT_EVERY: i64 = 20;

/// How often a commit is tried before its error is passed on.
const TRIES_MAX: u32 = 6;

/// The lake: all tables, one handle each.
pub struct Lake {
    location: Location,
    names: Vec<Table>,
    tables: HashMap<Table, Mutex<Handle>>,
    beside: Arc<dyn ObjectStore>,
}

struct Handle {
    delta: DeltaTable,
    #[cfg(test)]
    fault: super::door::FaultSlot,
}

impl Lake {
    /// Reaches for the storage of a lake with the tables that every lake has; creates nothing.
    ///
    /// # Errors
    /// As [`Lake::open_with`].
    pub fn open(location: Location) -> Result<Self, LakeError> {
        Self::open_with(location, &[])
    }

    /// Reaches for the storage of a lake that has `own` tables as well; creates nothing.
    ///
    /// # Errors
    /// When no storage of this build serves the location.
    pub fn open_with(location: Location, own: &[Table]) -> Result<Self, LakeError> {
        let names: Vec<Table> = Table::ALL.iter().chain(own).copied().collect();
        let refuse = |error: DeltaTableError| LakeError::Location {
            location: location.root().to_string(),
            detail: error.to_string(),
        };
        let options = || StorageConfig::parse_options(location.options()).map_err(refuse);
        let mut tables = HashMap::new();
        for &table in &names {
            let url = location.table(table)?;
            let inner = deltalake::logstore::logstore_for(&url, options()?).map_err(refuse)?;
            let door = Door::new(inner, table);
            #[cfg(test)]
            let fault = door.fault();
            tables.insert(
                table,
                Mutex::new(Handle {
                    delta: DeltaTable::new(Arc::new(door)),
                    #[cfg(test)]
                    fault,
                }),
            );
        }
        let beside = deltalake::logstore::logstore_for(location.root(), options()?).map_err(refuse)?.object_store(None);
        Ok(Self { location, names, tables, beside })
    }

    /// Every table of this lake, upstream first; those of users' models last.
    #[must_use]
    pub fn tables(&self) -> &[Table] {
        &self.names
    }

    /// The table of this lake that is called `name`, e.g. `gold.metric_1m`.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Table> {
        self.names.iter().copied().find(|table| table.full_name() == name)
    }

    /// Where the lake lies.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The storage below the lake's root, for leases.
    pub(super) fn storage(&self) -> &Arc<dyn ObjectStore> {
        &self.beside
    }

    fn handle(&self, table: Table) -> &Mutex<Handle> {
        self.tables.get(&table).expect("a lake is asked for its own tables")
    }

    /// Creates the tables that do not exist and checks those that do.
    ///
    /// # Errors
    /// When the storage refuses, or a table that is there has other columns or another protocol.
    pub async fn create_tables(&self) -> Result<(), LakeError> {
        for &table in &self.names {
            let mut handle = self.handle(table).lock().await;
            let found = handle.delta.verify_deltatable_existence().await;
            if !found.map_err(delta("look for", table))? {
                create(&handle.delta, table).await?;
                handle.delta.state = None;
            }
            handle.refresh(table).await?;
            if let Some(wider) = super::evolve::widen(table, &handle.delta).await? {
                handle.delta = wider;
            }
            super::view::check(table, &handle.delta)?;
        }
        Ok(())
    }

    /// Whether the table is there at all.
    ///
    /// # Errors
    /// When the storage can't be read.
    pub async fn exists(&self, table: Table) -> Result<bool, LakeError> {
        let handle = self.handle(table).lock().await;
        let found = handle.delta.verify_deltatable_existence().await;
        found.map_err(delta("look for", table))
    }

    /// The table as it is now: a fixed version, cheap to clone.
    ///
    /// # Errors
    /// When the log can't be read, or the table does not exist.
    pub async fn view(&self, table: Table) -> Result<View, LakeError> {
        let mut handle = self.handle(table).lock().await;
        handle.refresh(table).await?;
        Ok(View::new(table, handle.delta.clone()))
    }

    /// The progress of `app` in the newest version of `table`.
    ///
    /// # Errors
    /// As [`Lake::view`].
    pub async fn txn(&self, table: Table, app: &str) -> Result<Option<i64>, LakeError> {
        self.view(table).await?.txn(app).await
    }

    /// Writes the rows and commits them with their progress.
    ///
    /// With a lease the commit is a hop's: the snapshot is loaded, the lease is checked, then the commit is built on that
    /// snapshot; a retry does all three again.
    ///
    /// # Errors
    /// [`LakeError::Fenced`] when progress moved under the caller, [`LakeError::LeaseLost`], or what storage says after
    /// several tries.
    pub async fn commit(&self, commit: TableCommit, lease: Option<&Lease>) -> Result<Landed, LakeError> {
        debug_assert!(!commit.txns.is_empty(), "progress tells whether it landed");
        let table = commit.table;
        let overtaken = if lease.is_some() { Overtaken::Fails } else { Overtaken::MovesOn };
        let mut files: Option<Vec<Action>> = None;
        let mut tried = 0;
        loop {
            if files.is_none() {
                // Encoding takes the longest: not under the lock, or readers of the table wait for it.
                let view = self.loaded(table).await?;
                files = Some(write_files(&view, &commit).await?);
            }
            let mut handle = self.handle(table).lock().await;
            if tried > 0 || lease.is_some() {
                handle.refresh(table).await?;
            }
            match fit(&handle.delta, &commit).await? {
                Fit::Next => {}
                Fit::Before => return Ok(Landed::Before(version(&handle.delta))),
            }
            if let Some(lease) = lease {
                lease.check().await?;
            }
            match build(&handle.delta, &commit, files.as_deref().unwrap_or_default(), overtaken).await {
                Ok(state) => {
                    handle.delta.state = Some(state);
                    let version = version(&handle.delta);
                    match table.layer() {
                        Layer::Bronze => shared::crash::here("bronze-committed"),
                        Layer::Silver if table == Table::SilverReadings => {
                            shared::crash::here("silver-committed");
                        }
                        Layer::Silver => {}
                        Layer::Gold => shared::crash::here("gold-committed"),
                    }
                    handle.upkeep(table, version).await;
                    return Ok(Landed::Now(version));
                }
                Err(error) => {
                    tried += 1;
                    if tried == TRIES_MAX {
                        return Err(delta("commit to", table)(error));
                    }
                    tracing::warn!(
                        table = table.full_name(), tried, %error,
                        "a commit failed or its answer was lost; loading the table to see which"
                    );
                    drop(handle);
                    tokio::time::sleep(Duration::from_millis(50 << tried)).await;
                }
            }
        }
    }

    /// Commits the current progress of `app` again (or −1 where there is none), so that a writer which loaded the table
    /// before now is refused. Called by each new holder of the lease on every target.
    ///
    /// # Errors
    /// As [`Lake::commit`].
    pub async fn fence(&self, table: Table, app: &str, lease: &Lease) -> Result<(), LakeError> {
        let mut tried = 0;
        loop {
            let mut handle = self.handle(table).lock().await;
            handle.refresh(table).await?;
            lease.check().await?;
            let current = txn_of(&handle.delta, table, app).await?.unwrap_or(-1);
            let fence = TableCommit {
                table,
                kind: Kind::Append,
                batches: vec![],
                txns: vec![Txn { app: app.to_owned(), expected: None, version: current }],
                metadata: vec![("fence".to_owned(), Value::Bool(true))],
            };
            match build(&handle.delta, &fence, &[], Overtaken::Fails).await {
                Ok(state) => {
                    handle.delta.state = Some(state);
                    let version = version(&handle.delta);
                    handle.upkeep(table, version).await;
                    return Ok(());
                }
                // A fence that landed twice does no harm, so an ambiguous answer is simply tried again.
                Err(error) => {
                    tried += 1;
                    if tried == TRIES_MAX {
                        return Err(delta("fence", table)(error));
                    }
                    drop(handle);
                    tokio::time::sleep(Duration::from_millis(50 << tried)).await;
                }
            }
        }
    }

    /// Writes a small file beside the tables, e.g. the text of rules under its digest.
    ///
    /// # Errors
    /// When the storage refuses.
    pub async fn put_beside(&self, path: &str, bytes: Vec<u8>) -> Result<(), LakeError> {
        let put = self.beside.put(&Path::from(path), bytes.into()).await;
        put.map(|_| ()).map_err(|error| LakeError::Beside {
            act: "write",
            path: path.to_owned(),
            detail: error.to_string(),
        })
    }

    /// Reads a small file beside the tables; `None` when it is not there.
    ///
    /// # Errors
    /// When the storage refuses.
    pub async fn get_beside(&self, path: &str) -> Result<Option<Vec<u8>>, LakeError> {
        let failed =
            |error: StoreError| LakeError::Beside { act: "read", path: path.to_owned(), detail: error.to_string() };
        match self.beside.get(&Path::from(path)).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(failed)?.to_vec())),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// A writer of files for `table`, to be committed as [`Kind::Files`].
    ///
    /// # Errors
    /// As [`Lake::view`].
    pub async fn writer(&self, table: Table) -> Result<FileWriter, LakeError> {
        FileWriter::new(table, &self.loaded(table).await?)
    }

    /// The table as the handle has it, loaded if it never was.
    async fn loaded(&self, table: Table) -> Result<DeltaTable, LakeError> {
        let mut handle = self.handle(table).lock().await;
        if handle.delta.state.is_none() {
            handle.refresh(table).await?;
        }
        Ok(handle.delta.clone())
    }

    #[cfg(test)]
    pub(super) async fn break_next(&self, table: Table, fault: super::door::Fault) {
        let handle = self.handle(table).lock().await;
        *handle.fault.lock().expect("no test panics here") = Some(fault);
    }
}

impl Handle {
    async fn refresh(&mut self, table: Table) -> Result<(), LakeError> {
        let updated = self.delta.update_incremental(None).await;
        updated.map_err(delta("load", table))
    }

    /// A checkpoint now and then, off the commit's path; failing to write one costs time, not data.
    async fn upkeep(&mut self, table: Table, version: i64) {
        if (version + 1) % CHECKPOINT_EVERY != 0 {
            return;
        }
        let written = deltalake::protocol::checkpoints::create_checkpoint(&self.delta, None).await;
        if let Err(error) = written {
            tracing::warn!(table = table.full_name(), version, %error, "no checkpoint written");
            return;
        }
        // Only a handle opened anew starts from the checkpoint.
        let mut fresh = DeltaTable::new(self.delta.log_store());
        match fresh.load().await {
            Ok(()) => self.delta = fresh,
            Err(error) => tracing::warn!(table = table.full_name(), %error, "not opened anew"),
        }
    }
}

async fn create(handle: &DeltaTable, table: Table) -> Result<(), LakeError> {
    let columns: StructType = table.schema().as_ref().try_into_kernel().expect("the columns of `tables` are Delta's");
    handle
        .create()
        .with_table_name(table.full_name())
        .with_columns(columns.fields().cloned())
        .with_partition_columns(table.partition_columns().iter().copied())
        .with_configuration_property(TableProperty::DataSkippingStatsColumns, Some(table.stats_columns()))
        .with_configuration_property(TableProperty::CheckpointInterval, Some(CHECKPOINT_EVERY.to_string()))
        // Other writers must not clean up logs that a hop has yet to read.
        .with_configuration_property(TableProperty::EnableExpiredLogCleanup, Some("false"))
        .with_save_mode(SaveMode::Ignore)
        .await
        .map_err(delta("create", table))?;
    Ok(())
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
