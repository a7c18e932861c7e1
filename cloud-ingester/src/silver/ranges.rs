//! A set of sequence numbers, kept as ranges: one range where a gateway's numbers arrive without holes, whatever their count.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A set of numbers from 1 upwards. Empty or one range, as almost always, it lies inline and costs no memory of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranges {
    spans: Spans,
    count: u64,
}

/// Ranges neither overlap nor touch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Spans {
    #[default]
    None,
    One(i64, i64),
    /// First number of each range -> its last; at least two.
    Many(BTreeMap<i64, i64>),
}

impl Ranges {
    /// Adds one number; false if it was there, or is below 1.
    pub fn insert(&mut self, number: i64) -> bool {
        self.insert_span(number, number) != 0
    }

    /// Adds `from..=to` (clipped to 1 and above); returns how many of them are new.
    pub fn insert_span(&mut self, from: i64, to: i64) -> u64 {
        let from = from.max(1);
        if to < from {
            return 0;
        }
        let new = match &mut self.spans {
            Spans::None => {
                self.spans = Spans::One(from, to);
                width(from, to)
            }
            Spans::One(start, end) if *end < from.saturating_sub(1) || to.saturating_add(1) < *start => {
                self.spans = Spans::Many(BTreeMap::from([(*start, *end), (from, to)]));
                width(from, to)
            }
            Spans::One(start, end) => {
                let known = overlap(from, to, *start, *end);
                (*start, *end) = (from.min(*start), to.max(*end));
                width(from, to) - known
            }
            Spans::Many(spans) => {
                let new = melt(spans, from, to);
                if let (1, Some((&start, &end))) = (spans.len(), spans.first_key_value()) {
                    self.spans = Spans::One(start, end);
                }
                new
            }
        };
        self.count += new;
        new
    }

    /// True if the number is in the set.
    #[must_use]
    pub fn contains(&self, number: i64) -> bool {
        match &self.spans {
            Spans::None => false,
            Spans::One(start, end) => (*start..=*end).contains(&number),
            Spans::Many(spans) => spans.range(..=number).next_back().is_some_and(|(_, &end)| number <= end),
        }
    }

    /// How many numbers are in the set.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// How many numbers of `from..=to` are in the set.
    #[must_use]
    pub fn count_within(&self, from: i64, to: i64) -> u64 {
        if to < from {
            return 0;
        }
        match &self.spans {
            Spans::None => 0,
            Spans::One(start, end) => overlap(from, to, *start, *end),
            Spans::Many(spans) => {
                let before = spans.range(..from).next_back();
                let found = before.into_iter().chain(spans.range(from..=to));
                found.map(|(&start, &end)| overlap(from, to, start, end)).sum()
            }
        }
    }

    /// How many numbers are in both sets.
    #[must_use]
    pub fn count_common(&self, other: &Self) -> u64 {
        let (few, many) = if self.spans() <= other.spans() { (self, other) } else { (other, self) };
        few.iter().map(|(start, end)| many.count_within(start, end)).sum()
    }

    /// Adds all numbers of `other`.
    pub fn extend(&mut self, other: &Self) {
        for (start, end) in other.iter() {
            self.insert_span(start, end);
        }
    }

    /// The largest number in the set; 0 where it is empty.
    #[must_use]
    pub fn last(&self) -> i64 {
        match &self.spans {
            Spans::None => 0,
            Spans::One(_, end) => *end,
            Spans::Many(spans) => spans.last_key_value().map_or(0, |(_, &end)| end),
        }
    }

    /// How many ranges the set is kept as.
    #[must_use]
    pub fn spans(&self) -> usize {
        match &self.spans {
            Spans::None => 0,
            Spans::One(..) => 1,
            Spans::Many(spans) => spans.len(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = (i64, i64)> {
        let (one, many) = match &self.spans {
            Spans::None => (None, None),
            Spans::One(start, end) => (Some((*start, *end)), None),
            Spans::Many(spans) => (None, Some(spans.iter().map(|(&start, &end)| (start, end)))),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

/// Everything that overlaps or touches the new span melts into it; how many of its numbers are new.
fn melt(spans: &mut BTreeMap<i64, i64>, from: i64, to: i64) -> u64 {
    let (mut first, mut last) = (from, to);
    let mut known = 0;
    while let Some((&start, &end)) = spans.range(..=last.saturating_add(1)).next_back() {
        if end < first.saturating_sub(1) {
            break;
        }
        known += overlap(from, to, start, end);
        first = first.min(start);
        last = last.max(end);
        spans.remove(&start);
    }
    spans.insert(first, last);
    width(from, to) - known
}

fn width(from: i64, to: i64) -> u64 {
    // 1 <= from <= to <= i64::MAX, so the width fits.
    to.abs_diff(from) + 1
}

fn overlap(a_from: i64, a_to: i64, b_from: i64, b_to: i64) -> u64 {
    let (from, to) = (a_from.max(b_from), a_to.min(b_to));
    if to < from { 0 } else { width(from, to) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_in_order_are_one_range() {
        let mut ranges = Ranges::default();
        for number in 1..=1_000 {
            assert!(ranges.insert(number));
        }
        assert_eq!((ranges.spans(), ranges.count()), (1, 1_000));
        assert!(!ranges.insert(500));
        assert_eq!(ranges.last(), 1_000);
    }

    #[test]
    fn the_ends_of_the_number_line_do_no_harm() {
        let mut ranges = Ranges::default();
        assert!(!ranges.insert(0));
        assert!(!ranges.insert(i64::MIN));
        assert!(ranges.insert(i64::MAX));
        assert_eq!(ranges.insert_span(i64::MIN, i64::MAX), (1_u64 << 63) - 2);
        assert_eq!(ranges.count(), (1_u64 << 63) - 1);
        assert_eq!(ranges.count_within(i64::MIN, i64::MAX), ranges.count());
        assert_eq!(ranges.insert_span(5, 3), 0);
    }

    proptest! {
        #[test]
        fn a_set_of_numbers_would_answer_the_same(spans in prop::collection::vec((-3_i64..60, 0_i64..9), 0..40), probe in (-5_i64..70, -5_i64..70)) {
            let mut ranges = Ranges::default();
            let mut other = Ranges::default();
            let mut model = BTreeSet::new();
            let mut model_other = BTreeSet::new();
            for (at, (from, length)) in spans.into_iter().enumerate() {
                let (set, model) = if at % 3 == 0 { (&mut other, &mut model_other) } else { (&mut ranges, &mut model) };
                let new = set.insert_span(from, from + length);
                let before = model.len();
                model.extend((from..=from + length).filter(|n| 1 <= *n));
                prop_assert_eq!(new as usize, model.len() - before);
            }
            prop_assert_eq!(ranges.count() as usize, model.len());
            prop_assert_eq!(ranges.last(), model.last().copied().unwrap_or(0));
            prop_assert_eq!(ranges.contains(probe.0), model.contains(&probe.0));
            prop_assert_eq!(ranges.count_within(probe.0, probe.1) as usize, model.iter().filter(|n| (probe.0..=probe.1).contains(*n)).count());
            prop_assert_eq!(ranges.count_common(&other) as usize, model.intersection(&model_other).count());
            ranges.extend(&other);
            prop_assert_eq!(ranges.count() as usize, model.union(&model_other).count());
        }
    }
}
