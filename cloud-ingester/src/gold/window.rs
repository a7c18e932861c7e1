//! Tumbling windows, and how many of them are worked on at once. Pure.

use std::time::Duration;

use shared::time::Timestamp;

use crate::lake::Extent;

/// Windows of one size, side by side, counted from 1970-01-01T00:00:00Z. A day is a whole number of them, so none of
/// them lies in two days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tumbling {
    micros: i64,
}

/// Microseconds of a day.
pub const DAY: i64 = 86_400_000_000;

impl Tumbling {
    /// Windows of this size; `None` unless a day is a whole number of them.
    #[must_use]
    pub fn new(size: Duration) -> Option<Self> {
        let micros = i64::try_from(size.as_micros()).ok()?;
        (0 < micros && DAY % micros == 0).then_some(Self { micros })
    }

    /// The start of the window that holds `time`, both in microseconds. Before 1970 as well as after.
    #[must_use]
    pub const fn start(self, time: i64) -> i64 {
        // Saturates at the start of time, where no table reaches.
        time.saturating_sub(time.rem_euclid(self.micros))
    }

    /// The end of the window that starts at `start`: the start of the next.
    #[must_use]
    pub const fn end(self, start: i64) -> i64 {
        start.saturating_add(self.micros)
    }
}

/// The date of an instant, in microseconds, as the log writes partitions: `2026-11-23`.
#[must_use]
pub fn date_text(micros: i64) -> String {
    let day = Timestamp::from_micros(micros.div_euclid(DAY).saturating_mul(DAY));
    day.to_string().chars().take(10).collect()
}

/// Some windows to be computed together, and the files that hold their rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Which of the windows: a range of the list given.
    pub windows: std::ops::Range<usize>,
    /// Which of the files: places in the list given.
    pub files: Vec<usize>,
}

/// Cuts the work so that the files of a slice hold at most `rows_max` rows, where a single window does not need more.
/// `starts` ascend.
#[must_use]
pub fn cut(starts: &[i64], size: Tumbling, files: &[Extent], rows_max: u64) -> Vec<Slice> {
    let mut waiting: Vec<usize> = (0..files.len()).collect();
    waiting.sort_by_key(|&file| files[file].from);
    let mut waiting = waiting.into_iter().peekable();
    // Files that may hold rows of the window at hand, and those of the slice so far.
    let (mut open, mut held): (Vec<usize>, Vec<usize>) = (vec![], vec![]);
    let rows = |held: &[usize]| held.iter().map(|&file| files[file].rows).sum::<u64>();
    let mut slices = vec![];
    let mut first = 0;
    for (at, &start) in starts.iter().enumerate() {
        open.retain(|&file| start <= files[file].to.micros());
        let mut new = vec![];
        while let Some(file) = waiting.next_if(|&file| files[file].from.micros() < size.end(start)) {
            if start <= files[file].to.micros() {
                new.push(file);
            }
        }
        if first < at && !new.is_empty() && rows_max < rows(&held) + rows(&new) {
            slices.push(Slice { windows: first..at, files: std::mem::take(&mut held) });
            first = at;
            held.clone_from(&open);
        }
        open.extend(&new);
        held.extend(new);
    }
    if first < starts.len() {
        slices.push(Slice { windows: first..starts.len(), files: held });
    }
    slices
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn minute() -> Tumbling {
        Tumbling::new(Duration::from_secs(60)).expect("a minute")
    }

    #[test]
    fn a_window_holds_its_start_and_not_its_end() {
        for (time, start) in
            [(0, 0), (59_999_999, 0), (60_000_000, 60_000_000), (-1, -60_000_000), (-60_000_000, -60_000_000)]
        {
            assert_eq!(minute().start(time), start, "{time}");
        }
        assert_eq!(minute().start(i64::MIN), i64::MIN);
        assert!(0 < minute().start(i64::MAX));
        assert_eq!(minute().end(i64::MAX), i64::MAX);
    }

    #[test]
    fn a_day_is_a_whole_number_of_windows() {
        for (seconds, fits) in [(0, false), (7, false), (60, true), (86_400, true), (86_401, false)] {
            assert_eq!(Tumbling::new(Duration::from_secs(seconds)).is_some(), fits, "{seconds}");
        }
    }

    proptest! {
        #[test]
        fn every_window_finds_all_files_that_may_hold_its_rows(
            starts in prop::collection::btree_set(0_i64..40, 0..20),
            files in prop::collection::vec((0_i64..2_400, 0_i64..300, 0_u64..50), 0..20),
            rows_max in 0_u64..200,
        ) {
            let starts: Vec<i64> = starts.into_iter().map(|minute| minute * 60_000_000).collect();
            let files: Vec<Extent> = files.into_iter().map(|(from, length, rows)| Extent {
                from: Timestamp::from_micros(from * 1_000_000),
                to: Timestamp::from_micros((from + length) * 1_000_000),
                rows,
            }).collect();
            let slices = cut(&starts, minute(), &files, rows_max);
            let mut next = 0;
            for slice in &slices {
                prop_assert_eq!(slice.windows.start, next);
                prop_assert!(!slice.windows.is_empty());
                next = slice.windows.end;
                for &start in &starts[slice.windows.clone()] {
                    for (at, file) in files.iter().enumerate() {
                        if file.from.micros() < minute().end(start) && start <= file.to.micros() {
                            prop_assert!(slice.files.contains(&at));
                        }
                    }
                }
                let mut files = slice.files.clone();
                files.dedup();
                prop_assert_eq!(files.len(), slice.files.len());
            }
            prop_assert_eq!(next, starts.len());
        }
    }
}
