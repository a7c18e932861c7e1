//! How many bytes of publishes may wait between a device and the disk, all connections together.
//!
//! A publish that is taken holds its bytes until the outbox has it, or nobody wants it any more. At the limit no
//! connection is read further, so devices wait and nothing is dropped. The limit is passed by at most one packet for
//! each thread that reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use tokio::sync::Notify;

/// Bytes of publishes that wait.
#[derive(Debug)]
pub(super) struct Room {
    bytes_max: u64,
    bytes: AtomicU64,
    freed: Notify,
}

/// Bytes that are held until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    room: Arc<Room>,
    bytes: u64,
}

impl Room {
    pub(super) fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { bytes_max, bytes: AtomicU64::new(0), freed: Notify::new() })
    }

    /// Whether more may be taken.
    pub(super) fn is_free(&self) -> bool {
        self.bytes.load(SeqCst) < self.bytes_max
    }

    /// Takes so many bytes, whether there is room or not.
    pub(super) fn hold(self: &Arc<Self>, bytes: u64) -> Held {
        self.bytes.fetch_add(bytes, SeqCst);
        Held { room: Arc::clone(self), bytes }
    }

    /// Returns once more may be taken. Cancel-safe.
    pub(super) async fn freed(&self) {
        loop {
            let freed = self.freed.notified();
            let mut freed = std::pin::pin!(freed);
            // From here on no notice is missed, so what is seen now decides.
            freed.as_mut().enable();
            if self.is_free() {
                return;
            }
            freed.await;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let before = self.room.bytes.fetch_sub(self.bytes, SeqCst);
        if self.room.bytes_max <= before && before - self.bytes < self.room.bytes_max {
            self.room.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_waits_for_room_goes_on_once_enough_was_let_go() {
        let room = Room::new(100);
        let (small, large) = (room.hold(60), room.hold(60));
        assert!(!room.is_free());
        let waiting = tokio::spawn({
            let room = Arc::clone(&room);
            async move { room.freed().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(small);
        tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("soon").expect("no panic");
        room.freed().await;
        drop(large);
        assert_eq!(room.bytes.load(SeqCst), 0);
    }
}
