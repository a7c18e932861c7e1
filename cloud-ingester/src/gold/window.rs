//! Windows of fixed places, and how many of them are worked on at once. Pure.
//!
//! Without a time zone windows are counted from 1970-01-01T00:00:00Z, as Spark does. With one a day lasts from one local
//! midnight to the next, 23 or 25 hours where clocks are set; parts of a day are counted from its midnight by elapsed
//! time, and the last of a day ends with it.

use std::time::Duration;

use chrono::{DateTime, Datelike as _, Days, LocalResult, NaiveDate, TimeDelta, TimeZone as _};
use chrono_tz::Tz;

use crate::lake::Extent;

/// Microseconds of a day that is not cut short.
pub const DAY: i64 = 86_400_000_000;

/// A reading lies in at most this many windows.
pub const OVERLAP_MAX: i64 = 1_000;

/// A window: the first instant in it, and the first after it; microseconds since 1970.
pub type Span = (i64, i64);

/// Windows whose places do not depend on what lies in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    size: i64,
    slide: i64,
    zone: Option<Tz>,
}

/// Why windows can't be as they are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GridError {
    /// Too short.
    #[error("a window must be at least 1s long")]
    Short,
    /// Windows lie across days.
    #[error("a day has to be a whole number of windows, or a window a whole number of days")]
    Uneven,
    /// Windows of one grid differ in how many hold a reading.
    #[error("`size` has to be a whole number of `slide`s, at most 1000")]
    Slide,
    /// Local parts of days do not slide.
    #[error("windows with a time zone slide by whole days")]
    ZoneSlide,
}

impl Grid {
    /// Windows of `size`, one beginning every `slide`; side by side where the two are the same.
    ///
    /// # Errors
    /// Why there are none such.
    pub fn new(size: Duration, slide: Duration, zone: Option<Tz>) -> Result<Self, GridError> {
        let micros = |length: Duration| i64::try_from(length.as_micros()).map_err(|_| GridError::Uneven);
        let (size, slide) = (micros(size)?, micros(slide)?);
        if size < 1_000_000 || slide < 1_000_000 {
            return Err(GridError::Short);
        }
        if DAY % slide != 0 && slide % DAY != 0 {
            return Err(GridError::Uneven);
        }
        if size % slide != 0 || OVERLAP_MAX < size / slide {
            return Err(GridError::Slide);
        }
        if zone.is_some() && size != slide && slide % DAY != 0 {
            return Err(GridError::ZoneSlide);
        }
        Ok(Self { size, slide, zone: zone.filter(|zone| *zone != Tz::UTC) })
    }

    /// The length in microseconds of windows that lie side by side and are counted from 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn tumbling_in_utc(&self) -> Option<i64> {
        (self.size == self.slide && self.zone.is_none()).then_some(self.size)
    }

    /// Windows side by side, without a time zone.
    ///
    /// # Errors
    /// As [`Grid::new`].
    pub fn tumbling(size: Duration) -> Result<Self, GridError> {
        Self::new(size, size, None)
    }

    /// In how many windows a reading lies.
    #[must_use]
    pub const fn overlap(self) -> u64 {
        (self.size / self.slide).unsigned_abs()
    }

    /// No window is longer than this.
    #[must_use]
    pub const fn reach(self) -> i64 {
        match self.zone {
            // A local day has 25 hours at most, or a whole one more where a date came twice.
            Some(_) => self.size.saturating_add(DAY),
            None => self.size,
        }
    }

    /// Whether every window has the same length and lies beside the next: the cheap case.
    #[must_use]
    pub fn is_plain(self) -> bool {
        self.zone.is_none() && self.size == self.slide
    }

    /// The start of the one window that holds `time`, where [`Grid::is_plain`]. Before 1970 as well as after.
    #[must_use]
    pub const fn start(self, time: i64) -> i64 {
        // Saturates at the start of time, where no table reaches.
        time.saturating_sub(time.rem_euclid(self.slide))
    }

    /// The windows that hold `time`, the last one first.
    pub fn holding(self, time: i64, into: &mut Vec<Span>) {
        into.clear();
        let Some(zone) = self.zone else {
            let last = self.start(time);
            for back in 0..self.size / self.slide {
                let start = last.saturating_sub(back.saturating_mul(self.slide));
                into.push((start, start.saturating_add(self.size)));
            }
            return;
        };
        let Some(day) = local_day(zone, time) else {
            return;
        };
        if self.slide < DAY {
            let (midnight, next) = (midnight(zone, day), midnight(zone, day + 1));
            let start = time - (time - midnight).rem_euclid(self.slide);
            into.push((start, next.min(start + self.size)));
            return;
        }
        let (days, step) = (self.size / DAY, self.slide / DAY);
        let last = day - day.rem_euclid(step);
        for back in 0..days / step {
            let start = last - back * step;
            into.push((midnight(zone, start), midnight(zone, start + days)));
        }
    }

    /// The latest instant up to `time` at which a window ends.
    #[must_use]
    pub fn boundary(self, time: i64) -> i64 {
        let mut held = vec![];
        self.holding(time, &mut held);
        held.first().map_or(time, |&(start, _)| start)
    }

    /// The date that rows of the window at `start` are filed under: the local one.
    #[must_use]
    pub fn date(self, start: i64) -> i64 {
        match self.zone {
            Some(zone) => local_day(zone, start).unwrap_or_else(|| start.div_euclid(DAY)),
            None => start.div_euclid(DAY),
        }
    }
}

/// The local day that holds an instant, counted from 1970-01-01; none at the ends of time.
#[must_use]
pub fn local_day(zone: Tz, time: i64) -> Option<i64> {
    let local = DateTime::from_timestamp_micros(time)?.with_timezone(&zone);
    let day = days_of(local.date_naive());
    // Where clocks are set back across midnight the same date comes twice.
    Some(if time < midnight(zone, day) {
        day - 1
    } else if midnight(zone, day + 1) <= time {
        day + 1
    } else {
        day
    })
}

fn days_of(date: NaiveDate) -> i64 {
    i64::from(date.num_days_from_ce()) - 719_163
}

/// The first instant of a local day. Where clocks skip midnight: the instant at which they do.
fn midnight(zone: Tz, day: i64) -> i64 {
    let utc = day.saturating_mul(DAY);
    let days = Days::new(day.unsigned_abs());
    let date = NaiveDate::default();
    let date = if day < 0 { date.checked_sub_days(days) } else { date.checked_add_days(days) };
    let Some(mut local) = date.and_then(|date| date.and_hms_opt(0, 0, 0)) else {
        return utc;
    };
    // A whole day was skipped once (Samoa, 2011); the steps are no longer than any clock is set by.
    for _ in 0..=26 * 4 {
        match zone.from_local_datetime(&local) {
            LocalResult::Single(found) => return found.timestamp_micros(),
            LocalResult::Ambiguous(first, _) => return first.timestamp_micros(),
            LocalResult::None => match local.checked_add_signed(TimeDelta::minutes(15)) {
                Some(later) => local = later,
                None => return utc,
            },
        }
    }
    utc
}

/// A day counted from 1970-01-01 as the log writes partitions: `2026-11-23`.
#[must_use]
pub fn date_text(day: i64) -> String {
    let micros = shared::time::Timestamp::from_micros(day.saturating_mul(DAY));
    micros.to_string().chars().take(10).collect()
}

/// Sessions: one lasts until no reading came for `gap`. Each reading holds `[time, time + gap)`; what overlaps is one
/// session. `pieces` are readings and sessions known before, in any order; whoever touches `new` is given back, merged.
///
/// A piece is its span and whether it is new.
#[must_use]
pub fn sessions(mut pieces: Vec<(Span, bool)>) -> Vec<Span> {
    pieces.sort_unstable();
    let mut merged: Vec<(Span, bool)> = vec![];
    for ((start, end), new) in pieces {
        match merged.last_mut() {
            Some(((_, last), touched)) if start < *last => {
                *last = end.max(*last);
                *touched |= new;
            }
            _ => merged.push(((start, end), new)),
        }
    }
    merged.into_iter().filter_map(|(span, touched)| touched.then_some(span)).collect()
}

/// Some windows to be computed together, and the files that hold their rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Which of the windows: a range of the list given.
    pub windows: std::ops::Range<usize>,
    /// Which of the files: places in the list given.
    pub files: Vec<usize>,
    /// Rows of these files.
    pub rows: u64,
}

/// Cuts the work so that the files of a slice hold at most `rows_max` rows, where a single window does not need more.
/// `windows` ascend by their starts.
#[must_use]
pub fn cut(windows: &[Span], files: &[Extent], rows_max: u64) -> Vec<Slice> {
    let mut waiting: Vec<usize> = (0..files.len()).collect();
    waiting.sort_by_key(|&file| files[file].from);
    let mut waiting = waiting.into_iter().peekable();
    // Files that may hold rows of the window at hand, and those of the slice so far.
    let (mut open, mut held): (Vec<usize>, Vec<usize>) = (vec![], vec![]);
    let rows = |held: &[usize]| held.iter().map(|&file| files[file].rows).sum::<u64>();
    let mut slices = vec![];
    let mut first = 0;
    let close = |windows: std::ops::Range<usize>, files: Vec<usize>| Slice { windows, rows: rows(&files), files };
    for (at, &(start, end)) in windows.iter().enumerate() {
        open.retain(|&file| start <= files[file].to.micros());
        let mut new = vec![];
        while let Some(file) = waiting.next_if(|&file| files[file].from.micros() < end) {
            if start <= files[file].to.micros() {
                new.push(file);
            }
        }
        if first < at && !new.is_empty() && rows_max < rows(&held) + rows(&new) {
            slices.push(close(first..at, std::mem::take(&mut held)));
            first = at;
            held.clone_from(&open);
        }
        open.extend(&new);
        held.extend(new);
    }
    if first < windows.len() {
        slices.push(close(first..windows.len(), held));
    }
    slices
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
