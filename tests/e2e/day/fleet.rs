//! A day of a fleet, made from a seed: what gateways and devices send, in what order it arrives, and what has to come of it.
//!
//! Gateways restart twice, give rows up, refuse some; one is cut off for hours and delivers afterwards. Messages arrive out
//! of order, hours late, twice, and cut anew with rows that came before. Some times are too old or too far ahead.

use std::collections::{BTreeMap, BTreeSet};

use shared::clock::Clock;
use shared::envelope::{Closing, Envelope, Gap, WireReading, WireRejected, sha256_hex};
use shared::reading::{Epoch, GatewayId, Seq};

pub(crate) const SECOND: i64 = 1_000_000;
pub(crate) const MINUTE: i64 = 60 * SECOND;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;

/// The gateways; each has devices of its own.
pub(crate) const GATEWAYS: [&str; 4] = ["gw-01", "gw-02", "gw-03", "gw-04"];
/// Devices without a gateway.
pub(crate) const DIRECT: [&str; 2] = ["press-1", "press-2"];

const DEVICES: usize = 5;
/// A gateway's Envelopes are of about so many rows.
const ROWS: u64 = 40;

/// Draws numbers from a seed.
#[derive(Debug)]
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d)
    }

    /// The next number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    /// True so many times in a thousand.
    fn per_mille(&mut self, times: u64) -> bool {
        self.below(1_000) < times
    }
}

/// One message, as it arrives.
pub(crate) struct Message {
    pub(crate) device: String,
    pub(crate) properties: String,
    pub(crate) body: Vec<u8>,
}

/// What a window is told apart by: gateway, device, metric, unit, its start.
pub(crate) type Key = (String, String, String, Option<String>, i64);

/// The readings of a window that have a number, in the order of (event time, source seq, value); and how many there are.
#[derive(Debug, Default, Clone)]
pub(crate) struct Window {
    pub(crate) readings: i64,
    pub(crate) numbers: Vec<(i64, Option<i64>, f64)>,
}

/// A day.
pub(crate) struct Day {
    /// In the order of arrival.
    pub(crate) messages: Vec<Message>,
    /// When the last reading was taken.
    pub(crate) end: i64,
    /// Of gateways: `gateway/epoch/seq`, to be in silver.readings.
    pub(crate) readings: BTreeSet<String>,
    /// The same, to be in quarantine.
    pub(crate) refused: BTreeSet<String>,
    /// Of devices without a gateway: readings, and messages that are none.
    pub(crate) direct: (i64, i64),
    /// Rows of gateways that were taken, by the minute.
    minutes: BTreeMap<Key, Window>,
}

/// One row of a gateway, before it has a seq.
struct Taken {
    time: i64,
    device: String,
    metric: &'static str,
    unit: Option<&'static str>,
    value: Value,
    n: Option<i64>,
}

#[derive(Clone, Copy)]
enum Value {
    Number(f64),
    Bool(bool),
    Text(&'static str),
}

impl Day {
    /// A day that ended two hours ago, a reading of each number every `interval` seconds.
    pub(crate) fn new(seed: u64, interval: i64) -> Self {
        let now = Clock::Real.now().micros();
        let begin = (now - 26 * HOUR).div_euclid(HOUR) * HOUR;
        let mut draw = Draw::new(seed);
        let mut day = Self {
            messages: vec![],
            end: begin + DAY,
            readings: BTreeSet::new(),
            refused: BTreeSet::new(),
            direct: (0, 0),
            minutes: BTreeMap::new(),
        };
        // When each message arrives, as a share of the day.
        let mut arrivals: Vec<(f64, Message)> = vec![];
        for (at, gateway) in GATEWAYS.into_iter().enumerate() {
            let rows = rows(&mut draw, gateway, begin, interval);
            let envelopes = day.cut(&mut draw, gateway, at, rows, now);
            arrivals.extend(deliver(&mut draw, gateway, at == 1, envelopes));
        }
        for device in DIRECT {
            arrivals.extend(day.direct(&mut draw, device, begin));
        }
        arrivals.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        day.messages = arrivals.into_iter().map(|(_, message)| message).collect();
        day
    }

    /// What windows of this size hold of the gateways' rows.
    pub(crate) fn windows(&self, size: i64) -> BTreeMap<Key, Window> {
        let mut all: BTreeMap<Key, Window> = BTreeMap::new();
        for ((gateway, device, metric, unit, start), window) in &self.minutes {
            let start = start.div_euclid(size) * size;
            let key = (gateway.clone(), device.clone(), metric.clone(), unit.clone(), start);
            let whole = all.entry(key).or_default();
            whole.readings += window.readings;
            whole.numbers.extend(window.numbers.iter().copied());
        }
        for window in all.values_mut() {
            window.numbers.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.cmp(&b.1)).then(a.2.total_cmp(&b.2)));
        }
        all
    }

    /// Gives the rows their seqs and puts them into Envelopes, in order.
    fn cut(&mut self, draw: &mut Draw, gateway: &str, at: usize, rows: Vec<Taken>, now: i64) -> Vec<Envelope> {
        let mut envelopes: Vec<Envelope> = vec![];
        let mut closing: Option<Closing> = None;
        let third = rows.len().div_ceil(3);
        let mut rows = rows.into_iter();
        for life in 0..3_u64 {
            let epoch: Epoch = format!("{:016x}", 0xda1_0000 + at as u64 * 16 + life).parse().expect("an epoch");
            let lost_from = 1 + draw.below(third as u64 / 2);
            let lost = lost_from..=lost_from + 30 + draw.below(40);
            let mut envelope = None;
            let mut given_up: BTreeMap<String, i64> = BTreeMap::new();
            let mut seq = 0;
            for row in rows.by_ref().take(third) {
                seq += 1;
                if lost.contains(&seq) {
                    *given_up.entry(row.device).or_default() += 1;
                    continue;
                }
                let open = envelope.get_or_insert_with(|| {
                    Envelope::new(GatewayId::new(gateway), epoch, Seq(0), "d2409bb8ddc4eeb9".to_owned())
                });
                open.high = Seq(signed(seq));
                open.closed.extend(closing.take());
                self.put(draw, open, row, seq, now);
                if ROWS / 2 + draw.below(ROWS) < (open.readings.len() + open.rejected.len()) as u64 {
                    envelopes.extend(envelope.take());
                }
            }
            let mut last = envelope
                .take()
                .unwrap_or_else(|| Envelope::new(GatewayId::new(gateway), epoch, Seq(signed(seq)), String::new()));
            last.high = Seq(signed(seq));
            last.closed.extend(closing.take());
            last.gaps.push(Gap {
                epoch,
                from: Seq(signed(*lost.start())),
                to: Seq(signed(*lost.end())),
                reason: "disk-bound".to_owned(),
                readings: given_up,
            });
            envelopes.push(last);
            closing = Some(Closing { epoch, last: Some(Seq(signed(seq))), mark: None });
        }
        let epoch = envelopes.last().expect("it sent").epoch;
        let mut end = Envelope::new(GatewayId::new(gateway), epoch, Seq(0), String::new());
        end.high = envelopes.last().expect("it sent").high;
        end.closed.extend(closing);
        envelopes.push(end);
        envelopes
    }

    fn put(&mut self, draw: &mut Draw, envelope: &mut Envelope, row: Taken, seq: u64, now: i64) {
        let id = format!("{}/{}/{seq}", envelope.gw, envelope.epoch);
        if draw.per_mille(8) {
            let raw = format!("{{\"{}\":9999}}", row.metric);
            envelope.rejected.push(WireRejected {
                s: Seq(signed(seq)),
                d: row.device.clone(),
                m: Some(row.metric.to_owned()),
                topic: format!("telemetry/{}", row.device),
                reasons: vec!["range: 9999 > 150 Cel".to_owned()],
                raw: String::new(),
                raw_len: signed(raw.len() as u64),
                raw_sha256: sha256_hex(raw.as_bytes()),
                n: row.n,
                rest: serde_json::Map::new(),
            });
            self.refused.insert(id);
            return;
        }
        let time = match draw.below(1_000) {
            0 => row.time - 500 * DAY,
            1 => now + 30 * DAY,
            _ => row.time,
        };
        let (v, vb, vs) = match row.value {
            Value::Number(number) => (Some(number), None, None),
            Value::Bool(on) => (None, Some(on), None),
            Value::Text(text) => (None, None, Some(text.to_owned())),
        };
        if time == row.time {
            self.readings.insert(id);
            let gateway = envelope.gw.to_string();
            let unit = row.unit.map(str::to_owned);
            let start = time.div_euclid(MINUTE) * MINUTE;
            let window = self.minutes.entry((gateway, row.device.clone(), row.metric.to_owned(), unit, start));
            let window = window.or_default();
            window.readings += 1;
            let number = v.or(vb.map(f64::from));
            window.numbers.extend(number.map(|number| (time, row.n, number)));
        } else {
            self.refused.insert(id);
        }
        envelope.readings.push(WireReading {
            s: Seq(signed(seq)),
            d: row.device,
            m: row.metric.to_owned(),
            v,
            vb,
            vs,
            u: row.unit.map(str::to_owned),
            t: time,
            r: Some(row.time + 20_000),
            q: Some("device".to_owned()),
            n: row.n,
            rest: serde_json::Map::new(),
        });
    }

    /// The messages of a device without a gateway; those with an id come twice now and then.
    fn direct(&mut self, draw: &mut Draw, device: &str, begin: i64) -> Vec<(f64, Message)> {
        let mut all = vec![];
        for at in 0..24 * 30 {
            let due = at as f64 / (24.0 * 30.0);
            let message = |properties: String, body: String| Message {
                device: device.to_owned(),
                properties,
                body: body.into_bytes(),
            };
            if draw.per_mille(10) {
                self.direct.1 += 1;
                all.push((due, message(String::new(), format!("{{\"ts\": {at}, \"temperature\": "))));
                continue;
            }
            self.direct.0 += 2;
            let time = begin + at * 2 * MINUTE + signed(draw.below(60)) * SECOND;
            let body = format!(
                r#"{{"ts":{time},"n":{at},"temperature":{{"v":{},"u":"Cel"}},"mode":"{}"}}"#,
                20.0 + draw.below(1_000) as f64 / 64.0,
                ["auto", "manual"][usize::from(draw.per_mille(100))],
            );
            let late = if draw.per_mille(50) { draw.below(250) as f64 / 1_000.0 } else { 0.0 };
            all.push((due + late, message(format!("%24.mid=m-{at}"), body.clone())));
            if draw.per_mille(100) {
                all.push((due + late + 0.01, message(format!("%24.mid=m-{at}"), body)));
            }
        }
        all
    }
}

/// What the devices of a gateway send in the day, in order.
fn rows(draw: &mut Draw, gateway: &str, begin: i64, interval: i64) -> Vec<Taken> {
    let mut all = vec![];
    for device in 0..DEVICES {
        let device = format!("{gateway}-d{device}");
        let metrics: [(&str, Option<&str>, i64); 4] = [
            ("temperature", Some("Cel"), interval),
            ("humidity", Some("%"), interval),
            ("running", None, 5 * interval),
            ("state", None, 10 * interval),
        ];
        for (metric, unit, every) in metrics {
            for at in 0..DAY / (every * SECOND) {
                // Some are silent for a while: sessions end.
                if draw.per_mille(20) {
                    continue;
                }
                let time = begin + at * every * SECOND + signed(draw.below(every.unsigned_abs())) * SECOND;
                let noise = draw.below(4_000) as f64 / 64.0;
                let value = match metric {
                    "running" => Value::Bool(draw.per_mille(700)),
                    "state" => Value::Text(["idle", "busy", "fault"][usize::try_from(draw.below(3)).expect("small")]),
                    _ => Value::Number(noise),
                };
                let n = (!draw.per_mille(100)).then_some(at);
                all.push(Taken { time, device: device.clone(), metric, unit, value, n });
                // Two at one time, told apart by their values.
                if let (Value::Number(number), true) = (value, draw.per_mille(10)) {
                    let value = Value::Number(number + 0.5);
                    all.push(Taken { time, device: device.clone(), metric, unit, value, n });
                }
            }
        }
    }
    all.sort_by_key(|row| row.time);
    all
}

/// When each Envelope arrives, some of them more than once; `cut_off`: what was taken around noon comes hours later.
fn deliver(draw: &mut Draw, gateway: &str, cut_off: bool, envelopes: Vec<Envelope>) -> Vec<(f64, Message)> {
    let message = |envelope: &Envelope| Message {
        device: gateway.to_owned(),
        properties: "%24.ct=application%2Fjson&%24.ce=utf-8".to_owned(),
        body: envelope.to_json(),
    };
    let count = envelopes.len() as f64;
    let mut all = vec![];
    for (at, envelope) in envelopes.iter().enumerate() {
        let taken = at as f64 / count;
        let mut due = taken + draw.below(40) as f64 / 10.0 / count;
        if cut_off && (0.4..0.55).contains(&taken) {
            due += 0.2;
        }
        if draw.per_mille(40) {
            due += draw.below(300) as f64 / 1_000.0;
        }
        all.push((due, message(envelope)));
        if draw.per_mille(50) {
            all.push((due + draw.below(300) as f64 / 1_000.0, message(envelope)));
        }
        // After a restart: rows that came before, and some that did not, in an Envelope of another cut.
        let next = envelopes.get(at + 1).filter(|next| next.epoch == envelope.epoch);
        if let Some(next) = next.filter(|_| draw.per_mille(40)) {
            let mut again = Envelope::new(next.gw.clone(), next.epoch, next.high, next.rules.clone());
            again.readings = envelope.readings[envelope.readings.len() / 2..].to_vec();
            again.readings.extend_from_slice(&next.readings[..next.readings.len() / 2]);
            all.push((due + draw.below(100) as f64 / 1_000.0, message(&again)));
        }
    }
    all
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).expect("small")
}
