//! Waits between attempts: exponential with full jitter, so that a fleet does not come back all at once.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// A series of waits. Draws from `0 ..= ceiling`, where the ceiling doubles from `min` to `max`.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    ceiling: Duration,
    random: SmallRng,
}

impl Backoff {
    /// Waits with ceilings from `min` to `max`; the same seed draws the same waits.
    pub fn new(min: Duration, max: Duration, seed: u64) -> Self {
        Self { min, max: max.max(min), ceiling: min, random: SmallRng::seed_from_u64(seed) }
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        let ceiling = self.ceiling;
        self.ceiling = (ceiling * 2).min(self.max);
        ceiling.mul_f64(self.random.random_range(0.0..=1.0))
    }

    /// The ceiling of the next wait.
    pub fn ceiling(&self) -> Duration {
        self.ceiling
    }

    /// On to the longest waits: what failed will not mend itself soon.
    pub fn escalate(&mut self) {
        self.ceiling = self.max;
    }

    /// Back to the shortest waits. Call it once a connection has proved stable, not when it was made.
    pub fn reset(&mut self) {
        self.ceiling = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_maximum_and_never_past_it() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10), 7);
        let mut ceilings = Vec::new();
        for _ in 0..6 {
            let ceiling = backoff.ceiling();
            assert!(backoff.next_wait() <= ceiling);
            ceilings.push(ceiling.as_secs());
        }
        assert_eq!(ceilings, [1, 2, 4, 8, 10, 10]);
        backoff.reset();
        assert_eq!(backoff.ceiling(), Duration::from_secs(1));
    }
}
