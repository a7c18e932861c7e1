//! A refusal, repaired: what a replay of it would write, or why it would be refused again. By the rules of now.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::envelope;
use shared::payload::{self, Fields, Payload};
use shared::reading::{DeviceId, MetricName, Value};
use shared::time::Timestamp;

use super::decode::{DIRECT, Event, decode};
use super::judge::{Rules, judge};
use super::members::{number, split, text, truth, whole};
use super::quarantined::Refusal;
use super::rows::{Origin, ReadingRow, Row};

/// What somebody says a refused value should have been. What is left out stays as it came.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Fix {
    /// The value.
    pub value: Option<Value>,
    /// Multiplies the value.
    pub factor: Option<f64>,
    /// The unit.
    pub unit: Option<String>,
    /// The metric.
    pub metric: Option<String>,
    /// The device.
    pub device: Option<String>,
    /// The event time, microseconds.
    pub time: Option<i64>,
    /// The whole payload, base64.
    pub payload: Option<String>,
    /// It was right as it came, whatever the gateway's rules said.
    pub as_is: bool,
}

impl Fix {
    /// Whether somebody says what it should have been.
    fn says_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// A reading that comes of a refusal.
#[derive(Debug, Clone, PartialEq)]
pub struct Repaired {
    /// Device.
    pub device: String,
    /// Metric.
    pub metric: String,
    /// Value.
    pub value: Value,
    /// UCUM unit.
    pub unit: Option<String>,
    /// When it was measured.
    pub time: Timestamp,
    received: Option<Timestamp>,
    quality: Option<String>,
    n: Option<i64>,
}

/// What the Event of a replay holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Its body.
    pub body: Vec<u8>,
    /// The body is an Envelope of repaired readings; otherwise it is an original one.
    pub repaired: bool,
    /// What it will give.
    pub readings: Vec<Repaired>,
}

/// As much of a reading as a refusal tells.
#[derive(Debug, Default)]
struct Partial {
    device: Option<String>,
    metric: Option<String>,
    value: Option<Value>,
    unit: Option<String>,
    time: Option<Timestamp>,
    received: Option<Timestamp>,
    quality: Option<String>,
    n: Option<i64>,
    /// What stands in the way unless it is repaired.
    faults: Vec<String>,
}

/// What a replay of `refusal` holds; `original`: the Event it came in, needed of direct devices and whole Events.
///
/// # Errors
/// Why it would be refused again, each as `kind: detail`.
pub fn repair(refusal: &Refusal, original: Option<&Event<'_>>, fix: &Fix, rules: &Rules) -> Result<Plan, Vec<String>> {
    let payload = fix.payload.as_ref().map(|text| STANDARD.decode(text)).transpose();
    let payload = payload.map_err(|error| vec![format!("payload: not base64: {error}")])?;
    let numbered = refusal.seq.is_some();
    let direct = refusal.gateway.as_deref() == Some(DIRECT);
    if !numbered && !direct {
        return whole_event(refusal, original, payload, rules);
    }
    let partials = match (&refusal.metric, payload) {
        (_, Some(payload)) => of_payload(&payload, refusal),
        (None, None) => of_payload(&refusal.raw, refusal),
        (Some(_), None) if direct => vec![of_direct(refusal, original, fix, rules)],
        (Some(metric), None) if refusal.layer == "edge" => vec![of_edge(metric, refusal)],
        (Some(_), None) => vec![of_wire(refusal)],
    };
    let (mut readings, mut reasons) = (vec![], vec![]);
    for partial in partials {
        match whole_reading(partial, refusal, fix, rules) {
            Ok(reading) => readings.push(reading),
            Err(found) => reasons.extend(found),
        }
    }
    if readings.is_empty() && reasons.is_empty() {
        reasons.push("payload: holds no metric".to_owned());
    }
    if !reasons.is_empty() {
        reasons.dedup();
        return Err(reasons);
    }
    Ok(Plan { body: body(refusal, &readings, rules), repaired: true, readings })
}

/// A refusal without a seq, of a gateway or of an unknown sender: only an Event that was refused as a whole comes back.
fn whole_event(
    refusal: &Refusal,
    original: Option<&Event<'_>>,
    payload: Option<Vec<u8>>,
    rules: &Rules,
) -> Result<Plan, Vec<String>> {
    let Some(original) = original else {
        return Err(vec!["bronze: the Event it came in is not there".to_owned()]);
    };
    if refusal.index != 0 || refusal.raw != original.body {
        return Err(vec!["seq: it has none; only its gateway can send it again".to_owned()]);
    }
    let body = payload.unwrap_or_else(|| original.body.to_vec());
    // What bronze could not unpack may be unpacked by now.
    let unpacked = if original.packed { envelope::decompress(&body).ok() } else { None };
    let packed = original.packed && unpacked.is_none() && body == original.body;
    let body = unpacked.unwrap_or(body);
    let decoded = decode(&Event { body: &body, packed, ..original.clone() }, rules);
    let rows = decoded.rows.into_iter().map(|mut row| {
        judge(&mut row, &original.origin, rules);
        row
    });
    let (mut readings, mut reasons) = (vec![], vec![]);
    for row in rows {
        match row {
            Row::Reading(row) => readings.push(Repaired::of(row)),
            Row::Refused(row) => reasons.extend(row.reasons),
        }
    }
    if readings.is_empty() && decoded.gaps.is_empty() && decoded.high.is_none() {
        return Err(reasons);
    }
    Ok(Plan { body, repaired: false, readings })
}

impl Repaired {
    fn of(row: ReadingRow<'_>) -> Self {
        Self {
            device: row.device.into_owned(),
            metric: row.metric.into_owned(),
            value: row.value,
            unit: row.unit.map(Cow::into_owned),
            time: row.event_time,
            received: row.received_time,
            quality: row.time_quality.map(Cow::into_owned),
            n: row.source_seq,
        }
    }
}

/// The payload of a device, in the default mapping: all its metrics.
fn of_payload(payload: &[u8], refusal: &Refusal) -> Vec<Partial> {
    let bare = || {
        let metric = refusal.metric.as_deref().or_else(|| payload::device_of_topic(refusal.topic.as_deref()?)?.1)?;
        payload::bare(metric, payload).ok()
    };
    let read = match payload::object(payload, &Fields::default()) {
        Ok(read) => read,
        Err(unreadable) => match bare() {
            Some(read) => read,
            None => return vec![Partial { faults: vec![unreadable.to_string()], ..of_refusal(refusal) }],
        },
    };
    (0..read.measured.len()).map(|at| of_measured(&read, at, refusal)).collect()
}

/// The one metric of a payload that a gateway refused.
fn of_edge(metric: &str, refusal: &Refusal) -> Partial {
    let mut partials = of_payload(&refusal.raw, refusal);
    match partials.iter().position(|partial| partial.metric.as_deref() == Some(metric)) {
        Some(at) if refusal.raw_len <= refusal.raw.len() as i64 => partials.swap_remove(at),
        _ => {
            let mut partial = of_refusal(refusal);
            partial.faults.push(match refusal.raw_len <= refusal.raw.len() as i64 {
                true => format!("payload: `{metric}` is not found in it"),
                false => "payload: it did not travel as a whole; `edge-agent outbox export` has it".to_owned(),
            });
            partial
        }
    }
}

fn of_refusal(refusal: &Refusal) -> Partial {
    Partial { device: refusal.device.clone(), metric: refusal.metric.clone(), ..Partial::default() }
}

fn of_measured(read: &Payload, at: usize, refusal: &Refusal) -> Partial {
    let measured = &read.measured[at];
    let (value, unit, fault) = match &measured.value {
        Ok((value, unit)) => (Some(value.clone()), unit.clone(), None),
        Err(fault) => (None, None, Some(fault.clone())),
    };
    Partial {
        device: refusal.device.clone(),
        metric: Some(measured.metric.clone()),
        value,
        unit,
        time: read.time,
        quality: read.time.map(|_| "device".to_owned()),
        n: read.n,
        faults: read.faults.iter().cloned().chain(fault).collect(),
        ..Partial::default()
    }
}

/// A reading of an Envelope that silver refused.
fn of_wire(refusal: &Refusal) -> Partial {
    let json = std::str::from_utf8(&refusal.raw).unwrap_or_default();
    let mut partial = of_refusal(refusal);
    let Ok(parts) = split(json, &["d", "m", "v", "vb", "vs", "u", "t", "r", "q", "n"]) else {
        partial.faults.push("payload: it is no reading".to_owned());
        return partial;
    };
    let [d, m, v, vb, vs, u, t, r, q, n] = parts.known.map(|raw| raw.map(|raw| raw.get()));
    let owned = |json| text(json).map(Cow::into_owned);
    let values = [
        v.and_then(number).map(Value::Number),
        vb.and_then(truth).map(Value::Bool),
        vs.and_then(owned).map(Value::Text),
    ];
    let mut values = values.into_iter().flatten();
    partial.value = values.next().filter(|_| values.next().is_none());
    partial.device = d.and_then(owned).or(partial.device);
    partial.metric = m.and_then(owned).or(partial.metric);
    partial.unit = u.and_then(owned);
    partial.time = t.and_then(whole).map(Timestamp::from_micros);
    partial.received = r.and_then(whole).map(Timestamp::from_micros);
    partial.quality = q.and_then(owned);
    partial.n = n.and_then(whole);
    partial
}

/// A value of a direct device: the message is read again, by the mappings of now.
fn of_direct(refusal: &Refusal, original: Option<&Event<'_>>, fix: &Fix, rules: &Rules) -> Partial {
    let Some(original) = original else {
        return Partial { faults: vec!["bronze: the Event it came in is not there".to_owned()], ..of_refusal(refusal) };
    };
    let mut unjudged = rules.without_rules();
    if fix.time.is_some() {
        // Whatever stands where the time should: the value beside it is what is asked for.
        unjudged = unjudged.without_time();
    }
    let rows = decode(original, &unjudged).rows;
    let same = |row: &&Row<'_>| match row {
        Row::Reading(row) => Some(&*row.metric) == refusal.metric.as_deref() && row.index == refusal.index,
        Row::Refused(row) => row.metric == refusal.metric && row.index == refusal.index,
    };
    let alike = |row: &&Row<'_>| match row {
        Row::Reading(row) => Some(&*row.metric) == refusal.metric.as_deref(),
        Row::Refused(_) => false,
    };
    match rows.iter().find(same).or_else(|| rows.iter().find(alike)) {
        Some(Row::Reading(row)) => Partial {
            device: Some(row.device.to_string()),
            metric: Some(row.metric.to_string()),
            value: Some(row.value.clone()),
            unit: row.unit.as_ref().map(ToString::to_string),
            time: row.time_quality.as_ref().map(|_| row.event_time),
            received: row.received_time,
            quality: row.time_quality.as_ref().map(ToString::to_string),
            n: row.source_seq,
            faults: vec![],
        },
        Some(Row::Refused(row)) => {
            // Time and number are of the message: another value of it tells them.
            let sibling = rows.iter().find_map(|other| match other {
                Row::Reading(other) if other.raw == row.raw => Some(other),
                _ => None,
            });
            Partial {
                device: row.device.clone(),
                time: sibling.filter(|it| it.time_quality.is_some()).map(|it| it.event_time),
                quality: sibling.and_then(|it| it.time_quality.as_ref().map(ToString::to_string)),
                n: sibling.and_then(|it| it.source_seq),
                faults: row.reasons.clone(),
                ..of_refusal(refusal)
            }
        }
        None => Partial {
            faults: vec!["mapping: the message holds no such metric by the mappings of now".to_owned()],
            ..of_refusal(refusal)
        },
    }
}

fn whole_reading(partial: Partial, refusal: &Refusal, fix: &Fix, rules: &Rules) -> Result<Repaired, Vec<String>> {
    // What is wrong with a value does not matter where another one is said.
    let mut reasons = if fix.value.is_some() { vec![] } else { partial.faults };
    if fix.time.is_some() {
        reasons.retain(|fault| !fault.starts_with("time:"));
    }
    let mut part = |what: &str, fixed: Option<&String>, told: Option<String>, fault: fn(&str) -> Option<String>| {
        let found = fixed.cloned().or(told);
        match found.as_deref().map(fault) {
            None => reasons.push(format!("{what}: none is told; say --set {what}=…")),
            Some(Some(fault)) => reasons.push(fault),
            Some(None) => {}
        }
        found
    };
    let device = part("device", fix.device.as_ref(), partial.device, DeviceId::fault);
    let metric = part("metric", fix.metric.as_ref(), partial.metric, MetricName::fault);
    let value = fix.value.clone().or(partial.value);
    let value = match (value, fix.factor) {
        (Some(Value::Number(number)), Some(factor)) if (number * factor).is_finite() => {
            Some(Value::Number(number * factor))
        }
        (Some(other), Some(factor)) => {
            reasons.push(format!("type: {other} cannot be multiplied by {factor}"));
            None
        }
        (value, None) => value,
        (None, Some(_)) => None,
    };
    if value.is_none() && reasons.is_empty() {
        reasons.push("value: none is told; say --set value=…".to_owned());
    }
    let mut unit = fix.unit.clone().or(partial.unit);
    // Where nobody knows when, the hub's time is the best there is.
    let told = fix.time.map(Timestamp::from_micros).or(partial.time);
    let origin = refusal.origin();
    let time = told.unwrap_or(origin.reference_time());
    if let (Some(device), Some(metric), Some(value)) = (&device, &metric, &value) {
        // The gateway's rules are not known here: without a word and without a rule nothing speaks for the value.
        if refusal.layer == "edge" && fix.says_nothing() && !rules.rules.iter().any(|rule| rule.fits(device, metric)) {
            reasons.push(
                "edge: no [[silver.rule]] fits what the gateway refused; say --as-is, or what it should have been"
                    .to_owned(),
            );
        }
        for rule in rules.rules.iter().filter(|rule| rule.fits(device, metric)) {
            rule.judge(value, &mut unit, &mut reasons);
        }
    }
    reasons.extend(rules.time_fault(time, &origin));
    match (device, metric, value) {
        (Some(device), Some(metric), Some(value)) if reasons.is_empty() => Ok(Repaired {
            device,
            metric,
            value,
            unit,
            time,
            received: partial.received,
            quality: if fix.time.is_some() { Some("corrected".to_owned()) } else { partial.quality },
            n: partial.n,
        }),
        _ => Err(reasons),
    }
}

fn body(refusal: &Refusal, readings: &[Repaired], rules: &Rules) -> Vec<u8> {
    let readings: Vec<serde_json::Value> = readings
        .iter()
        .map(|reading| {
            let mut wire = json!({
                "s": refusal.seq.unwrap_or(0),
                "d": reading.device,
                "m": reading.metric,
                "t": reading.time.micros(),
            });
            match &reading.value {
                Value::Number(number) => wire["v"] = json!(number),
                Value::Bool(on) => wire["vb"] = json!(on),
                Value::Text(text) => wire["vs"] = json!(text),
            }
            let more = [
                ("u", reading.unit.as_ref().map(|unit| json!(unit))),
                ("r", reading.received.map(|time| json!(time.micros()))),
                ("q", reading.quality.as_ref().map(|quality| json!(quality))),
                ("n", reading.n.map(|n| json!(n))),
            ];
            for (name, value) in more {
                if let Some(value) = value {
                    wire[name] = value;
                }
            }
            wire
        })
        .collect();
    let (gateway, epoch) = match (&refusal.gateway, &refusal.epoch) {
        (Some(gateway), Some(epoch)) => (gateway.as_str(), epoch.as_str()),
        _ => (DIRECT, DIRECT),
    };
    let envelope = json!({
        "v": envelope::VERSION,
        "gw": gateway,
        "epoch": epoch,
        "high": refusal.high.unwrap_or(0),
        "rules": &**rules.digest(),
        "readings": readings,
    });
    envelope.to_string().into_bytes()
}

impl Refusal {
    /// Where the Event it came in stands.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin {
            hub: self.hub.as_str().into(),
            incarnation: self.incarnation,
            partition_id: self.partition_id,
            sequence_number: self.sequence_number,
            enqueued: self.enqueued,
            ingested: self.ingested,
        }
    }
}
