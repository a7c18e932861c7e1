//! What can go wrong with the database, by what is to be done about it.

use std::path::PathBuf;

use rusqlite::ErrorCode;
use shared::blame::Blame;

use crate::outbox::lock::LockError;

/// What was being done.
pub type Act = &'static str;

/// A statement, or opening, failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// `bytes-max` is reached.
    #[error(
        "store rows: outbox {path} is full ({bytes} of {bytes_max} bytes); raise `outbox.bytes-max` or restore the uplink"
    )]
    Full {
        /// The database.
        path: PathBuf,
        /// Bytes of database, write-ahead log and shared memory.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The file system has no room, or fails.
    #[error("{act}: the disk of outbox {path} is full or fails ({detail}); free space there")]
    Disk {
        /// What was being done.
        act: Act,
        /// The file.
        path: PathBuf,
        /// As the system said it.
        detail: String,
    },
    /// The database is damaged.
    #[error("{act}: outbox {path} is damaged ({detail}); the next start moves it aside and names the loss")]
    Damaged {
        /// What was being done.
        act: Act,
        /// The database.
        path: PathBuf,
        /// As SQLite said it.
        detail: String,
    },
    /// The file at the path is no longer the one that is open: what is stored would go with the process.
    #[error(
        "store rows: outbox {path} was deleted or moved while the agent ran; nothing more is acknowledged, start the agent again"
    )]
    Gone {
        /// Where it was.
        path: PathBuf,
    },
    /// Written by a later version.
    #[error(
        "open outbox {path}: it was written by a later version (schema {has}, this one knows {knows}); install that version, or move the file away"
    )]
    Later {
        /// The database.
        path: PathBuf,
        /// Its schema.
        has: usize,
        /// Ours.
        knows: usize,
    },
    /// The place cannot be used.
    #[error("{act} {path}: {detail}")]
    Place {
        /// What was being done.
        act: Act,
        /// The file or directory.
        path: PathBuf,
        /// As the system said it.
        detail: String,
    },
    /// Another process writes.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Anything else SQLite says.
    #[error("{act} in outbox {path}: {detail}")]
    Statement {
        /// What was being done.
        act: Act,
        /// The database.
        path: PathBuf,
        /// As SQLite said it.
        detail: String,
    },
}

impl StoreError {
    /// True if the database must not be written any further.
    pub fn is_fatal(&self) -> bool {
        matches!(self, StoreError::Damaged { .. } | StoreError::Gone { .. })
    }

    /// Who must act.
    pub fn blame(&self) -> Blame {
        match self {
            StoreError::Full { .. } | StoreError::Disk { .. } => Blame::Peer,
            StoreError::Damaged { .. } | StoreError::Gone { .. } => Blame::Peer,
            StoreError::Lock(LockError::Held { .. }) => Blame::Peer,
            StoreError::Lock(LockError::Io { .. }) | StoreError::Later { .. } | StoreError::Place { .. } => {
                Blame::Config
            }
            StoreError::Statement { .. } => Blame::Bug,
        }
    }

    pub(super) fn of(act: Act, path: &std::path::Path, error: &rusqlite::Error) -> Self {
        let (path, detail) = (path.to_owned(), error.to_string());
        if matches!(
            error,
            rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::Utf8Error(..)
        ) {
            return StoreError::Damaged { act, path, detail };
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged { act, path, detail },
            Some(
                ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::ReadOnly,
            ) => StoreError::Disk { act, path, detail },
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => StoreError::Place { act, path, detail },
            _ => StoreError::Statement { act, path, detail },
        }
    }
}
