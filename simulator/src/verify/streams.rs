//! Bronze's own numbers: every stream (a partition of one life of a hub) holds each sequence number once, but for what
//! the hub let expire before it was read. Pure.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::intervals::Intervals;
use super::report::Problems;

/// One partition of one life of a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream<'a> {
    /// The hub's name.
    pub hub: &'a str,
    /// When it was created.
    pub incarnation: i64,
    /// The partition.
    pub partition: i64,
}

impl Stream<'_> {
    /// The app id under which bronze commits how far it has read this stream.
    pub fn app_id(&self) -> String {
        format!("bronze/{}/{}/{}", self.hub, self.incarnation, self.partition)
    }
}

impl fmt::Display for Stream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (created {}), partition {}", self.hub, self.incarnation, self.partition)
    }
}

/// All streams of bronze.
#[derive(Debug, Default)]
pub struct Streams(BTreeMap<String, BTreeMap<(i64, i64), Numbers>>);

#[derive(Debug, Default)]
struct Numbers {
    seen: Intervals,
    /// What silver.gaps says the hub let expire.
    expired: Intervals,
    /// Rows of the ingester's own, each saying that the numbers before it expired.
    marks: Intervals,
    /// Up to where bronze says it has read.
    done: Option<i64>,
}

/// What bronze holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BronzeBooks {
    /// Rows.
    pub events: u64,
    /// Streams with rows.
    pub streams: u64,
    /// Sequence numbers that the hub let expire, by silver.gaps.
    pub expired: u64,
}

impl Streams {
    fn numbers(&mut self, stream: Stream<'_>) -> &mut Numbers {
        let place = (stream.incarnation, stream.partition);
        // One more lookup rather than an allocation for each row.
        if !self.0.contains_key(stream.hub) {
            self.0.insert(stream.hub.to_owned(), BTreeMap::new());
        }
        self.0.get_mut(stream.hub).expect("just inserted").entry(place).or_default()
    }

    /// Takes a row of bronze.messages; `mark`: it stands for numbers that expired.
    pub fn event(&mut self, stream: Stream<'_>, number: i64, mark: bool, problems: &mut Problems) {
        let numbers = self.numbers(stream);
        if mark {
            numbers.marks.insert(number);
        }
        if !numbers.seen.insert(number) {
            problems.add("bronze-repeat", || format!("bronze.messages has number {number} of {stream} more than once"));
        }
    }

    /// Takes a gap of silver.gaps: numbers that the hub let expire.
    pub fn expired(&mut self, stream: Stream<'_>, from: i64, to: i64) {
        self.numbers(stream).expired.insert_run(from, to);
    }

    /// Takes how far bronze says it has read.
    pub fn done(&mut self, stream: Stream<'_>, number: i64) {
        self.numbers(stream).done = Some(number);
    }

    /// Every stream there is a word about.
    pub fn all(&self) -> impl Iterator<Item = Stream<'_>> {
        self.0.iter().flat_map(|(hub, streams)| {
            streams.keys().map(|(incarnation, partition)| Stream {
                hub,
                incarnation: *incarnation,
                partition: *partition,
            })
        })
    }

    /// The books; adds every hole. While silver has not read all of bronze (`behind`), the ingester's own row is word
    /// enough for what expired.
    pub fn check(&self, behind: bool, problems: &mut Problems) -> BronzeBooks {
        let mut books = BronzeBooks::default();
        let streams = self.0.values().flat_map(BTreeMap::values);
        for (stream, numbers) in self.all().zip(streams) {
            books.events += numbers.seen.count();
            books.streams += u64::from(numbers.seen.max().is_some());
            books.expired += numbers.expired.count();
            for (first, last) in numbers.holes() {
                if behind && numbers.marks.contains(last.saturating_add(1)) {
                    continue;
                }
                problems.add("bronze-hole", || {
                    let which =
                        if first == last { format!("number {first}") } else { format!("numbers {first} to {last}") };
                    format!(
                        "bronze.messages lacks {which} of {stream}, and silver.gaps does not say that the hub let them expire"
                    )
                });
            }
            match (numbers.done, numbers.seen.max()) {
                (Some(done), newest) if newest != Some(done) => problems.add("bronze-progress", || {
                    let newest = newest.map_or("none".to_owned(), |newest| newest.to_string());
                    format!("bronze.messages says it has read {stream} up to {done}, its newest row there is {newest}")
                }),
                _ => {}
            }
        }
        books
    }
}

impl Numbers {
    /// What lies between the first and the last number and is neither there nor named as expired.
    fn holes(&self) -> Vec<(i64, i64)> {
        let known: Vec<(i64, i64)> = self.seen.or(&self.expired).runs().collect();
        known.windows(2).map(|pair| (pair[0].1 + 1, pair[1].0 - 1)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In one word each: `5` a row, `m5` the ingester's own row, `x3-4` expired by silver.gaps, `d5` read up to 5; `h/1/0:`
    /// before it: of another stream than `a/7/0`.
    fn check(words: &str, behind: bool, broken: &[&str]) -> String {
        let (mut streams, mut problems) = (Streams::default(), Problems::default());
        for word in words.split_whitespace() {
            let (stream, word) = word.split_once(':').unwrap_or(("a/7/0", word));
            let parts: Vec<&str> = stream.split('/').collect();
            let number = |text: &str| text.parse::<i64>().expect("a number");
            let stream = Stream { hub: parts[0], incarnation: number(parts[1]), partition: number(parts[2]) };
            match (&word[..1], &word[1..]) {
                ("m", rest) => streams.event(stream, number(rest), true, &mut problems),
                ("d", rest) => streams.done(stream, number(rest)),
                ("x", rest) => {
                    let (from, to) = rest.split_once('-').expect("from-to");
                    streams.expired(stream, number(from), number(to));
                }
                _ => streams.event(stream, number(word), false, &mut problems),
            }
        }
        let books = streams.check(behind, &mut problems);
        assert_eq!(problems.kinds(), broken, "{words}: {problems:?}");
        format!("{} of {}, {} expired", books.events, books.streams, books.expired)
    }

    #[test]
    fn a_stream_without_holes_and_repeats_is_sound_wherever_it_begins() {
        assert_eq!(check("0 1 2 3 d3", false, &[]), "4 of 1, 0 expired");
        check("41 43 42 d43", false, &[]);
        check("", false, &[]);
    }

    #[test]
    fn a_hole_and_a_repeat_are_seen() {
        check("0 1 3", false, &["bronze-hole"]);
        check("0 1 1 2", false, &["bronze-repeat"]);
        check("0 1 1 4", false, &["bronze-hole", "bronze-repeat"]);
    }

    #[test]
    fn each_hub_each_life_and_each_partition_counts_for_itself() {
        assert_eq!(check("0 1 a/7/1:0 a/8/0:0 b/7/0:0 b/7/0:1", false, &[]), "6 of 4, 0 expired");
        check("0 a/7/1:1 2", false, &["bronze-hole"]);
        check("0 a/8/0:1 2", false, &["bronze-hole"]);
        check("0 b/7/0:1 2", false, &["bronze-hole"]);
    }

    #[test]
    fn what_the_hub_let_expire_is_no_hole_and_nothing_beyond_it() {
        assert_eq!(check("0 1 m9 10 x2-9", false, &[]), "4 of 1, 8 expired");
        check("0 1 m9 10 x3-9", false, &["bronze-hole"]);
        check("0 1 m9 10 a/8/0:0 a/8/0:x2-9", false, &["bronze-hole"]);
    }

    #[test]
    fn the_ingester_s_own_row_is_word_enough_until_silver_has_read_it() {
        check("0 1 m9 10", true, &[]);
        check("0 1 m9 10", false, &["bronze-hole"]);
        check("0 1 9 10", true, &["bronze-hole"]);
    }

    #[test]
    fn rows_that_are_gone_from_the_end_are_seen_by_the_progress() {
        check("0 1 2 d4", false, &["bronze-progress"]);
        check("0 1 2 d1", false, &["bronze-progress"]);
    }
}
