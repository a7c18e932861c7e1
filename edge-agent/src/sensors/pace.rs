//! When a sensor is read next, and how it is. Pure: it is told the time since the start.
//!
//! Readings stand on a grid, `every` apart, however long each takes: a late one moves none of those after it. A sensor
//! that fails is tried again after waits that double up to a longest one, on the grid or off it; points of the grid that
//! pass meanwhile are missed, and counted. No chance is in these waits: nobody else asks this bus.

use std::time::Duration;

/// One sensor's grid and health.
#[derive(Debug)]
pub(crate) struct Pace {
    every: Duration,
    /// The first point of the grid that is not served yet.
    point: Duration,
    /// Points of grids it had before that passed without a reading.
    owed: u64,
    /// While it fails: the next attempt.
    retry: Option<Duration>,
    waits: Waits,
    /// The wait after the next attempt that fails.
    wait: Duration,
    failing: Option<&'static str>,
}

/// How long after a failed attempt the next one comes: `min`, twice that, and so on, never more than `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waits {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

/// What an attempt means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    /// Points of the grid that passed without a reading.
    pub(crate) missed: u64,
    /// It answers again, fails, or fails for another reason: worth a line in the log.
    pub(crate) changed: bool,
}

impl Pace {
    /// A sensor that is read at once, and then each `every`.
    pub(crate) const fn new(every: Duration, waits: Waits, now: Duration) -> Self {
        Self { every, point: now, owed: 0, retry: None, waits, wait: waits.min, failing: None }
    }

    /// From `now` on it is read each `every`. The grid goes on from the last point that was served, so that readings are
    /// never further apart than one of the two; what is overdue is due now. What passed before is missed by the grid of
    /// before, and nothing by the new one.
    pub(crate) fn set_every(&mut self, every: Duration, now: Duration) {
        if every == self.every {
            return;
        }
        if self.point <= now {
            self.owed = self.owed.saturating_add(self.pass(now) - 1);
            (self.every, self.point) = (every, now);
        } else {
            self.point = self.point.saturating_sub(self.every);
            self.every = every;
            self.pass(now);
        }
    }

    /// When it is to be read.
    pub(crate) fn due(&self) -> Duration {
        self.retry.unwrap_or(self.point)
    }

    /// It gave a reading.
    pub(crate) fn answered(&mut self, now: Duration) -> Told {
        self.retry = None;
        self.wait = self.waits.min;
        let changed = self.failing.take().is_some();
        let passed = std::mem::take(&mut self.owed).saturating_add(self.pass(now));
        Told { missed: passed.saturating_sub(1), changed }
    }

    /// It gave none, for this reason.
    pub(crate) fn failed(&mut self, now: Duration, kind: &'static str) -> Told {
        self.retry = Some(now + self.wait);
        self.wait = self.wait.saturating_mul(2).min(self.waits.max);
        Told { missed: 0, changed: self.failing.replace(kind) != Some(kind) }
    }

    /// Goes on to the first point after `now`; how many lie up to it.
    fn pass(&mut self, now: Duration) -> u64 {
        let Some(since) = now.checked_sub(self.point) else { return 0 };
        let every = self.every.as_nanos().max(1);
        let passed = u64::try_from(since.as_nanos() / every).unwrap_or(u64::MAX).saturating_add(1);
        let ahead = every - since.as_nanos() % every;
        self.point = now + Duration::from_nanos(u64::try_from(ahead).unwrap_or(u64::MAX));
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const WAITS: Waits = Waits { min: S, max: Duration::from_secs(30) };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn readings_stand_on_a_grid_however_long_each_takes() {
        let mut pace = Pace::new(10 * S, WAITS, ms(500));
        let mut due = Vec::new();
        for took in [20, 9_000, 3, 700] {
            due.push(pace.due().as_millis());
            assert_eq!(pace.answered(pace.due() + ms(took)), Told { missed: 0, changed: false });
        }
        assert_eq!(due, [500, 10_500, 20_500, 30_500]);
    }

    #[test]
    fn a_reading_that_outlasts_the_grid_misses_its_points_and_moves_none() {
        let mut pace = Pace::new(10 * S, WAITS, Duration::ZERO);
        assert_eq!(pace.answered(ms(35_000)).missed, 3);
        assert_eq!(pace.due(), 40 * S);
        assert_eq!(pace.answered(40 * S).missed, 0, "a reading on the point is of the point");
        assert_eq!(pace.due(), 50 * S);
    }

    #[test]
    fn what_fails_is_tried_again_ever_more_rarely_to_a_bound_and_each_change_is_told_once() {
        let mut pace = Pace::new(10 * S, WAITS, Duration::ZERO);
        let (mut told, mut waits) = (Vec::new(), Vec::new());
        for kind in ["crc", "crc", "no-answer", "no-answer", "no-answer", "no-answer", "no-answer"] {
            let now = pace.due();
            told.push(pace.failed(now, kind).changed);
            waits.push((pace.due() - now).as_secs());
        }
        assert_eq!(told, [true, false, true, false, false, false, false]);
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        let now = pace.due();
        let back = pace.answered(now);
        assert!(back.changed);
        assert_eq!((now, back.missed), (91 * S, 9), "every point but this reading's own");
        assert_eq!(pace.due(), 100 * S, "back on the grid");
        assert!(!pace.answered(pace.due()).changed);
        let now = pace.due();
        pace.failed(now, "crc");
        assert_eq!(pace.due() - now, S, "what answered begins with the shortest wait");
    }

    #[test]
    fn another_interval_counts_at_once_from_the_last_reading_on_and_misses_nothing() {
        let mut pace = Pace::new(3_600 * S, WAITS, Duration::ZERO);
        pace.answered(ms(20));
        pace.set_every(S, ms(1_800_300));
        assert_eq!(pace.due(), 1_801 * S, "not in half an hour");
        assert_eq!(pace.answered(ms(1_801_020)), Told { missed: 0, changed: false });
        assert_eq!(pace.due(), 1_802 * S, "on its grid");
        pace.set_every(S, ms(1_801_500));
        pace.set_every(3_600 * S, ms(1_801_600));
        assert_eq!(pace.due(), 5_401 * S, "an hour after the last reading");
        pace.set_every(10 * S, ms(1_801_700));
        assert_eq!(pace.due(), 1_811 * S);
        assert_eq!(pace.answered(pace.due()).missed, 0);
    }

    #[test]
    fn what_is_overdue_when_the_interval_changes_is_due_now_and_what_passed_is_missed_once() {
        // Never read yet: told before its first turn.
        let mut pace = Pace::new(10 * S, WAITS, S);
        pace.set_every(3_600 * S, S);
        assert_eq!((pace.due(), pace.answered(S).missed, pace.due()), (S, 0, 3_601 * S));
        // It fails for 25 seconds of the grid of before, and ten more of the new one.
        let mut pace = Pace::new(10 * S, WAITS, Duration::ZERO);
        pace.failed(Duration::ZERO, "crc");
        let retry = pace.due();
        pace.set_every(S, 25 * S);
        assert_eq!(pace.due(), retry, "what fails is tried again as before");
        let told = pace.answered(35 * S);
        assert_eq!(
            (told.missed, told.changed),
            (2 + 10, true),
            "0 and 10 of the old, 25 to 34 of the new; 35 is served"
        );
        assert_eq!((pace.due(), pace.answered(36 * S).missed), (36 * S, 0));
    }

    #[test]
    fn a_rare_sensor_that_failed_once_does_not_wait_for_its_next_turn() {
        let mut pace = Pace::new(3_600 * S, WAITS, Duration::ZERO);
        pace.failed(Duration::ZERO, "crc");
        assert_eq!(pace.due(), S);
        assert_eq!(pace.answered(pace.due()).missed, 0);
        assert_eq!(pace.due(), 3_600 * S);
    }
}
