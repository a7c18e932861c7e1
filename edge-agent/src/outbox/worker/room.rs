//! Room: how it is made on a full disk or at `bytes-max`, who is told, and the housekeeping that gives it back.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::Worker;
use crate::outbox::store::{Linger, Store, StoreError};

/// How often relief from a full disk is tried; each try writes some megabytes.
const RELIEVE: Duration = Duration::from_secs(5);
/// How long there must have been room before the log says so.
const ROOM_AGAIN: Duration = Duration::from_secs(5);
/// How often old payloads are deleted and free pages given back.
const TIDY: Duration = Duration::from_secs(60);

impl Worker {
    /// On a full disk: gives the ballast up, so that the log can be moved into the database, what the hub has acknowledged
    /// be marked, rows that have left be deleted, but for their keys, and free pages be given back. True if it is worth
    /// trying again now; not more often than `RELIEVE`.
    pub(super) fn relieve(&mut self) -> Result<bool, StoreError> {
        if self.relieved.is_some_and(|at| at.elapsed() < RELIEVE) {
            return Ok(false);
        }
        self.relieved = Some(Instant::now());
        self.ballast.drop_it();
        let relieved = (|| {
            self.store.checkpoint()?;
            // Before the ballast lies again: there may never be as much room for it as now.
            self.acknowledge_in_parts()?;
            while 0 < self.store.prune(Linger::KeyAlone)? {}
            self.store.shrink()?;
            self.store.checkpoint()
        })();
        self.ballast.lay();
        match relieved {
            Err(error) if StoreError::is_fatal(&error) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "no relief");
                Ok(true)
            }
            Ok(()) => Ok(true),
        }
    }

    /// Does what has to be written even on a full disk in the room that the ballast has there.
    pub(super) fn in_ballast<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> T {
        let tight = self.full.is_some() || self.ballast.is_needed();
        // A log that cannot be moved into the database is longer than it could be, and no more than that.
        if tight {
            self.ballast.drop_it();
            self.store.checkpoint().ok();
        }
        let done = act(self);
        if tight {
            self.store.checkpoint().ok();
            self.ballast.lay();
        }
        done
    }

    pub(super) fn upkeep(&mut self) -> Result<(), StoreError> {
        self.confirm();
        if self.full.is_none() && self.told_full.is_some_and(|at| ROOM_AGAIN <= at.elapsed()) {
            self.told_full = None;
            tracing::info!("there is room again");
        }
        let tidy = TIDY <= self.tidied.elapsed();
        let idle = self.waiting.is_empty() && self.done.is_empty();
        if !tidy && !idle {
            return Ok(());
        }
        let kept = (|| {
            // Nobody waits, so no append will find out that there is room again.
            if idle && self.full.is_some() {
                if !self.ballast.lies() {
                    self.relieve()?;
                }
                let enough = self.store.batch_bytes_max();
                if self.ballast.lies() && make_room(&mut self.store, enough).is_ok() {
                    self.recovered();
                }
            }
            if self.store.has_prunable()? {
                self.store.prune(Linger::WhileRemembered)?;
            }
            if tidy {
                self.tidied = Instant::now();
                self.store.tidy()?;
                self.refresh()?;
            }
            Ok(())
        })();
        match kept {
            Err(error) if StoreError::is_fatal(&error) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "upkeep waits");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    pub(super) fn no_room(&mut self, error: &StoreError) {
        let text = error.to_string();
        if self.told_full.is_none() {
            tracing::error!(error = text, "no room: devices are not acknowledged until there is");
        }
        self.told_full = Some(Instant::now());
        self.full = Some(text.clone());
        self.metrics.full(true);
        let bytes = self.store.bytes();
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.full = Some(text);
        view.bytes = bytes;
    }

    pub(super) fn recovered(&mut self) {
        if self.full.take().is_some() {
            self.metrics.full(false);
            self.view.lock().unwrap_or_else(PoisonError::into_inner).full = None;
        }
    }
}

/// Deletes what has left but for its keys, then whole payloads, until `bytes` more fit.
pub(super) fn make_room(store: &mut Store, bytes: u64) -> Result<(), StoreError> {
    loop {
        let Err(full) = store.room_for(bytes) else { return Ok(()) };
        if store.prune(Linger::KeyAlone)? == 0 && !store.drop_oldest_payload()? {
            return Err(full);
        }
    }
}
