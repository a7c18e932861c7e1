//! A set of numbers kept as runs: as small as the numbers are gapless. Written anew here, for the proof must not share
//! the ingester's mistakes. Pure.

use std::collections::BTreeMap;

/// A set of whole numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Intervals {
    /// First number of a run -> its last. Runs never touch.
    runs: BTreeMap<i64, i64>,
}

impl Intervals {
    /// Adds `number`; false if it was in already.
    pub fn insert(&mut self, number: i64) -> bool {
        let before = self.runs.range(..=number).next_back().map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| number <= last) {
            return false;
        }
        let first = before.filter(|(_, last)| last + 1 == number).map_or(number, |(first, _)| first);
        let last = number.checked_add(1).and_then(|next| self.runs.remove(&next)).unwrap_or(number);
        self.runs.insert(first, last);
        true
    }

    /// Adds `first ..= last`.
    pub fn insert_run(&mut self, first: i64, last: i64) {
        if last < first {
            return;
        }
        let (mut from, mut to) = (first, last);
        let touching: Vec<i64> = self
            .runs
            .range(..=last.saturating_add(1))
            .rev()
            .take_while(|(_, end)| first.saturating_sub(1) <= **end)
            .map(|(start, _)| *start)
            .collect();
        for start in touching {
            if let Some(end) = self.runs.remove(&start) {
                from = from.min(start);
                to = to.max(end);
            }
        }
        self.runs.insert(from, to);
    }

    /// True if `number` is in.
    pub fn contains(&self, number: i64) -> bool {
        self.runs.range(..=number).next_back().is_some_and(|(_, last)| number <= *last)
    }

    /// How many numbers are in.
    pub fn count(&self) -> u64 {
        self.runs.iter().map(|(first, last)| last.abs_diff(*first) + 1).sum()
    }

    /// The largest number.
    pub fn max(&self) -> Option<i64> {
        self.runs.values().next_back().copied()
    }

    /// The runs, in order.
    pub fn runs(&self) -> impl Iterator<Item = (i64, i64)> + '_ {
        self.runs.iter().map(|(first, last)| (*first, *last))
    }

    /// What is in both.
    #[must_use]
    pub fn and(&self, other: &Intervals) -> Intervals {
        let mut both = Intervals::default();
        for (first, last) in self.runs() {
            let near = other.runs.range(..=first).next_back().into_iter();
            for (from, to) in near.chain(other.runs.range(first.saturating_add(1)..=last.max(first.saturating_add(1))))
            {
                both.insert_run(first.max(*from), last.min(*to));
            }
        }
        both
    }

    /// What is in either.
    #[must_use]
    pub fn or(&self, other: &Intervals) -> Intervals {
        let mut either = self.clone();
        other.runs().for_each(|(first, last)| either.insert_run(first, last));
        either
    }

    /// What of `1 ..= last` is not in.
    #[must_use]
    pub fn holes(&self, last: i64) -> Intervals {
        let mut holes = Intervals::default();
        let mut next = 1;
        for (first, end) in self.runs().filter(|(_, end)| 1 <= *end) {
            if last < first {
                break;
            }
            holes.insert_run(next, first - 1);
            next = end.saturating_add(1);
        }
        holes.insert_run(next, last);
        holes
    }
}

impl std::fmt::Display for Intervals {
    /// `1-3, 7`; long sets are cut.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 5;
        for (at, (first, last)) in self.runs().take(SHOWN).enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        if SHOWN < self.runs.len() { write!(f, ", … ({} runs)", self.runs.len()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn model(set: &Intervals) -> BTreeSet<i64> {
        set.runs().flat_map(|(first, last)| first..=last).collect()
    }

    proptest! {
        #[test]
        fn it_behaves_as_a_set_of_numbers(
            singles in prop::collection::vec(-5_i64..60, 0..60),
            runs in prop::collection::vec((-5_i64..60, 0_i64..8), 0..10),
            others in prop::collection::vec((-5_i64..60, 0_i64..8), 0..10),
            last in 0_i64..70,
        ) {
            let (mut set, mut expected) = (Intervals::default(), BTreeSet::new());
            for number in singles {
                prop_assert_eq!(set.insert(number), expected.insert(number));
            }
            for (first, length) in runs {
                set.insert_run(first, first + length);
                expected.extend(first..=first + length);
            }
            let mut other = Intervals::default();
            others.into_iter().for_each(|(first, length)| other.insert_run(first, first + length));
            let beside = model(&other);
            prop_assert_eq!(&model(&set), &expected);
            prop_assert_eq!(set.count(), expected.len() as u64);
            prop_assert_eq!(set.max(), expected.last().copied());
            prop_assert!((-6..70).all(|number| set.contains(number) == expected.contains(&number)));
            prop_assert_eq!(model(&set.and(&other)), expected.intersection(&beside).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(model(&set.or(&other)), expected.union(&beside).copied().collect::<BTreeSet<_>>());
            let holes: BTreeSet<i64> = (1..=last).filter(|number| !expected.contains(number)).collect();
            prop_assert_eq!(model(&set.holes(last)), holes);
            let ends: Vec<_> = set.runs().collect();
            prop_assert!(ends.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "runs never touch");
        }
    }

    #[test]
    fn the_largest_numbers_do_no_harm() {
        let mut set = Intervals::default();
        assert!(set.insert(i64::MAX) && set.insert(i64::MIN) && !set.insert(i64::MAX));
        set.insert_run(i64::MAX - 1, i64::MAX);
        assert_eq!(set.count(), 3);
        assert_eq!(set.and(&set), set);
    }
}
