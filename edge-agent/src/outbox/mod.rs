//! The outbox: what the agent has acknowledged to a device and the hub has not yet acknowledged to the agent.
//!
//! One thread owns the database ([`worker`]); everybody else holds a cheap [`Outbox`] handle. A promise kept here:
//! when [`Outbox::append`] resolves the rows are on disk (WAL, `synchronous=FULL`), and a row leaves only by
//! [`Outbox::done`], which the uplink calls on the hub's PUBACK and nowhere else, or by the operator's `drop`, which
//! leaves a gap behind.

pub mod config; // path, limits

mod handle; // the cheap handle everybody holds

mod history; // which rules judged which rows

mod worker; // the thread that owns the store, group commit

mod memory; // source keys of the last ten minutes

mod side; // the side file: epochs without acknowledged closing

mod codec; // Row <-> bytes

pub mod store; // every SQL statement

mod schema; // migrations and pragmas

pub mod lock; // one writer per outbox

pub mod desk; // what other processes may ask of a running agent

#[cfg(test)]
mod tests;

use serde::Serialize;
use shared::reading::{Epoch, Reading, Rejected, Seq};

pub use config::Config;
pub use handle::{Appending, Outbox, OutboxError, View};
pub use worker::Metrics;

/// Number of a row inside this database; order of storing (and of sending). Not part of any id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RowId(pub i64);

/// Number of a gap inside this database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GapId(pub i64);

/// 128 bits of SHA-256 over (device, metric, `n`, the payload's own time, value): what makes a repeat recognisable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SourceKey(pub [u8; 16]);

/// When this machine received something, by a clock that never jumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BootTime {
    /// The kernel's boot id.
    pub boot: [u8; 16],
    /// Microseconds since that boot.
    pub monotonic_us: i64,
}

/// A row to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRow {
    /// The reading or refusal.
    pub item: HeldItem,
    /// Its source key; `None` where neither `n` nor a time could be read.
    pub key: Option<SourceKey>,
    /// When it was received.
    pub boot_time: BootTime,
}

/// What a row carries.
#[derive(Debug, Clone, PartialEq)]
pub enum HeldItem {
    /// A reading.
    Reading(Reading),
    /// A refusal. When stored, `rejected.raw` may be the whole payload; when read back it is at most the first
    /// [`shared::envelope::RAW_BYTES_MAX`] bytes. Length and digest are always of the whole.
    Rejected {
        /// The refusal.
        rejected: Rejected,
        /// Bytes of the whole payload.
        raw_len: i64,
        /// SHA-256 of the whole payload, hex.
        raw_sha256: String,
    },
}

/// A row as the uplink gets it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its number in this database.
    pub id: RowId,
    /// The agent run that stored it.
    pub epoch: Epoch,
    /// Its number within that run.
    pub seq: Seq,
    /// The reading or refusal.
    pub item: HeldItem,
}

/// A range of seqs the gateway gave up, held until its PUBACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldGap {
    /// Its number in this database.
    pub id: GapId,
    /// As it goes on the wire.
    pub gap: shared::envelope::Gap,
}

/// What one append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Appended {
    /// Rows that were stored and took a seq.
    pub stored: u64,
    /// Rows whose source key was known: acknowledged, counted, not stored.
    pub duplicates: u64,
}

/// What the hub has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Acked {
    /// Rows of acknowledged Envelopes.
    pub rows: Vec<RowId>,
    /// Gaps of acknowledged Envelopes.
    pub gaps: Vec<GapId>,
    /// Closings of acknowledged Envelopes.
    pub closings: Vec<Epoch>,
}

/// The outbox's books, from what is stored: `stored = acked + given_up + held`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Books {
    /// Rows that ever took a seq in this database.
    pub stored: u64,
    /// Of these, acknowledged by the hub.
    pub acked: u64,
    /// Of these, given up: covered by gaps.
    pub given_up: u64,
    /// Of these, still to be sent or in flight.
    pub held: u64,
    /// Repeats that were recognised and not stored.
    pub duplicates: u64,
    /// Gaps without PUBACK.
    pub gaps_held: u64,
    /// Ended epochs whose closing has no PUBACK yet.
    pub closings_held: u64,
}
