//! Refusals taken up again: an Event of our own names one, and holds its readings repaired, or the original body.
//!
//! | the refusal named                 | what the replay does                                          |
//! |-----------------------------------|---------------------------------------------------------------|
//! | stands in quarantine              | its readings are new, the refusal is marked                   |
//! | its id stands in readings         | nothing: a duplicate                                          |
//! | was taken up before               | nothing: a duplicate                                          |
//! | stands nowhere                    | its readings are new                                          |
//! | (and the replay is refused again) | nothing: a duplicate of the refusal, which stays as it is     |
//!
//! Replays are worked off after everything else of a range, so it does not matter in which commit of bronze what they
//! name came; refusals of the same range are held back until then.

use std::collections::HashMap;

use shared::time::Timestamp;

use super::decode::{Decoded, Event, Replay};
use super::rows::{Origin, RefusedRow, Row};
use super::seen::{Fit, Seen};
use super::work::Totals;

/// How what a replay names stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// In neither table.
    Absent,
    /// In quarantine, not taken up yet.
    Refused,
    /// In readings, or taken up before.
    Done,
}

/// The replays of a range: how what they name stands, and what became of it.
#[derive(Debug, Default)]
pub struct Replays {
    own: i64,
    standing: HashMap<String, Standing>,
    held: HashMap<String, (RefusedRow, Origin)>,
    taken_up: HashMap<String, Timestamp>,
}

impl Replays {
    /// Those of a range; `own`: the incarnation of our own Events, when bronze was created.
    #[must_use]
    pub fn new(own: i64, standing: HashMap<String, Standing>) -> Self {
        Self { own, standing, ..Self::default() }
    }

    /// The incarnation of our own Events.
    #[must_use]
    pub const fn own(&self) -> i64 {
        self.own
    }

    /// Notes a row that is to be written; one that a replay names is held back and `None` given.
    pub(super) fn keep<'a>(&mut self, row: Row<'a>, event: &Event<'_>) -> Option<Row<'a>> {
        if self.standing.is_empty() {
            return Some(row);
        }
        let id = row.id(&event.origin);
        let Some(standing) = self.standing.get_mut(&id) else { return Some(row) };
        match row {
            Row::Reading(_) => {
                *standing = Standing::Done;
                Some(row)
            }
            Row::Refused(refused) => {
                *standing = Standing::Refused;
                self.held.insert(id, (refused, event.origin.clone()));
                None
            }
        }
    }

    /// The refusals held back, each with the time it was taken up, if it was.
    pub fn held(&mut self) -> Vec<(RefusedRow, Origin, Option<Timestamp>)> {
        let mut held: Vec<_> = std::mem::take(&mut self.held).into_iter().collect();
        held.sort_by(|(a, _), (b, _)| a.cmp(b));
        held.into_iter().map(|(id, (row, origin))| (row, origin, self.taken_up.remove(&id))).collect()
    }

    /// The refusals of earlier ranges that were taken up, and when. Ask after [`Replays::held`].
    #[must_use]
    pub const fn marks(&self) -> &HashMap<String, Timestamp> {
        &self.taken_up
    }
}

/// Whether a replay takes effect; then what it names is taken up, and its rows, which are judged, are admitted where they
/// were numbered.
pub(super) fn takes_up(
    replay: Replay<'_>,
    event: &Event<'_>,
    decoded: &Decoded<'_>,
    seen: &mut Seen,
    totals: &mut Totals,
    replays: &mut Replays,
) -> bool {
    let standing = replays.standing.get(replay.of).copied().unwrap_or(Standing::Absent);
    let refused = decoded.rows.iter().filter(|row| matches!(row, Row::Refused(_))).count();
    let again = match replay.repaired {
        // All or nothing: what was repaired has no place of its own in quarantine.
        true => 0 < refused || decoded.rows.is_empty(),
        false => refused == decoded.rows.len() && decoded.gaps.is_empty() && decoded.high.is_none(),
    };
    if standing == Standing::Done || again {
        return false;
    }
    if replay.repaired
        && let Some(first) = decoded.rows.first()
        && let Some(numbered) = first.numbered()
    {
        if standing == Standing::Refused {
            seen.replayed(&numbered.gateway, &numbered.epoch);
        } else {
            match seen.admit_row(first, numbered, event.origin.enqueued) {
                Fit::Duplicate => return false,
                Fit::New { gap_arrived } => totals.gap_arrived += u64::from(gap_arrived),
            }
        }
    }
    if standing == Standing::Refused {
        replays.taken_up.insert(replay.of.to_owned(), event.origin.ingested);
    }
    replays.standing.insert(replay.of.to_owned(), Standing::Done);
    true
}
