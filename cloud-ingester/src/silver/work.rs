//! Bronze rows -> silver rows, one batch at a time.

use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

use super::batches::{Quarantine, Readings, gaps};
use super::decode::{Decoded, Event, decode_to};
use super::events::events;
use super::judge::{Rules, judge};
use super::replays::{Replays, takes_up};
use super::rows::{GapRow, Row};
use super::seen::{Fit, Seen};

/// Rows of one batch handed on.
const BATCH_ROWS: usize = 16_384;
/// Quarantine rows carry bytes: fewer of them per batch …
const QUARANTINE_ROWS: usize = 1_024;
/// … and not more than these: several batches wait to be written.
const QUARANTINE_BYTES: usize = 8 << 20;

/// Running totals since the tables were created or refreshed. They ride in the metadata of each readings commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Bronze rows looked at.
    pub events: u64,
    /// Readings and refusals found in them; an Event refused as a whole counts one.
    pub decoded: u64,
    /// Of these, how many had been seen.
    pub duplicates: u64,
    /// Seqs that came although the gateway had given them up.
    pub gap_arrived: u64,
}

/// Which table a batch is for, in the order in which they are committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// silver.quarantine
    Quarantine,
    /// silver.gaps
    Gaps,
    /// silver.readings
    Readings,
}

/// Takes bronze rows of one version apart, judges them and drops what was seen. Within the batches given, Events are
/// taken in the hub's order, whatever the order in which they were stored. `put` is handed batches as they fill.
///
/// Reading bodies depends on nothing but the body and the rules: where there is much of it, a thread of its own does it,
/// a little ahead of what is decided here.
pub fn work(
    bronze: &[RecordBatch],
    rules: &Rules,
    seen: &mut Seen,
    totals: &mut Totals,
    replays: &mut Replays,
    mut put: impl FnMut(Target, RecordBatch),
) {
    let own = replays.own();
    let mut all: Vec<Event<'_>> = bronze.iter().flat_map(|batch| events(batch, own)).collect();
    all.sort_by(|a, b| order(a).cmp(&order(b)));
    let mut books = Books {
        rules,
        seen,
        totals,
        replays,
        readings: Readings::default(),
        quarantine: Quarantine::default(),
        quarantine_bytes: 0,
    };
    let pieces: Vec<&[Event<'_>]> = pieces(&all);
    if pieces.len() < 2 {
        books.take_all(&all, read(&all, rules), &mut put);
    } else {
        std::thread::scope(|scope| {
            let (ahead, reads) = std::sync::mpsc::sync_channel(PIECES_AHEAD);
            let to_read = &pieces;
            scope.spawn(move || {
                for piece in to_read {
                    // Nobody listens any more: the other side is panicking.
                    if ahead.send(read(piece, rules)).is_err() {
                        return;
                    }
                }
            });
            for piece in &pieces {
                let read = reads.recv().expect("a thread that panics takes this one with it");
                books.take_all(piece, read, &mut put);
            }
        });
    }
    books.end(put);
}

/// Bytes of bodies that are read at once.
const PIECE_BYTES: usize = 256 * 1024;
/// Events that are read at once.
const PIECE_EVENTS: usize = 2_048;
/// How many pieces are read before they are needed.
const PIECES_AHEAD: usize = 2;

/// Events in pieces that are not large.
fn pieces<'e, 'a>(all: &'e [Event<'a>]) -> Vec<&'e [Event<'a>]> {
    let (mut pieces, mut from, mut bytes) = (vec![], 0, 0);
    for (at, event) in all.iter().enumerate() {
        bytes += event.body.len();
        if PIECE_BYTES <= bytes || PIECE_EVENTS <= at + 1 - from {
            pieces.push(&all[from..=at]);
            (from, bytes) = (at + 1, 0);
        }
    }
    pieces.push(&all[from..]);
    pieces
}

/// What Events hold.
struct Read<'a> {
    /// The rows of all of them, but for replays.
    rows: Vec<Row<'a>>,
    /// Of each, how many of these are its, and what else it holds.
    each: Vec<(usize, Decoded<'a>)>,
}

fn read<'a>(events: &[Event<'a>], rules: &Rules) -> Read<'a> {
    let mut rows = Vec::with_capacity(events.len());
    let each = events.iter().map(|event| {
        let from = rows.len();
        let mut decoded = decode_to(event, rules, &mut rows);
        for row in rows[from..].iter_mut().chain(&mut decoded.rows) {
            judge(row, &event.origin, rules);
        }
        (rows.len() - from, decoded)
    });
    let each = each.collect();
    Read { rows, each }
}

struct Books<'b> {
    rules: &'b Rules,
    seen: &'b mut Seen,
    totals: &'b mut Totals,
    replays: &'b mut Replays,
    readings: Readings,
    quarantine: Quarantine,
    /// What the rows in `quarantine` carry.
    quarantine_bytes: usize,
}

impl Books<'_> {
    fn take_all(&mut self, events: &[Event<'_>], read: Read<'_>, put: &mut impl FnMut(Target, RecordBatch)) {
        let mut rows = read.rows.into_iter();
        for (event, (count, decoded)) in events.iter().zip(read.each) {
            let mut own = rows.by_ref().take(count);
            self.take(event, decoded, &mut own, put);
            // What was not wanted of a repeat.
            own.for_each(drop);
        }
    }

    /// `rows`: beside those in `decoded`.
    fn take<'a>(
        &mut self,
        event: &Event<'_>,
        mut decoded: Decoded<'a>,
        rows: &mut impl ExactSizeIterator<Item = Row<'a>>,
        put: &mut impl FnMut(Target, RecordBatch),
    ) {
        let Self { rules, seen, totals, replays, .. } = self;
        totals.events += 1;
        let found = (decoded.rows.len() + rows.len()) as u64;
        totals.decoded += found;
        let repeat = match event.replay {
            Some(replay) => !takes_up(replay, event, &decoded, seen, totals, replays),
            None => seen.messages.is_repeat(event, rules),
        };
        if repeat {
            totals.duplicates += found;
            return;
        }
        for row in std::mem::take(&mut decoded.rows).into_iter().chain(rows) {
            // The row of a replay that has its id was looked at above, with all that follow it.
            let admitted = event.replay.is_some_and(|replay| replay.repaired);
            if let Some(numbered) = row.numbered().filter(|_| !admitted) {
                match seen.admit_row(&row, numbered, event.origin.enqueued) {
                    Fit::Duplicate => {
                        totals.duplicates += 1;
                        continue;
                    }
                    Fit::New { gap_arrived } => totals.gap_arrived += u64::from(gap_arrived),
                }
            }
            match (replays.keep(row, event), &event.origin) {
                (Some(Row::Reading(row)), origin) => self.readings.push(&row, origin),
                (Some(Row::Refused(row)), origin) => {
                    self.quarantine.push(&row, origin, None);
                    self.quarantine_bytes += row.raw.len();
                    // Here, since one Event may hold thousands.
                    if QUARANTINE_ROWS <= self.quarantine.rows() || QUARANTINE_BYTES <= self.quarantine_bytes {
                        self.quarantine_bytes = 0;
                        put(Target::Quarantine, self.quarantine.take());
                    }
                }
                (None, _) => {}
            }
        }
        // After its rows, which say the same where they are new.
        if let Some(named) = decoded.high {
            seen.name_high(&named.gateway, &named.epoch, named.seq);
        }
        let mut new_gaps: Vec<GapRow> = vec![];
        for gap in decoded.gaps {
            if let Some(arrived) = seen.admit_gap(&gap) {
                totals.gap_arrived += arrived;
                new_gaps.push(gap);
            }
        }
        if !new_gaps.is_empty() {
            put(Target::Gaps, gaps(&new_gaps));
        }
        if BATCH_ROWS <= self.readings.rows() {
            put(Target::Readings, self.readings.take());
        }
    }

    fn end(mut self, mut put: impl FnMut(Target, RecordBatch)) {
        if 0 < self.readings.rows() {
            put(Target::Readings, self.readings.take());
        }
        if 0 < self.quarantine.rows() {
            put(Target::Quarantine, self.quarantine.take());
        }
    }
}

/// The refusals that were held back for the replays of their range. Called once at its end.
#[must_use]
pub fn held(replays: &mut Replays) -> Vec<RecordBatch> {
    let mut quarantine = Quarantine::default();
    for (row, origin, taken_up) in replays.held() {
        quarantine.push(&row, &origin, taken_up);
    }
    if quarantine.rows() == 0 { vec![] } else { vec![quarantine.take()] }
}

/// Replays come last: whatever they take up came before.
fn order<'a>(event: &'a Event<'_>) -> (bool, i64, &'a str, i32, i64) {
    let origin = &event.origin;
    (event.replay.is_some(), origin.incarnation, &origin.hub, origin.partition_id, origin.sequence_number)
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray as _;
    use shared::rules::TimeWindow;

    use super::super::decode::tests::event;
    use super::super::judge::Unique;
    use super::*;

    #[test]
    fn refusals_go_on_before_they_are_many_bytes() {
        let body = vec![0xff; 200_000];
        let rules = Rules::new(TimeWindow::SILVER, Unique::default());
        let (mut seen, mut totals, mut replays) = (Seen::default(), Totals::default(), Replays::default());
        let mut sizes = vec![];
        let mut put = |target: Target, batch: RecordBatch| {
            assert_eq!(target, Target::Quarantine);
            sizes.push(batch.column_by_name("raw").expect("a column").as_binary::<i32>().value_data().len());
        };
        let mut books = Books {
            rules: &rules,
            seen: &mut seen,
            totals: &mut totals,
            replays: &mut replays,
            readings: Readings::default(),
            quarantine: Quarantine::default(),
            quarantine_bytes: 0,
        };
        for _ in 0..100 {
            let event = event("gw-1", &body);
            let events = [event];
            books.take_all(&events, read(&events, &rules), &mut put);
        }
        books.end(&mut put);
        assert_eq!(sizes.iter().sum::<usize>(), 100 * body.len());
        assert!(sizes.iter().all(|size| *size < QUARANTINE_BYTES + body.len()), "{sizes:?}");
    }

    #[test]
    fn pieces_hold_every_event_once_in_order_and_none_is_large() {
        for (count, bytes) in [(0_i64, 10), (1, 10), (5_000, 10), (40, 100_000), (3, 1_000_000)] {
            let body = vec![b' '; bytes];
            let all: Vec<Event<'_>> = (0..count)
                .map(|number| {
                    let mut event = event("gw-1", &body);
                    event.origin.sequence_number = number;
                    event
                })
                .collect();
            let cut = pieces(&all);
            let numbers: Vec<i64> =
                cut.iter().flat_map(|piece| piece.iter()).map(|it| it.origin.sequence_number).collect();
            assert_eq!(numbers, (0..count).collect::<Vec<_>>());
            for piece in cut {
                let held: usize = piece.iter().map(|event| event.body.len()).sum();
                assert!(piece.len() <= PIECE_EVENTS && held < PIECE_BYTES + bytes, "{} of {bytes}", piece.len());
            }
        }
    }
}
