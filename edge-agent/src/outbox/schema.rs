//! Pragmas and migrations, one numbered step each.

use rusqlite::Connection;

/// Applied in order; a database remembers in `user_version` how many it has. Steps are only ever added.
const STEPS: &[&str] = &[
    // 1: `state` of a row is 0 held, 1 acknowledged, 2 given up. The two partial indexes keep "what is held, in
    // order" and "what may be deleted" cheap whatever the size. `totals` holds the books of epochs long closed.
    "CREATE TABLE epochs (
        id INTEGER PRIMARY KEY,
        epoch TEXT NOT NULL UNIQUE,
        opened_at INTEGER NOT NULL,
        rules TEXT NOT NULL,
        high INTEGER NOT NULL DEFAULT 0,
        acked INTEGER NOT NULL DEFAULT 0,
        given_up INTEGER NOT NULL DEFAULT 0,
        duplicates INTEGER NOT NULL DEFAULT 0,
        ended INTEGER NOT NULL DEFAULT 0,
        last INTEGER,
        mark INTEGER,
        closed_at INTEGER
    ) STRICT;
    CREATE TABLE rows (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        epoch_id INTEGER NOT NULL REFERENCES epochs (id),
        seq INTEGER NOT NULL,
        state INTEGER NOT NULL DEFAULT 0,
        stored_at INTEGER NOT NULL,
        source_key BLOB,
        body BLOB NOT NULL
    ) STRICT;
    CREATE INDEX rows_held ON rows (id) WHERE state = 0;
    CREATE INDEX rows_left ON rows (id) WHERE state <> 0;
    CREATE TABLE payloads (
        epoch_id INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        stored_at INTEGER NOT NULL,
        raw BLOB NOT NULL,
        PRIMARY KEY (epoch_id, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE gaps (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        epoch_id INTEGER NOT NULL REFERENCES epochs (id),
        from_seq INTEGER NOT NULL,
        to_seq INTEGER NOT NULL,
        reason TEXT NOT NULL,
        readings TEXT NOT NULL,
        made_at INTEGER NOT NULL,
        acked INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX gaps_held ON gaps (epoch_id) WHERE acked = 0;
    CREATE TABLE totals (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        stored INTEGER NOT NULL,
        acked INTEGER NOT NULL,
        given_up INTEGER NOT NULL,
        duplicates INTEGER NOT NULL
    ) STRICT;
    INSERT INTO totals VALUES (1, 0, 0, 0, 0);",
    // 2: what stays of rows that have left and made room: enough to recognise a repeat. `id` is the row's.
    "CREATE TABLE spent (
        id INTEGER PRIMARY KEY,
        epoch_id INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        stored_at INTEGER NOT NULL,
        source_key BLOB NOT NULL
    ) STRICT;",
];

/// Settings of one connection. `FULL`: a commit that returned survives a power cut.
pub(super) fn tune(connection: &Connection, wal_bytes: u64) -> rusqlite::Result<()> {
    // Before the first table is made: pages of deleted rows can be given back to the file system.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let wal_bytes = i64::try_from(wal_bytes).unwrap_or(i64::MAX);
    connection.pragma_update(None, "wal_autocheckpoint", wal_bytes / 2 / 4096)?;
    connection.pragma_update(None, "journal_size_limit", wal_bytes)?;
    connection.pragma_update(None, "cache_size", -8_192)?;
    connection.pragma_update(None, "foreign_keys", "OFF")?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// How many steps the database has, and how many this program knows.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<(usize, usize)> {
    let has: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok((usize::try_from(has).unwrap_or(usize::MAX), STEPS.len()))
}

/// Brings the database to the newest step, each in a transaction of its own.
pub(super) fn migrate(connection: &Connection) -> rusqlite::Result<()> {
    let (has, _) = version(connection)?;
    for (number, step) in STEPS.iter().enumerate().skip(has) {
        connection.execute_batch(&format!("BEGIN IMMEDIATE; {step} PRAGMA user_version = {}; COMMIT;", number + 1))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_run_once_and_end_at_the_newest_step() {
        let connection = Connection::open_in_memory().expect("memory");
        migrate(&connection).expect("from nothing");
        migrate(&connection).expect("nothing to do");
        assert_eq!(version(&connection).expect("a version"), (STEPS.len(), STEPS.len()));
    }
}
