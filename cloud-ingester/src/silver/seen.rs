//! What is known per gateway and epoch: which seqs arrived, were quarantined or given up. It decides what is a
//! duplicate, and is the source of `gold.gateway_health`. It is rebuilt from the tables at start: no second truth.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use foldhash::quality::RandomState;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use shared::reading::Epoch;
use shared::time::Timestamp;

use super::messages::Messages;
use super::ranges::Ranges;
use super::rows::{GapKind, GapRow, Numbered, Row};

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

/// What is known of one epoch. About a hundred bytes where seqs came without holes, however many: which of them stand in
/// quarantine is only counted, the table knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochBooks {
    /// In readings, or in quarantine and not replayed.
    came: Ranges,
    /// How many of these stand in quarantine.
    quarantined: u64,
    given_up: Option<Box<Ranges>>,
    /// Largest `high` of a row.
    high: i64,
    /// Largest `high` of an Envelope without new rows, while it is above that of every row. No table has it.
    named: i64,
    /// Largest exact `last` of a closing; 0: none.
    closed: i64,
    /// Largest mark of a closing that does not know its last, and one more; 0: none.
    mark: i64,
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
    fn gap_arrived(&self) -> u64 {
        self.given_up.as_ref().map_or(0, |given_up| given_up.count_common(&self.came))
    }

    /// The `high` that no row has, unless a closing says as much.
    fn named(&self) -> Option<i64> {
        let known = self.high.max(self.closed);
        Some(self.named).filter(|named| known < *named)
    }

    /// The proof of this epoch, as it stands now.
    #[must_use]
    pub fn health(&self) -> Health {
        let high = self.high.max(self.came.last()).max(self.named().unwrap_or(0));
        let last = high.max(self.closed);
        let given_up = self.given_up.as_deref();
        let open_to = |end: i64| {
            let end = end.max(0);
            let accounted = match given_up {
                None => self.came.count_within(1, end),
                Some(given_up) => {
                    let mut all = self.came.clone();
                    all.extend(given_up);
                    all.count_within(1, end)
                }
            };
            clamp(u64::try_from(end).unwrap_or(0) - accounted)
        };
        let (state, outstanding, missing) = match (self.closed, self.mark) {
            (1.., _) => ("closed", 0, open_to(last)),
            (_, 1..) => ("lost", 0, open_to(last.max(self.mark - 1))),
            _ => ("open", open_to(high), 0),
        };
        Health {
            state,
            high,
            last,
            arrived: clamp(self.came.count() - self.quarantined),
            quarantined: clamp(self.quarantined),
            given_up: clamp(given_up.map_or(0, Ranges::count)),
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

/// Half of a SHA-256 of a [`GapKey`]: of each gap 16 bytes are kept.
type GapMark = [u8; 16];

impl GapKey {
    fn mark(&self) -> GapMark {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        for text in [&self.gateway, &self.epoch] {
            part(&[u8::from(text.is_some())]);
            part(text.as_deref().unwrap_or_default().as_bytes());
        }
        part(self.kind.as_str().as_bytes());
        part(self.hub.as_bytes());
        for number in [self.from, self.to, self.incarnation, i64::from(self.partition_id)] {
            part(&number.to_le_bytes());
        }
        let whole = hash.finalize();
        let mut mark = GapMark::default();
        mark.copy_from_slice(&whole[..16]);
        mark
    }
}

/// Everything seen, over readings, quarantine and gaps. Its size follows from how many gateways, epochs, holes and gaps
/// there are; not from how many readings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Gateway -> the bits of its epochs -> their books.
    epochs: HashMap<String, HashMap<u64, EpochBooks, RandomState>, RandomState>,
    gaps: HashSet<GapMark>,
    /// Of devices that number their messages.
    pub messages: Messages,
}

/// What was seen, as it is kept beside the tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    epochs: BTreeMap<String, BTreeMap<u64, EpochBooks>>,
    gaps: BTreeSet<GapMark>,
}

/// The bits of an epoch. Whoever decodes or wrote a row has made sure that it is 16 hex digits.
fn bits(epoch: &str) -> u64 {
    epoch.parse::<Epoch>().map_or(0, Epoch::bits)
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
            self.epochs.insert(gateway.to_owned(), HashMap::default());
        }
        self.epochs.get_mut(gateway).expect("just inserted").entry(bits(epoch)).or_default()
    }

    /// All of it but messages, to be kept.
    #[must_use]
    pub fn kept(&self) -> Kept {
        let books = |books: &EpochBooks| EpochBooks { named: books.named().unwrap_or(0), ..books.clone() };
        let epochs = self
            .epochs
            .iter()
            .map(|(gateway, epochs)| (gateway.clone(), epochs.iter().map(|(epoch, of)| (*epoch, books(of))).collect()));
        Kept { epochs: epochs.collect(), gaps: self.gaps.iter().copied().collect() }
    }

    /// What was kept, without messages.
    #[must_use]
    pub fn of(kept: Kept) -> Self {
        let epochs = kept.epochs.into_iter().map(|(gateway, epochs)| (gateway, epochs.into_iter().collect()));
        Self { epochs: epochs.collect(), gaps: kept.gaps.into_iter().collect(), messages: Messages::default() }
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
        if books.came.contains(seq) {
            books.named = books.named.max(high);
            return Fit::Duplicate;
        }
        let new = books.came.insert(seq);
        books.quarantined += u64::from(new && place == Where::Quarantine);
        books.high = books.high.max(high);
        books.last_enqueued = books.last_enqueued.max(enqueued);
        Fit::New { gap_arrived: books.given_up.as_ref().is_some_and(|given_up| given_up.contains(seq)) }
    }

    /// [`Seen::admit`] for a row that was just made.
    pub fn admit_row(&mut self, row: &Row<'_>, numbered: &Numbered<'_>, enqueued: Option<Timestamp>) -> Fit {
        let place = match row {
            Row::Reading(_) => Where::Readings,
            Row::Refused(_) => Where::Quarantine,
        };
        self.admit(place, &numbered.gateway, &numbered.epoch, numbered.seq, numbered.high, enqueued)
    }

    /// Notes that a seq which stood in quarantine stands in readings from now on: its refusal was replayed.
    pub fn replayed(&mut self, gateway: &str, epoch: &str) {
        let books = self.books(gateway, epoch);
        books.quarantined = books.quarantined.saturating_sub(1);
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
                    highs.entry(gateway.clone()).or_default().insert(Epoch::from_bits(*epoch).to_string(), named);
                }
            }
        }
        highs
    }

    /// Notes a gap. `None`: it is known. Otherwise how many of its seqs had arrived all the same.
    pub fn admit_gap(&mut self, gap: &GapRow) -> Option<u64> {
        if !self.gaps.insert(gap.key().mark()) {
            return None;
        }
        let (Some(gateway), Some(epoch)) = (&gap.gateway_id, &gap.epoch) else {
            return Some(0);
        };
        let books = self.books(gateway, epoch);
        match gap.kind {
            GapKind::GivenUp => {
                let before = books.gap_arrived();
                books.given_up.get_or_insert_default().insert_span(gap.from, gap.to);
                Some(books.gap_arrived() - before)
            }
            GapKind::Closed => {
                books.closed = books.closed.max(gap.to);
                Some(0)
            }
            GapKind::UnknownLoss => {
                books.mark = books.mark.max(gap.to.saturating_add(1));
                Some(0)
            }
            GapKind::HubRetention => Some(0),
        }
    }

    /// What is known of one epoch.
    #[must_use]
    pub fn epoch(&self, key: &EpochKey) -> Option<&EpochBooks> {
        self.epochs.get(&key.gateway)?.get(&bits(&key.epoch))
    }

    /// About how many bytes this takes, without the messages of devices that number them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        const RANGE: usize = 2 * size_of::<i64>();
        let epochs = self.epochs.values();
        let held: usize = epochs
            .map(|epochs| {
                let spans = |ranges: &Ranges| if 1 < ranges.spans() { 2 * RANGE * ranges.spans() } else { 0 };
                let beside = |books: &EpochBooks| {
                    let given_up = books.given_up.as_deref();
                    spans(&books.came) + given_up.map_or(0, |given_up| size_of::<Ranges>() + spans(given_up))
                };
                let room = epochs.capacity() * (size_of::<(u64, EpochBooks)>() + 1);
                room + epochs.values().map(beside).sum::<usize>() + size_of::<(String, HashMap<u64, EpochBooks>)>()
            })
            .sum();
        held + self.gaps.capacity() * (size_of::<GapMark>() + 1)
    }

    /// All epochs, in order.
    #[must_use]
    pub fn keys(&self) -> Vec<EpochKey> {
        let mut keys: Vec<_> = self
            .epochs
            .iter()
            .flat_map(|(gateway, epochs)| {
                let key =
                    |bits: &u64| EpochKey { gateway: gateway.clone(), epoch: Epoch::from_bits(*bits).to_string() };
                epochs.keys().map(key)
            })
            .collect();
        keys.sort();
        keys
    }
}

#[cfg(test)]
mod tests;
