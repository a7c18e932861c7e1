//! What is written: rows and acknowledgements in one transaction, rows given up, rows sent again, rows deleted.

use std::collections::{BTreeMap, HashMap, HashSet};

use rusqlite::{Connection, params};
use shared::reading::{Epoch, Seq};

use super::open::fail;
use super::{Act, Prepared, STEP_ROWS, Selection, Store, StoreError};
use crate::outbox::{Acked, HeldItem, RowId, SourceKey, codec, history};

/// What became of one commit.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::outbox) struct Committed {
    /// Epochs whose closing is acknowledged: they leave the side file.
    pub(in crate::outbox) closed: Vec<Epoch>,
    /// Rows marked as acknowledged.
    pub(in crate::outbox) acked: u64,
}

impl Store {
    /// From the next row on, rows are judged by rules of this digest.
    pub(in crate::outbox) fn judge_by(&mut self, digest: &str) -> Result<(), StoreError> {
        let fail = fail("write which rules judge", &self.path);
        let (high, rules): (i64, String) = self
            .connection
            .query_row("SELECT high, rules FROM epochs WHERE id = ?1", [self.epoch_id], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .map_err(&fail)?;
        let rules = history::then(&rules, Seq(high + 1), digest);
        let update = "UPDATE epochs SET rules = ?1 WHERE id = ?2";
        self.connection.execute(update, params![rules, self.epoch_id]).map(drop).map_err(&fail)
    }

    /// Which of the rows are new, by their places; the others repeat what is known or stand twice in here.
    pub(in crate::outbox) fn admit(&self, rows: &[&Prepared]) -> Vec<bool> {
        let mut met: HashSet<SourceKey> = HashSet::new();
        let mut new =
            |row: &&Prepared| row.key.is_none_or(|key| !self.memory.knows(&key, self.now.steady_ms) && met.insert(key));
        rows.iter().map(&mut new).collect()
    }

    /// Whether `bytes` more fit under `bytes-max`. Pages of deleted rows are used again before the file grows.
    pub(in crate::outbox) fn room_for(&self, bytes: u64) -> Result<(), StoreError> {
        let fail = fail("measure the database", &self.path);
        let pragma = |name| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let pages = pragma("page_count").map_err(&fail)? - pragma("freelist_count").map_err(&fail)?;
        let used = u64::try_from(pages).unwrap_or(0) * 4_096;
        let log = self.wal_bytes.max(self.file_bytes("-wal") + self.file_bytes("-shm"));
        // A tenth more: pages are not filled to the brim.
        if used + bytes + bytes / 10 + log <= self.bytes_max {
            return Ok(());
        }
        Err(StoreError::Full { path: self.path.clone(), bytes: self.bytes(), bytes_max: self.bytes_max })
    }

    /// Stores rows, counts repeats and marks what the hub acknowledged, in one fsynced transaction; on an error nothing of
    /// it happened.
    pub(in crate::outbox) fn commit(
        &mut self,
        rows: &[&Prepared],
        repeats: usize,
        acked: &[&Acked],
    ) -> Result<Committed, StoreError> {
        const ACT: Act = "store rows";
        let wall = self.now.wall.micros();
        let (epoch_id, first) = (self.epoch_id, self.high);
        let forgotten = self.memory.forget(self.now.steady_ms);
        let transaction = self.connection.transaction().map_err(fail(ACT, &self.path))?;
        let written = (|| {
            let mut ids = Vec::with_capacity(rows.len());
            let mut seq = first;
            {
                let mut insert = transaction.prepare_cached(
                    "INSERT INTO rows (epoch_id, seq, stored_at, source_key, body) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?;
                let mut keep = transaction.prepare_cached("INSERT OR REPLACE INTO payloads VALUES (?1, ?2, ?3, ?4)")?;
                for row in rows {
                    seq = seq.next();
                    let key = row.key.as_ref().map(|key| key.0.as_slice());
                    ids.push(RowId(insert.insert(params![epoch_id, seq.0, wall, key, row.body])?));
                    if let Some(payload) = &row.payload {
                        keep.execute(params![epoch_id, seq.0, wall, payload])?;
                    }
                }
            }
            if !rows.is_empty() || 0 < repeats {
                let mut raise = transaction
                    .prepare_cached("UPDATE epochs SET high = ?2, duplicates = duplicates + ?3 WHERE id = ?1")?;
                raise.execute(params![epoch_id, seq.0, i64::try_from(repeats).unwrap_or(i64::MAX)])?;
            }
            let mut committed = Committed::default();
            for acked in acked {
                mark(&transaction, acked, wall, &mut committed)?;
            }
            // Deleting rides along, so that it costs no commit of its own.
            prune(
                &transaction,
                forgotten,
                2 * (rows.len() + acked.iter().map(|acked| acked.rows.len()).sum::<usize>()),
            )?;
            Ok((ids, seq, committed))
        })();
        let (ids, seq, committed) = written.map_err(fail(ACT, &self.path))?;
        transaction.commit().map_err(fail(ACT, &self.path))?;

        self.high = seq;
        for (id, row) in ids.into_iter().zip(rows) {
            self.memory.remember(id, self.now.steady_ms, row.key);
        }
        Ok(committed)
    }

    /// Ends the current epoch: no more rows. Returns its last seq.
    pub(in crate::outbox) fn seal(&mut self) -> Result<Seq, StoreError> {
        let fail = fail("seal the epoch", &self.path);
        let transaction = self.connection.transaction().map_err(&fail)?;
        match self.high {
            Seq(0) => forget_empty(&transaction),
            _ => transaction
                .execute("UPDATE epochs SET ended = 1, last = high WHERE id = ?1", [self.epoch_id])
                .map(|_| ()),
        }
        .map_err(&fail)?;
        transaction.commit().map_err(&fail)?;
        Ok(self.high)
    }

    /// Gives up the next held rows of a pinned selection, fewer where the disk has no room for more; 0 when none is left.
    pub(in crate::outbox) fn give_up(&mut self, selection: &Selection, reason: &str) -> Result<u64, StoreError> {
        let mut rows_max = STEP_ROWS;
        loop {
            match self.give_up_some(selection, reason, rows_max) {
                Err(StoreError::Disk { .. }) if 1 < rows_max => rows_max /= 4,
                other => return other,
            }
        }
    }

    fn give_up_some(&mut self, selection: &Selection, reason: &str, rows_max: usize) -> Result<u64, StoreError> {
        let wall = self.now.wall.micros();
        let fail = fail("give up rows", &self.path);
        let transaction = self.connection.transaction().map_err(&fail)?;
        let mut ids = select(&transaction, selection, "state = 0").map_err(&fail)?;
        ids.truncate(rows_max.max(1));
        give_up(&transaction, &ids, reason, wall).map_err(&fail)?;
        transaction.commit().map_err(&fail)?;
        Ok(u64::try_from(ids.len()).unwrap_or(0))
    }

    /// Gives up these rows.
    pub(super) fn give_up_rows(&mut self, ids: &[RowId], reason: &str) -> Result<(), StoreError> {
        let wall = self.now.wall.micros();
        let fail = fail("give up rows", &self.path);
        let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
        let transaction = self.connection.transaction().map_err(&fail)?;
        give_up(&transaction, &ids, reason, wall).map_err(&fail)?;
        transaction.commit().map_err(&fail)
    }

    /// Marks the next rows of a pinned selection that have left and linger for sending again; 0 when none is left.
    /// They get new numbers in this database, so they come after what is pending now; their ids stay.
    pub(in crate::outbox) fn resend(&mut self, selection: &Selection) -> Result<u64, StoreError> {
        let fail = fail("mark rows for sending again", &self.path);
        let transaction = self.connection.transaction().map_err(&fail)?;
        let again = (|| {
            let ids = select(&transaction, selection, "state <> 0")?;
            let mut moved = Vec::with_capacity(ids.len());
            let mut state = transaction.prepare_cached("SELECT state, epoch_id FROM rows WHERE id = ?1")?;
            let mut copy = transaction.prepare_cached(
                "INSERT INTO rows (epoch_id, seq, stored_at, source_key, body)
                 SELECT epoch_id, seq, stored_at, source_key, body FROM rows WHERE id = ?1",
            )?;
            let mut remove = transaction.prepare_cached("DELETE FROM rows WHERE id = ?1")?;
            let mut books = transaction.prepare_cached(
                "UPDATE epochs SET acked = acked - (?2 = 1), given_up = given_up - (?2 = 2) WHERE id = ?1",
            )?;
            for id in ids {
                let (state, epoch_id): (i64, i64) = state.query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
                books.execute([epoch_id, state])?;
                moved.push(RowId(copy.insert([id])?));
                remove.execute([id])?;
            }
            Ok(moved)
        })()
        .map_err(&fail)?;
        transaction.commit().map_err(&fail)?;
        for id in &again {
            self.memory.remember(*id, self.now.steady_ms, None);
        }
        Ok(u64::try_from(again.len()).unwrap_or(0))
    }

    /// Deletes some rows that have left: those no longer remembered, or, when there is no room, all of them but their
    /// keys. Returns how many; 0 means that nothing is left to do.
    pub(in crate::outbox) fn prune(&mut self, linger: Linger) -> Result<usize, StoreError> {
        let fail = fail("delete rows that have left", &self.path);
        let forgotten = self.memory.forget(self.now.steady_ms);
        let transaction = self.connection.transaction().map_err(&fail)?;
        let pruned = (|| {
            let gone = prune(&transaction, forgotten, STEP_ROWS)?;
            match linger {
                Linger::KeyAlone if gone == 0 => spend(&transaction, self.keys_max),
                _ => Ok((gone, 0)),
            }
        })();
        let (gone, keys) = pruned.map_err(&fail)?;
        transaction.commit().map_err(&fail)?;
        self.keys_dropped += u64::try_from(keys).unwrap_or(0);
        Ok(gone)
    }

    /// How many keys were forgotten before their time since this was last asked: there was no room even for them.
    pub(in crate::outbox) fn take_keys_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.keys_dropped)
    }

    /// True if pruning would find something; costs no write.
    pub(in crate::outbox) fn has_prunable(&mut self) -> Result<bool, StoreError> {
        let upto = self.memory.forget(self.now.steady_ms);
        self.connection
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM rows INDEXED BY rows_left WHERE state <> 0 AND id <= ?1)
                 OR EXISTS (SELECT 1 FROM spent WHERE id <= ?1)",
            )
            .and_then(|mut statement| statement.query_row([upto.0], |row| row.get(0)))
            .map_err(fail("look for rows that have left", &self.path))
    }

    /// Deletes whole payloads older than `quarantine-days`, and gives some free pages back to the file system.
    pub(in crate::outbox) fn tidy(&mut self) -> Result<(), StoreError> {
        let fail = fail("tidy the database", &self.path);
        let before = self.now.wall.minus(self.quarantine).micros();
        self.connection
            .prepare_cached("DELETE FROM payloads WHERE stored_at < ?1")
            .and_then(|mut statement| statement.execute([before]))
            .map_err(&fail)?;
        let free: i64 = self.connection.pragma_query_value(None, "freelist_count", |row| row.get(0)).map_err(&fail)?;
        if 2_048 < free {
            shrink(&self.connection, "PRAGMA incremental_vacuum(512)").map_err(&fail)?;
        }
        Ok(())
    }

    /// Gives all free pages back to the file system.
    pub(in crate::outbox) fn shrink(&mut self) -> Result<(), StoreError> {
        shrink(&self.connection, "PRAGMA incremental_vacuum").map_err(fail("shrink the database", &self.path))
    }

    /// Deletes the oldest whole payload; false if there is none. What a full outbox gives up first: the first 32 KiB
    /// travel all the same.
    pub(in crate::outbox) fn drop_oldest_payload(&mut self) -> Result<bool, StoreError> {
        let sql = "DELETE FROM payloads WHERE (epoch_id, seq) IN
            (SELECT epoch_id, seq FROM payloads ORDER BY epoch_id, seq LIMIT 16)";
        let gone = self.connection.execute(sql, []).map_err(fail("delete a payload", &self.path))?;
        Ok(0 < gone)
    }

    /// Moves the log into the database file; nothing of it remains beside it once the connection is dropped.
    pub(in crate::outbox) fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(fail("checkpoint", &self.path))
    }
}

/// Which rows that have left stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::outbox) enum Linger {
    /// Those whose source keys are remembered.
    WhileRemembered,
    /// None; what stays of those is the key.
    KeyAlone,
}

fn mark(connection: &Connection, acked: &Acked, wall: i64, committed: &mut Committed) -> rusqlite::Result<()> {
    let mut per_epoch: HashMap<i64, i64> = HashMap::new();
    {
        let mut row =
            connection.prepare_cached("UPDATE rows SET state = 1 WHERE id = ?1 AND state = 0 RETURNING epoch_id")?;
        for id in &acked.rows {
            // None: given up meanwhile, or acknowledged twice.
            let mut found = row.query([id.0])?;
            if let Some(row) = found.next()? {
                *per_epoch.entry(row.get(0)?).or_default() += 1;
            }
        }
    }
    for (epoch_id, count) in per_epoch {
        connection.prepare_cached("UPDATE epochs SET acked = acked + ?2 WHERE id = ?1")?.execute([epoch_id, count])?;
        committed.acked += u64::try_from(count).unwrap_or(0);
    }
    for gap in &acked.gaps {
        connection.prepare_cached("UPDATE gaps SET acked = 1 WHERE id = ?1")?.execute([gap.0])?;
    }
    for epoch in &acked.closings {
        connection
            .prepare_cached("UPDATE epochs SET closed_at = ?2 WHERE epoch = ?1 AND ended = 1 AND closed_at IS NULL")?
            .execute(params![epoch.to_string(), wall])?;
        committed.closed.push(*epoch);
    }
    Ok(())
}

/// The pragma frees one page per row it returns.
fn shrink(connection: &Connection, pragma: &str) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(pragma)?;
    let mut pages = statement.query([])?;
    while pages.next()?.is_some() {}
    Ok(())
}

/// Takes out epochs without seqs, which have no closing; what they counted lives on in the totals.
pub(super) fn forget_empty(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "UPDATE totals SET duplicates = duplicates + (SELECT coalesce(sum(duplicates), 0) FROM epochs
            WHERE high = 0 AND last IS NULL AND mark IS NULL);
         DELETE FROM epochs WHERE high = 0 AND last IS NULL AND mark IS NULL;",
    )
}

/// Deletes what is no longer remembered.
fn prune(connection: &Connection, upto: RowId, rows_max: usize) -> rusqlite::Result<usize> {
    let rows_max = i64::try_from(rows_max).unwrap_or(i64::MAX);
    let rows = connection
        .prepare_cached(
            "DELETE FROM rows WHERE id IN
             (SELECT id FROM rows INDEXED BY rows_left WHERE state <> 0 AND id <= ?1 ORDER BY id LIMIT ?2)",
        )?
        .execute([upto.0, rows_max])?;
    let keys = connection
        .prepare_cached("DELETE FROM spent WHERE id IN (SELECT id FROM spent WHERE id <= ?1 ORDER BY id LIMIT ?2)")?
        .execute([upto.0, rows_max])?;
    Ok(rows + keys)
}

/// Deletes some rows that have left and keeps their keys, the newest `keys_max` of them. Returns how many rows, and
/// how many keys went.
fn spend(connection: &Connection, keys_max: i64) -> rusqlite::Result<(usize, usize)> {
    type Left = (i64, i64, i64, i64, Option<Vec<u8>>);
    let mut spent: Vec<Left> = Vec::new();
    {
        let mut statement = connection.prepare_cached(
            "SELECT id, epoch_id, seq, stored_at, source_key FROM rows INDEXED BY rows_left
             WHERE state <> 0 ORDER BY id LIMIT ?1",
        )?;
        let mut rows = statement.query([i64::try_from(STEP_ROWS).unwrap_or(i64::MAX)])?;
        while let Some(row) = rows.next()? {
            spent.push((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?));
        }
    }
    // Deleted first: the keys find their place in the pages this frees, so that it works on a full disk, too.
    let mut delete = connection.prepare_cached("DELETE FROM rows WHERE id = ?1")?;
    for (id, ..) in &spent {
        delete.execute([id])?;
    }
    let mut keep = connection.prepare_cached("INSERT INTO spent VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for (id, epoch_id, seq, stored_at, key) in &spent {
        if let Some(key) = key {
            keep.execute(params![id, epoch_id, seq, stored_at, key])?;
        }
    }
    let keys = connection
        .prepare_cached("DELETE FROM spent WHERE id <= (SELECT id FROM spent ORDER BY id DESC LIMIT 1 OFFSET ?1)")?
        .execute([keys_max])?;
    Ok((spent.len(), keys))
}

fn select(connection: &Connection, selection: &Selection, states: &str) -> rusqlite::Result<Vec<i64>> {
    let epoch = selection.epoch.map(|epoch| epoch.to_string());
    let (from, to) = (selection.from.map_or(0, |seq| seq.0), selection.to.map_or(i64::MAX, |seq| seq.0));
    let index = if states == "state = 0" { "rows_held" } else { "rows_left" };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT id FROM rows INDEXED BY {index} WHERE {states} AND id <= ?1 AND seq BETWEEN ?2 AND ?3
         AND (?4 IS NULL OR epoch_id = (SELECT id FROM epochs WHERE epoch = ?4)) ORDER BY id LIMIT {STEP_ROWS}"
    ))?;
    let ids = statement.query_map(params![selection.upto.0, from, to, epoch], |row| row.get(0))?;
    ids.collect()
}

/// Marks rows as given up and makes gaps of them, one per run of seqs without holes.
fn give_up(connection: &Connection, ids: &[i64], reason: &str, wall: i64) -> rusqlite::Result<()> {
    let mut rows: Vec<(i64, i64, Option<String>)> = Vec::with_capacity(ids.len());
    {
        let mut statement = connection
            .prepare_cached("UPDATE rows SET state = 2 WHERE id = ?1 AND state = 0 RETURNING epoch_id, seq, body")?;
        for id in ids {
            let mut found = statement.query([id])?;
            if let Some(row) = found.next()? {
                let body = row.get_ref(2)?.as_blob().unwrap_or_default();
                let device = codec::decode(body).ok().map(|(item, _)| match item {
                    HeldItem::Reading(reading) => reading.device.into(),
                    HeldItem::Rejected { rejected, .. } => rejected.device.into(),
                });
                rows.push((row.get(0)?, row.get(1)?, device));
            }
        }
    }
    rows.sort_unstable_by_key(|(epoch_id, seq, _)| (*epoch_id, *seq));
    for run in rows.chunk_by(|(epoch_a, a, _), (epoch_b, b, _)| epoch_a == epoch_b && a + 1 == *b) {
        let (Some((epoch_id, from, _)), Some((_, to, _))) = (run.first(), run.last()) else { continue };
        let mut readings: BTreeMap<&str, i64> = BTreeMap::new();
        for device in run.iter().filter_map(|(.., device)| device.as_deref()) {
            *readings.entry(device).or_default() += 1;
        }
        let readings = serde_json::to_string(&readings).expect("counts by name are plain data");
        connection
            .prepare_cached(
                "INSERT INTO gaps (epoch_id, from_seq, to_seq, reason, readings, made_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![epoch_id, from, to, reason, readings, wall])?;
        connection
            .prepare_cached("UPDATE epochs SET given_up = given_up + ?2 WHERE id = ?1")?
            .execute([*epoch_id, to - from + 1])?;
    }
    Ok(())
}
