//! The ledger's side: every value sent, and whether it ended as its fate says. Pure but for reading the ledger.
//!
//! A value is known by (device, metric, n), a payload that cannot be read by (device, SHA-256 of its bytes). Some fifty
//! bytes are kept per value, so that millions fit.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Serialize;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use shared::time::Timestamp;

use super::report::Problems;
use crate::fleet::ledger::{Line, Sent};
use crate::fleet::send::Fate;

/// One value of one send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    device: u32,
    metric: u32,
    n: i64,
}

/// A payload that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Whole {
    device: u32,
    /// The number that can be read in it all the same: by it the gateway recognises a repeat.
    n: Option<i64>,
    /// Its time can be read: by that, too.
    timed: bool,
    sha256: [u8; 32],
}

/// A value in a few bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Small {
    None,
    Number(f64),
    Bool(bool),
    /// Hash of the text.
    Text(u64),
}

#[derive(Debug, Clone)]
struct Promise {
    value: Small,
    time: i64,
    /// 0: none was sent.
    unit: u32,
    fate: Fate,
    acked: bool,
    readings: u8,
    quarantined: u8,
}

impl Whole {
    fn of(device: u32, payload: &[u8]) -> Self {
        let timed = has_time(payload);
        Self { device, n: number_in(payload), timed, sha256: Sha256::digest(payload).into() }
    }
}

impl Promise {
    fn rows(&self) -> u8 {
        self.readings.saturating_add(self.quarantined)
    }
}

/// A row of silver.readings, as far as a ledger can know it.
#[derive(Debug, Clone, Copy)]
pub struct ReadingRow<'a> {
    /// Device.
    pub device: &'a str,
    /// Metric.
    pub metric: &'a str,
    /// The device's own number.
    pub n: Option<i64>,
    /// Number, bool as 0 or 1.
    pub value: Option<f64>,
    /// Text.
    pub text: Option<&'a str>,
    /// `number`, `bool` or `text`.
    pub kind: &'a str,
    /// Unit.
    pub unit: Option<&'a str>,
    /// Event time in microseconds.
    pub time: i64,
    /// For messages.
    pub id: &'a str,
}

/// A row of silver.quarantine, as far as a ledger can know it.
#[derive(Debug, Clone, Copy)]
pub struct QuarantineRow<'a> {
    /// Device, where it could be told.
    pub device: Option<&'a str>,
    /// Metric, unless the payload was unreadable as a whole.
    pub metric: Option<&'a str>,
    /// The payload, or the reading as the Envelope had it.
    pub raw: &'a [u8],
    /// For messages.
    pub id: &'a str,
    /// Why, for messages.
    pub reasons: &'a str,
}

/// What became of all sends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LedgerBooks {
    /// Sends.
    pub sends: u64,
    /// Values in them; an unreadable payload counts one.
    pub values: u64,
    /// Values of acknowledged sends.
    pub values_acked: u64,
    /// Ended as a reading.
    pub readings: u64,
    /// Ended in quarantine.
    pub quarantined: u64,
    /// Not acknowledged and not arrived: never promised.
    pub never_promised: u64,
    /// Acknowledged, not arrived, and covered by what the gateway says it gave up.
    pub given_up: u64,
    /// Acknowledged and not in the lake.
    pub not_in_lake: u64,
    /// Payloads with neither a readable number nor a readable time that came more than once: they have no source key.
    pub keyless_repeats: u64,
    /// Rows of devices that no ledger names; not held against anything.
    pub other_rows: u64,
}

/// All promises of all ledgers.
#[derive(Debug, Default)]
pub struct Expected {
    names: HashMap<String, u32>,
    values: HashMap<Key, Promise>,
    wholes: HashMap<Whole, Promise>,
    /// Promises of a key that has one already: a device that began anew with `n`, in another ledger. Rare.
    further: HashMap<Key, Vec<Promise>>,
    /// Sends whose ack was not read yet.
    unacked: HashMap<u64, Vec<Id>>,
    devices: HashMap<u32, ()>,
    sends: u64,
    other_rows: u64,
}

#[derive(Debug, Clone, Copy)]
enum Id {
    /// A value, and its place among the promises of its key: 0 the first, else `further`.
    Value(Key, usize),
    Whole(Whole),
}

impl Expected {
    /// Begins another ledger: its ids are its own.
    pub fn next_ledger(&mut self) {
        self.unacked.clear();
    }

    /// Takes a line of the ledger.
    pub fn line(&mut self, line: Line) {
        match line {
            Line::Start(_) => {}
            Line::Ack(ids) => ids.iter().for_each(|id| self.ack(*id)),
            Line::Send(sent) => self.sent(&sent),
        }
    }

    fn name(&mut self, text: &str) -> u32 {
        if let Some(number) = self.names.get(text) {
            return *number;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX - 1) + 1;
        self.names.insert(text.to_owned(), number);
        number
    }

    fn sent(&mut self, sent: &Sent) {
        self.sends += 1;
        let device = self.name(&sent.device);
        self.devices.insert(device, ());
        let mut ids = Vec::with_capacity(sent.expect.len());
        for expect in &sent.expect {
            let promise = Promise {
                value: expect.value.as_ref().map_or(Small::None, small),
                time: sent.time.micros(),
                unit: expect.unit.as_ref().map_or(0, |unit| self.name(unit)),
                fate: expect.fate,
                acked: false,
                readings: 0,
                quarantined: 0,
            };
            match &expect.metric {
                Some(metric) => {
                    let key = Key { device, metric: self.name(metric), n: sent.n };
                    let place = match self.values.entry(key) {
                        Entry::Vacant(free) => {
                            free.insert(promise);
                            0
                        }
                        Entry::Occupied(_) => {
                            let further = self.further.entry(key).or_default();
                            further.push(promise);
                            further.len()
                        }
                    };
                    ids.push(Id::Value(key, place));
                }
                None => {
                    let whole = Whole::of(device, &sent.payload());
                    self.wholes.insert(whole, promise);
                    ids.push(Id::Whole(whole));
                }
            }
        }
        self.unacked.insert(sent.id, ids);
    }

    fn ack(&mut self, id: u64) {
        for id in self.unacked.remove(&id).unwrap_or_default() {
            let promise = match id {
                Id::Value(key, 0) => self.values.get_mut(&key),
                Id::Value(key, place) => self.further.get_mut(&key).and_then(|further| further.get_mut(place - 1)),
                Id::Whole(whole) => self.wholes.get_mut(&whole),
            };
            if let Some(promise) = promise {
                promise.acked = true;
            }
        }
    }

    fn device(&mut self, device: &str) -> Option<u32> {
        let known = self.names.get(device).copied().filter(|number| self.devices.contains_key(number));
        if known.is_none() {
            self.other_rows += 1;
        }
        known
    }

    /// The promise of a key; among several one that `fits`, else the first.
    fn promise(&mut self, key: Key, fits: impl Fn(&Promise) -> bool) -> Option<&mut Promise> {
        let first = self.values.get_mut(&key)?;
        if fits(first) {
            return Some(first);
        }
        match self.further.get_mut(&key).and_then(|further| further.iter_mut().find(|promise| fits(promise))) {
            Some(fitting) => Some(fitting),
            None => Some(first),
        }
    }

    /// Holds a row of silver.readings against the ledgers.
    pub fn reading(&mut self, row: ReadingRow<'_>, problems: &mut Problems) {
        let Some(device) = self.device(row.device) else { return };
        let unit = row.unit.and_then(|unit| self.names.get(unit).copied());
        let key = self.names.get(row.metric).and_then(|metric| Some(Key { device, metric: *metric, n: row.n? }));
        let promise = key.and_then(|key| {
            self.promise(key, |promise| promise.rows() == 0 && promise.time == row.time && same(promise.value, &row))
        });
        let Some(promise) = promise else {
            return problems.add("not-in-ledger", || {
                format!("silver.readings {}: {} {} n={:?} was never sent", row.id, row.device, row.metric, row.n)
            });
        };
        promise.readings = promise.readings.saturating_add(1);
        let differs = |what: &str, sent: String, got: String| {
            format!(
                "silver.readings {}: {} {} n={:?}: {what} {got}, sent {sent}",
                row.id, row.device, row.metric, row.n
            )
        };
        if !same(promise.value, &row) {
            let got = row.text.map_or_else(|| format!("{:?}", row.value), |text| format!("{text:?}"));
            problems.add("value-differs", || {
                differs("value", format!("{:?}", promise.value), format!("{got} ({})", row.kind))
            });
        }
        if promise.time != row.time {
            problems.add("time-differs", || differs("event time", promise.time.to_string(), row.time.to_string()));
        }
        if promise.unit != 0 && unit != Some(promise.unit) {
            problems.add("unit-differs", || differs("unit", "another".into(), format!("{:?}", row.unit)));
        }
        if promise.fate == Fate::Quarantine {
            problems.add("fate-differs", || {
                format!(
                    "silver.readings {}: {} {} n={:?} should be in quarantine",
                    row.id, row.device, row.metric, row.n
                )
            });
        }
    }

    /// Holds a row of silver.quarantine against the ledgers.
    pub fn quarantined(&mut self, row: QuarantineRow<'_>, problems: &mut Problems) {
        self.refused(row, false, problems);
    }

    /// Holds a row of silver.quarantine that was taken up again against the ledgers: it speaks for what was sent, and
    /// whatever its fate was to be, it is both a refusal and a reading.
    pub fn replayed(&mut self, row: QuarantineRow<'_>, problems: &mut Problems) {
        self.refused(row, true, problems);
    }

    fn refused(&mut self, row: QuarantineRow<'_>, replayed: bool, problems: &mut Problems) {
        if self.devices.is_empty() {
            return; // no ledger was given
        }
        let Some(device) = row.device else {
            return problems.add("not-in-ledger", || {
                format!("silver.quarantine {}: it names no device, and no send can end so ({})", row.id, row.reasons)
            });
        };
        let Some(device) = self.device(device) else { return };
        let n = number_in(row.raw);
        let promise = match row.metric {
            Some(metric) => {
                let metric = self.names.get(metric).copied();
                let key = metric.and_then(|metric| Some(Key { device, metric, n: n? }));
                let expected = |promise: &Promise| (replayed || promise.fate != Fate::Reading) && promise.rows() == 0;
                key.and_then(|key| self.promise(key, expected))
            }
            None => self.wholes.get_mut(&Whole::of(device, row.raw)),
        };
        let what = || format!("{} {} n={n:?}", row.device.unwrap_or("?"), row.metric.unwrap_or("(whole payload)"));
        let Some(promise) = promise else {
            return problems.add("not-in-ledger", || {
                format!("silver.quarantine {}: {} was never sent ({})", row.id, what(), row.reasons)
            });
        };
        promise.quarantined = promise.quarantined.saturating_add(1);
        if promise.fate == Fate::Reading && !replayed {
            problems.add("fate-differs", || {
                format!("silver.quarantine {}: {} should be a reading, refused with {}", row.id, what(), row.reasons)
            });
        }
    }

    /// The books; adds what was sent and did not end in exactly one row. `given_up` says, per device and for all
    /// together, how many values the gateways gave up and did not send after all.
    pub fn settle(&self, given_up: &HashMap<String, u64>, given_up_max: u64, problems: &mut Problems) -> LedgerBooks {
        let mut books = LedgerBooks { sends: self.sends, other_rows: self.other_rows, ..LedgerBooks::default() };
        let names: HashMap<u32, &str> = self.names.iter().map(|(name, number)| (*number, name.as_str())).collect();
        let name = |number: u32| names.get(&number).copied().unwrap_or("?");
        let value = |metric: u32, n: Option<i64>| {
            let metric = if metric == 0 { "(whole payload)" } else { name(metric) };
            n.map_or(format!("{metric} without a number"), |n| format!("{metric} n={n}"))
        };
        let mut absent: HashMap<u32, Vec<(u32, Option<i64>)>> = HashMap::new();
        let wholes = self.wholes.iter().map(|(whole, promise)| (whole.device, 0, whole.n, whole.timed, promise));
        let further = self.further.iter().flat_map(|(key, all)| all.iter().map(move |promise| (key, promise)));
        let values = self.values.iter().chain(further);
        let values = values.map(|(key, promise)| (key.device, key.metric, Some(key.n), true, promise));
        for (device, metric, n, timed, promise) in values.chain(wholes) {
            books.values += 1;
            books.values_acked += u64::from(promise.acked);
            books.readings += u64::from(promise.readings);
            books.quarantined += u64::from(promise.quarantined);
            let rows = promise.rows();
            if rows == 0 && promise.acked {
                absent.entry(device).or_default().push((metric, n));
            } else if rows == 0 {
                books.never_promised += 1;
            } else if 1 < rows && n.is_none() && !timed {
                books.keyless_repeats += u64::from(rows - 1);
            } else if 1 < rows {
                let value = value(metric, n);
                problems.add("twice-in-lake", || format!("{} {value} is in silver {rows} times", name(device)));
            }
        }
        let mut forgiven = given_up_max;
        for (device, mut gone) in absent {
            let count = gone.len() as u64;
            let excused = count.min(given_up.get(name(device)).copied().unwrap_or(0)).min(forgiven);
            forgiven -= excused;
            books.given_up += excused;
            books.not_in_lake += count - excused;
            gone.sort_unstable_by_key(|(metric, n)| (*n, *metric));
            for (metric, n) in gone.into_iter().skip(usize::try_from(excused).unwrap_or(usize::MAX)) {
                let value = value(metric, n);
                problems
                    .add("not-in-lake", || format!("{} {value} was acknowledged and is not in silver", name(device)));
            }
        }
        books
    }
}

fn small(json: &Json) -> Small {
    match json {
        Json::Bool(on) => Small::Bool(*on),
        Json::String(text) => Small::Text(hash(text)),
        other => other.as_f64().map_or(Small::None, Small::Number),
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn same(sent: Small, row: &ReadingRow<'_>) -> bool {
    match sent {
        Small::None => false,
        Small::Number(number) => row.kind == "number" && row.value == Some(number),
        Small::Bool(on) => row.kind == "bool" && row.value == Some(f64::from(u8::from(on))),
        Small::Text(text) => row.kind == "text" && row.text.map(hash) == Some(text),
    }
}

/// The device's number in a payload or in a reading of an Envelope. Of what is torn or spoilt, the number still stands
/// there if something stands behind it.
fn number_in(raw: &[u8]) -> Option<i64> {
    #[derive(serde::Deserialize)]
    struct OnlyNumber {
        n: Option<i64>,
    }
    if let Ok(OnlyNumber { n }) = serde_json::from_slice(raw) {
        return n;
    }
    std::str::from_utf8(value_in(raw, b"\"n\":")?).ok()?.parse().ok()
}

/// True if a payload's own time can be read, whole or torn: whole microseconds, or a text of RFC 3339.
fn has_time(raw: &[u8]) -> bool {
    // Of what is no UTF-8 the gateway reads what stands before the first byte that is none.
    let sound = std::str::from_utf8(raw).map_or_else(|fault| &raw[..fault.valid_up_to()], str::as_bytes);
    let Some(value) = value_in(sound, b"\"ts\":").and_then(|value| std::str::from_utf8(value).ok()) else {
        return false;
    };
    match value.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(text) => Timestamp::parse_rfc3339(text).is_some(),
        None => value.parse().is_ok_and(|micros| Timestamp::from_micros(micros).is_printable()),
    }
}

/// The whole number, or the text with its quotes, behind `name`; only where something stands behind it: at the very end
/// it may be half of what it was.
fn value_in<'r>(raw: &'r [u8], name: &[u8]) -> Option<&'r [u8]> {
    let at = raw.windows(name.len()).position(|bytes| bytes == name)?;
    let rest = raw[at + name.len()..].trim_ascii_start();
    let end = match rest.strip_prefix(b"\"") {
        Some(text) => text.iter().position(|byte| *byte == b'"')? + 2,
        None => rest.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'-')?,
    };
    matches!(rest[end..].trim_ascii_start().first(), Some(b',' | b'}')).then_some(&rest[..end])
}
