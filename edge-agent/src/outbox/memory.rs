//! The source keys of the last ten minutes: what makes a repeat of a device recognisable.
//!
//! Rebuilt at start from what is stored, so acknowledged rows linger as long as they are remembered here; where there is
//! no room for them, their keys alone do.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::{RowId, SourceKey};

/// How long a key is remembered.
pub(super) const AGE_MAX: Duration = Duration::from_secs(600);
/// Most rows remembered; about 14 MB.
pub(super) const ROWS_MAX: usize = 200_000;

/// Rows in the order of storing, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// When the row of each key was stored; rows sent again stand out of this order in `rows`.
    known: HashMap<SourceKey, i64>,
    rows: VecDeque<(RowId, i64, Option<SourceKey>)>,
    forgotten: RowId,
}

impl Memory {
    /// True if a row with this key was stored less than ten minutes ago and is remembered.
    pub(super) fn knows(&self, key: &SourceKey, now_ms: i64) -> bool {
        self.known.get(key).is_some_and(|at_ms| is_young(*at_ms, now_ms))
    }

    /// Remembers a row stored at `at_ms` (of any one clock). Rows come in the order of their ids.
    pub(super) fn remember(&mut self, id: RowId, at_ms: i64, key: Option<SourceKey>) {
        if let Some(key) = key {
            self.known.insert(key, at_ms);
        }
        self.rows.push_back((id, at_ms, key));
    }

    /// Forgets what is too old or too much. Rows up to the id returned may be deleted once they have left.
    pub(super) fn forget(&mut self, now_ms: i64) -> RowId {
        while let Some((id, at_ms, key)) = self.rows.front() {
            let keep = self.rows.len() <= ROWS_MAX && is_young(*at_ms, now_ms);
            if keep {
                break;
            }
            self.forgotten = *id;
            // The same key may have been stored again since.
            if let Some(key) = key
                && self.known.get(key) == Some(at_ms)
            {
                self.known.remove(key);
            }
            self.rows.pop_front();
        }
        self.forgotten
    }

    /// Rows before the oldest remembered one may be deleted: what a fresh start knows.
    pub(super) fn forgotten_before(&mut self, id: RowId) {
        self.forgotten = self.forgotten.max(id);
    }
}

fn is_young(at_ms: i64, now_ms: i64) -> bool {
    now_ms.saturating_sub(at_ms) <= i64::try_from(AGE_MAX.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SourceKey {
        SourceKey([byte; 16])
    }

    #[test]
    fn a_key_is_known_for_ten_minutes_and_no_longer() {
        let mut memory = Memory::default();
        memory.remember(RowId(1), 0, Some(key(1)));
        memory.remember(RowId(2), 1, None);
        memory.remember(RowId(3), 2, Some(key(3)));
        assert_eq!(memory.forget(600_000), RowId(0));
        assert!(memory.knows(&key(1), 600_000) && memory.knows(&key(3), 600_000) && !memory.knows(&key(2), 600_000));
        assert_eq!(memory.forget(600_001), RowId(1));
        assert!(!memory.knows(&key(1), 600_001));
        assert_eq!(memory.forget(700_000), RowId(3));
        assert!(!memory.knows(&key(3), 700_000));
    }

    #[test]
    fn no_more_than_two_hundred_thousand_rows_are_remembered() {
        let mut memory = Memory::default();
        let rows_max = i64::try_from(ROWS_MAX).expect("fits");
        for id in 1..=rows_max + 5 {
            memory.remember(RowId(id), 0, None);
        }
        assert_eq!(memory.forget(0), RowId(5));
    }

    #[test]
    fn a_clock_that_went_back_forgets_nothing() {
        let mut memory = Memory::default();
        memory.remember(RowId(1), i64::MAX, Some(key(1)));
        memory.forget(i64::MIN);
        assert!(memory.knows(&key(1), i64::MIN));
    }
}
