//! Waits for a condition, never for a time.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const PERIOD: Duration = Duration::from_millis(100);

/// Looks at `condition` until it gives something; `None` once `patience` is used up.
pub fn until<T>(patience: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if deadline < Instant::now() {
            return None;
        }
        std::thread::sleep(PERIOD);
    }
}
