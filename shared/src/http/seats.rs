//! Who is being served, and who gives way: pure but for its lock.
//!
//! A connection waits (for a request's head and body to come, for its answer to be taken, for the next request) or is being
//! answered. Whoever waits too long is shown out, and where all seats are taken, whoever has waited longest: so those who
//! hold connections and ask nothing cannot keep anyone from being answered.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// So many connections, and no more.
#[derive(Debug)]
pub(super) struct Seats {
    max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    seats: BTreeMap<u64, One>,
    next: u64,
}

#[derive(Debug)]
struct One {
    /// `None` while it is being answered.
    waits_since: Option<Instant>,
    leave: CancellationToken,
}

/// A connection's seat, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    number: u64,
    /// Cancelled where it is to give way.
    pub(super) leave: CancellationToken,
}

/// What it cost to give a seat.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// There was room.
    Nothing,
    /// Somebody else had to leave.
    Another,
}

impl Seats {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, taken: Mutex::default() })
    }

    /// A seat for one who has just come; `None` if all are taken by those who are being answered.
    pub(super) fn take(self: &Arc<Self>, now: Instant) -> Option<(Seat, Cost)> {
        let mut taken = self.lock();
        let mut cost = Cost::Nothing;
        if self.max <= taken.seats.len() {
            let waiting = taken.seats.iter().filter_map(|(number, one)| Some((one.waits_since?, *number)));
            let (_, longest) = waiting.min()?;
            if let Some(one) = taken.seats.remove(&longest) {
                one.leave.cancel();
            }
            cost = Cost::Another;
        }
        let (number, leave) = (taken.next, CancellationToken::new());
        taken.next += 1;
        taken.seats.insert(number, One { waits_since: Some(now), leave: leave.clone() });
        Some((Seat { seats: Arc::clone(self), number, leave }, cost))
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// It is being answered.
    pub(super) fn is_answered(&self) {
        self.set(None);
    }

    /// It waits, from now on.
    pub(super) fn waits(&self, now: Instant) {
        self.set(Some(now));
    }

    /// `None` while it is being answered.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        self.seats.lock().seats.get(&self.number)?.waits_since
    }

    fn set(&self, waits_since: Option<Instant>) {
        if let Some(one) = self.seats.lock().seats.get_mut(&self.number) {
            one.waits_since = waits_since;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().seats.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_has_waited_longest_gives_way_and_who_is_answered_does_not() {
        let (seats, begun) = (Seats::new(3), Instant::now());
        let at = |second| begun + Duration::from_secs(second);
        let take = |second| seats.take(at(second)).map(|(seat, cost)| (seat, cost == Cost::Another));
        let (first, _) = take(0).expect("room");
        let (second, _) = take(1).expect("room");
        let (third, pushed) = take(2).expect("room");
        assert!(!pushed);
        first.is_answered();
        let (fourth, pushed) = take(3).expect("the second gives way");
        assert!(pushed && second.leave.is_cancelled() && !first.leave.is_cancelled() && !third.leave.is_cancelled());
        assert_eq!((first.waits_since(), third.waits_since()), (None, Some(at(2))));
        // Its answer is there: now it waits, but not as long as the third.
        first.waits(at(4));
        let (fifth, _) = take(5).expect("the third gives way");
        assert!(third.leave.is_cancelled() && !first.leave.is_cancelled());
        for seat in [&first, &fourth, &fifth] {
            seat.is_answered();
        }
        assert!(take(6).is_none(), "nobody is sent away in the middle of an answer");
        drop(fourth);
        assert_eq!(take(7).map(|(_, pushed)| pushed), Some(false));
        // Who had to leave takes nobody's seat with it.
        drop((second, third));
        assert_eq!(seats.lock().seats.len(), 2);
    }
}
