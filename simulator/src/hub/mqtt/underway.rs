//! Publishes of one connection that were taken and are not acknowledged yet: first queued by a throttle, then on
//! their way to disk, then owed a PUBACK, in the order they came.

use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::hub::log::{AppendError, Appending, Log, NewEvent};

/// A publish as taken.
pub(super) struct Taken {
    /// `None` for QoS 0.
    pub(super) packet_id: Option<u16>,
    /// `None` where there is nothing to store.
    pub(super) event: Option<Box<NewEvent>>,
    pub(super) luck: Luck,
}

/// What the script of faults has in store for a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Luck {
    /// Stored two times.
    pub(super) twice: bool,
    /// Stored, but never acknowledged; the connection ends.
    pub(super) loses_puback: bool,
    /// Acknowledged so long after it was stored.
    pub(super) delay: Duration,
}

/// What is owed to the device for a publish that is stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Puback {
    /// `None` for QoS 0.
    pub(super) packet_id: Option<u16>,
    /// It is to be lost, and the connection with it.
    pub(super) lost: bool,
}

#[derive(Default)]
pub(super) struct Underway {
    queued: VecDeque<(Instant, Taken)>,
    stored: VecDeque<Stored>,
}

/// A publish on its way to disk, or there.
struct Stored {
    puback: Puback,
    /// What is not known to be stored yet.
    appendings: Vec<Appending>,
    delay: Duration,
    /// When it may be acknowledged, once it is stored.
    ripe: Option<Instant>,
}

impl Underway {
    pub(super) fn len(&self) -> usize {
        self.queued.len() + self.stored.len()
    }

    /// Takes a publish that a throttle lets through `wait` from now.
    pub(super) async fn take(&mut self, taken: Taken, wait: Duration, log: &Log) {
        if wait.is_zero() && self.queued.is_empty() {
            self.submit(taken, log).await;
        } else {
            // None overtakes another.
            let last = self.queued.back().map(|(due, _)| *due);
            let due = (Instant::now() + wait).max(last.unwrap_or_else(Instant::now));
            self.queued.push_back((due, taken));
        }
    }

    /// When [`Underway::submit_due`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.queued.front().map(|(due, _)| *due)
    }

    /// Sends to disk what the throttle has held long enough.
    pub(super) async fn submit_due(&mut self, log: &Log) {
        let now = Instant::now();
        while self.due().is_some_and(|due| due <= now)
            && let Some((_, taken)) = self.queued.pop_front()
        {
            self.submit(taken, log).await;
        }
    }

    async fn submit(&mut self, taken: Taken, log: &Log) {
        let Taken { packet_id, event, luck } = taken;
        let mut appendings = vec![];
        if let Some(event) = event {
            if luck.twice {
                appendings.push(log.submit((*event).clone()).await);
            }
            appendings.push(log.submit(*event).await);
        }
        let puback = Puback { packet_id, lost: luck.loses_puback };
        self.stored.push_back(Stored { puback, appendings, delay: luck.delay, ripe: None });
    }

    /// Waits for the first publish on its way to disk to be ripe; for ever if there is none. May be dropped and called
    /// again.
    pub(super) async fn first(&mut self) -> Result<Puback, AppendError> {
        let Some(first) = self.stored.front_mut() else { return pending().await };
        while let Some(last) = first.appendings.last_mut() {
            last.wait().await?;
            first.appendings.pop();
        }
        if !first.delay.is_zero() {
            sleep_until(first.ripens()).await;
        }
        let first = self.stored.pop_front().expect("it is still the first");
        Ok(first.puback)
    }

    /// As [`Underway::first`], if it is ripe now.
    pub(super) fn already(&mut self) -> Result<Option<Puback>, AppendError> {
        let Some(first) = self.stored.front_mut() else { return Ok(None) };
        while let Some(last) = first.appendings.last_mut() {
            if last.already()?.is_none() {
                return Ok(None);
            }
            first.appendings.pop();
        }
        if !first.delay.is_zero() && Instant::now() < first.ripens() {
            return Ok(None);
        }
        Ok(self.stored.pop_front().map(|first| first.puback))
    }

    /// True if something is on its way to disk, or there.
    pub(super) fn is_storing(&self) -> bool {
        !self.stored.is_empty()
    }
}

impl Stored {
    fn ripens(&mut self) -> Instant {
        let delay = self.delay;
        *self.ripe.get_or_insert_with(|| Instant::now() + delay)
    }
}
