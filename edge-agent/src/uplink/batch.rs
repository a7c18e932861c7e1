//! Rows -> Envelopes of one epoch, filled towards whole metering units of the hub.
//!
//! The hub charges by 4 KB and throttles by the message, so an Envelope waits a moment for company while the link is
//! live (`linger`), and takes several units at once while there is a backlog. How large an Envelope becomes is known
//! only once it is packed; until then it is estimated from the ones before, and a guess too large is cut down.

mod wire; // a row, or a gap, as it travels

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use shared::envelope::{
    Closing, Compression, Envelope, MESSAGE_BYTES_MAX, METERING_UNIT_BYTES, Message, UNPACKED_BYTES_MAX,
};
use shared::reading::{Epoch, GatewayId, Seq};
use shared::topic;

use self::wire::{Wire, estimate, wire, wire_gap};
use crate::outbox::{GapId, HeldGap, Row, RowId};

/// JSON of one Envelope that is enough, as estimated.
const JSON_BYTES_ENOUGH: usize = 2 * 1024 * 1024;
/// JSON of one Envelope, as it is: above it rows stay behind, however small it packs. The cloud refuses whole what
/// unpacks to more than twice that.
const JSON_BYTES_MAX: usize = UNPACKED_BYTES_MAX / 2;
/// Gaps, and closings, that travel in one Envelope.
const NOTES_MAX: usize = 64;
/// Bytes of an Envelope beside its rows, about.
const FRAME_BYTES: usize = 220;
/// An Envelope this full is not tried again for more: packing costs more than a few unused bytes.
const FULL_ENOUGH: f64 = 0.93;
/// An Envelope, packed, and what is done once the hub has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cut {
    /// The topic with the property bag.
    pub topic: String,
    /// The body. Goes again byte for byte.
    pub body: Bytes,
    /// Its size as the hub counts it.
    pub hub_bytes: usize,
    /// Rows in it.
    pub rows: Vec<RowId>,
    /// Gaps in it.
    pub gaps: Vec<GapId>,
    /// Closings in it.
    pub closings: Vec<Epoch>,
}

/// How Envelopes are cut.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The gateway; also the device that publishes.
    pub gateway: GatewayId,
    /// How bodies travel.
    pub compression: Compression,
    /// How long the oldest row waits for company while the link is live.
    pub linger: Duration,
    /// Metering units of an Envelope while live.
    pub units: usize,
    /// Metering units of an Envelope while catching up.
    pub units_behind: usize,
}

/// Whether there is more where the rows came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Fill one Envelope of `units`, or linger for it.
    Live,
    /// Fill Envelopes of `units_behind`; there is surely enough to fill them.
    Behind,
    /// The agent stops: send what there is.
    Flush,
}

/// What stands at the head of an Envelope.
#[derive(Debug, Clone)]
pub struct Heading {
    /// Epoch of the rows; without rows, the current one.
    pub epoch: Epoch,
    /// The highest seq given in it.
    pub high: Seq,
    /// Digest of the rules its rows were judged by.
    pub rules: String,
    /// The last row that was judged by them; `None` if no row was judged by others since.
    pub upto: Option<Seq>,
}

/// Rows waiting to be cut.
#[derive(Debug)]
pub struct Cutter {
    shape: Shape,
    rows: VecDeque<Waiting>,
    /// JSON bytes of all waiting rows, about.
    estimate: usize,
    /// Packed bytes per estimated JSON byte, learnt from what was cut.
    ratio: f64,
    gaps: VecDeque<HeldGap>,
    closings: VecDeque<Closing>,
}

#[derive(Debug)]
struct Waiting {
    row: Row,
    estimate: usize,
    since: Instant,
}

impl Cutter {
    /// An empty one.
    pub fn new(shape: Shape) -> Self {
        let ratio = match shape.compression {
            Compression::None => 1.0,
            Compression::Zstd => 0.25,
        };
        Self { shape, rows: VecDeque::new(), estimate: 0, ratio, gaps: VecDeque::new(), closings: VecDeque::new() }
    }

    /// Adds the next row.
    pub fn push(&mut self, row: Row, now: Instant) {
        let estimate = estimate(&row);
        self.estimate += estimate;
        self.rows.push_back(Waiting { row, estimate, since: now });
    }

    /// Adds a gap; it travels with the next Envelope.
    pub fn push_gap(&mut self, gap: HeldGap) {
        self.gaps.push_back(gap);
    }

    /// Adds a closing; it travels with the next Envelope.
    pub fn push_closing(&mut self, closing: Closing) {
        self.closings.push_back(closing);
    }

    /// Rows waiting.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && !self.has_notes()
    }

    /// Gaps waiting.
    pub fn gaps(&self) -> impl Iterator<Item = GapId> {
        self.gaps.iter().map(|gap| gap.id)
    }

    /// Closings waiting.
    pub fn closings(&self) -> impl Iterator<Item = Epoch> {
        self.closings.iter().map(|closing| closing.epoch)
    }

    /// Epoch of the rows that are cut next; `None` without rows.
    pub fn epoch(&self) -> Option<Epoch> {
        self.rows.front().map(|waiting| waiting.row.epoch)
    }

    /// Seq of the row that is cut next.
    pub fn seq(&self) -> Option<Seq> {
        self.rows.front().map(|waiting| waiting.row.seq)
    }

    /// From now on the oldest row waits this long for company.
    pub fn set_linger(&mut self, linger: Duration) {
        self.shape.linger = linger;
    }

    /// True if more rows are wanted before the Envelopes of a full window could be cut at this pace.
    pub fn wants_rows(&self, pace: Pace) -> bool {
        self.packed(self.estimate) < 2 * self.target(pace) && self.estimate < JSON_BYTES_ENOUGH
    }

    /// True if an Envelope is to be cut now.
    pub fn is_due(&self, pace: Pace, now: Instant) -> bool {
        if self.is_empty() {
            return false;
        }
        let full = self.target(pace) <= self.packed(self.estimate) || JSON_BYTES_ENOUGH <= self.estimate;
        let ended = match (self.rows.front(), self.rows.back()) {
            (Some(first), Some(last)) => first.row.epoch != last.row.epoch,
            _ => false,
        };
        let lingered = self.deadline().is_some_and(|at| at <= now);
        full || ended || self.has_notes() || lingered || pace == Pace::Flush
    }

    /// When the oldest row has waited long enough.
    pub fn deadline(&self) -> Option<Instant> {
        self.rows.front().map(|waiting| waiting.since + self.shape.linger)
    }

    /// Cuts one Envelope off the front. `heading.epoch` must be [`Cutter::epoch`] where there are rows.
    pub fn cut(&mut self, heading: Heading, pace: Pace) -> Cut {
        let alike = |row: &Row| row.epoch == heading.epoch && heading.upto.is_none_or(|upto| row.seq <= upto);
        let run = self.rows.iter().take_while(|waiting| alike(&waiting.row)).count();
        let mut notes = (self.gaps.len().min(NOTES_MAX), self.closings.len().min(NOTES_MAX));
        let target = self.target(pace);
        let mut count = self.guess(run, target);
        let mut best: Option<(usize, Message)> = None;
        let (count, message) = loop {
            let (message, json) = self.pack(&heading, count, notes);
            let size = message.hub_bytes();
            self.learn(count, size);
            let limit = if count <= 1 { MESSAGE_BYTES_MAX } else { target.min(MESSAGE_BYTES_MAX) };
            if limit < size || JSON_BYTES_MAX < json {
                if let Some(best) = best.take() {
                    break best; // the step before this one fitted
                }
                if 1 < count {
                    count = shrunk(count, size, limit).min(shrunk(count, json, JSON_BYTES_MAX));
                } else if notes.0 + notes.1 == 0 || (count == 0 && notes.0 + notes.1 <= 1) {
                    break (count, message); // cannot be smaller; `wire` keeps a single row below the limits
                } else {
                    notes = fewer(notes);
                }
                continue;
            }
            let full = FULL_ENOUGH * target as f64 <= size as f64;
            let grown = grown(count, size, target).min(grown(count, json, JSON_BYTES_MAX)).min(run);
            if full || count == run || grown <= count || best.is_some() {
                break (count, message);
            }
            best = Some((count, message));
            count = grown;
        };
        self.finish(count, notes, message)
    }

    fn finish(&mut self, count: usize, notes: (usize, usize), message: Message) -> Cut {
        let rows = self
            .rows
            .drain(..count)
            .map(|waiting| {
                self.estimate -= waiting.estimate;
                waiting.row.id
            })
            .collect();
        Cut {
            topic: topic::events(self.shape.gateway.as_str(), &message.bag),
            hub_bytes: message.hub_bytes(),
            body: Bytes::from(message.body),
            rows,
            gaps: self.gaps.drain(..notes.0).map(|gap| gap.id).collect(),
            closings: self.closings.drain(..notes.1).map(|closing| closing.epoch).collect(),
        }
    }

    /// The first `count` rows and so many notes, packed, and how many bytes of JSON they are.
    fn pack(&self, heading: &Heading, count: usize, notes: (usize, usize)) -> (Message, usize) {
        let mut envelope =
            Envelope::new(self.shape.gateway.clone(), heading.epoch, heading.high, heading.rules.clone());
        for waiting in self.rows.iter().take(count) {
            match wire(&waiting.row) {
                Wire::Reading(reading) => envelope.readings.push(reading),
                Wire::Rejected(rejected) => envelope.rejected.push(rejected),
            }
        }
        let alone = notes.0 + notes.1 <= 1;
        envelope.gaps = self.gaps.iter().take(notes.0).map(|gap| wire_gap(gap, alone)).collect();
        envelope.closed = self.closings.iter().take(notes.1).cloned().collect();
        let json = envelope.to_json();
        let bytes = json.len();
        (envelope.pack_json(json, self.shape.compression), bytes)
    }

    fn guess(&self, run: usize, target: usize) -> usize {
        let mut sum = 0;
        let fitting = self.rows.iter().take(run).take_while(|waiting| {
            sum += waiting.estimate;
            self.packed(sum) <= target && sum <= JSON_BYTES_ENOUGH
        });
        fitting.count().max(1).min(run)
    }

    fn learn(&mut self, count: usize, size: usize) {
        let json: usize = self.rows.iter().take(count).map(|waiting| waiting.estimate).sum();
        if 0 < json {
            let seen = size.saturating_sub(FRAME_BYTES / 2) as f64 / json as f64;
            // A single small row says little about how well many of them pack.
            let weight = if json < METERING_UNIT_BYTES { 0.1 } else { 0.6 };
            self.ratio = (self.ratio * (1.0 - weight) + seen * weight).clamp(0.005, 2.0);
        }
    }

    fn packed(&self, json: usize) -> usize {
        FRAME_BYTES + (json as f64 * self.ratio) as usize
    }

    fn target(&self, pace: Pace) -> usize {
        let units = match pace {
            Pace::Live => self.shape.units,
            Pace::Behind | Pace::Flush => self.shape.units_behind,
        };
        (units * METERING_UNIT_BYTES).min(MESSAGE_BYTES_MAX)
    }

    fn has_notes(&self) -> bool {
        !self.gaps.is_empty() || !self.closings.is_empty()
    }
}

/// Half of the gaps and half of the closings; the last one of each goes one at a time. So whoever has no rows and halves
/// while there are two notes or more never comes to none: an Envelope without rows and notes would go for ever.
fn fewer(notes: (usize, usize)) -> (usize, usize) {
    match notes {
        (1, 1) => (1, 0),
        (gaps, closings) => (gaps / 2, closings / 2),
    }
}

/// How many of `count` rows come to about `limit`; all but one at most. All where they are below it.
fn shrunk(count: usize, size: usize, limit: usize) -> usize {
    if size <= limit {
        return count;
    }
    let share = (limit.saturating_sub(FRAME_BYTES / 2)) as f64 / (size - FRAME_BYTES / 2) as f64;
    ((count as f64 * share * 0.97) as usize).clamp(1, count - 1)
}

fn grown(count: usize, size: usize, target: usize) -> usize {
    let room = target.saturating_sub(FRAME_BYTES / 2) as f64 / size.saturating_sub(FRAME_BYTES / 2).max(1) as f64;
    // More rows pack a little better than their share, and one step too far is undone.
    (count as f64 * room.min(8.0) * 0.98) as usize
}

#[cfg(test)]
mod tests;
