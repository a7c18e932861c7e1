//! What the agent itself reads: for the uplink and for the books.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rusqlite::{Connection, params};
use shared::envelope::{Closing, Gap};
use shared::reading::{Epoch, Seq};

use super::open::fail;
use super::{Selection, Store, StoreError};
use crate::outbox::{Books, GapId, HeldGap, Row, RowId, codec};

const BOOKS: &str = "SELECT
    t.stored + coalesce(sum(e.high), 0), t.acked + coalesce(sum(e.acked), 0),
    t.given_up + coalesce(sum(e.given_up), 0), t.duplicates + coalesce(sum(e.duplicates), 0),
    (SELECT count(*) FROM gaps WHERE acked = 0),
    coalesce(sum(e.ended = 1 AND e.closed_at IS NULL), 0)
    FROM totals AS t LEFT JOIN epochs AS e ON true GROUP BY t.id";

const CLOSINGS: &str = "SELECT epoch, last, mark FROM epochs AS e
    WHERE ended = 1 AND closed_at IS NULL AND high = acked + given_up
    AND NOT EXISTS (SELECT 1 FROM gaps WHERE epoch_id = e.id AND acked = 0) ORDER BY id";

/// Held rows that follow one another.
#[derive(Default)]
struct Page {
    rows: Vec<Row>,
    /// Those that cannot be read, and why.
    damaged: Vec<(RowId, String)>,
}

impl Store {
    /// See [`crate::outbox::Outbox::pending`]. Rows that cannot be decoded are given up and stepped over: they would
    /// block all behind them.
    pub(in crate::outbox) fn pending(
        &mut self,
        after: RowId,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let mut after = after;
        loop {
            let page = self.page(after, rows_max, bytes_max)?;
            if let (Some((first, why)), Some((last, _))) = (page.damaged.first(), page.damaged.last()) {
                let ids: Vec<RowId> = page.damaged.iter().map(|(id, _)| *id).collect();
                tracing::error!(
                    rows = ids.len(),
                    first = first.0,
                    last = last.0,
                    why,
                    "stored rows cannot be read and are given up"
                );
                self.give_up_rows(&ids, "damaged")?;
                self.damaged += u64::try_from(ids.len()).unwrap_or(0);
                after = *last;
            }
            // Nothing but damage: what can be sent comes behind it.
            if !page.rows.is_empty() || page.damaged.is_empty() {
                return Ok(page.rows);
            }
        }
    }

    /// How many damaged rows were given up since this was last asked.
    pub(in crate::outbox) fn take_damaged(&mut self) -> u64 {
        std::mem::take(&mut self.damaged)
    }

    fn page(&self, after: RowId, rows_max: usize, bytes_max: usize) -> Result<Page, StoreError> {
        let fail = fail("read held rows", &self.path);
        let mut page = Page::default();
        let mut bytes = 0;
        let mut statement = self
            .connection
            .prepare_cached(
                "SELECT rows.id, epochs.epoch, rows.seq, rows.body FROM rows INDEXED BY rows_held
                 JOIN epochs ON epochs.id = rows.epoch_id
                 WHERE rows.state = 0 AND rows.id > ?1 ORDER BY rows.id LIMIT ?2",
            )
            .map_err(&fail)?;
        let limit = i64::try_from(rows_max).unwrap_or(i64::MAX);
        let mut found = statement.query(params![after.0, limit]).map_err(&fail)?;
        while let Some(row) = found.next().map_err(&fail)? {
            let id = RowId(row.get(0).map_err(&fail)?);
            let epoch: String = row.get(1).map_err(&fail)?;
            let seq = Seq(row.get(2).map_err(&fail)?);
            let body = row.get_ref(3).map_err(&fail)?.as_blob().unwrap_or_default();
            match (codec::decode(body), epoch.parse::<Epoch>()) {
                (Ok((item, _)), Ok(epoch)) => {
                    if !page.rows.is_empty() && bytes_max < bytes + body.len() {
                        break;
                    }
                    bytes += body.len();
                    page.rows.push(Row { id, epoch, seq, item });
                }
                (Err(error), _) => page.damaged.push((id, error.to_string())),
                (_, Err(error)) => page.damaged.push((id, error.to_string())),
            }
        }
        Ok(page)
    }

    /// See [`crate::outbox::Outbox::gaps_pending`].
    pub(in crate::outbox) fn gaps_pending(&self) -> Result<Vec<HeldGap>, StoreError> {
        let fail = fail("read gaps", &self.path);
        gaps(&self.connection).map_err(fail)
    }

    /// See [`crate::outbox::Outbox::closings_pending`].
    pub(in crate::outbox) fn closings_pending(&self) -> Result<Vec<Closing>, StoreError> {
        let fail = fail("read closings", &self.path);
        let mut statement = self.connection.prepare_cached(CLOSINGS).map_err(&fail)?;
        let mut closings = Vec::new();
        let mut rows = statement.query([]).map_err(&fail)?;
        while let Some(row) = rows.next().map_err(&fail)? {
            let epoch: String = row.get(0).map_err(&fail)?;
            let (last, mark): (Option<i64>, Option<i64>) = (row.get(1).map_err(&fail)?, row.get(2).map_err(&fail)?);
            if let Ok(epoch) = epoch.parse() {
                let mark = if last.is_some() { None } else { mark.map(Seq) };
                closings.push(Closing { epoch, last: last.map(Seq), mark });
            }
        }
        Ok(closings)
    }

    /// The books.
    pub(in crate::outbox) fn books(&self) -> Result<Books, StoreError> {
        books(&self.connection).map_err(fail("read the books", &self.path))
    }

    /// Per epoch that has rows to send, and for the current one: highest seq and by which rules its rows were judged.
    pub(in crate::outbox) fn live_epochs(&self) -> Result<HashMap<Epoch, (Seq, Arc<str>)>, StoreError> {
        let fail = fail("read epochs", &self.path);
        let mut statement = self
            .connection
            .prepare_cached("SELECT epoch, high, rules FROM epochs WHERE high > acked + given_up OR id = ?1")
            .map_err(&fail)?;
        let mut live = HashMap::new();
        let mut rows = statement.query([self.epoch_id]).map_err(&fail)?;
        while let Some(row) = rows.next().map_err(&fail)? {
            let (epoch, high, rules): (String, i64, String) =
                (row.get(0).map_err(&fail)?, row.get(1).map_err(&fail)?, row.get(2).map_err(&fail)?);
            if let Ok(epoch) = epoch.parse() {
                live.insert(epoch, (Seq(high), rules.into()));
            }
        }
        Ok(live)
    }

    /// Fixes what a selection means to the rows that are here now.
    pub(in crate::outbox) fn pin(&self, selection: Selection) -> Result<Selection, StoreError> {
        let last: i64 = self
            .connection
            .query_row("SELECT coalesce(max(id), 0) FROM rows", [], |row| row.get(0))
            .map_err(fail("select rows", &self.path))?;
        Ok(Selection { upto: RowId(last), ..selection })
    }
}

pub(super) fn gaps(connection: &Connection) -> rusqlite::Result<Vec<HeldGap>> {
    let mut statement = connection.prepare_cached(
        "SELECT gaps.id, epochs.epoch, from_seq, to_seq, reason, readings FROM gaps
         JOIN epochs ON epochs.id = gaps.epoch_id WHERE gaps.acked = 0 ORDER BY gaps.id",
    )?;
    let rows = statement.query_map([], |row| {
        let epoch: String = row.get(1)?;
        let readings: String = row.get(5)?;
        let readings: BTreeMap<String, i64> = serde_json::from_str(&readings).unwrap_or_default();
        let gap = Gap {
            epoch: epoch.parse().map_err(|_| rusqlite::Error::InvalidQuery)?,
            from: Seq(row.get(2)?),
            to: Seq(row.get(3)?),
            reason: row.get(4)?,
            readings,
        };
        Ok(HeldGap { id: GapId(row.get(0)?), gap })
    })?;
    rows.collect()
}

pub(super) fn books(connection: &Connection) -> rusqlite::Result<Books> {
    connection.prepare_cached(BOOKS)?.query_row([], |row| {
        let count = |column| row.get::<_, i64>(column).map(|count| u64::try_from(count).unwrap_or(0));
        let (stored, acked, given_up) = (count(0)?, count(1)?, count(2)?);
        let held = stored.saturating_sub(acked).saturating_sub(given_up);
        Ok(Books {
            stored,
            acked,
            given_up,
            held,
            duplicates: count(3)?,
            gaps_held: count(4)?,
            closings_held: count(5)?,
        })
    })
}
