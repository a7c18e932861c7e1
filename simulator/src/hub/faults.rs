//! Misfortune on demand, for tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is to go wrong; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    pubacks: Arc<AtomicU64>,
}

impl Faults {
    /// The next `count` PUBACKs are lost after the event was stored, each with its connection, as when a network fails.
    pub fn lose_pubacks(&self, count: u64) {
        self.pubacks.store(count, Ordering::SeqCst);
    }

    /// How many PUBACKs are still to be lost.
    pub fn pubacks_to_lose(&self) -> u64 {
        self.pubacks.load(Ordering::SeqCst)
    }

    /// True if the PUBACK that is about to be sent is to be lost; it then counts.
    pub(super) fn loses_puback(&self) -> bool {
        let less = |left: u64| left.checked_sub(1);
        self.pubacks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }
}
