//! One connection per registration: a second one makes the first leave.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Who is connected; clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Seats {
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    given: u64,
    by_registration: HashMap<String, (u64, CancellationToken)>,
}

/// A registration's seat; free again when dropped, unless somebody else has it by then.
#[derive(Debug)]
pub(super) struct Seat {
    /// Cancelled when another connection took the seat.
    pub(super) leave: CancellationToken,
    number: u64,
    registration: String,
    seats: Seats,
}

impl Seats {
    /// Seats a registration, however its id is written; whoever sat there has to leave.
    pub(super) fn take(&self, registration_id: &str) -> Seat {
        let (leave, registration) = (CancellationToken::new(), registration_id.to_ascii_lowercase());
        let mut taken = self.lock();
        taken.given += 1;
        let number = taken.given;
        if let Some((_, before)) = taken.by_registration.insert(registration.clone(), (number, leave.clone())) {
            before.cancel();
        }
        drop(taken);
        Seat { leave, number, registration, seats: self.clone() }
    }

    /// The registrations that are connected, in order of their ids.
    pub(super) fn registrations(&self) -> Vec<String> {
        let mut all: Vec<_> = self.lock().by_registration.keys().cloned().collect();
        all.sort();
        all
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        if taken.by_registration.get(&self.registration).is_some_and(|(number, _)| *number == self.number) {
            taken.by_registration.remove(&self.registration);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_takes_the_seat_and_the_first_does_not_free_it() {
        let seats = Seats::default();
        let first = seats.take("d");
        let second = seats.take("D");
        assert!(first.leave.is_cancelled() && !second.leave.is_cancelled());
        drop(first);
        assert_eq!(seats.registrations(), ["d"]);
        drop(second);
        assert!(seats.registrations().is_empty());
    }
}
