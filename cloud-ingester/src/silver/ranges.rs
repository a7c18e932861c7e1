//! A set of sequence numbers, kept as ranges: one range where a gateway's numbers arrive without holes, whatever their count.

use std::collections::BTreeMap;

/// A set of numbers from 1 upwards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    /// First number of each range -> its last. Ranges neither overlap nor touch.
    spans: BTreeMap<i64, i64>,
    count: u64,
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
        let (mut first, mut last) = (from, to);
        let mut known = 0;
        // Everything that overlaps or touches the new span melts into it.
        while let Some((&start, &end)) = self.spans.range(..=last.saturating_add(1)).next_back() {
            if end < first.saturating_sub(1) {
                break;
            }
            known += overlap(from, to, start, end);
            first = first.min(start);
            last = last.max(end);
            self.spans.remove(&start);
        }
        self.spans.insert(first, last);
        let new = width(from, to) - known;
        self.count += new;
        new
    }

    /// True if the number is in the set.
    #[must_use]
    pub fn contains(&self, number: i64) -> bool {
        self.spans.range(..=number).next_back().is_some_and(|(_, &end)| number <= end)
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
        let before = self.spans.range(..from).next_back();
        before.into_iter().chain(self.spans.range(from..=to)).map(|(&start, &end)| overlap(from, to, start, end)).sum()
    }

    /// How many numbers are in both sets.
    #[must_use]
    pub fn count_common(&self, other: &Self) -> u64 {
        let (few, many) = if self.spans.len() <= other.spans.len() { (self, other) } else { (other, self) };
        few.spans.iter().map(|(&start, &end)| many.count_within(start, end)).sum()
    }

    /// Adds all numbers of `other`.
    pub fn extend(&mut self, other: &Self) {
        for (&start, &end) in &other.spans {
            self.insert_span(start, end);
        }
    }

    /// The largest number in the set; 0 where it is empty.
    #[must_use]
    pub fn last(&self) -> i64 {
        self.spans.last_key_value().map_or(0, |(_, &end)| end)
    }
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
        assert_eq!((ranges.spans.len(), ranges.count()), (1, 1_000));
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
