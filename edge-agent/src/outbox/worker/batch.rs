//! Rows of several appends in one transaction.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use crate::outbox::store::Prepared;
use crate::outbox::{Appended, OutboxError};

/// Most rows in one transaction.
const ROWS_MAX: usize = 5_000;

/// An append of which some rows are still to be stored.
pub(super) struct Waiting {
    pub(super) rows: VecDeque<Prepared>,
    pub(super) so_far: Appended,
    pub(super) reply: oneshot::Sender<Result<Appended, OutboxError>>,
}

/// How many rows of each waiting append go into one transaction.
#[derive(Default)]
pub(super) struct Batch {
    taken: Vec<usize>,
    total: usize,
}

impl Batch {
    /// As many rows as fit, at least one if there is one.
    pub(super) fn of(appends: &VecDeque<Waiting>, bytes_max: u64) -> Self {
        let mut batch = Batch::default();
        let mut bytes = 0;
        for append in appends {
            let mut taken = 0;
            for row in &append.rows {
                let full = ROWS_MAX <= batch.total || bytes_max < bytes + row.bytes();
                if full && 0 < batch.total {
                    batch.taken.push(taken);
                    return batch;
                }
                bytes += row.bytes();
                taken += 1;
                batch.total += 1;
            }
            batch.taken.push(taken);
        }
        batch
    }

    /// The rows themselves.
    pub(super) fn rows<'w>(&self, waiting: &'w VecDeque<Waiting>) -> Vec<&'w Prepared> {
        let appends = waiting.iter().zip(&self.taken);
        appends.flat_map(|(waiting, taken)| waiting.rows.iter().take(*taken)).collect()
    }

    /// Takes the rows out and answers the appends that are through.
    pub(super) fn settle(self, waiting: &mut VecDeque<Waiting>, admitted: &[bool]) {
        let mut verdicts = admitted.iter();
        for (append, taken) in waiting.iter_mut().zip(&self.taken) {
            append.rows.drain(..*taken);
            for new in verdicts.by_ref().take(*taken) {
                match new {
                    true => append.so_far.stored += 1,
                    false => append.so_far.duplicates += 1,
                }
            }
        }
        while waiting.front().is_some_and(|append| append.rows.is_empty()) {
            let Some(append) = waiting.pop_front() else { return };
            append.reply.send(Ok(append.so_far)).ok();
        }
    }
}
