//! [p] How many requests pass: a bucket of tokens that refills steadily.

use std::time::Duration;

use shared::time::Timestamp;

/// As many as it holds pass at once, then as many as it is refilled by.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    /// Microseconds for one more token.
    micros_each: u64,
    tokens_max: u64,
    /// Tokens, in microseconds of their refilling.
    level: u64,
    at: Option<Timestamp>,
}

impl Bucket {
    /// `count` in each `period`, and at once.
    pub(super) fn new(count: u32, period: Duration) -> Self {
        let tokens_max = u64::from(count.max(1));
        let period = u64::try_from(period.as_micros()).unwrap_or(u64::MAX);
        let micros_each = (period / tokens_max).max(1);
        Self { micros_each, tokens_max, level: micros_each.saturating_mul(tokens_max), at: None }
    }

    /// Takes a token, or says how long there will be none.
    pub(super) fn take(&mut self, now: Timestamp) -> Result<(), Duration> {
        let passed = self.at.map_or(0, |at| u64::try_from(now.since(at).as_micros()).unwrap_or(u64::MAX));
        self.level = self.level.saturating_add(passed).min(self.micros_each.saturating_mul(self.tokens_max));
        // A clock that was set back gives nothing, and takes nothing.
        self.at = Some(now);
        match self.level.checked_sub(self.micros_each) {
            Some(rest) => {
                self.level = rest;
                Ok(())
            }
            None => Err(Duration::from_micros(self.micros_each - self.level)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_795_000_000_000 + millis)
    }

    #[test]
    fn what_is_above_the_rate_is_told_how_long_to_wait_and_passes_then() {
        let mut bucket = Bucket::new(5, Duration::from_secs(10));
        for _ in 0..5 {
            assert_eq!(bucket.take(at(0)), Ok(()));
        }
        assert_eq!(bucket.take(at(500)), Err(Duration::from_millis(1_500)));
        assert_eq!(bucket.take(at(2_000)), Ok(()));
        assert_eq!(bucket.take(at(-60_000)), Err(Duration::from_secs(2)), "a clock set back gives none");
        assert_eq!(bucket.take(at(1_000_000)), Ok(()));
    }

    proptest! {
        #[test]
        fn never_more_pass_than_the_rate_and_one_bucket_full(
            count in 1u32..20,
            steps in proptest::collection::vec(-1_000i64..5_000, 1..200),
        ) {
            let mut bucket = Bucket::new(count, Duration::from_secs(10));
            let (mut now, mut passed, mut gone) = (0i64, 0u64, 0u64);
            for step in steps {
                now += step;
                gone += step.max(0).unsigned_abs();
                passed += u64::from(bucket.take(at(now)).is_ok());
                prop_assert!(passed <= u64::from(count) + gone * u64::from(count) / 10_000 + 1);
            }
        }
    }
}
