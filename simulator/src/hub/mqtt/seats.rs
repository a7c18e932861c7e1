//! One connection per device or module: a second one makes the first leave. Each seat has a mailbox for what the hub has
//! to say.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::clock::Clock;
use shared::time::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::mailbox::{Letter, Mailbox};
use super::seen::{Last, Seen};
use crate::hub::who::Who;

/// What a device is subscribed to, as far as others have to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Hears {
    /// Direct methods.
    Methods = 1,
    /// Changes of its desired properties.
    Desired = 2,
    /// Commands.
    Commands = 4,
}

/// Who is connected; clones are the same. By default nothing is known of those who are away.
#[derive(Debug, Clone, Default)]
pub struct Seats {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    taken: Mutex<Taken>,
    /// Counts who came and who began to listen.
    changed: watch::Sender<u64>,
    /// Who is away.
    seen: Seen,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Taken {
    given: u64,
    by_who: HashMap<Who, (u64, Arc<Place>)>,
}

/// What others have of a seat.
#[derive(Debug)]
struct Place {
    leave: CancellationToken,
    /// Why, if it was not for another connection.
    reason: Mutex<Option<&'static str>>,
    hears: AtomicU8,
    since: Timestamp,
    /// Of what was heard last, in microseconds.
    active: AtomicI64,
    generation_id: String,
    mailbox: Mailbox,
}

/// A device's seat; free again when dropped, unless somebody else has it by then.
#[derive(Debug)]
pub(super) struct Seat {
    place: Arc<Place>,
    number: u64,
    who: Who,
    seats: Seats,
}

impl Seats {
    /// Nobody is connected; of those who are away it is known when they were there, by this file.
    ///
    /// # Errors
    /// If the disk says no.
    pub fn open(path: PathBuf, clock: Clock) -> io::Result<Self> {
        let inner = Inner { seen: Seen::open(path)?, clock, ..Inner::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Seats an identity; whoever sat there has to leave.
    pub(super) fn take(&self, who: &Who, generation_id: &str, since: Timestamp) -> Seat {
        let place = Arc::new(Place {
            leave: CancellationToken::new(),
            reason: Mutex::default(),
            hears: AtomicU8::new(0),
            since,
            active: AtomicI64::new(since.micros()),
            generation_id: generation_id.to_owned(),
            mailbox: Mailbox::default(),
        });
        let mut taken = self.lock();
        taken.given += 1;
        let number = taken.given;
        if let Some((_, before)) = taken.by_who.insert(who.clone(), (number, Arc::clone(&place))) {
            before.leave.cancel();
        }
        drop(taken);
        self.inner.seen.put(who, generation_id, Last { changed: since, active: since });
        Seat { place, number, who: who.clone(), seats: self.clone() }
    }

    /// Devices (and modules, as `device/module`) that are connected, in order of their ids.
    pub(crate) fn devices(&self) -> Vec<String> {
        let mut devices: Vec<_> = self.lock().by_who.keys().map(Who::to_string).collect();
        devices.sort();
        devices
    }

    /// Who is connected, each with the generation of the identity it connected as.
    pub(crate) fn everybody(&self) -> Vec<(Who, String)> {
        let taken = self.lock();
        taken.by_who.iter().map(|(who, (_, place))| (who.clone(), place.generation_id.clone())).collect()
    }

    /// Whether the identity of this generation is connected, and when it was seen last.
    pub(crate) fn seen(&self, who: &Who, generation_id: &str) -> (bool, Option<Last>) {
        match self.place(who).filter(|place| place.generation_id == generation_id) {
            Some(place) => (true, Some(Last { changed: place.since, active: place.active() })),
            None => (false, self.inner.seen.get(who, generation_id)),
        }
    }

    /// Forgets when those who are not among these were there.
    ///
    /// # Errors
    /// If the disk says no.
    pub(crate) fn forget_all_but(&self, stays: impl Fn(&Who) -> bool) -> io::Result<()> {
        self.inner.seen.retain(stays)
    }

    /// Ends a connection; `reason` stands in metrics. False if there is none.
    pub fn disconnect(&self, who: &Who, reason: &'static str) -> bool {
        let Some(place) = self.place(who) else { return false };
        place.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        place.leave.cancel();
        true
    }

    /// True if it is connected and subscribed to such things.
    pub(crate) fn hears(&self, who: &Who, what: Hears) -> bool {
        self.place(who).is_some_and(|place| place.hears(what))
    }

    /// Counts whenever somebody came or began to listen.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// Puts a letter into a mailbox, if whoever has it listens; false if not, or if the mailbox is full.
    pub(crate) fn post(&self, who: &Who, what: Hears, letter: Letter) -> bool {
        self.place(who).is_some_and(|place| place.hears(what) && place.mailbox.post(letter))
    }

    /// Tells a device that commands wait for it.
    pub(crate) fn knock(&self, who: &Who) {
        if let Some(place) = self.place(who) {
            place.mailbox.knock();
        }
    }

    fn place(&self, who: &Who) -> Option<Arc<Place>> {
        let taken = self.lock();
        let place = taken.by_who.get(who).map(|(_, place)| Arc::clone(place));
        place.filter(|place| !place.leave.is_cancelled())
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.inner.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn active(&self) -> Timestamp {
        Timestamp::from_micros(self.active.load(Ordering::Relaxed))
    }

    fn hears(&self, what: Hears) -> bool {
        self.hears.load(Ordering::Acquire) & what as u8 != 0
    }
}

impl Seat {
    /// Cancelled when the connection has to go.
    pub(super) fn leave(&self) -> &CancellationToken {
        &self.place.leave
    }

    /// Why it has to go, if it is not for another connection.
    pub(super) fn reason(&self) -> Option<&'static str> {
        *self.place.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn who(&self) -> &Who {
        &self.who
    }

    /// The device was heard.
    pub(super) fn heard(&self, at: Timestamp) {
        self.place.active.store(at.micros(), Ordering::Relaxed);
    }

    /// What the hub has to say.
    pub(super) fn mailbox(&self) -> &Mailbox {
        &self.place.mailbox
    }

    /// A way to put an answer into the own mailbox later, even if the connection is gone by then.
    pub(super) fn answers(&self) -> Answers {
        Answers { place: Arc::clone(&self.place) }
    }

    /// Says what the device listens to from now on.
    pub(super) fn listens(&self, hears: u8) {
        self.place.hears.store(hears, Ordering::Release);
        self.seats.inner.changed.send_modify(|count| *count += 1);
    }
}

/// An answer that is owed to a device.
pub(super) struct Answers {
    place: Arc<Place>,
}

impl Answers {
    pub(super) fn give(self, letter: Letter) {
        self.place.mailbox.post_answer(letter);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        if taken.by_who.get(&self.who).is_some_and(|(number, _)| *number == self.number) {
            taken.by_who.remove(&self.who);
            let Inner { seen, clock, .. } = &*self.seats.inner;
            let last = Last { changed: clock.now(), active: self.place.active() };
            seen.put(&self.who, &self.place.generation_id, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_takes_the_seat_and_the_first_does_not_free_it() {
        let (seats, who, now) = (Seats::default(), Who::device("d"), Timestamp::from_millis(7));
        let first = seats.take(&who, "1", now);
        let second = seats.take(&who, "1", now);
        assert!(first.leave().is_cancelled() && !second.leave().is_cancelled());
        drop(first);
        let last = Last { changed: now, active: now };
        assert_eq!((seats.devices(), seats.seen(&who, "1")), (vec!["d".to_owned()], (true, Some(last))));
        drop(second);
        assert!(seats.devices().is_empty());
    }

    #[test]
    fn whoever_went_is_remembered_past_a_restart_but_not_as_another_of_its_id() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, who) = (dir.path().join("seen.jsonl"), Who::module("d", "m"));
        let [came, heard, went] = [1_000, 2_000, 3_000].map(Timestamp::from_millis);
        let hands = shared::clock::VirtualClock::at(went);
        let seats = Seats::open(path.clone(), Clock::Virtual(hands.clone())).expect("made");
        assert_eq!(seats.seen(&who, "1"), (false, None));
        let seat = seats.take(&who, "1", came);
        seat.heard(heard);
        assert_eq!(seats.seen(&who, "1"), (true, Some(Last { changed: came, active: heard })));
        assert_eq!(seats.seen(&who, "2"), (false, None));
        drop(seat);
        let gone = (false, Some(Last { changed: went, active: heard }));
        assert_eq!(seats.seen(&who, "1"), gone);
        drop(seats);
        let seats = Seats::open(path, Clock::Virtual(hands)).expect("read");
        assert_eq!((seats.seen(&who, "1"), seats.seen(&who, "2")), (gone, (false, None)));
        seats.forget_all_but(|_| false).expect("a disk");
        assert_eq!(seats.seen(&who, "1"), (false, None));
    }

    #[test]
    fn letters_reach_only_who_listens() {
        let (seats, who) = (Seats::default(), Who::module("d", "m"));
        let seat = seats.take(&who, "1", Timestamp::from_millis(0));
        let letter = || Letter::Desired { version: 2, patch: "{}".into() };
        assert!(!seats.post(&who, Hears::Desired, letter()));
        seat.listens(Hears::Desired as u8 | Hears::Commands as u8);
        assert!(seats.post(&who, Hears::Desired, letter()) && !seats.hears(&who, Hears::Methods));
        assert!(seats.disconnect(&who, "deleted") && !seats.post(&who, Hears::Desired, letter()));
        assert_eq!((seat.leave().is_cancelled(), seat.reason()), (true, Some("deleted")));
    }
}
