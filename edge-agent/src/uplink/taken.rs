//! What was taken from the outbox and is not yet marked there as done.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;

use shared::reading::Epoch;

use super::batch::Cut;
use crate::outbox::{Acked, GapId, Outbox, OutboxError};

/// A mark on its way to the disk, and what it is about.
type Marking = Pin<Box<dyn Future<Output = (Acked, Result<(), OutboxError>)> + Send>>;

/// Rows, gaps and closings that wait, fly, or are acknowledged and not yet marked. One mark is under way at a time, and
/// each takes all that was acknowledged meanwhile: many PUBACKs, one commit.
#[derive(Default)]
pub(super) struct Taken {
    rows: usize,
    gaps: HashSet<GapId>,
    closings: HashSet<Epoch>,
    acked: Acked,
    marking: Option<Marking>,
}

impl Taken {
    /// How many rows.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// More rows were taken.
    pub(super) fn add_rows(&mut self, count: usize) {
        self.rows += count;
    }

    /// False if the gap is taken already.
    pub(super) fn add_gap(&mut self, gap: GapId) -> bool {
        self.gaps.insert(gap)
    }

    /// False if the closing is taken already.
    pub(super) fn add_closing(&mut self, epoch: Epoch) -> bool {
        self.closings.insert(epoch)
    }

    /// The hub has acknowledged `cut`.
    pub(super) fn landed(&mut self, cut: &Cut) {
        self.acked.rows.extend_from_slice(&cut.rows);
        self.acked.gaps.extend_from_slice(&cut.gaps);
        self.acked.closings.extend_from_slice(&cut.closings);
    }

    /// True while a mark is under way.
    pub(super) fn is_marking(&self) -> bool {
        self.marking.is_some()
    }

    /// Starts to mark what is acknowledged, unless a mark is under way.
    pub(super) fn mark(&mut self, outbox: &Outbox) {
        let Acked { rows, gaps, closings } = &self.acked;
        if self.marking.is_some() || rows.is_empty() && gaps.is_empty() && closings.is_empty() {
            return;
        }
        let acked = std::mem::take(&mut self.acked);
        let outbox = outbox.clone();
        self.marking = Some(Box::pin(async move {
            let marked = outbox.done(acked.clone()).await;
            (acked, marked)
        }));
    }

    /// The outcome of the mark under way; pending for ever without one. Cancel-safe.
    pub(super) async fn marked(&mut self) -> Result<(), OutboxError> {
        let Some(marking) = &mut self.marking else { return std::future::pending().await };
        let (acked, marked) = marking.await;
        self.marking = None;
        self.rows = self.rows.saturating_sub(acked.rows.len());
        for gap in &acked.gaps {
            self.gaps.remove(gap);
        }
        for closing in &acked.closings {
            self.closings.remove(closing);
        }
        marked
    }
}
