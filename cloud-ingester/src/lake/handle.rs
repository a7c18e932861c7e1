//! One table's handle: how it is made, opened and kept quick.
//!
//! Every [`CHECKPOINT_EVERY`] versions a checkpoint is written after the commit and the handle is opened anew, since a
//! handle gets slower with each commit after its checkpoint.

use std::sync::Arc;
use std::time::Duration;

use deltalake::kernel::StructType;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel as _;
use deltalake::logstore::{LogStoreRef, StorageConfig};
use deltalake::protocol::SaveMode;
use deltalake::{DeltaTable, DeltaTableError, ObjectStore, TableProperty};
use url::Url;

use super::commit::delta;
use super::door::Door;
use super::error::LakeError;
use super::location::Location;
use super::retention::Retention;
use super::tables::Table;

/// Versions between two checkpoints of a table.
pub const CHECKPOINT_EVERY: i64 = 20;

/// How long the storage's client tries one request again by itself, and how often.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);
const RETRIES_MAX: usize = 4;

/// One table, as it was loaded last.
pub(super) struct Handle {
    pub(super) delta: DeltaTable,
    #[cfg(test)]
    pub(super) fault: super::door::FaultSlot,
}

impl Handle {
    /// A table that is not loaded yet.
    pub(super) fn new(log_store: LogStoreRef, table: Table) -> Self {
        let door = Door::new(log_store, table);
        Self {
            #[cfg(test)]
            fault: door.fault(),
            delta: DeltaTable::new(Arc::new(door)),
        }
    }

    /// Creates the table, unless somebody else does at the same time.
    pub(super) async fn create(&mut self, table: Table) -> Result<(), LakeError> {
        let columns: StructType =
            table.schema().as_ref().try_into_kernel().expect("the columns of `tables` are Delta's");
        self.delta
            .create()
            .with_table_name(table.full_name())
            .with_columns(columns.fields().cloned())
            .with_partition_columns(table.partition_columns().iter().copied())
            .with_configuration_property(TableProperty::DataSkippingStatsColumns, Some(table.stats_columns()))
            .with_configuration_property(TableProperty::CheckpointInterval, Some(CHECKPOINT_EVERY.to_string()))
            // Other writers must not clean up logs that a hop has yet to read.
            .with_configuration_property(TableProperty::EnableExpiredLogCleanup, Some("false"))
            .with_configuration(Retention::default().properties().map(|(name, value)| (name, Some(value))))
            .with_save_mode(SaveMode::Ignore)
            .await
            .map_err(delta("create", table))?;
        self.delta.state = None;
        Ok(())
    }

    /// Brings it up to the newest version.
    pub(super) async fn refresh(&mut self, table: Table) -> Result<(), LakeError> {
        let updated = self.delta.update_incremental(None).await;
        updated.map_err(delta("load", table))
    }

    /// A checkpoint now and then, off the commit's path; failing to write one costs time, not data.
    pub(super) async fn checkpoint(&mut self, table: Table, version: i64, every: i64) {
        if (version + 1) % every != 0 {
            return;
        }
        let written = super::checkpoint::write(&self.delta).await;
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

/// A table's log: in the storage given, or in the one its URL names.
pub(super) fn log_store(
    location: &Location,
    storage: Option<&Arc<dyn ObjectStore>>,
    url: &Url,
) -> Result<LogStoreRef, DeltaTableError> {
    let mut options = StorageConfig::parse_options(location.options())?;
    // What fails is tried again by us, who tell of it; a request that is tried for minutes before anybody hears of it looks
    // as if we were stuck. Whoever sets them knows why.
    if !location.options().contains_key("retry_timeout") {
        options.retry.retry_timeout = RETRY_TIMEOUT;
    }
    if !location.options().contains_key("max_retries") {
        options.retry.max_retries = RETRIES_MAX;
    }
    match storage {
        Some(storage) => deltalake::logstore::logstore_with(Arc::clone(storage), url, options),
        None => deltalake::logstore::logstore_for(url, options),
    }
}
