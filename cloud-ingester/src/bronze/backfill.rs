//! Which Events of a file bronze lacks, and how the progress of their stream moves with them. Pure.

use crate::silver::ranges::Ranges;

/// What becomes of an Event of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Bronze lacks it, below where the stream stands: it is added.
    Filled,
    /// It is the next one of the stream, which moves on with it.
    Next,
    /// Bronze has that number.
    Held,
    /// Numbers before it are missing, from this one: taken now, whoever reads the hub would never read those.
    Beyond(i64),
}

/// What bronze holds of one stream, and takes of files.
#[derive(Clone, Debug, Default)]
pub struct Filling {
    /// Numbers in bronze, plus one: they begin at 0.
    held: Ranges,
    at: Option<i64>,
}

impl Filling {
    /// `at` is where the stream stands: the last number read from the hub or from files.
    #[must_use]
    pub fn new(held: impl IntoIterator<Item = (i64, i64)>, at: Option<i64>) -> Self {
        let mut ranges = Ranges::default();
        for (from, to) in held {
            ranges.insert_span(from.saturating_add(1), to.saturating_add(1));
        }
        Self { held: ranges, at }
    }

    /// Where the stream stands.
    #[must_use]
    pub fn at(&self) -> Option<i64> {
        self.at
    }

    /// | number, where the stream stands at `at` | fate   |
    /// |-----------------------------------------|--------|
    /// | in bronze                               | held   |
    /// | at or below `at`                        | filled |
    /// | `at + 1`, or the stream stands nowhere  | next   |
    /// | above                                   | beyond |
    pub fn take(&mut self, number: i64) -> Fate {
        let fate = match self.at {
            _ if self.held.contains(number.saturating_add(1)) => return Fate::Held,
            Some(at) if number <= at => Fate::Filled,
            Some(at) if at + 1 < number => return Fate::Beyond(at + 1),
            _ => Fate::Next,
        };
        if fate == Fate::Next {
            self.at = Some(number);
        }
        self.held.insert(number.saturating_add(1));
        fate
    }

    /// Passes over numbers that nobody has any more, up to `to`.
    pub fn pass(&mut self, to: i64) {
        self.at = self.at.max(Some(to));
        self.held.insert(to.saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_holds() {
        let mut filling = Filling::new([(0, 2), (5, 9)], Some(9));
        for (number, fate) in [
            (0, Fate::Held),
            (2, Fate::Held),
            (3, Fate::Filled),
            (3, Fate::Held),
            (10, Fate::Next),
            (10, Fate::Held),
            (13, Fate::Beyond(11)),
            (11, Fate::Next),
        ] {
            assert_eq!(filling.take(number), fate, "{number}");
        }
        assert_eq!(filling.at(), Some(11));
        filling.pass(12);
        assert_eq!((filling.take(12), filling.take(13)), (Fate::Held, Fate::Next));
        let mut fresh = Filling::default();
        assert_eq!((fresh.take(500), fresh.take(499), fresh.at()), (Fate::Next, Fate::Filled, Some(500)));
    }
}
