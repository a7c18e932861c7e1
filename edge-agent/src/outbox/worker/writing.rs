//! The group commit: what waits goes into one transaction, and whoever waited for it is answered.

use std::path::PathBuf;
use std::time::Instant;

use shared::reading::{Epoch, Seq};

use super::Worker;
use super::batch::Batch;
use super::room::make_room;
use crate::outbox::Acked;
use crate::outbox::store::{Prepared, StoreError};

/// Rows marked at once in the room that the ballast leaves; fewer, where they need more. (A row that is marked is written
/// anew, with the page it lies on.)
const PART_ROWS: usize = 512;

impl Worker {
    /// Writes what waits until nothing waits or there is no room.
    pub(super) fn write(&mut self) -> Result<(), StoreError> {
        self.store.in_place()?;
        while !self.waiting.is_empty() || !self.done.is_empty() {
            match self.write_once() {
                Ok(()) => {}
                Err(error) if error.is_fatal() => return Err(error),
                Err(StoreError::Disk { .. }) if self.relieve()? => {}
                Err(error) => {
                    self.no_room(&error);
                    if !self.acknowledge_alone()? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// One transaction: as many rows as fit, and all acknowledgements.
    fn write_once(&mut self) -> Result<(), StoreError> {
        let began = Instant::now();
        let batch = Batch::of(&self.waiting, self.store.batch_bytes_max());
        let admitted = self.store.admit(&batch.rows(&self.waiting));
        let new: Vec<&Prepared> =
            batch.rows(&self.waiting).into_iter().zip(&admitted).filter_map(|(row, new)| new.then_some(row)).collect();
        let repeats = admitted.len() - new.len();

        if !new.is_empty() {
            // Rows are stored only while the ballast lies: what is free beyond it is for acknowledgements.
            if !self.ballast.lies() {
                let detail = "no room for the ballast".to_owned();
                return Err(StoreError::Disk { act: "store rows", path: self.ballast.path.clone(), detail });
            }
            let bytes = new.iter().map(|row| row.bytes()).sum();
            make_room(&mut self.store, bytes)?;
            let high = self.store.high().0 + i64::try_from(new.len()).unwrap_or(i64::MAX);
            let (epoch, stored, high) = (self.store.epoch(), self.store.high(), Seq(high));
            self.side.allow(epoch, stored, high, self.steady_ms()).map_err(|error| StoreError::Disk {
                act: "raise the mark",
                path: PathBuf::from("the side file"),
                detail: error.to_string(),
            })?;
        }
        let acked: Vec<&Acked> = self.done.iter().map(|(acked, _)| acked).collect();
        let mut closed = Vec::new();
        if !admitted.is_empty() || !acked.is_empty() {
            let committed = self.store.commit(&new, repeats, &acked)?;
            self.metrics.committed(new.len(), committed.acked, began.elapsed());
            closed = committed.closed;
        }
        shared::crash::here("outbox-stored");
        let stored = !new.is_empty();
        self.confirm();
        if !admitted.is_empty() && admitted.len() == self.waiting.iter().map(|append| append.rows.len()).sum::<usize>()
        {
            self.recovered();
        }
        self.metrics.duplicates(repeats);
        // Whoever is answered finds the books as they are after this commit.
        self.refresh()?;
        batch.settle(&mut self.waiting, &admitted);
        for (_, reply) in self.done.drain(..) {
            reply.send(Ok(())).ok();
        }
        self.take_out(&closed);
        if stored {
            self.bump();
        }
        Ok(())
    }

    fn take_out(&mut self, closed: &[Epoch]) {
        if !closed.is_empty()
            && let Err(error) = self.side.closed(closed)
        {
            tracing::warn!(%error, "cannot take closed epochs out of the side file; the next start does");
        }
    }

    /// While rows find no room: acknowledgements need next to none, and are what makes room.
    fn acknowledge_alone(&mut self) -> Result<bool, StoreError> {
        if self.done.is_empty() {
            return Ok(false);
        }
        let waiting = std::mem::take(&mut self.waiting);
        let written = self.write_once();
        self.waiting = waiting;
        match written {
            Ok(()) => Ok(true),
            Err(error) if error.is_fatal() => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Marks what the hub has acknowledged, in parts that fit into the room that the ballast left.
    pub(super) fn acknowledge_in_parts(&mut self) -> Result<(), StoreError> {
        let mut most = PART_ROWS;
        let mut closed = Vec::new();
        while let Some((acked, _)) = self.done.first_mut() {
            let began = Instant::now();
            let upto = most.min(acked.rows.len());
            let mut part = Acked { rows: acked.rows[..upto].to_vec(), ..Acked::default() };
            let last = upto == acked.rows.len();
            if last {
                (part.gaps, part.closings) = (acked.gaps.clone(), acked.closings.clone());
            }
            let committed = match self.store.commit(&[], 0, &[&part]) {
                Ok(committed) => committed,
                Err(StoreError::Disk { .. }) if 1 < upto => {
                    most = upto / 2;
                    continue;
                }
                Err(error) => return Err(error),
            };
            acked.rows.drain(..upto);
            self.metrics.committed(0, committed.acked, began.elapsed());
            closed.extend(committed.closed);
            if last {
                let (_, reply) = self.done.remove(0);
                reply.send(Ok(())).ok(); // who asked may be gone: it is marked all the same
            }
            self.store.checkpoint()?;
        }
        self.refresh()?;
        self.take_out(&closed);
        Ok(())
    }

    /// After a commit, and not part of it: what is stored is stored, whether the side file knows of it or not.
    pub(super) fn confirm(&mut self) {
        if let Err(error) = self.side.confirm(self.store.epoch(), self.store.high(), self.steady_ms()) {
            tracing::debug!(%error, "the side file cannot follow what is stored");
        }
    }
}
