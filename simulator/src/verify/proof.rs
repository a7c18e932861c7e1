//! The proof of one epoch of one gateway: what arrived, was refused or given up covers 1 to its last seq. Pure.
//!
//! | state | when | what may be open |
//! |---|---|---|
//! | closed | the gateway named its last seq | nothing: the rest is missing |
//! | lost | the gateway lost its database and knows only a mark | everything up to the mark that did not come is missing |
//! | open | the gateway is at work, or stopped without having drained | outstanding: still in its outbox |

use std::collections::BTreeMap;

use serde::Serialize;

use super::intervals::Intervals;
use super::report::Problems;

/// What the tables say about all epochs, by gateway and epoch.
#[derive(Debug, Default)]
pub struct Epochs(BTreeMap<String, BTreeMap<String, Tally>>);

/// What the tables say about one epoch.
#[derive(Debug, Default)]
pub struct Tally {
    readings: Intervals,
    quarantined: Intervals,
    /// Seqs whose quarantine row was replayed: they may stand in readings as well.
    replayed: Intervals,
    given_up: Intervals,
    high: i64,
    closed: Option<i64>,
    mark: Option<i64>,
}

/// The state of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// At work, or not drained.
    Open,
    /// Its last seq is known.
    Closed,
    /// Its database was lost.
    Lost,
}

impl State {
    /// As it stands in gold.gateway_health.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Closed => "closed",
            State::Lost => "lost",
        }
    }
}

/// The proof of one epoch; the same columns as gold.gateway_health.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EpochProof {
    /// The gateway.
    pub gateway: String,
    /// The epoch.
    pub epoch: String,
    /// Open, closed or lost.
    pub state: State,
    /// The highest seq known to have been given.
    pub high: i64,
    /// The largest of its closings, its highs and its arrived seqs.
    pub last: i64,
    /// Distinct seqs in silver.readings.
    pub arrived: i64,
    /// Distinct seqs in silver.quarantine, not replayed.
    pub quarantined: i64,
    /// Distinct seqs the gateway gave up.
    pub given_up: i64,
    /// How many of them came all the same.
    pub gap_arrived: i64,
    /// Open epochs: not come yet.
    pub outstanding: i64,
    /// Closed and lost epochs: will never come. An alarm.
    pub missing: i64,
    /// Which are missing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub missing_seqs: String,
}

impl Epochs {
    fn tally(&mut self, gateway: &str, epoch: &str) -> &mut Tally {
        // One more lookup rather than two allocations for each row.
        if !self.0.get(gateway).is_some_and(|epochs| epochs.contains_key(epoch)) {
            self.0.entry(gateway.to_owned()).or_default().insert(epoch.to_owned(), Tally::default());
        }
        self.0.get_mut(gateway).and_then(|epochs| epochs.get_mut(epoch)).expect("just inserted")
    }

    /// Takes a high that stands in no row: its Envelope brought none that was new.
    pub fn high(&mut self, gateway: &str, epoch: &str, high: i64) {
        let tally = self.tally(gateway, epoch);
        tally.high = tally.high.max(high);
    }

    /// Takes a row of silver.readings.
    pub fn reading(&mut self, gateway: &str, epoch: &str, seq: i64, high: Option<i64>, problems: &mut Problems) {
        let tally = self.tally(gateway, epoch);
        tally.high = tally.high.max(seq).max(high.unwrap_or(0));
        if !tally.readings.insert(seq) {
            problems.add("duplicate-id", || format!("silver.readings has {gateway}/{epoch}/{seq} more than once"));
        }
    }

    /// Takes a row of silver.quarantine.
    pub fn quarantined(
        &mut self,
        gateway: &str,
        epoch: &str,
        seq: i64,
        high: Option<i64>,
        replayed: bool,
        problems: &mut Problems,
    ) {
        let tally = self.tally(gateway, epoch);
        tally.high = tally.high.max(seq).max(high.unwrap_or(0));
        let fresh = if replayed { tally.replayed.insert(seq) } else { tally.quarantined.insert(seq) };
        if !fresh {
            problems.add("duplicate-id", || format!("silver.quarantine has {gateway}/{epoch}/{seq} more than once"));
        }
    }

    /// Takes a row of silver.gaps.
    pub fn gap(&mut self, gateway: &str, epoch: &str, kind: &str, from: i64, to: i64, problems: &mut Problems) {
        let tally = self.tally(gateway, epoch);
        match kind {
            "given-up" => tally.given_up.insert_run(from.max(1), to),
            "closed" => tally.closed = tally.closed.max(Some(to)),
            "unknown-loss" => tally.mark = tally.mark.max(Some(to)),
            other => {
                problems.add("unknown-gap", || format!("silver.gaps has a gap of kind `{other}` of {gateway}/{epoch}"))
            }
        }
    }

    /// The proof of every epoch, in order; adds what it breaks.
    pub fn prove(&self, problems: &mut Problems) -> Vec<EpochProof> {
        let tallies = self
            .0
            .iter()
            .flat_map(|(gateway, epochs)| epochs.iter().map(move |(epoch, tally)| (gateway, epoch, tally)));
        tallies.map(|(gateway, epoch, tally)| tally.prove(gateway, epoch, problems)).collect()
    }
}

impl Tally {
    fn prove(&self, gateway: &str, epoch: &str, problems: &mut Problems) -> EpochProof {
        let both = self.readings.and(&self.quarantined);
        if both.count() != 0 {
            problems
                .add("not-disjoint", || format!("{gateway}/{epoch}: seqs {both} are in readings and in quarantine"));
        }
        let came = self.readings.or(&self.quarantined);
        let covered = came.or(&self.given_up);
        let high = self.high.max(came.max().unwrap_or(0));
        let last = high.max(self.closed.unwrap_or(0));
        let (state, end) = match (self.closed, self.mark) {
            (Some(_), _) => (State::Closed, last),
            (None, Some(mark)) => (State::Lost, last.max(mark)),
            (None, None) => (State::Open, high),
        };
        let holes = covered.holes(end);
        let open = as_i64(holes.count());
        let (outstanding, missing) = if state == State::Open { (open, 0) } else { (0, open) };
        match state {
            _ if missing == 0 => {}
            State::Lost => problems.add("unknown-loss", || {
                format!("{gateway}/{epoch}: the gateway lost its database; up to {missing} readings are missing: seqs {holes}")
            }),
            _ => problems.add("missing", || format!("{gateway}/{epoch}: {missing} of {last} readings are missing: seqs {holes}")),
        }
        let missing_seqs = if missing == 0 { String::new() } else { holes.to_string() };
        EpochProof {
            gateway: gateway.to_owned(),
            epoch: epoch.to_owned(),
            state,
            high,
            last,
            arrived: as_i64(self.readings.count()),
            quarantined: as_i64(self.quarantined.count()),
            given_up: as_i64(self.given_up.count()),
            gap_arrived: as_i64(self.given_up.and(&came).count()),
            outstanding,
            missing,
            missing_seqs,
        }
    }
}

fn as_i64(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a table says, in one word each: `r5` reading 5, `q5` quarantined, `p5` quarantined and replayed, `g5-7` given
    /// up, `h9` a high of 9 on the last row, `c9` closed at 9, `m9` lost with the mark 9.
    fn check(words: &str, expected: &str, broken: &[&str]) {
        let mut epochs = Epochs::default();
        let mut problems = Problems::default();
        for word in words.split_whitespace() {
            let (kind, rest) = word.split_at(1);
            let (from, to) = rest.split_once('-').unwrap_or((rest, rest));
            let (from, to): (i64, i64) = (from.parse().expect("a seq"), to.parse().expect("a seq"));
            match kind {
                "r" => epochs.reading("gw", "e", from, None, &mut problems),
                "q" => epochs.quarantined("gw", "e", from, None, false, &mut problems),
                "p" => epochs.quarantined("gw", "e", from, None, true, &mut problems),
                "h" => epochs.tally("gw", "e").high = from,
                "g" => epochs.gap("gw", "e", "given-up", from, to, &mut problems),
                "c" => epochs.gap("gw", "e", "closed", 1, to, &mut problems),
                "m" => epochs.gap("gw", "e", "unknown-loss", 1, to, &mut problems),
                _ => panic!("{word}"),
            }
        }
        let proof = epochs.prove(&mut problems).remove(0);
        let EpochProof {
            state,
            last,
            arrived,
            quarantined,
            given_up,
            gap_arrived,
            outstanding,
            missing,
            missing_seqs,
            ..
        } = proof;
        let shown = format!(
            "{} last {last}: {arrived} + {quarantined} + {given_up} - {gap_arrived}, out {outstanding}, missing {missing} {missing_seqs}",
            state.as_str()
        );
        assert_eq!(shown.trim_end(), expected, "{words}");
        assert_eq!(problems.kinds(), broken, "{words}");
    }

    #[test]
    fn a_closed_epoch_is_covered_to_its_last() {
        check("r1 r2 q3 c3", "closed last 3: 2 + 1 + 0 - 0, out 0, missing 0", &[]);
        check("r1 r3 c4", "closed last 4: 2 + 0 + 0 - 0, out 0, missing 2 2, 4", &["missing"]);
        check("r1 g2-4 c4", "closed last 4: 1 + 0 + 3 - 0, out 0, missing 0", &[]);
        check("r1 r5 c4", "closed last 5: 2 + 0 + 0 - 0, out 0, missing 3 2-4", &["missing"]);
        check("c4 r1", "closed last 4: 1 + 0 + 0 - 0, out 0, missing 3 2-4", &["missing"]);
    }

    #[test]
    fn an_open_epoch_has_outstanding_seqs_and_no_alarm() {
        check("r1 h5", "open last 5: 1 + 0 + 0 - 0, out 4, missing 0", &[]);
        check("r1 r5 g2-3", "open last 5: 2 + 0 + 2 - 0, out 1, missing 0", &[]);
    }

    #[test]
    fn what_was_given_up_and_came_all_the_same_is_counted() {
        check("r1 r2 q3 g2-4 c4", "closed last 4: 2 + 1 + 3 - 2, out 0, missing 0", &[]);
    }

    #[test]
    fn a_lost_epoch_names_what_may_be_missing() {
        check("r1 m6", "lost last 1: 1 + 0 + 0 - 0, out 0, missing 5 2-6", &["unknown-loss"]);
        check("r1 r2 m2", "lost last 2: 2 + 0 + 0 - 0, out 0, missing 0", &[]);
        check("r1 m6 c2", "closed last 2: 1 + 0 + 0 - 0, out 0, missing 1 2", &["missing"]);
    }

    #[test]
    fn no_id_stands_twice() {
        check("r1 r1 c1", "closed last 1: 1 + 0 + 0 - 0, out 0, missing 0", &["duplicate-id"]);
        check("q1 q1 c1", "closed last 1: 0 + 1 + 0 - 0, out 0, missing 0", &["duplicate-id"]);
        check("r1 q1 c1", "closed last 1: 1 + 1 + 0 - 0, out 0, missing 0", &["not-disjoint"]);
        check("r1 p1 c1", "closed last 1: 1 + 0 + 0 - 0, out 0, missing 0", &[]);
    }
}
