//! A row against silver's rules. A verdict is a function of the bytes, the enqueued time and the rules; never of the
//! wall clock, nor of how batches were cut.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::rules::{Rule, TimeWindow, digest, glob};
use shared::time::Timestamp;

use super::decode::DIRECT;
use super::mapping::Mapping;
use super::rows::{Numbered, Origin, ReadingRow, RefusedBy, RefusedRow, Row};

/// Silver's rules.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// How far an event time may lie from the enqueued time.
    pub window: TimeWindow,
    /// Whose messages are known by their ids.
    pub unique: Unique,
    /// How messages of direct devices are read; the first that fits.
    pub mappings: Vec<Mapping>,
    /// How they are read where none fits.
    pub no_mapping: Mapping,
    /// What is expected of values of direct devices. (Those of a gateway were judged there.)
    pub rules: Vec<Rule>,
    text: String,
    digest: Arc<str>,
}

/// Devices whose every message has an id of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unique {
    /// Their names; `*` stands for any run of characters.
    pub devices: Vec<String>,
    /// How long a message is remembered.
    pub horizon: Duration,
}

impl Unique {
    /// Whether messages of `device` have ids of their own.
    #[must_use]
    pub fn names(&self, device: &str) -> bool {
        self.devices.iter().any(|pattern| glob(pattern, device))
    }
}

/// Rules as they are kept beside the tables, under their digest.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Text {
    max_age_us: u64,
    max_ahead_us: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    unique_message_ids: Vec<String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    dedup_horizon_us: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    mapping: Vec<Mapping>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rule: Vec<Rule>,
    /// Settings of later versions.
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

const fn is_zero(micros: &u64) -> bool {
    *micros == 0
}

/// Kept rules that this version cannot follow.
#[derive(Debug, thiserror::Error)]
#[error(
    "rules {digest} cannot be followed: {why}; run the version that wrote them, or `hop --full-refresh silver.readings`"
)]
pub struct RulesError {
    digest: String,
    why: String,
}

impl Rules {
    /// The rules with this time window, and these devices known by their messages' ids.
    #[must_use]
    pub fn new(window: TimeWindow, unique: Unique) -> Self {
        Self::with(window, unique, vec![], vec![])
    }

    /// The same, and how messages of direct devices are read and judged.
    #[must_use]
    pub fn with(window: TimeWindow, unique: Unique, mappings: Vec<Mapping>, rules: Vec<Rule>) -> Self {
        // Mappings that read as none does leave the rules what they were before there were any.
        let mappings = if mappings.iter().all(Mapping::reads_as_none) { vec![] } else { mappings };
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        // Where no device is named, the horizon says nothing: the rules are those of before there was one.
        let horizon = if unique.devices.is_empty() { Duration::ZERO } else { unique.horizon };
        let text = Text {
            max_age_us: micros(window.max_age),
            max_ahead_us: micros(window.max_ahead),
            unique_message_ids: unique.devices.clone(),
            dedup_horizon_us: micros(horizon),
            mapping: mappings,
            rule: rules,
            rest: BTreeMap::new(),
        };
        let written = serde_json::to_string(&text).expect("rules are plain data");
        Self {
            window,
            unique,
            mappings: text.mapping,
            no_mapping: Mapping::default(),
            rules: text.rule,
            digest: digest(&written).into(),
            text: written,
        }
    }

    /// The rules kept as `text`.
    ///
    /// # Errors
    /// A later version wrote rules this one does not know.
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        let fault = |why: String| RulesError { digest: digest(text), why };
        let read: Text = serde_json::from_str(text).map_err(|error| fault(error.to_string()))?;
        if let Some(name) = read.rest.keys().next() {
            return Err(fault(format!("`{name}` is not known")));
        }
        let (max_age, max_ahead) = (Duration::from_micros(read.max_age_us), Duration::from_micros(read.max_ahead_us));
        let horizon = Duration::from_micros(read.dedup_horizon_us);
        let unique = Unique { devices: read.unique_message_ids, horizon };
        Ok(Self::with(TimeWindow { max_age, max_ahead }, unique, read.mapping, read.rule))
    }

    /// The same mappings, with nothing expected of values and times.
    #[must_use]
    pub fn without_rules(&self) -> Self {
        let window = TimeWindow { max_age: Duration::MAX, max_ahead: Duration::MAX };
        Self { window, rules: vec![], ..self.clone() }
    }

    /// The same mappings, but for where a message says its time: for one whose time is told otherwise.
    #[must_use]
    pub fn without_time(&self) -> Self {
        let mut rules = self.clone();
        for mapping in rules.mappings.iter_mut().chain([&mut rules.no_mapping]) {
            let time = std::mem::take(&mut mapping.time);
            if !time.is_empty() {
                mapping.ignore.push(time);
            }
        }
        rules
    }

    /// Why an event time is refused, if it is.
    #[must_use]
    pub fn time_fault(&self, event_time: Timestamp, origin: &Origin) -> Option<String> {
        // The window may be set as wide as one likes; a table's dates end at the years every reader knows.
        let far = || (!event_time.is_printable()).then(|| "age: outside the years 1 to 9999".to_owned());
        self.window.judge(event_time, origin.reference_time()).or_else(far)
    }

    /// As it is kept beside the tables.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The name of these rules.
    #[must_use]
    pub fn digest(&self) -> &Arc<str> {
        &self.digest
    }
}

/// Judges a row: a reading whose event time is out of bounds becomes a refusal.
pub fn judge(row: &mut Row<'_>, origin: &Origin, rules: &Rules) {
    let Row::Reading(reading) = &*row else { return };
    let Some(reason) = rules.time_fault(reading.event_time, origin) else { return };
    let refused = Row::Refused(refuse(reading, reason, rules));
    *row = refused;
}

fn refuse(reading: &ReadingRow<'_>, reason: String, rules: &Rules) -> RefusedRow {
    RefusedRow {
        gateway: reading.numbered.is_none().then(|| DIRECT.to_owned()),
        numbered: reading.numbered.as_ref().map(Numbered::kept),
        named: reading.named.clone(),
        device: Some(reading.device.to_string()),
        metric: Some(reading.metric.to_string()),
        by: RefusedBy::Silver,
        reasons: vec![reason],
        raw: reading.raw.to_vec(),
        raw_len: i64::try_from(reading.raw.len()).unwrap_or(i64::MAX),
        topic: None,
        rules: Some(Arc::clone(rules.digest())),
        rescued: reading.rescued.clone(),
        index: reading.index,
    }
}
