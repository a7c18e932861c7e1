//! What the hub has to say to one connected device, until the connection says it. Empty, it takes next to no memory:
//! thousands of devices have one and hear nothing.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Notify;

/// Letters that wait for one device; no more are taken.
const LETTERS_MAX: usize = 2_048;
/// Their bytes.
const LETTER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// One thing to be said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Letter {
    /// Desired properties have changed.
    Desired { version: i64, patch: Bytes },
    /// A direct method is called.
    Method { request: u64, name: String, payload: Bytes, until: Instant },
    /// An answer about the twin: `rid` as it was asked.
    Twin { status: u16, rid: String, version: Option<i64>, body: Bytes },
}

impl Letter {
    fn bytes(&self) -> usize {
        match self {
            Letter::Desired { patch, .. } => patch.len(),
            Letter::Method { name, payload, .. } => name.len() + payload.len(),
            Letter::Twin { rid, body, .. } => rid.len() + body.len(),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    letters: VecDeque<Letter>,
    bytes: usize,
    /// Commands may wait.
    knocked: bool,
}

impl Mailbox {
    /// False if it is full.
    pub(super) fn post(&self, letter: Letter) -> bool {
        let mut state = self.lock();
        let bytes = state.bytes + letter.bytes();
        if LETTERS_MAX <= state.letters.len() || LETTER_BYTES_MAX < bytes {
            return false;
        }
        state.bytes = bytes;
        state.letters.push_back(letter);
        drop(state);
        self.news.notify_one();
        true
    }

    /// An answer to the device. Taken even if the mailbox is full: as few are owed as the connection allows.
    pub(super) fn post_answer(&self, letter: Letter) {
        let mut state = self.lock();
        state.bytes += letter.bytes();
        state.letters.push_back(letter);
        drop(state);
        self.news.notify_one();
    }

    /// Commands may wait.
    pub(super) fn knock(&self) {
        self.lock().knocked = true;
        self.news.notify_one();
    }

    /// True if commands may wait, once.
    pub(super) fn take_knock(&self) -> bool {
        std::mem::take(&mut self.lock().knocked)
    }

    /// The oldest letter.
    pub(super) fn take(&self) -> Option<Letter> {
        let mut state = self.lock();
        let letter = state.letters.pop_front()?;
        state.bytes -= letter.bytes();
        if state.letters.is_empty() && LETTERS_MAX / 16 < state.letters.capacity() {
            state.letters = VecDeque::new();
        }
        Some(letter)
    }

    /// Returns once there was news since it was called last. May be dropped.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn letters_keep_their_order_up_to_a_limit() {
        let mailbox = Mailbox::default();
        let letter = |version| Letter::Desired { version, patch: Bytes::from(vec![0; 1_000]) };
        assert!((0..2_048).all(|version| mailbox.post(letter(version))));
        assert!(!mailbox.post(letter(9)));
        mailbox.news().await;
        assert_eq!(mailbox.take(), Some(letter(0)));
        assert!(mailbox.post(letter(9)));
        let mailbox = Mailbox::default();
        let large = |version| Letter::Desired { version, patch: Bytes::from(vec![0; 128 * 1024]) };
        assert!((0..64).all(|version| mailbox.post(large(version))) && !mailbox.post(large(64)));
        mailbox.post_answer(Letter::Twin { status: 204, rid: "1".into(), version: Some(2), body: Bytes::new() });
        assert_eq!(std::iter::from_fn(|| mailbox.take()).count(), 65);
        assert!(!mailbox.take_knock());
        mailbox.knock();
        assert!(mailbox.take_knock() && !mailbox.take_knock());
    }
}
