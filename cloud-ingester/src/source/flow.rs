//! A channel that counts bytes, not Events: what waits in it is bounded, however large one is.
//!
//! An item that is larger than the whole bound passes when nothing else waits.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Bytes are counted in steps of this many.
const STEP: usize = 1 << 10;

/// What can be counted.
pub trait Weigh {
    /// About how much memory it holds.
    fn bytes(&self) -> usize;
}

/// The end that fills it.
#[derive(Debug)]
pub struct Sender<T> {
    items: mpsc::UnboundedSender<(T, OwnedSemaphorePermit)>,
    room: Room,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { items: self.items.clone(), room: self.room.clone() }
    }
}

/// The end that empties it.
#[derive(Debug)]
pub struct Receiver<T> {
    items: mpsc::UnboundedReceiver<(T, OwnedSemaphorePermit)>,
}

/// How full a channel is.
#[derive(Clone, Debug)]
pub struct Room {
    steps: Arc<Semaphore>,
    all: u32,
}

impl Room {
    /// Bytes that wait now.
    #[must_use]
    pub fn bytes_waiting(&self) -> usize {
        (self.all as usize - self.steps.available_permits()) * STEP
    }
}

/// A channel in which about `bytes_max` wait at most.
#[must_use]
pub fn channel<T: Weigh>(bytes_max: usize) -> (Sender<T>, Receiver<T>) {
    let all = u32::try_from(bytes_max.div_ceil(STEP)).unwrap_or(u32::MAX).max(1);
    let room = Room { steps: Arc::new(Semaphore::new(all as usize)), all };
    let (items, taken) = mpsc::unbounded_channel();
    (Sender { items, room }, Receiver { items: taken })
}

impl<T: Weigh> Sender<T> {
    /// Hands an item on once there is room for it; gives it back where nobody takes it any more.
    ///
    /// # Errors
    /// The item, when the receiver is gone.
    pub async fn send(&self, item: T) -> Result<(), T> {
        let steps = u32::try_from(item.bytes().div_ceil(STEP)).unwrap_or(u32::MAX).clamp(1, self.room.all);
        let room = tokio::select! {
            room = Arc::clone(&self.room.steps).acquire_many_owned(steps) => room,
            () = self.items.closed() => return Err(item),
        };
        let Ok(room) = room else { return Err(item) };
        self.items.send((item, room)).map_err(|refused| refused.0.0)
    }

    /// How full it is.
    #[must_use]
    pub fn room(&self) -> Room {
        self.room.clone()
    }
}

impl<T> Receiver<T> {
    /// The next item; `None` when every sender is gone and nothing waits.
    pub async fn recv(&mut self) -> Option<T> {
        self.items.recv().await.map(|(item, _)| item)
    }

    /// The next item, if one waits.
    pub fn try_recv(&mut self) -> Option<T> {
        self.items.try_recv().ok().map(|(item, _)| item)
    }

    /// How many items wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weigh for usize {
        fn bytes(&self) -> usize {
            *self
        }
    }

    #[tokio::test]
    async fn bytes_wait_up_to_the_bound_and_one_that_is_larger_passes_alone() {
        let (sender, mut receiver) = channel::<usize>(10 << 10);
        for _ in 0..2 {
            sender.send(4 << 10).await.expect("room");
        }
        assert_eq!(sender.room().bytes_waiting(), 8 << 10);
        let mut third = Box::pin(sender.send(4 << 10));
        assert!(futures::poll!(&mut third).is_pending(), "12 KiB are more than 10");
        assert_eq!(receiver.recv().await, Some(4 << 10));
        third.await.expect("room again");
        let mut large = Box::pin(sender.send(1 << 20));
        assert!(futures::poll!(&mut large).is_pending());
        while receiver.try_recv().is_some() {}
        large.await.expect("alone");
        assert_eq!(receiver.recv().await, Some(1 << 20));
        drop(receiver);
        assert_eq!(sender.send(1).await, Err(1));
    }
}
