//! What the proof found, for people and for scripts. Pure.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::expected::LedgerBooks;
use super::proof::EpochProof;
use super::streams::BronzeBooks;

/// How many examples of one kind are kept.
const EXAMPLES_MAX: usize = 10;

/// Everything that is not as it should be, by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Problems(BTreeMap<&'static str, Problem>);

/// One kind of problem.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How often it was met.
    pub count: u64,
    /// The first few.
    pub examples: Vec<String>,
}

impl Problems {
    /// Notes one; `example` is only asked for while examples are kept.
    pub fn add(&mut self, kind: &'static str, example: impl FnOnce() -> String) {
        let problem = self.0.entry(kind).or_default();
        problem.count += 1;
        if problem.examples.len() < EXAMPLES_MAX {
            problem.examples.push(example());
        }
    }

    /// The kinds met, in order.
    pub fn kinds(&self) -> Vec<&'static str> {
        self.0.keys().copied().collect()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The running totals of silver, from the metadata of the last commit to readings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Books {
    /// Rows in silver.readings.
    pub readings: i64,
    /// Rows in silver.quarantine.
    pub quarantined: i64,
    /// Events read.
    pub events: i64,
    /// Readings and refusals found in them.
    pub decoded: i64,
    /// Repeats recognised and dropped.
    pub duplicates: i64,
    /// Seqs given up that came all the same.
    pub gap_arrived: i64,
}

/// How far gold.gateway_health is, and whether it says the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gold {
    /// It says the same.
    Same,
    /// It says something else.
    Differs,
    /// It has not read all of silver yet.
    Behind,
    /// There is no such table.
    Absent,
}

/// The answer.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// True if nothing is broken.
    pub holds: bool,
    /// The lake that was read.
    pub lake: String,
    /// The proof, per gateway and epoch.
    pub epochs: Vec<EpochProof>,
    /// Rows without a gateway: direct devices, and Events refused as a whole.
    pub direct_rows: u64,
    /// What bronze holds, where it exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bronze: Option<BronzeBooks>,
    /// The books of silver, where it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub books: Option<Books>,
    /// gold.gateway_health against the proof.
    pub gold: Gold,
    /// What became of the sends, where ledgers were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerBooks>,
    /// Seqs that have not come yet, in all open epochs.
    pub outstanding: i64,
    /// Seqs that will not come.
    pub missing: i64,
    /// What the outbox holds, as the caller says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<i64>,
    /// What is broken.
    pub problems: Problems,
    /// What is worth knowing and breaks nothing.
    pub notes: Vec<String>,
}

/// A count and its noun.
fn many(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Proof of {}", self.lake)?;
        if self.epochs.is_empty() {
            writeln!(f, "  no gateway has sent anything yet")?;
        }
        let width =
            self.epochs.iter().map(|epoch| epoch.gateway.len() + epoch.epoch.len() + 1).max().unwrap_or(0).max(13);
        if !self.epochs.is_empty() {
            writeln!(
                f,
                "  {:width$}  {:6} {:>9} {:>9} {:>11} {:>8} {:>11} {:>11} {:>8}",
                "gateway/epoch",
                "state",
                "last",
                "arrived",
                "quarantined",
                "given up",
                "gap arrived",
                "outstanding",
                "missing"
            )?;
        }
        for e in &self.epochs {
            let name = format!("{}/{}", e.gateway, e.epoch);
            writeln!(
                f,
                "  {name:width$}  {:6} {:>9} {:>9} {:>11} {:>8} {:>11} {:>11} {:>8}",
                e.state.as_str(),
                e.last,
                e.arrived,
                e.quarantined,
                e.given_up,
                e.gap_arrived,
                e.outstanding,
                e.missing
            )?;
        }
        if self.direct_rows != 0 {
            writeln!(
                f,
                "  {} without a gateway's number (direct devices, Events refused as a whole)",
                many(self.direct_rows, "row")
            )?;
        }
        if let Some(b) = &self.bronze {
            let broken = self.problems.kinds().iter().any(|kind| kind.starts_with("bronze-"));
            let once = if broken { "NOT each number once" } else { "each number once" };
            let expired =
                if b.expired == 0 { String::new() } else { format!(", {} expired in the hub unread", b.expired) };
            writeln!(f, "Bronze: {} in {}, {once}{expired}", many(b.events, "event"), many(b.streams, "partition"))?;
        }
        if let Some(b) = &self.books {
            let sign = if b.decoded == b.readings + b.quarantined + b.duplicates { "=" } else { "≠" };
            writeln!(
                f,
                "Books of silver: decoded {} {sign} readings {} + quarantined {} + duplicates {}; {} events, gap arrived {}",
                b.decoded, b.readings, b.quarantined, b.duplicates, b.events, b.gap_arrived
            )?;
        }
        let gold = match self.gold {
            Gold::Same => "says the same",
            Gold::Differs => "SAYS SOMETHING ELSE",
            Gold::Behind => "has not read all of silver yet",
            Gold::Absent => "does not exist yet",
        };
        writeln!(f, "gold.gateway_health {gold}")?;
        if let Some(l) = &self.ledger {
            let arrived = l.readings + l.quarantined;
            writeln!(
                f,
                "Ledger: {}, {}, {} of them acknowledged",
                many(l.sends, "send"),
                many(l.values, "value"),
                l.values_acked
            )?;
            writeln!(
                f,
                "  in the lake {arrived} = readings {} + quarantined {}; not in the lake {}",
                l.readings, l.quarantined, l.not_in_lake
            )?;
            for (count, text) in [
                (l.never_promised, "not acknowledged and not arrived (never promised)"),
                (l.given_up, "given up by the gateway, which says so"),
                (l.keyless_repeats, "unreadable payload(s) without a number came again (nothing to recognise them by)"),
                (l.other_rows, "row(s) of devices that no ledger names"),
            ] {
                if count != 0 {
                    writeln!(f, "  {count} {text}")?;
                }
            }
        }
        if let Some(held) = self.held {
            let sign = if held == self.outstanding { "=" } else { "≠" };
            writeln!(f, "Outstanding {} {sign} held in the outbox {held}", self.outstanding)?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for (kind, problem) in &self.problems.0 {
            writeln!(f, "BROKEN {kind}, {}:", many(problem.count, "time"))?;
            for example in &problem.examples {
                writeln!(f, "  {example}")?;
            }
            if (problem.examples.len() as u64) < problem.count {
                writeln!(f, "  … and {} more", problem.count - problem.examples.len() as u64)?;
            }
        }
        match self.holds {
            true => writeln!(f, "The proof holds."),
            false => writeln!(f, "The proof does NOT hold: {}.", self.problems.kinds().join(", ")),
        }
    }
}
