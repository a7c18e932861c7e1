//! One connection per device id: a second one makes the first leave.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Who is connected; clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seats {
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    given: u64,
    by_device: HashMap<String, (u64, CancellationToken)>,
}

/// A device's seat; free again when dropped, unless somebody else has it by then.
#[derive(Debug)]
pub(super) struct Seat {
    /// Cancelled when another connection took the seat.
    pub(super) leave: CancellationToken,
    number: u64,
    device_id: String,
    seats: Seats,
}

impl Seats {
    /// Seats a device; whoever sat there has to leave.
    pub(super) fn take(&self, device_id: &str) -> Seat {
        let leave = CancellationToken::new();
        let mut taken = self.lock();
        taken.given += 1;
        let number = taken.given;
        if let Some((_, before)) = taken.by_device.insert(device_id.to_owned(), (number, leave.clone())) {
            before.cancel();
        }
        drop(taken);
        Seat { leave, number, device_id: device_id.to_owned(), seats: self.clone() }
    }

    /// True if this device or module is connected.
    pub(crate) fn has(&self, client_id: &str) -> bool {
        self.lock().by_device.contains_key(client_id)
    }

    /// The devices that are connected, in order of their ids.
    pub(crate) fn devices(&self) -> Vec<String> {
        let mut devices: Vec<_> = self.lock().by_device.keys().cloned().collect();
        devices.sort();
        devices
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        if taken.by_device.get(&self.device_id).is_some_and(|(number, _)| *number == self.number) {
            taken.by_device.remove(&self.device_id);
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
        let second = seats.take("d");
        assert!(first.leave.is_cancelled() && !second.leave.is_cancelled());
        drop(first);
        assert_eq!(seats.devices(), ["d"]);
        drop(second);
        assert!(seats.devices().is_empty());
    }
}
