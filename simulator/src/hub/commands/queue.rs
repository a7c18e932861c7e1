//! The commands (cloud-to-device messages) that wait for one device, oldest first. A pure core: time comes in, what to
//! do goes out; what the commands say is kept elsewhere.

use std::collections::VecDeque;
use std::time::Duration;

use shared::time::Timestamp;

/// The service's limit of commands that wait for one device.
pub const DEPTH_MAX: usize = 50;

/// A command that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item {
    /// Grows with each command of the hub.
    pub(super) number: u64,
    pub(super) expires: Timestamp,
    /// How often it was given to the device.
    pub(super) deliveries: u32,
    /// While it is with the device: until when.
    pub(super) locked_until: Option<Timestamp>,
}

/// A command given to a device, until it is completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lock {
    pub(super) number: u64,
    /// Of a later delivery this one says nothing.
    pub(super) delivery: u32,
}

/// Why a command is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dead {
    Expired,
    Deliveries,
}

/// What waits for one device; or for services, where it is feedback.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Queue {
    items: VecDeque<Item>,
    depth_max: usize,
}

impl Queue {
    pub(super) fn new(depth_max: usize) -> Self {
        Self { items: VecDeque::new(), depth_max }
    }

    pub(super) fn has_room(&self) -> bool {
        self.items.len() < self.depth_max
    }

    /// Adds one; false if there are as many as there may be.
    pub(super) fn push(&mut self, item: Item) -> bool {
        let room = self.has_room();
        if room {
            self.items.push_back(item);
        }
        room
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// True if there is one that is not with the device.
    pub(super) fn waits(&self) -> bool {
        self.items.iter().any(|item| item.locked_until.is_none())
    }

    /// Gives the oldest that is not with the device yet to it, until it completes it or `now + length` comes.
    pub(super) fn lock(&mut self, now: Timestamp, length: Duration) -> Option<Lock> {
        let item = self.items.iter_mut().find(|item| item.locked_until.is_none())?;
        item.locked_until = Some(now.plus(length));
        item.deliveries += 1;
        Some(Lock { number: item.number, delivery: item.deliveries })
    }

    /// The device has it. False if it is not with the device by this lock any more.
    pub(super) fn complete(&mut self, lock: Lock) -> bool {
        let before = self.items.len();
        self.items.retain(|item| !item.is(lock));
        self.items.len() < before
    }

    /// The device may not have it: it waits again.
    pub(super) fn abandon(&mut self, lock: Lock) {
        self.items.iter_mut().filter(|item| item.is(lock)).for_each(|item| item.locked_until = None);
    }

    /// Nobody has any: the device is gone.
    pub(super) fn abandon_all(&mut self) {
        self.items.iter_mut().for_each(|item| item.locked_until = None);
    }

    /// Takes back what the device had for too long, and gives up what is too old or was given too often. What is with
    /// the device is not given up yet: it may have it already.
    pub(super) fn sweep(&mut self, now: Timestamp, deliveries_max: u32) -> Vec<(u64, Dead)> {
        let mut dead = vec![];
        self.items.retain_mut(|item| {
            if item.locked_until.is_some_and(|until| until <= now) {
                item.locked_until = None;
            }
            let why = match item.locked_until {
                Some(_) => None,
                None if item.expires <= now => Some(Dead::Expired),
                None if deliveries_max <= item.deliveries => Some(Dead::Deliveries),
                None => None,
            };
            dead.extend(why.map(|why| (item.number, why)));
            why.is_none()
        });
        dead
    }

    /// Takes all out.
    pub(super) fn purge(&mut self) -> Vec<u64> {
        self.items.drain(..).map(|item| item.number).collect()
    }
}

impl Item {
    fn is(&self, lock: Lock) -> bool {
        self.number == lock.number && self.deliveries == lock.delivery && self.locked_until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn item(number: u64, expires: i64) -> Item {
        Item { number, expires: at(expires), deliveries: 0, locked_until: None }
    }

    #[test]
    fn what_was_not_completed_is_given_again_in_order() {
        let mut queue = Queue::new(DEPTH_MAX);
        assert!((1..=3).all(|number| queue.push(item(number, 100))));
        let locks: Vec<_> = (0..3).map(|_| queue.lock(at(0), SECOND).expect("one")).collect();
        assert_eq!(queue.lock(at(0), SECOND), None);
        assert!(queue.complete(locks[1]) && !queue.complete(locks[1]));
        queue.abandon_all();
        let again: Vec<_> = std::iter::from_fn(|| queue.lock(at(0), SECOND)).map(|lock| lock.number).collect();
        assert_eq!(again, [1, 3]);
        assert!(!queue.complete(locks[0]), "of an earlier delivery");
        assert_eq!((queue.sweep(at(1), 9), queue.waits()), (vec![], true), "locks lapse");
    }

    #[test]
    fn what_is_too_old_or_was_given_too_often_is_given_up_unless_the_device_has_it() {
        let mut queue = Queue::new(DEPTH_MAX);
        assert!([item(1, 5), item(2, 5), item(3, 100)].into_iter().all(|item| queue.push(item)));
        let first = queue.lock(at(0), 10 * SECOND).expect("one");
        assert_eq!(queue.sweep(at(5), 2), [(2, Dead::Expired)]);
        queue.abandon(first);
        assert_eq!(queue.sweep(at(5), 2), [(1, Dead::Expired)]);
        for _ in 0..2 {
            queue.lock(at(5), SECOND).expect("one");
            queue.abandon_all();
        }
        assert_eq!(queue.sweep(at(6), 2), [(3, Dead::Deliveries)]);
        assert!(queue.is_empty());
    }

    #[test]
    fn fifty_wait_and_no_more() {
        let mut queue = Queue::new(DEPTH_MAX);
        assert!((0..50).all(|number| queue.push(item(number, 9))));
        assert!(!queue.push(item(50, 9)));
        assert_eq!((queue.len(), queue.purge().len(), queue.len()), (50, 50, 0));
    }

    proptest! {
        #[test]
        fn each_command_ends_once(steps in proptest::collection::vec((0u8..6, 0i64..4), 0..200)) {
            let (mut queue, mut now, mut pushed, mut ended, mut locks) = (Queue::new(DEPTH_MAX), 0, 0u64, vec![], vec![]);
            for (step, amount) in steps {
                match step {
                    0 => if queue.push(item(pushed, now + 3 * amount)) { pushed += 1 },
                    1 => locks.extend(queue.lock(at(now), SECOND)),
                    2 => if let Some(lock) = locks.pop() && queue.complete(lock) { ended.push(lock.number) },
                    3 => queue.abandon_all(),
                    4 => ended.extend(queue.sweep(at(now), 3).into_iter().map(|(number, _)| number)),
                    _ => now += amount,
                }
            }
            let left = queue.len();
            ended.extend(queue.purge());
            prop_assert_eq!(ended.len() as u64, pushed);
            ended.sort_unstable();
            ended.dedup();
            prop_assert_eq!((ended.len() as u64, left <= DEPTH_MAX), (pushed, true));
        }
    }
}
