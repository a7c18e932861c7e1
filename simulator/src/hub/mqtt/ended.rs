//! Tokens that a scripted fault ended before their time. Nobody else ends a token early, and if the same one were taken again
//! at once, no device would ever have to make another.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::config::Secret;

/// A token, but not what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Mark(u64);

impl Mark {
    pub(super) fn of(token: &Secret) -> Self {
        let mut hasher = DefaultHasher::new();
        token.reveal().hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// The tokens that were ended; clones are the same. As many as the script has struck.
#[derive(Debug, Clone, Default)]
pub(in crate::hub) struct Ended {
    tokens: Arc<Mutex<HashSet<Mark>>>,
}

impl Ended {
    pub(super) fn end(&self, token: Mark) {
        self.lock().insert(token);
    }

    pub(super) fn has(&self, token: Mark) -> bool {
        self.lock().contains(&token)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Mark>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
