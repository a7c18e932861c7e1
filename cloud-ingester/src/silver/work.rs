//! Bronze rows -> silver rows, one batch at a time.

use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

use super::batches::{Quarantine, Readings, gaps};
use super::decode::{Event, decode};
use super::events::events;
use super::judge::{Rules, judge};
use super::rows::{GapRow, Row};
use super::seen::{Fit, Seen, Where};

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
pub fn work(bronze: &[RecordBatch], rules: &Rules, seen: &mut Seen, totals: &mut Totals) -> Made {
    let mut all: Vec<Event<'_>> = bronze.iter().flat_map(events).collect();
    all.sort_by(|a, b| order(a).cmp(&order(b)));
    let mut made = Made::default();
    let (mut readings, mut quarantine) = (Readings::default(), Quarantine::default());
    let mut new_gaps: Vec<GapRow> = vec![];
    for event in &all {
        totals.events += 1;
        let decoded = decode(event);
        totals.decoded += decoded.rows.len() as u64;
        if seen.messages.is_repeat(event, rules) {
            totals.duplicates += decoded.rows.len() as u64;
            continue;
        }
        for row in decoded.rows {
            let row = judge(row, &event.origin, rules);
            if let Some(numbered) = row.numbered() {
                let place = match row {
                    Row::Reading(_) => Where::Readings,
                    Row::Refused(_) => Where::Quarantine,
                };
                let enqueued = event.origin.enqueued;
                match seen.admit(place, &numbered.gateway, &numbered.epoch, numbered.seq, numbered.high, enqueued) {
                    Fit::Duplicate => {
                        totals.duplicates += 1;
                        continue;
                    }
                    Fit::New { gap_arrived } => totals.gap_arrived += u64::from(gap_arrived),
                }
            }
            match row {
                Row::Reading(row) => readings.push(&row, &event.origin),
                Row::Refused(row) => quarantine.push(&row, &event.origin),
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

fn order<'a>(event: &'a Event<'_>) -> (i64, &'a str, i32, i64) {
    let origin = &event.origin;
    (origin.incarnation, &origin.hub, origin.partition_id, origin.sequence_number)
}
