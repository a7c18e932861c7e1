//! Bronze rows -> silver rows, one batch at a time.

use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

use super::batches::{Quarantine, Readings, gaps};
use super::decode::{Event, decode};
use super::events::events;
use super::judge::{Rules, judge};
use super::replays::{Replays, takes_up};
use super::rows::{GapRow, Row};
use super::seen::{Fit, Seen};

/// Rows of one batch handed on.
const BATCH_ROWS: usize = 16_384;
/// Quarantine rows carry bytes: fewer of them per batch.
const QUARANTINE_ROWS: usize = 1_024;

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

/// What came of some bronze rows.
#[derive(Debug, Default)]
pub struct Made {
    /// For silver.readings.
    pub readings: Vec<RecordBatch>,
    /// For silver.quarantine.
    pub quarantine: Vec<RecordBatch>,
    /// For silver.gaps.
    pub gaps: Vec<RecordBatch>,
}

/// Takes bronze rows of one version apart, judges them and drops what was seen. Within the batches given, Events are
/// taken in the hub's order, whatever the order in which they were stored.
#[must_use]
pub fn work(
    bronze: &[RecordBatch],
    rules: &Rules,
    seen: &mut Seen,
    totals: &mut Totals,
    replays: &mut Replays,
) -> Made {
    let own = replays.own();
    let mut all: Vec<Event<'_>> = bronze.iter().flat_map(|batch| events(batch, own)).collect();
    all.sort_by(|a, b| order(a).cmp(&order(b)));
    let mut made = Made::default();
    let (mut readings, mut quarantine) = (Readings::default(), Quarantine::default());
    let mut new_gaps: Vec<GapRow> = vec![];
    for event in &all {
        totals.events += 1;
        let mut decoded = decode(event, rules);
        let found = decoded.rows.len() as u64;
        totals.decoded += found;
        let repeat = match event.replay {
            Some(replay) => !takes_up(replay, event, &mut decoded, rules, seen, totals, replays),
            None => seen.messages.is_repeat(event, rules),
        };
        if repeat {
            totals.duplicates += found;
            continue;
        }
        for row in decoded.rows {
            let row = judge(row, &event.origin, rules);
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
                (Some(Row::Reading(row)), origin) => readings.push(&row, origin),
                (Some(Row::Refused(row)), origin) => quarantine.push(&row, origin, None),
                (None, _) => {}
            }
        }
        // After its rows, which say the same where they are new.
        if let Some(named) = decoded.high {
            seen.name_high(&named.gateway, &named.epoch, named.seq);
        }
        for gap in decoded.gaps {
            if let Some(arrived) = seen.admit_gap(&gap) {
                totals.gap_arrived += arrived;
                new_gaps.push(gap);
            }
        }
        if BATCH_ROWS <= readings.rows() {
            made.readings.push(readings.take());
        }
        if QUARANTINE_ROWS <= quarantine.rows() {
            made.quarantine.push(quarantine.take());
        }
    }
    if 0 < readings.rows() {
        made.readings.push(readings.take());
    }
    if 0 < quarantine.rows() {
        made.quarantine.push(quarantine.take());
    }
    if !new_gaps.is_empty() {
        made.gaps.push(gaps(&new_gaps));
    }
    made
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
