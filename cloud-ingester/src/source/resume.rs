//! Where to go on in a partition: a pure function of what was read and what the hub says.

use super::{SourceError, Stream};

/// What the hub says about a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The oldest number it still holds.
    pub begin: i64,
    /// The newest number it gave; −1 if it never gave one.
    pub last_enqueued: i64,
    /// Whether it holds nothing now.
    pub is_empty: bool,
}

impl Partition {
    /// The oldest number that can still be read. What an empty partition says about its beginning differs between hubs;
    /// that it is empty does not.
    const fn begins(self) -> i64 {
        if self.is_empty { self.last_enqueued + 1 } else { self.begin }
    }
}

/// Where to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// At the oldest Event there is: this life of the hub was never read.
    AtTheBeginning,
    /// At the Event after this one.
    After(i64),
    /// Numbers `from..=to` are gone; after them.
    OverAGap {
        /// The first that is gone.
        from: i64,
        /// The last that is gone.
        to: i64,
    },
}

/// | read up to `at` | the hub holds `begin..=last`    | resume                       |
/// |-----------------|---------------------------------|------------------------------|
/// | nothing         | anything                        | at the beginning             |
/// | `at`            | `last < at`                     | refused: the hub was set back |
/// | `at`            | `begin <= at + 1`               | after `at`                   |
/// | `at`            | `at + 1 < begin`                | over the gap `at+1..begin`   |
/// | `at`            | nothing, and `at < last`        | over the gap `at+1..=last`   |
///
/// # Errors
/// [`SourceError::Regressed`].
pub fn resume(stream: &Stream, at: Option<i64>, hub: Partition) -> Result<Resume, SourceError> {
    let Some(at) = at else {
        return Ok(Resume::AtTheBeginning);
    };
    if hub.last_enqueued < at {
        return Err(SourceError::Regressed { stream: stream.clone(), last_enqueued: hub.last_enqueued, committed: at });
    }
    let begin = hub.begins();
    if begin <= at + 1 {
        return Ok(Resume::After(at));
    }
    Ok(Resume::OverAGap { from: at + 1, to: begin - 1 })
}

/// How an Event that came follows the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// Directly, or it is the first of its stream.
    Directly,
    /// Not at all: it came before. The receiver began again where it was first opened.
    WentBack,
    /// Over a hole that begins here; the hub has to be asked what became of it.
    OverAHole(i64),
}

/// | number against the last one, `at`    | follows          |
/// |--------------------------------------|------------------|
/// | `at + 1`, or there was none          | directly         |
/// | at or below                          | went back        |
/// | above                                | over a hole      |
#[must_use]
pub fn follows(at: Option<i64>, number: i64) -> Follows {
    match at {
        Some(at) if number <= at => Follows::WentBack,
        Some(at) if at + 1 < number => Follows::OverAHole(at + 1),
        _ => Follows::Directly,
    }
}

/// What became of the numbers an Event passed over: first and last of each part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The hub does not hold these any more.
    pub given_up: Option<(i64, i64)>,
    /// The hub says it holds these.
    pub held: Option<(i64, i64)>,
}

/// Divides the hole `from..number` where the hub's own Events begin.
#[must_use]
pub fn hole(from: i64, number: i64, hub: Partition) -> Hole {
    let begin = hub.begins().clamp(from, number);
    let part = |from: i64, to: i64| (from <= to).then_some((from, to));
    Hole { given_up: part(from, begin - 1), held: part(begin, number - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(at: Option<i64>, begin: i64, last_enqueued: i64, is_empty: bool) -> Option<Resume> {
        let stream = Stream { hub: "h".into(), incarnation: 1, partition: 0 };
        let hub = Partition { begin, last_enqueued, is_empty };
        match resume(&stream, at, hub) {
            Ok(resume) => Some(resume),
            Err(error) => {
                let text = error.to_string();
                let both = [last_enqueued.to_string(), format!("up to {}", at.unwrap_or_default())];
                assert!(both.iter().all(|number| text.contains(number)), "{text}");
                None
            }
        }
    }

    #[test]
    fn every_line_of_the_table_holds() {
        assert_eq!(check(None, 0, -1, true), Some(Resume::AtTheBeginning));
        assert_eq!(check(None, 900, 1_000, false), Some(Resume::AtTheBeginning));
        assert_eq!(check(Some(10), 0, 10, false), Some(Resume::After(10)));
        assert_eq!(check(Some(10), 11, 12, false), Some(Resume::After(10)));
        assert_eq!(check(Some(10), 11, 10, true), Some(Resume::After(10)));
        assert_eq!(check(Some(10), 0, 10, true), Some(Resume::After(10)));
        let gap = Some(Resume::OverAGap { from: 11, to: 14 });
        assert_eq!(check(Some(10), 15, 20, false), gap);
        assert_eq!(check(Some(10), 0, 14, true), gap);
        assert_eq!(check(Some(10), 0, 9, false), None);
        assert_eq!(check(Some(10), 0, -1, true), None);
    }

    #[test]
    fn an_event_follows_goes_back_or_leaves_a_hole() {
        assert_eq!(follows(None, 900), Follows::Directly);
        assert_eq!(follows(Some(9), 10), Follows::Directly);
        assert_eq!(follows(Some(9), 9), Follows::WentBack);
        assert_eq!(follows(Some(999), 0), Follows::WentBack);
        assert_eq!(follows(Some(9), 12), Follows::OverAHole(10));
    }

    #[test]
    fn a_hole_is_divided_where_the_hub_begins() {
        for (begin, is_empty, given_up, held) in [
            (20, false, Some((10, 19)), None),
            (30, false, Some((10, 19)), None),
            (15, false, Some((10, 14)), Some((15, 19))),
            (10, false, None, Some((10, 19))),
            (0, false, None, Some((10, 19))),
            (0, true, Some((10, 19)), None),
        ] {
            let hub = Partition { begin, last_enqueued: 20, is_empty };
            assert_eq!(hole(10, 20, hub), Hole { given_up, held }, "{begin} {is_empty}");
        }
    }
}
