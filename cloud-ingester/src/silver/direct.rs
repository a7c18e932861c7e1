//! A message of a device without a gateway -> its rows, by the mapping that fits it and by silver's rules.
//!
//! A value that cannot be read costs only itself, a message that cannot be read only itself where a body holds several.

use std::sync::Arc;

use serde_json::value::RawValue;
use shared::payload::{METRICS_MAX, members_of, time_of, value_of};
use shared::reading::{DeviceId, MetricName, Value};
use shared::rules::missing;
use shared::time::Timestamp;

use super::decode::{DIRECT, Event, length};
use super::judge::Rules;
use super::mapping::{Mapping, Meets, Members, TimeUnit, find, meets, text};
use super::members::{clip, keep, number, object, split, whole};
use super::rows::{Name, ReadingRow, RefusedBy, RefusedRow, Row};

/// Bytes copied into the refusals of one Event; beyond them each holds its own value only.
const COPIES_BYTES_MAX: usize = 256 * 1024;
/// Where the fields around one of several messages stand within `_rescued`.
const AROUND: &str = "$message";

/// One of the messages of a body.
struct Message<'m, 'a> {
    raw: &'a [u8],
    members: Members<'a>,
    /// The members of the body it stands in, where it is one of several.
    around: Option<&'m Members<'a>>,
    mapping: &'m Mapping,
}

/// The rows of a body; `device`: whom the hub authenticated.
///
/// # Errors
/// Why the Event is refused as a whole.
pub(super) fn rows<'a>(event: &Event<'a>, device: &str, body: &'a str, rules: &Rules) -> Result<Vec<Row<'a>>, String> {
    let mut out = Out { event, device, rules, rows: vec![], copied: 0 };
    if !body.trim_start().starts_with('[') {
        let members = members_of(event.body).map_err(|error| format!("undecodable: {error}"))?;
        let mapping = out.mapping(&members);
        if mapping.messages.is_empty() {
            let message = Message { raw: event.body, members, around: None, mapping };
            out.message(&message).map_err(|reason| format!("undecodable: {reason}"))?;
            return Ok(out.rows);
        }
        out.several(&members, mapping).map_err(|reason| format!("undecodable: {reason}"))?;
        return Ok(out.rows);
    }
    let messages: Vec<&'a RawValue> =
        serde_json::from_str(body).map_err(|error| format!("undecodable: payload: not a JSON array ({error})"))?;
    if messages.is_empty() {
        return Err("undecodable: payload: holds no message".to_owned());
    }
    for raw in messages {
        out.one_of_several(raw, None, None);
    }
    Ok(out.rows)
}

struct Out<'o, 'a> {
    event: &'o Event<'a>,
    device: &'o str,
    rules: &'o Rules,
    rows: Vec<Row<'a>>,
    copied: usize,
}

impl<'o, 'a> Out<'o, 'a> {
    fn mapping(&self, members: &Members<'_>) -> &'o Mapping {
        let property = |name: &str| self.event.properties.get(name);
        let fits = |mapping: &&Mapping| mapping.fits(self.device, property, members);
        self.rules.mappings.iter().find(fits).unwrap_or(&self.rules.no_mapping)
    }

    fn several(&mut self, around: &Members<'a>, mapping: &'o Mapping) -> Result<(), String> {
        let list = find(around, &mapping.messages).ok_or(format!("payload: nothing stands at {}", mapping.messages))?;
        let messages: Vec<&'a RawValue> =
            serde_json::from_str(list.get()).map_err(|_| format!("payload: no list stands at {}", mapping.messages))?;
        if messages.is_empty() {
            return Err(format!("payload: no message stands at {}", mapping.messages));
        }
        for raw in messages {
            self.one_of_several(raw, Some(around), Some(mapping));
        }
        Ok(())
    }

    /// A message that costs only itself where it cannot be read.
    fn one_of_several(&mut self, raw: &'a RawValue, around: Option<&Members<'a>>, mapping: Option<&'o Mapping>) {
        let done = members_of(raw.get().as_bytes()).map_err(|error| error.to_string()).and_then(|members| {
            let mapping = mapping.unwrap_or_else(|| self.mapping(&members));
            let message = Message { raw: raw.get().as_bytes(), members, around, mapping };
            self.message(&message)
        });
        if let Err(reason) = done {
            let rescued = around.zip(mapping).and_then(|(around, mapping)| rest_around(around, mapping));
            self.refuse(raw.get().as_bytes(), None, None, vec![reason], rescued);
        }
    }

    fn message(&mut self, message: &Message<'_, 'a>) -> Result<(), String> {
        let mapping = message.mapping;
        let mut faults = vec![];
        let device = self.device_of(message, &mut faults);
        let time = self.time_of(message, &mut faults);
        let n = message.once(&mapping.n, "number", &mut faults).and_then(|raw| {
            let read = whole(raw.get());
            if read.is_none() {
                faults.push(format!("number: `{}` is no whole number: {}", &mapping.n[1..], clip(raw.get())));
            }
            read
        });
        let (values, rest) = message.values()?;
        if values.is_empty() {
            return Err("payload: holds no metric".to_owned());
        }
        if METRICS_MAX < values.len() {
            return Err(format!("payload: more than {METRICS_MAX} metrics"));
        }
        let event_time = time.unwrap_or(self.event.origin.reference_time());
        for (at, (metric, raw, unit)) in values.iter().enumerate() {
            let mut reasons = faults.clone();
            let mut rest = rest.clone();
            let value = match MetricName::fault(metric) {
                Some(fault) => Err(fault),
                // Nobody knows which of them is meant: neither is believed.
                None if values.iter().enumerate().any(|(other, (name, ..))| other != at && name == metric) => {
                    Err("name: the metric stands twice".to_owned())
                }
                None => value_of(raw.get()),
            };
            if let Ok(split) = split(raw.get(), &["v", "u"])
                && let Some(more) = object(&split.rest)
            {
                keep(&mut rest, metric, &more);
            }
            let (value, mut unit) = match value {
                Ok((value, own)) => (Some(value), own.or_else(|| unit.clone())),
                Err(fault) => {
                    reasons.push(fault);
                    (None, None)
                }
            };
            if let Some(value) = &value {
                unit = unit.or_else(|| mapping.units.get(metric).cloned());
                self.judge(&device, metric, value, &mut unit, &mut reasons);
            }
            reasons.extend(self.rules.time_fault(event_time, &self.event.origin));
            match value {
                Some(value) if reasons.is_empty() => self.rows.push(Row::Reading(ReadingRow {
                    numbered: None,
                    named: None,
                    source_seq: n,
                    device: device.clone().into(),
                    metric: metric.clone().into(),
                    value,
                    unit: unit.map(Into::into),
                    event_time,
                    received_time: None,
                    time_quality: time.map(|_| "device".into()),
                    index: self.index(),
                    rules: Some(Name::Held(Arc::clone(self.rules.digest()))),
                    rescued: object(&rest),
                    raw: message.raw,
                })),
                _ => {
                    let own = (metric.as_str(), raw.get());
                    let rescued = message.around.and_then(|around| rest_around(around, mapping));
                    self.refuse(message.raw, Some(&device), Some(own), reasons, rescued);
                }
            }
        }
        let holds = |wanted: &str| values.iter().any(|(metric, ..)| metric == wanted);
        for metric in missing(&self.rules.rules, &device, holds) {
            let reason = format!("required: the payload holds no `{metric}`");
            let rescued = message.around.and_then(|around| rest_around(around, mapping));
            self.refuse(message.raw, Some(&device), Some((metric, "null")), vec![reason], rescued);
        }
        Ok(())
    }

    fn judge(&self, device: &str, metric: &str, value: &Value, unit: &mut Option<String>, reasons: &mut Vec<String>) {
        for rule in self.rules.rules.iter().filter(|rule| rule.fits(device, metric)) {
            rule.judge(value, unit, reasons);
        }
    }

    fn device_of(&self, message: &Message<'_, 'a>, faults: &mut Vec<String>) -> String {
        let pointer = &message.mapping.device_name;
        let named = match message.once(pointer, "device", faults) {
            Some(raw) if raw.get().starts_with(['{', '[', 'n']) => {
                faults.push(format!("device: `{}` is no name: {}", &pointer[1..], clip(raw.get())));
                None
            }
            Some(raw) => Some(text(raw).unwrap_or_else(|| raw.get().to_owned())),
            None => {
                if !pointer.is_empty() && faults.is_empty() {
                    faults.push(format!("device: nothing stands at {pointer}"));
                }
                None
            }
        };
        let device = named.unwrap_or_else(|| self.device.to_owned());
        faults.extend(DeviceId::fault(&device));
        device
    }

    fn time_of(&self, message: &Message<'_, 'a>, faults: &mut Vec<String>) -> Option<Timestamp> {
        let raw = message.once(&message.mapping.time, "time", faults)?;
        let unit = message.mapping.time_unit;
        let json = raw.get();
        let read = if unit == TimeUnit::Micros || json.starts_with('"') { time_of(json) } else { counted(json, unit) };
        read.map_err(|fault| faults.push(fault)).ok()
    }

    fn index(&self) -> i32 {
        i32::try_from(self.rows.len()).expect("a body of 8 MiB holds fewer values")
    }

    /// `own`: the metric refused and its value.
    fn refuse(
        &mut self,
        raw: &[u8],
        device: Option<&str>,
        own: Option<(&str, &str)>,
        reasons: Vec<String>,
        rescued: Option<String>,
    ) {
        let mut kept = raw.to_vec();
        if let Some((metric, value)) = own.filter(|_| 0 < self.copied && COPIES_BYTES_MAX < self.copied + raw.len()) {
            let mut member = String::new();
            keep(&mut member, metric, value);
            kept = format!("{{{member}}}").into_bytes();
        }
        self.copied += kept.len().max(1);
        self.rows.push(Row::Refused(RefusedRow {
            numbered: None,
            named: None,
            gateway: Some(DIRECT.to_owned()),
            device: Some(device.unwrap_or(self.device).to_owned()),
            metric: own.map(|(metric, _)| metric.to_owned()),
            by: RefusedBy::Silver,
            reasons,
            raw_len: length(raw).max(length(&kept)),
            raw: kept,
            topic: None,
            rules: Some(Arc::clone(self.rules.digest())),
            rescued,
            index: self.index(),
        }));
    }
}

/// Values of a message: metric, value, unit beside it; and its other members.
type Values<'a> = (Vec<(String, &'a RawValue, Option<String>)>, String);

impl<'a> Message<'_, 'a> {
    fn find(&self, pointer: &str) -> Option<&'a RawValue> {
        find(&self.members, pointer).or_else(|| find(self.around?, pointer))
    }

    /// What stands at a pointer that is set; a name that stands there twice is believed in neither place.
    fn once(&self, pointer: &str, kind: &str, faults: &mut Vec<String>) -> Option<&'a RawValue> {
        if pointer.is_empty() {
            return None;
        }
        let ends = |name: &str| meets(pointer, "", name) == Meets::Ends;
        if 1 < self.members.iter().filter(|(name, _)| ends(name)).count() {
            faults.push(format!("{kind}: `{}` stands twice in the payload", &pointer[1..]));
            return None;
        }
        self.find(pointer)
    }

    fn values(&self) -> Result<Values<'a>, String> {
        let mapping = self.mapping;
        let mut rest = String::new();
        let mut values = vec![];
        if !mapping.metric.is_empty() {
            let at = |pointer: &str| self.find(pointer).ok_or(format!("payload: nothing stands at {pointer}"));
            let metric = at(&mapping.metric)?;
            let metric = text(metric).ok_or(format!("payload: no name stands at {}", mapping.metric))?;
            let unit = self.find(&mapping.unit).and_then(text);
            values.push((metric, at(&mapping.value)?, unit));
            let read = [&mapping.metric, &mapping.value, &mapping.unit];
            self.others("", &self.members, &read, |name, raw, _| keep(&mut rest, name, raw.get()));
        } else if mapping.metrics.is_empty() {
            self.others("", &self.members, &[], |name, raw, free| {
                if free { values.push((name.to_owned(), raw, None)) } else { keep(&mut rest, name, raw.get()) }
            });
        } else {
            let found = self.find(&mapping.metrics).ok_or(format!("payload: nothing stands at {}", mapping.metrics))?;
            let inner = members_of(found.get().as_bytes())
                .map_err(|_| format!("payload: no object stands at {}", mapping.metrics))?;
            self.others("", &self.members, &[&mapping.metrics], |name, raw, _| keep(&mut rest, name, raw.get()));
            self.others(&mapping.metrics, &inner, &[], |name, raw, free| {
                if free { values.push((name.to_owned(), raw, None)) } else { keep(&mut rest, name, raw.get()) }
            });
        }
        if let Some(around) = self.around.and_then(|around| rest_around(around, mapping)) {
            keep(&mut rest, AROUND, &around);
        }
        Ok((values, rest))
    }

    /// Tells `each` of the members of the object at `base` that are not read elsewhere, and whether no pointer names them.
    fn others(
        &self,
        base: &str,
        members: &Members<'a>,
        read: &[&String],
        mut each: impl FnMut(&str, &'a RawValue, bool),
    ) {
        let mapping = self.mapping;
        let fields = [&mapping.device_name, &mapping.time, &mapping.n];
        for (name, raw) in members {
            let meets = |pointer: &String| meets(pointer, base, name);
            if fields.iter().chain(read).any(|pointer| meets(pointer) == Meets::Ends) {
                continue;
            }
            let named = fields.into_iter().chain(read.iter().copied()).chain(&mapping.ignore);
            let free = named.map(meets).all(|meets| meets == Meets::Not);
            each(name, raw, free);
        }
    }
}

/// What stands around the messages of a body and is not read as one of their parts.
fn rest_around(around: &Members<'_>, mapping: &Mapping) -> Option<String> {
    let read = [&mapping.messages, &mapping.device_name, &mapping.time, &mapping.n];
    let mut rest = String::new();
    for (name, raw) in around {
        if read.iter().all(|pointer| meets(pointer, "", name) != Meets::Ends) {
            keep(&mut rest, name, raw.get());
        }
    }
    object(&rest)
}

/// A time that counts milliseconds or seconds, with or without a fraction.
fn counted(json: &str, unit: TimeUnit) -> Result<Timestamp, String> {
    let exact = whole(json).and_then(|count| count.checked_mul(unit.micros()));
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "the years are looked at below")]
    let micros = exact.or_else(|| number(json).map(|count| (count * unit.micros() as f64).round() as i64));
    match micros.map(Timestamp::from_micros) {
        Some(time) if time.is_printable() => Ok(time),
        Some(_) => Err(format!("time: outside the years 1 to 9999: {}", clip(json))),
        None => Err(format!("time: neither RFC 3339 nor a number: {}", clip(json))),
    }
}
