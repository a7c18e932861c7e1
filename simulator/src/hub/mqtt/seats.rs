//! One connection per device or module: a second one makes the first leave. Each seat has a mailbox for what the hub has
//! to say.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::time::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::mailbox::{Letter, Mailbox};
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

/// Who is connected; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Seats {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    taken: Mutex<Taken>,
    /// Counts who came and who began to listen.
    changed: watch::Sender<u64>,
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
    /// Seats an identity; whoever sat there has to leave.
    pub(super) fn take(&self, who: &Who, generation_id: &str, since: Timestamp) -> Seat {
        let place = Arc::new(Place {
            leave: CancellationToken::new(),
            reason: Mutex::default(),
            hears: AtomicU8::new(0),
            since,
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

    /// Since when; `None` if it is not connected.
    pub fn connected_since(&self, who: &Who) -> Option<Timestamp> {
        self.place(who).map(|place| place.since)
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
        assert_eq!((seats.devices(), seats.connected_since(&who)), (vec!["d".to_owned()], Some(now)));
        drop(second);
        assert!(seats.devices().is_empty());
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
