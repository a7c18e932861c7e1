//! Messages that came and are not yet acknowledged, in the order they came.

use std::collections::VecDeque;

use tokio::sync::oneshot;

/// MQTT wants PUBACKs in the order of the publishes, so only the oldest message is waited for.
/// `T` is what the sender is to be told: the packet id, and what goes with it.
#[derive(Debug)]
pub(super) struct Acks<T = u16> {
    waiting: VecDeque<(T, oneshot::Receiver<()>)>,
}

impl<T> Default for Acks<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new() }
    }
}

/// The outbox would not take a message: the sender must be made to repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message could not be stored; its sender is to repeat it")]
pub(super) struct Refused;

impl<T: Copy> Acks<T> {
    /// A message with this packet id is on its way to the outbox.
    pub(super) fn push(&mut self, packet_id: T, done: oneshot::Receiver<()>) {
        self.waiting.push_back((packet_id, done));
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// True if none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The packet id of the oldest message, once it is committed. Pending for ever while none waits. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<T, Refused> {
        let Some((packet_id, done)) = self.waiting.front_mut() else {
            return std::future::pending().await;
        };
        let packet_id = *packet_id;
        let outcome = done.await;
        self.pop();
        outcome.map(|()| packet_id).map_err(|_| Refused)
    }

    /// Takes the oldest out. Thousands of devices have a window each, and most are silent most of the time.
    fn pop(&mut self) {
        self.waiting.pop_front();
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
    }

    /// As [`Acks::next`], but only if it need not wait.
    pub(super) fn try_next(&mut self) -> Option<Result<T, Refused>> {
        let (packet_id, done) = self.waiting.front_mut()?;
        let packet_id = *packet_id;
        let outcome = match done.try_recv() {
            Ok(()) => Ok(packet_id),
            Err(oneshot::error::TryRecvError::Empty) => return None,
            Err(oneshot::error::TryRecvError::Closed) => Err(Refused),
        };
        self.pop();
        Some(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intake::Ack;

    #[test]
    fn acknowledgements_leave_in_the_order_of_arrival_however_they_are_given() {
        let mut acks = Acks::default();
        let mut given = Vec::new();
        for packet_id in [7, 3, 9] {
            let (ack, done) = Ack::channel();
            acks.push(packet_id, done);
            given.push(ack);
        }
        given.remove(1).done();
        assert_eq!(acks.try_next(), None);
        given.remove(0).done();
        assert_eq!(acks.try_next(), Some(Ok(7)));
        assert_eq!(acks.try_next(), Some(Ok(3)));
        assert_eq!(acks.try_next(), None);
        drop(given);
        assert_eq!(acks.try_next(), Some(Err(Refused)));
        assert!(acks.is_empty());
    }
}
