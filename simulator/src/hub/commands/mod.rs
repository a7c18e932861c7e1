//! Commands, which the service calls cloud-to-device messages: a queue per device that outlives connections and
//! restarts, and what became of each, for those who asked.
//!
//! ```text
//! send --fsync--> queue --a delivery--> device --PUBACK--> completed ─┐
//!                   ^  └── too old, given too often, purged ──────────┴─> feedback --> services
//!                   └───── gone, or silent for `lock-duration`
//! ```
//!
//! Invariants: a command that was taken is with its device or in its queue until it ends; it ends once; order is kept
//! among those that are not with the device.

mod command; // [p] one command

mod feedback; // what became of a command

mod kept; // what of them is on disk, and in memory

mod queue; // what waits for one device

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use shared::clock::Clock;
use shared::time::Timestamp;
use tokio::sync::Notify;

pub use self::command::{COMMAND_BYTES_MAX, Command};
pub use self::feedback::{Ack, FEEDBACK_CONTENT_TYPE, FeedbackRecord, Outcome};
use self::kept::{FEEDBACK_MAX, Fed, Kept, Record, State, deliveries_key, key};
pub use self::queue::DEPTH_MAX;
pub(crate) use self::queue::Lock;
use self::queue::{Dead, Item, Queue};
use super::devices::Registry;
use super::journal::{Journal, Ticket};
use super::mqtt::Seats;
use super::who::Who;

/// How long commands live; the keys of `[hub.commands]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLimits {
    /// Of a command that does not say when it expires.
    pub time_to_live: Duration,
    /// So often a command is given to its device before it is given up.
    pub max_delivery_count: u32,
    /// So long a device has to complete a command before it is given again.
    pub lock_duration: Duration,
    /// Of feedback.
    pub feedback_time_to_live: Duration,
    /// So long a service has to settle feedback before it is given again.
    pub feedback_lock_duration: Duration,
    /// So often feedback is given before it is given up.
    pub feedback_max_delivery_count: u32,
}

/// Why a command is not taken.
#[derive(Debug, thiserror::Error)]
pub enum CommandFault {
    /// The registry does not know whom it is for.
    #[error("there is no device `{0}`")]
    NoSuchDevice(Who),
    /// Fifty wait already.
    #[error("{DEPTH_MAX} commands wait for the device already")]
    Full,
    /// Body and properties together.
    #[error("a command of {bytes} bytes; {COMMAND_BYTES_MAX} are allowed")]
    TooLarge {
        /// As the service counts.
        bytes: usize,
    },
    /// Too many in too short a time.
    #[error("more commands than `hub.limits` lets through")]
    Throttled,
    /// The day's quota is used up.
    #[error("the daily quota of `hub.limits` is used up")]
    Quota,
    /// The disk said no.
    #[error("the command cannot be stored: {0}")]
    Disk(#[from] io::Error),
}

impl CommandFault {
    /// As HTTP says it.
    pub const fn status(&self) -> u16 {
        match self {
            CommandFault::NoSuchDevice(_) => 404,
            CommandFault::Full | CommandFault::Quota => 403,
            CommandFault::Throttled => 429,
            CommandFault::TooLarge { .. } => 413,
            CommandFault::Disk(_) => 500,
        }
    }
}

/// Commands as of now, for `/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CommandStatus {
    /// In all queues.
    pub waiting: usize,
    /// Devices and modules for which some wait, and how many.
    pub by_device: std::collections::BTreeMap<String, usize>,
    /// Records that services have not settled.
    pub feedback: usize,
}

/// All commands; clones are the same.
#[derive(Clone)]
pub struct Commands {
    inner: Arc<Inner>,
}

struct Inner {
    journal: Journal<Record>,
    state: Mutex<State>,
    fed: Notify,
    clock: Clock,
    limits: CommandLimits,
    registry: Registry,
    seats: Seats,
}

impl Commands {
    /// Reads the file, or makes it.
    ///
    /// # Errors
    /// If the disk says no.
    pub fn open(
        path: PathBuf,
        clock: Clock,
        limits: CommandLimits,
        registry: Registry,
        seats: Seats,
    ) -> io::Result<Self> {
        let journal = Journal::<Record>::open(path)?;
        let state = State::read(&journal.book(), limits.feedback_time_to_live);
        let inner = Inner { journal, state: Mutex::new(state), fed: Notify::new(), clock, limits, registry, seats };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Takes a command; it is safe when this returns, and the device is told if it is there.
    ///
    /// # Errors
    /// If there is no such device, its queue is full, the command is too large, or the disk says no.
    pub async fn send(&self, who: &Who, command: Command) -> Result<(), CommandFault> {
        let inner = &*self.inner;
        let known = who.known(&inner.registry.now()).ok_or_else(|| CommandFault::NoSuchDevice(who.clone()))?;
        if !command.fits(who) {
            return Err(CommandFault::TooLarge { bytes: command.bytes() });
        }
        let now = inner.clock.now();
        let ticket = {
            let mut state = inner.state();
            inner.sweep(&mut state, who, now)?;
            let expires = command.expiry.unwrap_or_else(|| now.plus(inner.limits.time_to_live));
            let number = state.next;
            if !state.queue(who).has_room() {
                return Err(CommandFault::Full);
            }
            let generation_id = known.generation_id;
            let kept = Kept { who: who.clone(), generation_id, expires, command };
            let ticket = inner.journal.book().put(&key(number), Record::Command(Box::new(kept)))?;
            state.queue(who).push(Item { number, expires, deliveries: 0, locked_until: None });
            state.next += 1;
            ticket
        };
        inner.journal.settle(ticket).await?;
        inner.seats.knock(who);
        Ok(())
    }

    /// Takes all commands of a device back; gives how many there were.
    ///
    /// # Errors
    /// If the disk says no.
    pub async fn purge(&self, who: &Who) -> io::Result<usize> {
        let inner = &*self.inner;
        let now = inner.clock.now();
        let (count, ticket) = {
            let mut state = inner.state();
            let numbers = state.queues.remove(who).map(|mut queue| queue.purge()).unwrap_or_default();
            let mut ticket = None;
            for number in &numbers {
                ticket = Some(inner.end(&mut state, *number, Outcome::Purged, now)?);
            }
            (numbers.len(), ticket)
        };
        if let Some(ticket) = ticket {
            inner.journal.settle(ticket).await?;
        }
        Ok(count)
    }

    /// Forgets the commands of a device or module that is deleted. Nobody is told.
    ///
    /// # Errors
    /// If the disk says no.
    pub async fn forget_one(&self, who: &Who) -> io::Result<()> {
        let inner = &*self.inner;
        let ticket = {
            let mut state = inner.state();
            let numbers = state.queues.remove(who).map(|mut queue| queue.purge()).unwrap_or_default();
            let mut ticket = None;
            for number in numbers {
                ticket = Some(inner.remove(number)?);
            }
            ticket
        };
        match ticket {
            Some(ticket) => inner.journal.settle(ticket).await,
            None => Ok(()),
        }
    }

    /// How many commands wait for a device, those that are with it included.
    pub fn depth(&self, who: &Who) -> usize {
        self.inner.state().queues.get(who).map_or(0, Queue::len)
    }

    /// Whoever has commands waiting.
    pub fn whose(&self) -> Vec<Who> {
        self.inner.state().queues.keys().cloned().collect()
    }

    /// As `/status` shows it.
    pub fn status(&self) -> CommandStatus {
        let state = self.inner.state();
        CommandStatus {
            waiting: state.queues.values().map(Queue::len).sum(),
            by_device: state.queues.iter().map(|(who, queue)| (who.to_string(), queue.len())).collect(),
            feedback: state.feedback.len(),
        }
    }

    /// How long a service has for feedback.
    pub(super) fn feedback_lock(&self) -> Duration {
        self.inner.limits.feedback_lock_duration
    }

    /// What became of commands: waits until there is something, then gives at most `max` records (at least one), each
    /// to nobody else until it is settled or `feedback-lock-duration` has passed.
    pub async fn feedback(&self, max: usize) -> Vec<FeedbackRecord> {
        loop {
            let fed = self.inner.fed.notified();
            let records = self.inner.feedback(max.max(1));
            if !records.is_empty() {
                return records;
            }
            fed.await;
        }
    }

    /// A service has these (`accepted`), or may not have them: then they are given again.
    ///
    /// # Errors
    /// If the disk says no.
    pub fn settle_feedback(&self, records: &[FeedbackRecord], accepted: bool) -> io::Result<()> {
        let inner = &*self.inner;
        let mut state = inner.state();
        for record in records {
            match accepted {
                true if state.feedback.complete(record.lock) => drop(inner.remove(record.lock.number)?),
                true => {}
                false => state.feedback.abandon(record.lock),
            }
        }
        drop(state);
        if !accepted {
            inner.fed.notify_waiters();
        }
        Ok(())
    }

    /// A new connection of a device begins: whatever an earlier one had and did not complete is to be given again.
    pub(super) fn attach(&self, who: &Who) {
        if let Some(queue) = self.inner.state().queues.get_mut(who) {
            queue.abandon_all();
        }
    }

    /// The next command for a device that is not with it yet; it is until [`Commands::complete`],
    /// [`Commands::abandon`] or the end of the lock.
    ///
    /// # Errors
    /// If the disk says no.
    pub(super) fn next_for(&self, who: &Who) -> io::Result<Option<(Lock, Command)>> {
        let inner = &*self.inner;
        let mut state = inner.state();
        if !state.queues.contains_key(who) {
            return Ok(None);
        }
        let now = inner.clock.now();
        inner.sweep(&mut state, who, now)?;
        let Some(lock) = state.queues.get_mut(who).and_then(|queue| queue.lock(now, inner.limits.lock_duration)) else {
            return Ok(None);
        };
        let mut book = inner.journal.book();
        // What a power cut takes of this count is one delivery more than it should be.
        book.put(&deliveries_key(lock.number), Record::Deliveries(lock.delivery))?;
        match book.get(&key(lock.number)) {
            Some(Record::Command(kept)) => Ok(Some((lock, kept.command.clone()))),
            _ => Ok(None),
        }
    }

    /// The device has it. Not fsynced: what a power cut takes is given again.
    ///
    /// # Errors
    /// If the disk says no.
    pub(super) fn complete(&self, who: &Who, lock: Lock) -> io::Result<()> {
        let inner = &*self.inner;
        let mut state = inner.state();
        let Some(queue) = state.queues.get_mut(who) else { return Ok(()) };
        if queue.complete(lock) {
            if queue.is_empty() {
                state.queues.remove(who);
            }
            inner.end(&mut state, lock.number, Outcome::Success, inner.clock.now())?;
        }
        Ok(())
    }

    /// What a device that goes had and did not complete waits again.
    pub(super) fn abandon(&self, who: &Who, locks: impl IntoIterator<Item = Lock>) {
        if let Some(queue) = self.inner.state().queues.get_mut(who) {
            locks.into_iter().for_each(|lock| queue.abandon(lock));
        }
    }

    /// Gives up what is too old, takes back what was not completed in time, and tells devices of it. To be called now
    /// and then.
    ///
    /// # Errors
    /// If the disk says no.
    pub(super) fn sweep(&self) -> io::Result<()> {
        let inner = &*self.inner;
        let now = inner.clock.now();
        let mut state = inner.state();
        let everybody: Vec<Who> = state.queues.keys().cloned().collect();
        for who in everybody {
            inner.sweep(&mut state, &who, now)?;
            if state.queues.get(&who).is_some_and(Queue::waits) {
                inner.seats.knock(&who);
            }
        }
        let given_up = state.feedback.sweep(now, inner.limits.feedback_max_delivery_count);
        for (number, _) in given_up {
            inner.remove(number)?;
        }
        let waits = state.feedback.waits();
        drop(state);
        if waits {
            inner.fed.notify_waiters();
        }
        Ok(())
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up what of one device's is too old or was given too often; gives nothing.
    fn sweep(&self, state: &mut State, who: &Who, now: Timestamp) -> io::Result<()> {
        let Some(queue) = state.queues.get_mut(who) else { return Ok(()) };
        let dead = queue.sweep(now, self.limits.max_delivery_count);
        if queue.is_empty() {
            state.queues.remove(who);
        }
        for (number, why) in dead {
            let outcome = match why {
                Dead::Expired => Outcome::Expired,
                Dead::Deliveries => Outcome::DeliveryCountExceeded,
            };
            self.end(state, number, outcome, now)?;
        }
        Ok(())
    }

    /// A command has ended: it is gone, and its sender is told if it wanted to be.
    fn end(&self, state: &mut State, number: u64, outcome: Outcome, now: Timestamp) -> io::Result<Ticket> {
        let kept = match self.journal.book().get(&key(number)) {
            Some(Record::Command(kept)) => Some(kept.clone()),
            _ => None,
        };
        if let Some(kept) = kept.filter(|kept| kept.command.ack.wants(outcome)) {
            let fed = Fed {
                original_message_id: kept.command.message_id.unwrap_or_default(),
                enqueued_time: now,
                outcome,
                device_id: kept.who.device,
                device_generation_id: kept.generation_id,
            };
            let number = state.next;
            let expires = now.plus(self.limits.feedback_time_to_live);
            if state.feedback.push(Item { number, expires, deliveries: 0, locked_until: None }) {
                state.next += 1;
                // Written before the command is removed: a crash between the two tells twice rather than never.
                self.journal.book().put(&key(number), Record::Feedback(fed))?;
                self.fed.notify_waiters();
            } else {
                tracing::warn!(max = FEEDBACK_MAX, "feedback that no service fetches is dropped");
            }
        }
        self.remove(number)
    }

    fn remove(&self, number: u64) -> io::Result<Ticket> {
        let mut book = self.journal.book();
        book.remove(&deliveries_key(number))?;
        book.remove(&key(number))
    }

    fn feedback(&self, max: usize) -> Vec<FeedbackRecord> {
        let mut state = self.state();
        let now = self.clock.now();
        let book = self.journal.book();
        let mut records = vec![];
        while records.len() < max
            && let Some(lock) = state.feedback.lock(now, self.limits.feedback_lock_duration)
        {
            if let Some(Record::Feedback(fed)) = book.get(&key(lock.number)) {
                let Fed { original_message_id, enqueued_time, outcome, device_id, device_generation_id } = fed.clone();
                records.push(FeedbackRecord {
                    original_message_id,
                    enqueued_time,
                    outcome,
                    device_id,
                    device_generation_id,
                    lock,
                });
            }
        }
        records
    }
}
