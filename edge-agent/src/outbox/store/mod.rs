//! Every SQL statement of the outbox. One connection, owned by one thread; its types do not leak.

mod error;
mod glimpse;
mod open;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use shared::envelope::RAW_BYTES_MAX;
use shared::reading::{Epoch, Seq};
use shared::time::Timestamp;

pub use error::{Act, StoreError};
pub use glimpse::{EpochLine, Glimpse, RowLine, State, Which};
pub use open::Opened;
pub(super) use write::Linger;

use super::memory::{Memory, ROWS_MAX};
use super::{Config, HeldItem, NewRow, RowId, SourceKey, codec};

/// Rows of one step of `give_up`, `resend` and pruning: a transaction of some milliseconds.
const STEP_ROWS: usize = 2_000;
/// Bytes of one key that stays of a row, in the database, rounded up.
const KEY_BYTES: u64 = 48;

/// Keys of rows that made room, at most: they take up to an eighth of `bytes-max`.
fn keys_max(config: &Config) -> i64 {
    let fitting = i64::try_from(config.bytes_max.bytes() / 8 / KEY_BYTES).unwrap_or(i64::MAX);
    fitting.min(i64::try_from(ROWS_MAX).unwrap_or(i64::MAX))
}

/// Room kept for the write-ahead log. It is moved into the database when it has half of that.
pub(super) fn wal_bytes(config: &Config) -> u64 {
    (config.bytes_max.bytes() / 8).clamp(128 << 10, 4 << 20)
}

/// An instant on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The wall clock: what is stored.
    pub wall: Timestamp,
    /// Milliseconds on a clock that never jumps: what ages are measured with.
    pub steady_ms: i64,
}

/// Rows an operator names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// Of this epoch; else of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// From this seq.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Seq>,
    /// To this seq.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Seq>,
    /// Rows stored up to the moment of asking; set by [`Store::pin`].
    #[serde(skip)]
    pub upto: RowId,
}

/// A row ready to be written.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) key: Option<SourceKey>,
    body: Vec<u8>,
    /// The whole payload, where more of it was sent than travels.
    payload: Option<Vec<u8>>,
}

impl Prepared {
    pub(super) fn new(row: NewRow) -> Self {
        let body = codec::encode(&row.item, row.boot_time);
        let payload = match row.item {
            HeldItem::Rejected { rejected, .. } if RAW_BYTES_MAX < rejected.raw.len() => Some(rejected.raw),
            _ => None,
        };
        Self { key: row.key, body, payload }
    }

    /// Bytes it will take in the database, about: columns and index entries are counted as 96.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = self.body.len() + self.payload.as_ref().map_or(0, Vec::len) + 96;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// The database and what is kept in memory about it.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    /// Device and inode of the database and of its write-ahead log, as opened.
    files: [Option<(u64, u64)>; 2],
    path: PathBuf,
    bytes_max: u64,
    /// Room kept for the write-ahead log.
    wal_bytes: u64,
    quarantine: Duration,
    epoch: Epoch,
    epoch_id: i64,
    high: Seq,
    memory: Memory,
    /// Most keys that stay of rows that made room.
    keys_max: i64,
    /// Keys forgotten before their time, not yet told.
    keys_dropped: u64,
    /// Damaged rows given up, not yet told.
    damaged: u64,
    now: Now,
}

impl Store {
    /// This run's epoch.
    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The highest seq given in this run.
    pub(super) fn high(&self) -> Seq {
        self.high
    }

    /// The time at which the next statements happen.
    pub(super) fn tick(&mut self, now: Now) {
        self.now = now;
    }

    /// Most bytes of rows in one transaction: a quarter of the room kept for the write-ahead log.
    pub(super) fn batch_bytes_max(&self) -> u64 {
        self.wal_bytes / 4
    }

    /// Bytes of database, write-ahead log and shared memory, as the file system counts them.
    pub(super) fn bytes(&self) -> u64 {
        ["", "-wal", "-shm"].iter().map(|ending| self.file_bytes(ending)).sum()
    }

    /// Whether the files that are open still lie at their place. What goes into a deleted file goes with the process.
    pub(super) fn in_place(&self) -> Result<(), StoreError> {
        match self.identify() == self.files {
            true => Ok(()),
            false => Err(StoreError::Gone { path: self.path.clone() }),
        }
    }

    fn identify(&self) -> [Option<(u64, u64)>; 2] {
        ["", "-wal"].map(|ending| self.metadata(ending).map(|meta| (meta.dev(), meta.ino())))
    }

    fn file_bytes(&self, ending: &str) -> u64 {
        self.metadata(ending).map_or(0, |meta| meta.len())
    }

    fn metadata(&self, ending: &str) -> Option<std::fs::Metadata> {
        let mut name = self.path.as_os_str().to_owned();
        name.push(ending);
        std::fs::metadata(PathBuf::from(name)).ok()
    }
}
