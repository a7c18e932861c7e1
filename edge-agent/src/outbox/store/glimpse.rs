//! What people read: the outbox beside a running agent, or alone.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use serde::Serialize;
use shared::reading::Seq;
use shared::time::Timestamp;

use super::open::fail;
use super::read::{books, gaps};
use super::{Selection, StoreError};
use crate::outbox::{Books, BootTime, HeldGap, HeldItem, RowId, codec};

/// The outbox as a second process sees it: reads only, beside a running agent or alone.
pub struct Glimpse {
    connection: Connection,
    path: std::path::PathBuf,
}

/// One epoch, for `outbox ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EpochLine {
    /// The epoch.
    pub epoch: String,
    /// When it began, or when its loss was noticed.
    pub opened: Timestamp,
    /// Rows that took a seq.
    pub stored: i64,
    /// Of these acknowledged by the hub.
    pub acked: i64,
    /// Of these given up.
    pub given_up: i64,
    /// Of these still to be sent or in flight.
    pub held: i64,
    /// `open`, `ended` (its closing waits), `closed`, or `lost` (it is not in this database, or not to its end).
    pub state: &'static str,
    /// Its last seq, once known.
    pub last: Option<i64>,
    /// For a lost one: no seq above this was given.
    pub mark: Option<i64>,
}

/// Where a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// To be sent, or in flight.
    Held,
    /// Acknowledged by the hub; lingers as long as its source key is remembered.
    Acked,
    /// Covered by a gap; lingers likewise.
    GivenUp,
}

/// One row, for `outbox export`.
#[derive(Debug, Clone, PartialEq)]
pub struct RowLine {
    /// Its number in this database.
    pub id: RowId,
    /// The run that stored it.
    pub epoch: String,
    /// Its number within that run.
    pub seq: Seq,
    /// Where it stands.
    pub state: State,
    /// When it was stored.
    pub stored: Timestamp,
    /// The reading or refusal, or why it cannot be read.
    pub item: Result<(HeldItem, BootTime), String>,
    /// The whole payload of a refusal, where more of it is kept than travels.
    pub payload: Option<Vec<u8>>,
}

impl Glimpse {
    /// Opens the database for reading.
    ///
    /// # Errors
    /// Where there is none, or it cannot be read.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let fail = fail("open", path);
        if let Err(error) = std::fs::metadata(path) {
            return Err(StoreError::Place { act: "open outbox", path: path.to_owned(), detail: error.to_string() });
        }
        // Read-write, so that the log of a killed agent can be taken in; `query_only` keeps us from writing rows.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(&fail)?;
        connection.pragma_update(None, "query_only", true).map_err(&fail)?;
        connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(&fail)?;
        Ok(Self { connection, path: path.to_owned() })
    }

    /// The books.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn books(&self) -> Result<Books, StoreError> {
        books(&self.connection).map_err(fail("read the books", &self.path))
    }

    /// Gaps without PUBACK.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn gaps(&self) -> Result<Vec<HeldGap>, StoreError> {
        gaps(&self.connection).map_err(fail("read gaps", &self.path))
    }

    /// The epochs, oldest first.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn epochs(&self) -> Result<Vec<EpochLine>, StoreError> {
        let fail = fail("read epochs", &self.path);
        let mut statement = self
            .connection
            .prepare(
                "SELECT epoch, opened_at, high, acked, given_up, ended, last, mark, closed_at FROM epochs ORDER BY id",
            )
            .map_err(&fail)?;
        let lines = statement
            .query_map([], |row| {
                let (stored, acked, given_up): (i64, i64, i64) = (row.get(2)?, row.get(3)?, row.get(4)?);
                let (ended, last, mark): (i64, Option<i64>, Option<i64>) = (row.get(5)?, row.get(6)?, row.get(7)?);
                let closed: Option<i64> = row.get(8)?;
                let state = match (ended, closed) {
                    (0, _) => "open",
                    (_, Some(_)) => "closed",
                    (_, None) if stored == 0 || last.is_none() => "lost",
                    (_, None) => "ended",
                };
                Ok(EpochLine {
                    epoch: row.get(0)?,
                    opened: Timestamp::from_micros(row.get(1)?),
                    stored,
                    acked,
                    given_up,
                    held: stored - acked - given_up,
                    state,
                    last,
                    mark,
                })
            })
            .map_err(&fail)?;
        lines.collect::<Result<_, _>>().map_err(&fail)
    }

    /// Rows after `after` in the order of storing; `all` takes those that have left and linger, too.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn rows(&self, after: RowId, selection: &Selection, all: Which) -> Result<Vec<RowLine>, StoreError> {
        let fail = fail("read rows", &self.path);
        let mut statement = self
            .connection
            .prepare_cached(
                "SELECT rows.id, epochs.epoch, rows.seq, state, rows.stored_at, body, payloads.raw FROM rows
                 JOIN epochs ON epochs.id = rows.epoch_id
                 LEFT JOIN payloads ON payloads.epoch_id = rows.epoch_id AND payloads.seq = rows.seq
                 WHERE rows.id > ?1 AND state <= ?2 AND (?3 IS NULL OR epochs.epoch = ?3)
                 AND rows.seq BETWEEN ?4 AND ?5 ORDER BY rows.id LIMIT 500",
            )
            .map_err(&fail)?;
        let states = match all {
            Which::Held => 0,
            Which::All => 2,
        };
        let bounds = params![
            after.0,
            states,
            selection.epoch.map(|epoch| epoch.to_string()),
            selection.from.map_or(0, |seq| seq.0),
            selection.to.map_or(i64::MAX, |seq| seq.0)
        ];
        let lines = statement
            .query_map(bounds, |row| {
                let body: Vec<u8> = row.get(5)?;
                Ok(RowLine {
                    id: RowId(row.get(0)?),
                    epoch: row.get(1)?,
                    seq: Seq(row.get(2)?),
                    state: match row.get::<_, i64>(3)? {
                        0 => State::Held,
                        1 => State::Acked,
                        _ => State::GivenUp,
                    },
                    stored: Timestamp::from_micros(row.get(4)?),
                    item: codec::decode(&body).map_err(|error| error.to_string()),
                    payload: row.get(6)?,
                })
            })
            .map_err(&fail)?;
        lines.collect::<Result<_, _>>().map_err(&fail)
    }

    /// How many rows of a selection made room and left only their keys: they can be neither shown nor sent again.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn spent(&self, selection: &Selection) -> Result<i64, StoreError> {
        let fail = fail("count rows that made room", &self.path);
        let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'spent')";
        // The database of an earlier version, which no agent of this one has opened yet.
        if !self.connection.query_row(sql, [], |row| row.get::<_, bool>(0)).map_err(&fail)? {
            return Ok(0);
        }
        let sql = "SELECT count(*) FROM spent WHERE seq BETWEEN ?2 AND ?3
            AND (?1 IS NULL OR epoch_id = (SELECT id FROM epochs WHERE epoch = ?1))";
        let epoch = selection.epoch.map(|epoch| epoch.to_string());
        let bounds = params![epoch, selection.from.map_or(0, |seq| seq.0), selection.to.map_or(i64::MAX, |seq| seq.0)];
        self.connection.query_row(sql, bounds, |row| row.get(0)).map_err(&fail)
    }

    /// When the oldest held row was stored.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn oldest_held(&self) -> Result<Option<Timestamp>, StoreError> {
        let sql = "SELECT stored_at FROM rows INDEXED BY rows_held WHERE state = 0 ORDER BY id LIMIT 1";
        let oldest = self.connection.query_row(sql, [], |row| row.get(0)).optional();
        Ok(oldest.map_err(fail("read rows", &self.path))?.map(Timestamp::from_micros))
    }
}

/// Which rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Those to be sent, or in flight.
    Held,
    /// Those that linger, too.
    All,
}
