//! For how long a table keeps what is not part of it any more, told in the table itself.
//!
//! Others go by these properties, and so does a checkpoint: it forgets that a file was removed once
//! `delta.deletedFileRetentionDuration` is over (a week, where the table does not say), and then nobody can tell when.

use std::time::Duration;

use deltalake::DeltaTableError;
use deltalake::kernel::{Action, MetadataExt as _};
use deltalake::protocol::DeltaOperation;
use deltalake::table::state::DeltaTableState;

use super::commit::{Kind, Landed, TableCommit, Txn};
use super::error::LakeError;
use super::lease::Lease;
use super::store::Lake;
use super::tables::Table;

/// For how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Entries of the log.
    pub log: Duration,
    /// Files that were removed.
    pub files: Duration,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Default for Retention {
    fn default() -> Self {
        Self { log: DAY * 7, files: DAY * 7 }
    }
}

impl Retention {
    /// As properties of a table.
    #[must_use]
    pub fn properties(&self) -> [(&'static str, String); 2] {
        let interval = |span: Duration| format!("interval {} seconds", span.as_secs());
        [
            ("delta.logRetentionDuration", interval(self.log)),
            ("delta.deletedFileRetentionDuration", interval(self.files)),
        ]
    }
}

impl Lake {
    /// Has a table say so, if it says otherwise: a commit of its own, made like any other of the lease's holder. Whether
    /// there was one.
    ///
    /// # Errors
    /// As [`Lake::commit`].
    pub async fn retain(&self, table: Table, retention: Retention, lease: &Lease) -> Result<bool, LakeError> {
        let view = self.view(table).await?;
        let wanted = retention.properties();
        if wanted.iter().all(|(name, value)| view.property(name).as_deref() == Some(value)) {
            return Ok(false);
        }
        let app = table.app_id("retention");
        let expected = view.txn(&app).await?;
        let commit = TableCommit {
            table,
            kind: Kind::Properties(wanted.map(|(name, value)| (name.to_owned(), value)).into()),
            batches: vec![],
            txns: vec![Txn { app, expected, version: expected.unwrap_or(0) + 1 }],
            metadata: view.books().await?,
        };
        Ok(matches!(self.commit(commit, Some(lease)).await?, Landed::Now(_)))
    }
}

/// The actions that set properties, and the operation they are.
pub(super) fn actions(
    state: &DeltaTableState,
    properties: &[(String, String)],
) -> Result<(DeltaOperation, Vec<Action>), DeltaTableError> {
    let mut metadata = state.metadata().clone();
    for (name, value) in properties {
        metadata = metadata.add_config_key(name.clone(), value.clone())?;
    }
    let operation = DeltaOperation::SetTableProperties { properties: properties.iter().cloned().collect() };
    Ok((operation, vec![Action::Metadata(metadata)]))
}
