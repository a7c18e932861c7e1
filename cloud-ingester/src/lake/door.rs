//! The door every commit passes: a [`LogStore`] that names the crash points between Parquet and commit, and in tests
//! loses answers. It changes nothing else.

use std::pin::Pin;
use std::sync::Arc;

use azure_core::Uuid;
use bytes::Bytes;
use deltalake::kernel::Version;
use deltalake::kernel::transaction::TransactionError;
use deltalake::logstore::object_store::path::Path;
use deltalake::logstore::{CommitOrBytes, LogStore, LogStoreConfig, LogStoreRef};
use deltalake::{DeltaResult, ObjectStore};
use url::Url;

use super::tables::{Layer, Table};

/// A log store with a name for the moment before each commit.
pub(super) struct Door {
    inner: LogStoreRef,
    table: Table,
    #[cfg(test)]
    fault: Arc<std::sync::Mutex<Option<Fault>>>,
}

/// What a test does to the next commit.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The commit lands and its answer is lost.
    LandsAndFails,
    /// The commit does not land.
    Fails,
}

/// A fault waiting for the next commit.
#[cfg(test)]
pub(super) type FaultSlot = Arc<std::sync::Mutex<Option<Fault>>>;

impl Door {
    pub(super) fn new(inner: LogStoreRef, table: Table) -> Self {
        Self {
            inner,
            table,
            #[cfg(test)]
            fault: Arc::default(),
        }
    }

    #[cfg(test)]
    pub(super) fn fault(&self) -> FaultSlot {
        Arc::clone(&self.fault)
    }

    async fn commit(
        &self,
        version: Version,
        commit: CommitOrBytes,
        operation_id: Uuid,
    ) -> Result<(), TransactionError> {
        match self.table {
            // Creating a table and moving progress alone write no Parquet.
            _ if !holds_rows(&commit) => {}
            Table::BronzeMessages => shared::crash::here("bronze-parquet-written"),
            Table::SilverReadings => shared::crash::here("silver-parquet-written"),
            _ if self.table.layer() == Layer::Gold => shared::crash::here("gold-parquet-written"),
            _ => {}
        }
        #[cfg(test)]
        {
            let fault = self.fault.lock().expect("no test panics here").take();
            let lost = || {
                TransactionError::from(deltalake::ObjectStoreError::Generic {
                    store: "test",
                    source: "the answer was lost".into(),
                })
            };
            match fault {
                Some(Fault::Fails) => return Err(lost()),
                Some(Fault::LandsAndFails) => {
                    self.inner.write_commit_entry(version, commit, operation_id).await?;
                    return Err(lost());
                }
                None => {}
            }
        }
        self.inner.write_commit_entry(version, commit, operation_id).await
    }
}

/// Whether a commit adds files.
fn holds_rows(commit: &CommitOrBytes) -> bool {
    const ADD: &[u8] = b"{\"add\":";
    match commit {
        CommitOrBytes::LogBytes(bytes) => bytes.split(|byte| *byte == b'\n').any(|line| line.starts_with(ADD)),
        CommitOrBytes::TmpCommit(_) => true,
    }
}

type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Written out as `async_trait` would: everything but `write_commit_entry` is handed on.
impl LogStore for Door {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn refresh<'a, 't>(&'a self) -> Later<'t, DeltaResult<()>>
    where
        'a: 't,
        Self: 't,
    {
        self.inner.refresh()
    }

    fn read_commit_entry<'a, 't>(&'a self, version: Version) -> Later<'t, DeltaResult<Option<Bytes>>>
    where
        'a: 't,
        Self: 't,
    {
        self.inner.read_commit_entry(version)
    }

    fn write_commit_entry<'a, 't>(
        &'a self,
        version: Version,
        commit: CommitOrBytes,
        operation_id: Uuid,
    ) -> Later<'t, Result<(), TransactionError>>
    where
        'a: 't,
        Self: 't,
    {
        Box::pin(self.commit(version, commit, operation_id))
    }

    fn abort_commit_entry<'a, 't>(
        &'a self,
        version: Version,
        commit: CommitOrBytes,
        operation_id: Uuid,
    ) -> Later<'t, Result<(), TransactionError>>
    where
        'a: 't,
        Self: 't,
    {
        self.inner.abort_commit_entry(version, commit, operation_id)
    }

    fn get_latest_version<'a, 't>(&'a self, start_version: Version) -> Later<'t, DeltaResult<Version>>
    where
        'a: 't,
        Self: 't,
    {
        self.inner.get_latest_version(start_version)
    }

    fn object_store(&self, operation_id: Option<Uuid>) -> Arc<dyn ObjectStore> {
        self.inner.object_store(operation_id)
    }

    fn root_object_store(&self, operation_id: Option<Uuid>) -> Arc<dyn ObjectStore> {
        self.inner.root_object_store(operation_id)
    }

    fn to_uri(&self, location: &Path) -> String {
        self.inner.to_uri(location)
    }

    fn root_url(&self) -> &Url {
        self.inner.root_url()
    }

    fn log_path(&self) -> &Path {
        self.inner.log_path()
    }

    fn transaction_url(&self, operation_id: Option<Uuid>) -> DeltaResult<Url> {
        self.inner.transaction_url(operation_id)
    }

    fn config(&self) -> &LogStoreConfig {
        self.inner.config()
    }
}
