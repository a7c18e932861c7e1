//! What is known per gateway and epoch: which seqs arrived, were quarantined or given up. It decides what is a
//! duplicate, and is the source of `gold.gateway_health`. It is rebuilt from the tables at start: no second truth.

use std::collections::{BTreeMap, HashMap, HashSet};

use shared::time::Timestamp;

use super::messages::Messages;
use super::ranges::Ranges;
use super::rows::{GapKind, GapRow};

/// One run of one gateway's agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EpochKey {
    /// The gateway's device id at the hub.
    pub gateway: String,
    /// The epoch, 16 hex digits.
    pub epoch: String,
}

/// In which table a seq stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// silver.readings
    Readings,
    /// silver.quarantine
    Quarantine,
}

/// What is known of one epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EpochBooks {
    arrived: Ranges,
    quarantined: Ranges,
    given_up: Ranges,
    /// Largest `high` of a row.
    high: i64,
    /// Largest `high` of an Envelope without new rows, while it is above that of every row. No table has it.
    named: i64,
    /// Largest exact `last` of a closing.
    closed: Option<i64>,
    /// Largest mark of a closing that does not know its last.
    mark: Option<i64>,
    last_enqueued: Option<Timestamp>,
}

/// One row of `gold.gateway_health`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// `open`, `closed` or `lost`.
    pub state: &'static str,
    /// Largest `high` the gateway named, or seq that came.
    pub high: i64,
    /// Largest of closings, highs and arrived seqs.
    pub last: i64,
    /// Distinct seqs in readings.
    pub arrived: i64,
    /// Distinct seqs in quarantine.
    pub quarantined: i64,
    /// Distinct seqs the gateway gave up.
    pub given_up: i64,
    /// Distinct seqs given up that came all the same.
    pub gap_arrived: i64,
    /// Open epoch: seqs of 1..=high not accounted for yet.
    pub outstanding: i64,
    /// Closed or lost epoch: seqs of 1..=last (or the mark) that nothing accounts for. An alarm.
    pub missing: i64,
    /// Enqueued time of the newest Event with a row of this epoch.
    pub last_enqueued: Option<Timestamp>,
}

impl EpochBooks {
    fn accounted(&self) -> Ranges {
        let mut all = self.arrived.clone();
        all.extend(&self.quarantined);
        all.extend(&self.given_up);
        all
    }

    fn gap_arrived(&self) -> u64 {
        // No seq is both in readings and in quarantine.
        self.given_up.count_common(&self.arrived) + self.given_up.count_common(&self.quarantined)
    }

    /// The `high` that no row has, unless a closing says as much.
    fn named(&self) -> Option<i64> {
        let known = self.high.max(self.closed.unwrap_or(0));
        Some(self.named).filter(|named| known < *named)
    }

    /// The proof of this epoch, as it stands now.
    #[must_use]
    pub fn health(&self) -> Health {
        let came = self.arrived.last().max(self.quarantined.last());
        let high = self.high.max(came).max(self.named().unwrap_or(0));
        let last = high.max(self.closed.unwrap_or(0));
        let accounted = self.accounted();
        let open_to = |end: i64| clamp(u64::try_from(end).unwrap_or(0) - accounted.count_within(1, end.max(0)));
        let (state, outstanding, missing) = match (self.closed, self.mark) {
            (Some(_), _) => ("closed", 0, open_to(last)),
            (None, Some(mark)) => ("lost", 0, open_to(last.max(mark))),
            (None, None) => ("open", open_to(high), 0),
        };
        Health {
            state,
            high,
            last,
            arrived: clamp(self.arrived.count()),
            quarantined: clamp(self.quarantined.count()),
            given_up: clamp(self.given_up.count()),
            gap_arrived: clamp(self.gap_arrived()),
            outstanding,
            missing,
            last_enqueued: self.last_enqueued,
        }
    }
}

fn clamp(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A gap's identity: unique in silver.gaps.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GapKey {
    /// The gateway; none for the hub's own losses.
    pub gateway: Option<String>,
    /// The epoch; none for the hub's own losses.
    pub epoch: Option<String>,
    /// What kind of gap.
    pub kind: GapKind,
    /// First number.
    pub from: i64,
    /// Last number.
    pub to: i64,
    /// The hub the Event came from.
    pub hub: String,
    /// The hub's incarnation.
    pub incarnation: i64,
    /// The hub's partition.
    pub partition_id: i32,
}

/// Gateway -> epoch -> highest seq it named. Each readings commit keeps those that stand in no row, as it keeps the totals.
pub type Highs = BTreeMap<String, BTreeMap<String, i64>>;

/// Everything seen, over readings, quarantine and gaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    epochs: HashMap<String, HashMap<String, EpochBooks>>,
    gaps: HashSet<GapKey>,
    /// Of devices that number their messages.
    pub messages: Messages,
}

/// What a row did to the books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// Its seq was not there.
    New {
        /// The gateway had given this seq up.
        gap_arrived: bool,
    },
    /// Its seq is in readings or in quarantine.
    Duplicate,
}

impl Seen {
    fn books(&mut self, gateway: &str, epoch: &str) -> &mut EpochBooks {
        if !self.epochs.contains_key(gateway) {
            self.epochs.insert(gateway.to_owned(), HashMap::new());
        }
        let epochs = self.epochs.get_mut(gateway).expect("just inserted");
        if !epochs.contains_key(epoch) {
            epochs.insert(epoch.to_owned(), EpochBooks::default());
        }
        epochs.get_mut(epoch).expect("just inserted")
    }

    /// Notes one row of a gateway. The first row with a seq wins, in whichever table it stands.
    pub fn admit(
        &mut self,
        place: Where,
        gateway: &str,
        epoch: &str,
        seq: i64,
        high: i64,
        enqueued: Option<Timestamp>,
    ) -> Fit {
        let books = self.books(gateway, epoch);
        if books.arrived.contains(seq) || books.quarantined.contains(seq) {
            books.named = books.named.max(high);
            return Fit::Duplicate;
        }
        match place {
            Where::Readings => books.arrived.insert(seq),
            Where::Quarantine => books.quarantined.insert(seq),
        };
        books.high = books.high.max(high);
        books.last_enqueued = books.last_enqueued.max(enqueued);
        Fit::New { gap_arrived: books.given_up.contains(seq) }
    }

    /// Notes how far a gateway says it is, whatever rows came with it.
    pub fn name_high(&mut self, gateway: &str, epoch: &str, high: i64) {
        if 0 < high {
            let books = self.books(gateway, epoch);
            books.named = books.named.max(high);
        }
    }

    /// The highs that stand in no row, by gateway and epoch: what has to be kept beside the tables.
    #[must_use]
    pub fn highs(&self) -> Highs {
        let mut highs = Highs::new();
        for (gateway, epochs) in &self.epochs {
            for (epoch, books) in epochs {
                if let Some(named) = books.named() {
                    highs.entry(gateway.clone()).or_default().insert(epoch.clone(), named);
                }
            }
        }
        highs
    }

    /// Notes a gap. `None`: it is known. Otherwise how many of its seqs had arrived all the same.
    pub fn admit_gap(&mut self, gap: &GapRow) -> Option<u64> {
        if !self.gaps.insert(gap.key()) {
            return None;
        }
        let (Some(gateway), Some(epoch)) = (&gap.gateway_id, &gap.epoch) else {
            return Some(0);
        };
        let books = self.books(gateway, epoch);
        match gap.kind {
            GapKind::GivenUp => {
                let before = books.gap_arrived();
                books.given_up.insert_span(gap.from, gap.to);
                Some(books.gap_arrived() - before)
            }
            GapKind::Closed => {
                books.closed = books.closed.max(Some(gap.to));
                Some(0)
            }
            GapKind::UnknownLoss => {
                books.mark = books.mark.max(Some(gap.to));
                Some(0)
            }
            GapKind::HubRetention => Some(0),
        }
    }

    /// What is known of one epoch.
    #[must_use]
    pub fn epoch(&self, key: &EpochKey) -> Option<&EpochBooks> {
        self.epochs.get(&key.gateway)?.get(&key.epoch)
    }

    /// All epochs, in order.
    #[must_use]
    pub fn keys(&self) -> Vec<EpochKey> {
        let mut keys: Vec<_> = self
            .epochs
            .iter()
            .flat_map(|(gateway, epochs)| {
                epochs.keys().map(|epoch| EpochKey { gateway: gateway.clone(), epoch: epoch.clone() })
            })
            .collect();
        keys.sort();
        keys
    }
}

#[cfg(test)]
mod tests;
