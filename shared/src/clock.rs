//! The one place that asks what time it is. Pure cores take a [`Timestamp`]; shells take a [`Clock`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::time::Timestamp;

/// The wall clock, or a virtual one that only moves when a test moves it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The machine's.
    #[default]
    Real,
    /// The machine's, off by what a [`Skew`] says.
    Skewed(Skew),
    /// A test's.
    Virtual(VirtualClock),
}

/// How far a clock is off the machine's; all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Skew {
    micros: watch::Sender<i64>,
}

impl Skew {
    /// Sets the clock so many microseconds ahead of the machine's, or behind it.
    pub fn set(&self, micros: i64) {
        self.micros.send_replace(micros);
    }

    /// Microseconds ahead of the machine's clock.
    pub fn micros(&self) -> i64 {
        *self.micros.borrow()
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(real_now().micros().saturating_add(self.micros()))
    }
}

/// A clock that stands still until it is moved; all clones move together.
#[derive(Debug, Clone)]
pub struct VirtualClock {
    now: watch::Sender<Timestamp>,
    hasty: bool,
}

impl VirtualClock {
    /// A clock that stands at `now`.
    pub fn at(now: Timestamp) -> Self {
        Self { now: watch::Sender::new(now), hasty: false }
    }

    /// A clock that whoever sleeps moves on: for a simulation in which nothing else happens meanwhile.
    pub fn hasty(now: Timestamp) -> Self {
        Self { now: watch::Sender::new(now), hasty: true }
    }

    /// Moves the clock on and wakes whoever waits for a moment it reaches.
    pub fn advance(&self, by: Duration) {
        self.now.send_modify(|now| *now = now.plus(by));
    }

    /// Sets the clock, backwards too.
    pub fn set(&self, now: Timestamp) {
        self.now.send_replace(now);
    }
}

impl Clock {
    /// What time it is.
    pub fn now(&self) -> Timestamp {
        match self {
            Clock::Real => real_now(),
            Clock::Skewed(skew) => skew.now(),
            Clock::Virtual(clock) => *clock.now.borrow(),
        }
    }

    /// Returns once `at` is reached; never for `None`. A wall clock that is set while this sleeps is noticed within a
    /// minute.
    pub async fn sleep_until(&self, at: Option<Timestamp>) {
        let Some(at) = at else { return std::future::pending().await };
        match self {
            Clock::Real => loop {
                let left = at.since(real_now());
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(Duration::from_secs(60))).await;
            },
            Clock::Skewed(skew) => {
                let mut changed = skew.micros.subscribe();
                loop {
                    let left = at.since(skew.now());
                    if left.is_zero() {
                        return;
                    }
                    tokio::select! {
                        () = tokio::time::sleep(left.min(Duration::from_secs(60))) => {}
                        // The sender lives in `self`, so waiting cannot fail.
                        _ = changed.changed() => {}
                    }
                }
            }
            Clock::Virtual(clock) if clock.hasty => {
                // Whatever is ready already goes first.
                tokio::task::yield_now().await;
                clock.now.send_modify(|now| *now = at.max(*now));
            }
            Clock::Virtual(clock) => {
                let mut now = clock.now.subscribe();
                // The sender lives in `self`, so waiting cannot fail.
                let _ = now.wait_for(|now| at <= *now).await;
            }
        }
    }
}

fn real_now() -> Timestamp {
    let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => Timestamp::from_micros(micros(since)),
        Err(before) => Timestamp::from_micros(-micros(before.duration())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_virtual_clock_wakes_a_sleeper_when_it_is_moved_there() {
        let hands = VirtualClock::at(Timestamp::from_micros(0));
        let clock = Clock::Virtual(hands.clone());
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move {
                clock.sleep_until(Some(Timestamp::from_millis(10))).await;
                clock.now()
            }
        });
        hands.advance(Duration::from_millis(4));
        hands.advance(Duration::from_millis(6));
        assert_eq!(sleeper.await.expect("no panic"), Timestamp::from_millis(10));
    }

    #[tokio::test]
    async fn a_skewed_clock_wakes_a_sleeper_when_it_is_set_past_his_hour() {
        let skew = Skew::default();
        let clock = Clock::Skewed(skew.clone());
        let at = clock.now().plus(Duration::from_secs(3600));
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(Some(at)).await }
        });
        skew.set(7_200_000_000);
        sleeper.await.expect("no panic");
        assert!(at <= clock.now());
        skew.set(-7_200_000_000);
        assert!(clock.now() < Clock::Real.now());
    }

    #[tokio::test]
    async fn the_real_clock_does_not_wait_for_the_past() {
        let clock = Clock::Real;
        clock.sleep_until(Some(clock.now())).await;
        assert!(Timestamp::from_millis(1_700_000_000_000) < clock.now());
    }
}
