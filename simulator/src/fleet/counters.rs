//! How a fleet or a replay gets on: numbers for people and scripts. The ledger is the truth.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// Shared by all devices; only ever added to, but for `connected`.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) connected: AtomicU64,
    pub(crate) connects: AtomicU64,
    pub(crate) sends: AtomicU64,
    pub(crate) values: AtomicU64,
    pub(crate) acked: AtomicU64,
    pub(crate) again: AtomicU64,
    pub(crate) unacked: AtomicU64,
    pub(crate) skipped: AtomicU64,
    pub(crate) failed: AtomicU64,
    trouble: Mutex<Option<String>>,
}

/// The numbers at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Devices connected now.
    pub connected: u64,
    /// Connections made so far.
    pub connects: u64,
    /// Sends written into the ledger in this run.
    pub sends: u64,
    /// Values in them (a payload without readable values counts one).
    pub values: u64,
    /// Sends acknowledged in this run, those of earlier runs included.
    pub acked: u64,
    /// Sends published once more, on a new connection.
    pub again: u64,
    /// Sends whose PUBACK is outstanding now.
    pub unacked: u64,
    /// Samples not taken because the gateway did not acknowledge in time.
    pub skipped: u64,
    /// Best effort: sends that failed; they are not sent again.
    pub failed: u64,
    /// The last failure of a connection, while a device is without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn sub(counter: &AtomicU64, amount: u64) {
        counter.fetch_sub(amount, Ordering::Relaxed);
    }

    pub(crate) fn trouble(&self, text: String) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }

    /// The numbers now.
    pub fn progress(&self) -> Progress {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Progress {
            connected: get(&self.connected),
            connects: get(&self.connects),
            sends: get(&self.sends),
            values: get(&self.values),
            acked: get(&self.acked),
            again: get(&self.again),
            unacked: get(&self.unacked),
            skipped: get(&self.skipped),
            failed: get(&self.failed),
            trouble: self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// Adds one for as long as it lives: a count that cannot leak.
pub(crate) struct Held<'a>(&'a AtomicU64);

impl<'a> Held<'a> {
    pub(crate) fn new(counter: &'a AtomicU64) -> Self {
        Counters::add(counter, 1);
        Self(counter)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        Counters::sub(self.0, 1);
    }
}
