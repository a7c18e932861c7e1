//! Publishes of one connection that were taken and are not acknowledged yet: first queued by a throttle, then on
//! their way to disk, then owed a PUBACK, in the order they came.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::end::End;
use crate::hub::faults::Action;
use crate::hub::log::{AppendError, Appending, Log, NewEvent};
use crate::hub::metrics::Metrics;

/// A publish as taken.
#[derive(Clone)]
pub(super) struct Taken {
    /// `None` for QoS 0.
    pub(super) packet_id: Option<u16>,
    /// `None` where there is nothing to store.
    pub(super) event: Option<Box<NewEvent>>,
    /// What it takes of memory, about: body, properties, and what each property is kept in.
    pub(super) bytes: usize,
    pub(super) luck: Luck,
}

/// What the script of faults has in store for a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Luck {
    /// Stored two times.
    pub(super) twice: bool,
    /// Stored, but never acknowledged; the connection ends.
    pub(super) loses_puback: bool,
    /// Acknowledged so long after it was let in, and not before it is stored.
    pub(super) delay: Duration,
}

impl Luck {
    /// What the script says of a publish: `None` if it is lost, or why the connection ends.
    pub(super) fn of(actions: &[Action], mut throttle: impl FnMut(Duration)) -> Result<Option<Self>, End> {
        let (mut luck, mut lost) = (Self::default(), false);
        for action in actions {
            match action {
                Action::Drop => lost = true,
                Action::Delay(length) => luck.delay += *length,
                Action::Duplicate => luck.twice = true,
                Action::BlackHole(length) => return Err(End::BlackHole(*length)),
                Action::Disconnect => return Err(End::Scripted("disconnect")),
                Action::LosePuback => luck.loses_puback = true,
                Action::ExpireToken => return Err(End::Expired),
                Action::Throttle(length) => throttle(*length),
            }
        }
        Ok(Some(luck).filter(|_| !lost))
    }
}

/// What is owed to the device for a publish that is stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Puback {
    /// `None` for QoS 0.
    pub(super) packet_id: Option<u16>,
    /// It is to be lost, and the connection with it.
    pub(super) lost: bool,
}

/// What is still queued when it is dropped is counted as dropped.
pub(super) struct Underway {
    log: Log,
    metrics: Arc<Metrics>,
    queued: VecDeque<(Instant, Taken)>,
    stored: VecDeque<Stored>,
    /// See [`Taken::bytes`].
    bytes: usize,
}

/// A publish on its way to disk, or there.
struct Stored {
    puback: Puback,
    bytes: usize,
    /// What is not known to be stored yet.
    appendings: Vec<Appending>,
    /// When it may be acknowledged, if it is stored by then.
    ripe: Option<Instant>,
}

impl Underway {
    pub(super) fn new(log: Log, metrics: Arc<Metrics>) -> Self {
        Self { log, metrics, queued: VecDeque::new(), stored: VecDeque::new(), bytes: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.queued.len() + self.stored.len()
    }

    /// About how much memory they take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a publish that a throttle lets through `wait` from now.
    pub(super) async fn take(&mut self, taken: Taken, wait: Duration) {
        self.bytes += taken.bytes;
        if wait.is_zero() && self.queued.is_empty() {
            self.submit(taken).await;
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
    pub(super) async fn submit_due(&mut self) {
        let now = Instant::now();
        while self.due().is_some_and(|due| due <= now)
            && let Some((_, taken)) = self.queued.pop_front()
        {
            self.submit(taken).await;
        }
    }

    /// Sends to disk all that the throttle holds. May be dropped: what it did not come to stays queued.
    pub(super) async fn submit_all(&mut self) {
        while let Some((_, taken)) = self.queued.front() {
            let taken = taken.clone();
            self.submit(taken).await;
            self.queued.pop_front();
        }
    }

    async fn submit(&mut self, taken: Taken) {
        let Taken { packet_id, event, bytes, luck } = taken;
        let mut appendings = vec![];
        if let Some(event) = event {
            let body_bytes = event.body.len() as u64;
            if luck.twice {
                appendings.push(self.log.submit((*event).clone()).await);
            }
            appendings.push(self.log.submit(*event).await);
            self.metrics.took(body_bytes);
        }
        let puback = Puback { packet_id, lost: luck.loses_puback };
        let ripe = (!luck.delay.is_zero()).then(|| Instant::now() + luck.delay);
        self.stored.push_back(Stored { puback, bytes, appendings, ripe });
    }

    /// Waits for the first publish on its way to disk to be ripe; for ever if there is none. May be dropped and called
    /// again.
    pub(super) async fn first(&mut self) -> Result<Puback, AppendError> {
        let Some(first) = self.stored.front_mut() else { return pending().await };
        while let Some(last) = first.appendings.last_mut() {
            last.wait().await?;
            first.appendings.pop();
        }
        if let Some(ripe) = first.ripe {
            sleep_until(ripe).await;
        }
        Ok(self.pop().expect("it is still the first"))
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
        if first.ripe.is_some_and(|ripe| Instant::now() < ripe) {
            return Ok(None);
        }
        Ok(self.pop())
    }

    fn pop(&mut self) -> Option<Puback> {
        let first = self.stored.pop_front()?;
        self.bytes -= first.bytes;
        Some(first.puback)
    }

    /// True if something is on its way to disk, or there.
    pub(super) fn is_storing(&self) -> bool {
        !self.stored.is_empty()
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        for _ in self.queued.iter().filter(|(_, taken)| taken.event.is_some()) {
            self.metrics.dropped("throttle-queue");
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::clock::Clock;

    use super::*;
    use crate::hub::log::Options;

    fn taken(packet_id: u16, bytes: usize, luck: Luck) -> Taken {
        let event = NewEvent { device_id: "d".to_owned(), body: vec![0; bytes].into(), ..NewEvent::default() };
        Taken { packet_id: Some(packet_id), event: Some(Box::new(event)), bytes, luck }
    }

    #[tokio::test]
    async fn delays_pass_at_the_same_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = Log::open(&dir.path().join("log"), &Options::new(1, Clock::Real)).expect("a log");
        let mut underway = Underway::new(log, Arc::default());
        let luck = Luck { delay: Duration::from_millis(500), ..Luck::default() };
        let before = Instant::now();
        for packet_id in 1..=4 {
            underway.take(taken(packet_id, 1, luck), Duration::ZERO).await;
        }
        for packet_id in 1..=4 {
            assert_eq!(underway.first().await, Ok(Puback { packet_id: Some(packet_id), lost: false }));
        }
        let took = before.elapsed();
        assert!((500..1500).contains(&took.as_millis()), "{took:?}");
    }

    #[tokio::test]
    async fn none_overtakes_another_and_what_is_held_is_counted_until_it_is_acknowledged() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = Log::open(&dir.path().join("log"), &Options::new(1, Clock::Real)).expect("a log");
        let mut underway = Underway::new(log.clone(), Arc::default());
        let wait = Duration::from_millis(50);
        underway.take(taken(1, 10, Luck::default()), Duration::ZERO).await;
        underway.take(taken(2, 20, Luck { twice: true, ..Luck::default() }), wait).await;
        underway.take(taken(3, 30, Luck::default()), Duration::ZERO).await;
        assert_eq!((underway.len(), underway.bytes()), (3, 60));
        let puback = |packet_id| Puback { packet_id: Some(packet_id), lost: false };
        assert_eq!(underway.first().await, Ok(puback(1)));
        assert!(!underway.is_storing() && underway.due().is_some());
        sleep_until(underway.due().expect("queued")).await;
        underway.submit_due().await;
        assert_eq!(underway.first().await, Ok(puback(2)));
        assert_eq!(underway.first().await, Ok(puback(3)));
        assert_eq!((underway.len(), underway.bytes(), underway.already()), (0, 0, Ok(None)));
        let stored = log.read(0, 0, 10, 1 << 20).await.expect("read");
        assert_eq!(stored.iter().map(|event| event.body.len()).collect::<Vec<_>>(), [10, 20, 20, 30]);
    }
}
