//! What can go wrong with the lake, and who must act.

use deltalake::kernel::transaction::TransactionError;
use deltalake::{DeltaTableError, ObjectStoreError};
use shared::blame::Blame;

use super::attempt::Trouble;

/// A failed act on the lake.
#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    /// The storage or the Delta log refused an act; trying again may help.
    #[error("{act} {table}: {source}")]
    Delta {
        /// The act that failed, e.g. `commit to`.
        act: &'static str,
        /// The table it was meant for.
        table: &'static str,
        /// What Delta says.
        #[source]
        source: Box<DeltaTableError>,
    },
    /// A query over the lake failed.
    #[error("{act}: {source}")]
    Query {
        /// The act that failed, e.g. `plan the query`.
        act: &'static str,
        /// What DataFusion says.
        #[source]
        source: Box<datafusion::error::DataFusionError>,
    },
    /// What was asked can't be answered as it is written.
    #[error("answer the query: {source}")]
    Question {
        /// What DataFusion says.
        #[source]
        source: Box<datafusion::error::DataFusionError>,
    },
    /// Another writer moved the progress this commit was built on: its rows must be cut anew.
    #[error(
        "commit to {table}: another writer moved `{app}` (expected {}, found {}); its rows have to be cut again",
        shown(*expected),
        shown(*found)
    )]
    Fenced {
        /// The table of the commit.
        table: &'static str,
        /// The progress that moved.
        app: String,
        /// What the commit was built on.
        expected: Option<i64>,
        /// What the table says.
        found: Option<i64>,
    },
    /// A file to be replaced is not part of the table any more: another writer replaced it.
    #[error("commit to {table}: another writer replaced files this commit was to replace; it has to be planned again")]
    Overtaken {
        /// The table of the commit.
        table: &'static str,
    },
    /// A table exists and is not ours.
    #[error("use {table}: {detail}; point `lake.url` at another place or move that table away")]
    Foreign {
        /// The table.
        table: &'static str,
        /// How it differs.
        detail: String,
    },
    /// The lake's location can't be used.
    #[error("use {location} as the lake: {detail}")]
    Location {
        /// As configured.
        location: String,
        /// Why not, and what to do.
        detail: String,
    },
    /// The log of a version is gone, so the changes since then can't be told.
    #[error("read version {version} of {table}: its log entry is gone; refresh what is built on it fully")]
    Gone {
        /// The table.
        table: &'static str,
        /// The first version that is gone.
        version: i64,
    },
    /// A version was asked for that there never was.
    #[error("read version {version} of {table}: its versions are 0 to {newest}")]
    NoVersion {
        /// The table.
        table: &'static str,
        /// What was asked for.
        version: i64,
        /// Its newest.
        newest: i64,
    },
    /// A file with rows is gone: vacuumed, though something still had to read it.
    #[error("read {path} of {table}: the file is gone; refresh what is built on it fully")]
    FileGone {
        /// The table.
        table: &'static str,
        /// The file, relative to the table.
        path: String,
    },
    /// Somebody else runs the hops of this lake.
    #[error("run hops on this lake: the lease `_leases/hops` is held by {holder}")]
    LeaseHeld {
        /// Who holds it.
        holder: String,
    },
    /// The lease was ours and is not any more; the holder must stop at once.
    #[error("keep the lease `_leases/hops`: {detail}")]
    LeaseLost {
        /// How it was lost.
        detail: String,
    },
    /// A file beside the tables could not be read or written.
    #[error("{act} {path} of the lake: {detail}")]
    Beside {
        /// The act that failed.
        act: &'static str,
        /// Relative to the lake's root.
        path: String,
        /// Why.
        detail: String,
    },
}

impl LakeError {
    /// Who must act.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Delta { source, .. } if of_store(source) == Trouble::Lasting => Blame::Config,
            Self::Delta { .. }
            | Self::Query { .. }
            | Self::Fenced { .. }
            | Self::Overtaken { .. }
            | Self::Gone { .. }
            | Self::FileGone { .. }
            | Self::LeaseHeld { .. }
            | Self::LeaseLost { .. }
            | Self::Beside { .. } => Blame::Peer,
            Self::Foreign { .. } | Self::Location { .. } | Self::Question { .. } | Self::NoVersion { .. } => {
                Blame::Config
            }
        }
    }
}

fn shown(version: Option<i64>) -> String {
    version.map_or_else(|| "nothing".to_owned(), |version| version.to_string())
}

/// Whether trying again may help.
pub(super) fn trouble(error: &LakeError) -> Trouble {
    match error {
        LakeError::Delta { source, .. } => of_store(source),
        _ => Trouble::Passing,
    }
}

fn of_store(error: &DeltaTableError) -> Trouble {
    match error {
        DeltaTableError::ObjectStore { source }
        | DeltaTableError::Transaction { source: TransactionError::ObjectStore { source } } => match source {
            ObjectStoreError::PermissionDenied { .. }
            | ObjectStoreError::Unauthenticated { .. }
            | ObjectStoreError::NotSupported { .. }
            | ObjectStoreError::UnknownConfigurationKey { .. } => Trouble::Lasting,
            _ => Trouble::Passing,
        },
        _ => Trouble::Passing,
    }
}
