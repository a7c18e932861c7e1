//! Opening: an unreadable database is moved aside, what earlier runs lost gets a name, this run gets its epoch.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use shared::reading::{Epoch, Seq};

use super::write::forget_empty;
use super::{Act, Now, Store, StoreError};
use crate::outbox::lock::beside;
use crate::outbox::memory::{AGE_MAX, Memory, ROWS_MAX};
use crate::outbox::side::{Found, Known, Side, sync_directory_of};
use crate::outbox::{Config, RowId, SourceKey, schema};

/// Up to this size every start checks the whole database; above it only after damage was met.
const CHECK_BYTES_MAX: u64 = 256 << 20;
/// Of a new database: readings are not everybody's.
const MODE: u32 = 0o640;
/// Closed epochs that stay listed; older ones live on in the totals.
const CLOSED_EPOCHS_KEPT: i64 = 50;

/// What was found at the start, for the log and for `/status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opened {
    /// The database could not be read and now lies here.
    pub moved_aside: Option<(PathBuf, String)>,
    /// The side file could not be read and now lies here.
    pub side_moved_aside: Option<PathBuf>,
    /// The database knows of open epochs, and no side file was there.
    pub side_absent: bool,
    /// Epochs of which the side file knows more than the database, each with what is known of its end.
    pub lost: Vec<(Epoch, String)>,
    /// Rows of earlier runs that are still to be sent.
    pub held: i64,
}

impl Store {
    /// Opens the outbox and draws this run's epoch.
    pub(in crate::outbox) fn open(
        config: &Config,
        rules: &str,
        side: &mut Side,
        found: &Found,
        now: Now,
    ) -> Result<(Self, Opened), StoreError> {
        let path = &config.path;
        let bytes_max = config.bytes_max.bytes();
        let wal_bytes = super::wal_bytes(config);
        let mut opened = Opened::default();

        let connection = match connect(path, wal_bytes, side.is_suspect()) {
            Err(StoreError::Damaged { detail, .. }) => {
                opened.moved_aside = Some((move_aside(path, now)?, detail));
                connect(path, wal_bytes, false)?
            }
            other => other?,
        };
        match found {
            Found::Absent => opened.side_absent = true,
            Found::Damaged(aside) => opened.side_moved_aside = Some(aside.clone()),
            Found::Read => {}
        }
        let mut store = Self {
            connection,
            files: [None; 2],
            path: path.clone(),
            bytes_max,
            wal_bytes,
            quarantine: config.quarantine(),
            epoch: Epoch::draw(),
            epoch_id: 0,
            high: Seq(0),
            memory: Memory::default(),
            keys_max: super::keys_max(config),
            keys_dropped: 0,
            damaged: 0,
            now,
        };
        store.settle(rules, side, &mut opened)?;
        opened.side_absent &= side.epochs().len() > 1 || 0 < opened.held;
        store.recall()?;
        store.files = store.identify();
        Ok((store, opened))
    }

    /// Ends what earlier runs left open, begins this run's epoch, and writes the side file anew.
    fn settle(&mut self, rules: &str, side: &mut Side, opened: &mut Opened) -> Result<(), StoreError> {
        const ACT: Act = "end earlier epochs";
        let listed = side.epochs().clone();
        let wall = self.now.wall.micros();
        let fail = fail(ACT, &self.path);
        let transaction = self.connection.transaction().map_err(&fail)?;

        transaction
            .execute("UPDATE epochs SET ended = 1, last = high WHERE ended = 0 AND 0 < high", [])
            .map_err(&fail)?;
        for (epoch, known) in &listed {
            let name = epoch.to_string();
            let here: Option<i64> = transaction
                .query_row("SELECT id FROM epochs WHERE epoch = ?1", [&name], |row| row.get(0))
                .optional()
                .map_err(&fail)?;
            match (here, known) {
                // A later end than the database knows: it is an old copy, and what the side file saw is the truth.
                (Some(id), Known::Last(last)) => {
                    transaction
                        .execute(
                            "UPDATE epochs SET ended = 1, last = ?2, closed_at = NULL
                             WHERE id = ?1 AND coalesce(last, 0) < ?2",
                            params![id, last.0],
                        )
                        .map_err(&fail)?;
                }
                // The mark stands above the last seq by nature; the database knows the last seq itself, unless it ends
                // below what surely was stored: then it is an old copy, and nobody knows where the epoch ended.
                (Some(id), Known::Mark { mark, floor }) => {
                    let old: Option<i64> = transaction
                        .query_row(
                            "UPDATE epochs SET ended = 1, last = NULL, mark = ?2, closed_at = NULL
                             WHERE id = ?1 AND high < ?3 RETURNING high",
                            params![id, mark.0, floor.0],
                            |row| row.get(0),
                        )
                        .optional()
                        .map_err(&fail)?;
                    if let Some(high) = old {
                        let words = format!(
                            "the database is an old copy that ends at seq {high}; {floor} was stored, no seq above {mark} was given"
                        );
                        opened.lost.push((*epoch, words));
                    }
                }
                (None, known) => {
                    let (last, mark, words) = match known {
                        Known::Last(last) => (Some(last.0), None, format!("its last seq was {last}")),
                        Known::Mark { mark, .. } => (None, Some(mark.0), format!("no seq above {mark} was given")),
                    };
                    transaction
                        .execute(
                            "INSERT INTO epochs (epoch, opened_at, rules, ended, last, mark) VALUES (?1, ?2, '', 1, ?3, ?4)",
                            params![name, wall, last, mark],
                        )
                        .map_err(&fail)?;
                    opened.lost.push((*epoch, words));
                }
            }
        }
        forget_empty(&transaction).map_err(&fail)?;
        fold(&transaction).map_err(&fail)?;
        transaction
            .execute(
                "INSERT INTO epochs (epoch, opened_at, rules) VALUES (?1, ?2, ?3)",
                params![self.epoch.to_string(), wall, rules],
            )
            .map_err(&fail)?;
        self.epoch_id = transaction.last_insert_rowid();
        opened.held = transaction
            .query_row("SELECT coalesce(sum(high - acked - given_up), 0) FROM epochs", [], |row| row.get(0))
            .map_err(&fail)?;

        let mut known = BTreeMap::new();
        {
            let mut statement = transaction
                .prepare("SELECT epoch, last, mark FROM epochs WHERE ended = 1 AND closed_at IS NULL")
                .map_err(&fail)?;
            let mut rows = statement.query([]).map_err(&fail)?;
            while let Some(row) = rows.next().map_err(&fail)? {
                let (name, last, mark): (String, Option<i64>, Option<i64>) =
                    (row.get(0).map_err(&fail)?, row.get(1).map_err(&fail)?, row.get(2).map_err(&fail)?);
                let Ok(epoch) = name.parse::<Epoch>() else {
                    return Err(StoreError::Damaged {
                        act: ACT,
                        path: self.path.clone(),
                        detail: format!("epoch {name:?}"),
                    });
                };
                match (last, mark) {
                    (Some(last), _) => known.insert(epoch, Known::Last(Seq(last))),
                    // The floor stays: the same old copy may be put back once more.
                    (None, mark) => {
                        let floor = match listed.get(&epoch) {
                            Some(Known::Mark { floor, .. }) => *floor,
                            _ => Seq(0),
                        };
                        known.insert(epoch, Known::Mark { mark: Seq(mark.unwrap_or(0)), floor })
                    }
                };
            }
        }
        transaction.commit().map_err(&fail)?;
        // After the commit: an epoch leaves the side file only when the database answers for it.
        side.replace(known).map_err(|error| StoreError::Disk {
            act: "write the side file",
            path: beside(&self.path, "epochs"),
            detail: error.to_string(),
        })
    }

    /// Rebuilds the memory of source keys from the rows that are there, and from the keys of those that made room.
    fn recall(&mut self) -> Result<(), StoreError> {
        let fail = fail("read source keys", &self.path);
        let mut recalled = Vec::new();
        let mut newest = RowId(0);
        {
            let mut statement = self
                .connection
                .prepare(
                    "SELECT id, stored_at, source_key FROM rows UNION ALL SELECT id, stored_at, source_key FROM spent
                     ORDER BY id DESC LIMIT ?1",
                )
                .map_err(&fail)?;
            let mut rows = statement.query([i64::try_from(ROWS_MAX).unwrap_or(i64::MAX)]).map_err(&fail)?;
            while let Some(row) = rows.next().map_err(&fail)? {
                let (id, at, key): (i64, i64, Option<Vec<u8>>) =
                    (row.get(0).map_err(&fail)?, row.get(1).map_err(&fail)?, row.get(2).map_err(&fail)?);
                newest = newest.max(RowId(id));
                let key = key.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).map(SourceKey);
                // A row from the future (the wall clock went back) counts as new. An old row may stand among new ones:
                // rows sent again have new numbers.
                let age_ms = self.now.wall.micros().saturating_sub(at).max(0) / 1_000;
                if age_ms <= i64::try_from(AGE_MAX.as_millis()).unwrap_or(i64::MAX) {
                    recalled.push((RowId(id), self.now.steady_ms - age_ms, key));
                }
            }
        }
        self.memory.forgotten_before(recalled.last().map_or(newest, |(oldest, ..)| RowId(oldest.0 - 1)));
        for (id, at_ms, key) in recalled.into_iter().rev() {
            self.memory.remember(id, at_ms, key);
        }
        Ok(())
    }
}

/// Moves closed epochs of which nothing lies here any more into the totals, but for the newest.
fn fold(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "CREATE TEMP TABLE IF NOT EXISTS folded (id INTEGER PRIMARY KEY);
         DELETE FROM folded;
         INSERT INTO folded SELECT id FROM epochs AS e WHERE closed_at IS NOT NULL AND high = acked + given_up
            AND id NOT IN (SELECT id FROM epochs ORDER BY id DESC LIMIT {CLOSED_EPOCHS_KEPT})
            AND NOT EXISTS (SELECT 1 FROM rows WHERE epoch_id = e.id)
            AND NOT EXISTS (SELECT 1 FROM spent WHERE epoch_id = e.id)
            AND NOT EXISTS (SELECT 1 FROM payloads WHERE epoch_id = e.id)
            AND NOT EXISTS (SELECT 1 FROM gaps WHERE epoch_id = e.id AND acked = 0);
         UPDATE totals SET
            stored = stored + (SELECT coalesce(sum(high), 0) FROM epochs WHERE id IN folded),
            acked = acked + (SELECT coalesce(sum(acked), 0) FROM epochs WHERE id IN folded),
            given_up = given_up + (SELECT coalesce(sum(given_up), 0) FROM epochs WHERE id IN folded),
            duplicates = duplicates + (SELECT coalesce(sum(duplicates), 0) FROM epochs WHERE id IN folded);
         DELETE FROM gaps WHERE epoch_id IN folded;
         DELETE FROM epochs WHERE id IN folded;"
    ))
}

fn connect(path: &Path, wal_bytes: u64, suspect: bool) -> Result<Connection, StoreError> {
    let place = |act: Act, path: &Path, error: &std::io::Error| StoreError::Place {
        act,
        path: path.to_owned(),
        detail: error.to_string(),
    };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(|error| place("make the outbox's directory", parent, &error))?;
    }
    let bytes = match File::open(path).and_then(|file| file.metadata()) {
        Ok(meta) if meta.is_dir() => {
            return Err(StoreError::Place {
                act: "open outbox",
                path: path.to_owned(),
                detail: "it is a directory; write the path of a file into `outbox.path`".into(),
            });
        }
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // SQLite would make it everybody's to read; what lies beside it gets this file's mode. Where it cannot be made,
            // SQLite says why.
            let _ = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path);
            0
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Err(StoreError::Damaged { act: "open", path: path.to_owned(), detail: error.to_string() });
        }
        Err(error) => return Err(place("open outbox", path, &error)),
    };
    let fail = fail("open", path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(&fail)?;
    let (has, knows) = schema::version(&connection).map_err(&fail)?;
    if knows < has {
        return Err(StoreError::Later { path: path.to_owned(), has, knows });
    }
    if has == 0 && holds_tables(&connection).map_err(&fail)? {
        let detail = "it is a database of something else".to_owned();
        return Err(StoreError::Damaged { act: "open", path: path.to_owned(), detail });
    }
    schema::tune(&connection, wal_bytes).map_err(&fail)?;
    if bytes <= CHECK_BYTES_MAX || suspect {
        let check = if suspect { "PRAGMA integrity_check(1)" } else { "PRAGMA quick_check(1)" };
        let verdict: String = connection.query_row(check, [], |row| row.get(0)).map_err(&fail)?;
        if verdict != "ok" {
            return Err(StoreError::Damaged { act: "check", path: path.to_owned(), detail: verdict });
        }
    }
    schema::migrate(&connection).map_err(|error| match StoreError::of("migrate", path, &error) {
        // Tables that are not as the version says: the file is not what it claims to be.
        StoreError::Statement { act, path, detail } => StoreError::Damaged { act, path, detail },
        other => other,
    })?;
    Ok(connection)
}

fn holds_tables(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))
}

/// Moves the database with its log aside; nothing of it is deleted.
fn move_aside(path: &Path, now: Now) -> Result<PathBuf, StoreError> {
    let ending = format!("unreadable-{}", now.wall.micros());
    let target = beside(path, &ending);
    for part in ["", "-wal", "-shm"] {
        let (mut from, mut to) = (path.as_os_str().to_owned(), target.as_os_str().to_owned());
        from.push(part);
        to.push(part);
        match std::fs::rename(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(StoreError::Place {
                    act: "move aside the unreadable",
                    path: PathBuf::from(from),
                    detail: error.to_string(),
                });
            }
        }
    }
    // Best effort: after a power cut the old name may be back, and is moved aside again.
    sync_directory_of(path).ok();
    Ok(target)
}

pub(super) fn fail<'p>(act: Act, path: &'p Path) -> impl Fn(rusqlite::Error) -> StoreError + 'p {
    move |error| StoreError::of(act, path, &error)
}
