//! A message against mappings and rules: readings and refusals, each with its source key.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use shared::envelope::{RAW_BYTES_MAX, sha256_hex};
use shared::payload::{Measured, Unreadable};
use shared::reading::{DeviceId, MetricName, Reading, Rejected, TimeQuality, Value};
use shared::rules::{self, Rule};
use shared::time::Timestamp;

use super::config::Config;
use super::format::{Ask, LeftOut, Note, Part, Taken};
use super::mapping::Mappings;
use crate::intake::Cut;
use crate::outbox::{HeldItem, SourceKey};

/// Most bytes of a topic that are kept with a refusal.
const TOPIC_BYTES_MAX: usize = 512;
/// Most bytes of one reason.
const REASON_BYTES_MAX: usize = 400;
/// Most reasons of one refusal.
const REASONS_MAX: usize = 16;
/// Most bytes of payload copied into the refusals of one message; later ones of it carry its beginning only.
const COPIES_BYTES_MAX: usize = 256 * 1024;
/// The beginning: time and number mostly stand there, by which people and the proof find what was sent.
const BEGINNING_BYTES: usize = 128;
/// Stands for a device whose name cannot be read.
const NO_DEVICE: &str = "-";

/// One publish, as the judge sees it.
#[derive(Debug, Clone, Copy)]
pub struct Publish<'m> {
    /// Its topic.
    pub topic: &'m str,
    /// Its bytes.
    pub payload: &'m [u8],
    /// It was larger than is taken: what it was, and `payload` is its beginning.
    pub cut: Option<&'m Cut>,
    /// When it came.
    pub received: Timestamp,
    /// Whether the clock by which it came is known good.
    pub clock_known_good: bool,
    /// A retained value that was here before: it is learned from, not stored.
    pub again: bool,
}

/// One value of a message, judged.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The reading or refusal.
    pub item: HeldItem,
    /// By what a repeat of it is recognised.
    pub key: Option<SourceKey>,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Judged {
    /// Its values, judged. Empty only if all of it is left out.
    pub verdicts: Vec<Verdict>,
    /// What it says beside values: counted, not kept.
    pub left_out: Vec<LeftOut>,
    /// What is worth telling a person.
    pub notes: Vec<Note>,
    /// What its sender is asked for.
    pub ask: Option<Ask>,
}

/// Mappings and rules, ready for use.
#[derive(Debug, Clone)]
pub struct Judge {
    mappings: Mappings,
    rules: Vec<Rule>,
    /// Those of the configuration.
    configured: Vec<Rule>,
    /// What the digest is made of beside rules.
    settings: BTreeMap<String, String>,
    max_ahead: Option<std::time::Duration>,
    max_age: Option<std::time::Duration>,
    digest: String,
}

impl Judge {
    /// Takes over a configuration that passed its check.
    pub fn new(config: &Config) -> Self {
        let span = |span: Option<shared::config::Span>| span.map_or("none".to_owned(), |span| span.to_string());
        let mappings = serde_json::to_string(&config.mapping).expect("mappings are plain data");
        let settings = BTreeMap::from([
            ("max-ahead".to_owned(), span(config.max_ahead)),
            ("max-age".to_owned(), span(config.max_age)),
            ("mapping".to_owned(), mappings),
        ]);
        Self {
            mappings: Mappings::new(&config.mapping),
            rules: config.rule.clone(),
            configured: config.rule.clone(),
            max_ahead: config.max_ahead.map(Into::into),
            max_age: config.max_age.map(Into::into),
            digest: rules::digest(&rules::canonical(&config.rule, &settings)),
            settings,
        }
    }

    /// From now on by these rules; `None`: by those of the configuration.
    pub fn judge_by(&mut self, rules: Option<&[Rule]>) {
        self.rules = rules.unwrap_or(&self.configured).to_vec();
        self.digest = self.digest_of(rules);
    }

    /// The digest there would be, judging by these.
    pub fn digest_of(&self, rules: Option<&[Rule]>) -> String {
        rules::digest(&rules::canonical(rules.unwrap_or(&self.configured), &self.settings))
    }

    /// The name under which these rules travel: 16 hex digits of a SHA-256.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Whose retained values a broker should pass on again and again: of conventions that are read with their help.
    pub fn learns(&self) -> crate::intake::Learns {
        self.mappings.learns()
    }

    /// One verdict per metric, and one for a payload that cannot be read as a whole.
    pub fn judge(&mut self, publish: &Publish<'_>) -> Judged {
        let mut refusals = Refusals::new(publish);
        let verdict = |verdict| Judged { verdicts: vec![verdict], ..Judged::default() };
        if let Some(cut) = publish.cut {
            return self.too_large(publish, cut, &mut refusals);
        }
        let Some(mapped) = self.mappings.read(publish.topic, publish.payload, publish.received) else {
            return verdict(refusals.whole(NO_DEVICE, "topic: no mapping fits it".to_owned()));
        };
        if publish.again {
            return Judged {
                left_out: vec![LeftOut { what: "whole message".into(), why: "again" }],
                ..Judged::default()
            };
        }
        let Taken { parts, left_out, notes, ask } = match mapped.taken {
            Ok(taken) => taken,
            Err(unreadable) => {
                let device = mapped.device;
                return match DeviceId::fault(&device) {
                    Some(fault) => verdict(refusals.whole(NO_DEVICE, fault)),
                    None => verdict(refusals.unreadable(&device, &unreadable)),
                };
            }
        };
        let mut verdicts = Vec::new();
        for part in &parts {
            match DeviceId::fault(&part.device) {
                None => self.part(publish, part, &mut refusals, &mut verdicts),
                // Nothing of the payload is taken.
                Some(fault) if parts.len() == 1 => verdicts.push(refusals.whole(NO_DEVICE, fault)),
                Some(fault) => {
                    let refused = |measured: &Measured| {
                        refusals.of(&DeviceId::new(NO_DEVICE), &measured.metric, part, vec![fault.clone()])
                    };
                    verdicts.extend(part.measured.iter().map(refused));
                }
            }
        }
        Judged { verdicts, left_out, notes, ask }
    }

    /// Only its beginning is here, so nothing in it is believed.
    fn too_large(&self, publish: &Publish<'_>, cut: &Cut, refusals: &mut Refusals<'_>) -> Judged {
        if self.mappings.ignores(publish.topic) {
            let left_out = vec![LeftOut { what: "whole message".into(), why: "ignored" }];
            return Judged { left_out, ..Judged::default() };
        }
        let device = self.mappings.device(publish.topic).filter(|device| DeviceId::fault(device).is_none());
        let topic = clip(publish.topic, TOPIC_BYTES_MAX);
        let text = format!(
            "a message of {} bytes on {topic:?} is larger than `intake.broker.max-packet`; raise that, or subscribe to less",
            cut.bytes
        );
        let notes = vec![Note { kind: "too-large", text }];
        if publish.again {
            let left_out = vec![LeftOut { what: "whole message".into(), why: "again" }];
            return Judged { left_out, notes, ..Judged::default() };
        }
        let reason = format!(
            "too-large: {} bytes, more than `intake.broker.max-packet`; the first {} are kept",
            cut.bytes,
            publish.payload.len()
        );
        let verdict = refusals.whole(device.as_deref().unwrap_or(NO_DEVICE), reason);
        Judged { verdicts: vec![verdict], notes, ..Judged::default() }
    }

    /// The values of one device with one time and one number.
    fn part(&self, publish: &Publish<'_>, part: &Part, refusals: &mut Refusals<'_>, verdicts: &mut Vec<Verdict>) {
        let device = DeviceId::new(part.device.clone());
        let mut faults = part.faults.clone();
        let relative = (part.shift_us != 0).then(|| measured_at(publish, part));
        faults.extend(self.skew(publish, part.time.or(relative)));
        for measured in &part.measured {
            verdicts.push(self.value(publish, &device, part, measured, &faults, refusals));
        }
        if part.is_whole {
            let holds = |metric: &str| part.measured.iter().any(|measured| measured.metric == metric);
            for metric in rules::missing(&self.rules, device.as_str(), holds) {
                let reason = format!("required: the payload holds no `{metric}`");
                verdicts.push(refusals.of(&device, metric, part, vec![reason]));
            }
        }
    }

    fn value(
        &self,
        publish: &Publish<'_>,
        device: &DeviceId,
        part: &Part,
        measured: &Measured,
        faults: &[String],
        refusals: &mut Refusals<'_>,
    ) -> Verdict {
        let mut reasons = faults.to_vec();
        let (value, unit) = match &measured.value {
            Ok((value, unit)) => {
                let mut unit = unit.clone();
                for rule in self.rules.iter().filter(|rule| rule.fits(device.as_str(), &measured.metric)) {
                    rule.judge(value, &mut unit, &mut reasons);
                }
                (value, unit)
            }
            Err(fault) => {
                reasons.push(fault.clone());
                return refusals.of(device, &measured.metric, part, reasons);
            }
        };
        if !reasons.is_empty() {
            return refusals.of(device, &measured.metric, part, reasons);
        }
        let measured_at = measured_at(publish, part);
        let (event_time, time_quality) = match (part.time, publish.clock_known_good) {
            (Some(time), _) => (time, TimeQuality::Device),
            (None, true) => (measured_at, TimeQuality::Gateway),
            (None, false) => (measured_at, TimeQuality::GatewayUnsynced),
        };
        let reading = Reading {
            device: device.clone(),
            metric: MetricName::new(measured.metric.clone()),
            value: value.clone(),
            unit,
            event_time,
            received_time: publish.received,
            time_quality,
            source_seq: part.n,
        };
        let key = source_key(device, &measured.metric, part, &Told::Value(value));
        Verdict { item: HeldItem::Reading(reading), key }
    }

    /// What speaks against the payload's own time, judged only by a clock that is known good.
    fn skew(&self, publish: &Publish<'_>, time: Option<Timestamp>) -> Option<String> {
        let time = time.filter(|_| publish.clock_known_good)?;
        let received = publish.received;
        let seconds = |span: std::time::Duration| format!("{} s", span.as_secs_f64());
        match (self.max_ahead, self.max_age) {
            (Some(max), _) if received.plus(max) < time => {
                Some(format!("skew: {time} is more than {} ahead of the gateway's clock, {received}", seconds(max)))
            }
            (_, Some(max)) if time < received.minus(max) => {
                Some(format!("skew: {time} is more than {} behind the gateway's clock, {received}", seconds(max)))
            }
            _ => None,
        }
    }
}

/// When a value without a time of its own was measured.
fn measured_at(publish: &Publish<'_>, part: &Part) -> Timestamp {
    Timestamp::from_micros(publish.received.micros().saturating_add(part.shift_us))
}

/// What tells two values of one metric, number and time apart.
enum Told<'v> {
    Value(&'v Value),
    Payload(&'v str),
}

/// See the contract: device, metric, the device's own number, the payload's own time, value; absent parts are empty.
/// `None` where neither number nor time is there.
fn source_key(device: &DeviceId, metric: &str, part: &Part, told: &Told<'_>) -> Option<SourceKey> {
    let (n, time) = (part.n, part.time.or(part.clock));
    if n.is_none() && time.is_none() {
        return None;
    }
    let mut hash = Sha256::new();
    // Each part is told apart from the next by its length, so that no two lists of parts look alike.
    let mut part = |bytes: &[u8]| {
        hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(bytes);
    };
    part(device.as_str().as_bytes());
    part(metric.as_bytes());
    part(&n.map_or(vec![], |n| n.to_be_bytes().to_vec()));
    part(&time.map_or(vec![], |time| time.micros().to_be_bytes().to_vec()));
    match told {
        Told::Value(Value::Number(number)) => part(&number.to_bits().to_be_bytes()),
        Told::Value(Value::Bool(on)) => part(&[u8::from(*on)]),
        Told::Value(Value::Text(text)) => {
            part(b"text");
            part(text.as_bytes());
        }
        Told::Payload(sha256) => {
            part(b"payload");
            part(sha256.as_bytes());
        }
    }
    let digest = hash.finalize();
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    Some(SourceKey(key))
}

/// Makes the refusals of one message; the first carries the whole payload.
struct Refusals<'m> {
    publish: &'m Publish<'m>,
    sha256: Option<String>,
    copied: usize,
}

impl<'m> Refusals<'m> {
    fn new(publish: &'m Publish<'m>) -> Self {
        Self { publish, sha256: None, copied: 0 }
    }

    fn whole(&mut self, device: &str, reason: String) -> Verdict {
        self.make(&DeviceId::new(device), None, &Part::default(), vec![reason])
    }

    /// A payload that cannot be read; what it tells of itself all the same is its key.
    fn unreadable(&mut self, device: &str, unreadable: &Unreadable) -> Verdict {
        let told = Part { time: unreadable.time, n: unreadable.n, ..Part::default() };
        self.make(&DeviceId::new(device), None, &told, vec![unreadable.to_string()])
    }

    fn of(&mut self, device: &DeviceId, metric: &str, part: &Part, reasons: Vec<String>) -> Verdict {
        self.make(device, Some(metric), part, reasons)
    }

    fn make(&mut self, device: &DeviceId, metric: Option<&str>, part: &Part, mut reasons: Vec<String>) -> Verdict {
        let publish = self.publish;
        let of_payload = || publish.cut.map_or_else(|| sha256_hex(publish.payload), |cut| cut.sha256.clone());
        let sha256 = self.sha256.get_or_insert_with(of_payload).clone();
        let key = source_key(device, metric.unwrap_or_default(), part, &Told::Payload(&sha256));
        let length = publish.payload.len();
        let kept = match self.copied {
            0 => length,
            copied if COPIES_BYTES_MAX <= copied => length.min(BEGINNING_BYTES),
            _ => length.min(RAW_BYTES_MAX),
        };
        self.copied += kept.max(1);
        if REASONS_MAX < reasons.len() {
            reasons.truncate(REASONS_MAX - 1);
            reasons.push("more: and others".to_owned());
        }
        // Without one it would say that nothing of the payload was taken.
        let metric = metric.map(MetricName::nearest);
        let rejected = Rejected {
            device: device.clone(),
            metric,
            topic: clip(publish.topic, TOPIC_BYTES_MAX),
            reasons: reasons.iter().map(|reason| clip(reason, REASON_BYTES_MAX)).collect(),
            raw: publish.payload[..kept].to_vec(),
            received_time: publish.received,
            event_time: part.time,
            source_seq: part.n,
        };
        let length = publish.cut.map_or(length as u64, |cut| cut.bytes);
        let raw_len = i64::try_from(length).unwrap_or(i64::MAX);
        Verdict { item: HeldItem::Rejected { rejected, raw_len, raw_sha256: sha256 }, key }
    }
}

fn clip(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let mut end = bytes_max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests;
