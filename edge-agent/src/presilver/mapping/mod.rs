//! Where device, metric, time and number of a message come from: one language for every format.
//!
//! A mapping says which topics it fits, what their payloads are ([`Format`]), and where in them the rest is found. What is
//! left out has the default of its format. [`plan`] makes a mapping ready, or says what is wrong with it; [`Mappings`]
//! reads messages by the first one that fits.

pub mod pattern; // topic patterns, and texts with names in braces

pub mod plan; // a mapping, checked and made ready

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shared::payload::{self, Fields, Unreadable};
use shared::time::Timestamp;

pub use self::pattern::Pattern;
use self::plan::Plan;
use super::format::homie::Memory;
use super::format::sparkplug::Nodes;
use super::format::tree::Node;
use super::format::{self, Part, Taken, cbor, homie, json, plain, records, senml, sparkplug, tasmota, zigbee2mqtt};

/// How the payloads of some topics are read.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Mapping {
    /// Topics it fits: `telemetry/{device}`.
    pub topic: String,
    /// What the payload is.
    #[serde(default)]
    pub format: Format,
    /// The device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The metric of a value that has no name of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// Where the time stands; "" if nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Where the device's own number stands; "" if nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<String>,
    /// What a number of time counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_unit: Option<TimeUnit>,
    /// What a time without an offset is ahead of UTC: "+01:00".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_offset: Option<String>,
    /// Where the records stand, if a payload holds several: `data.*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<String>,
    /// Where a record holds its one value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where a record holds the unit of its one value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// What stands between the names of nested objects in a metric's name. Without it nested objects are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<String>,
    /// Metrics and where each stands; without it every member of a record is a metric.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, Field>,
    /// Metrics that are not taken; `*` stands for any run of characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leave_out: Vec<String>,
    /// What becomes of a null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nulls: Option<Nulls>,
    /// Sparkplug: the name of an edge node as a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The metric that says whether a device is there; "" for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online: Option<String>,
}

/// Where a metric stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields, rename_all = "kebab-case")]
pub enum Field {
    /// The place.
    At(String),
    /// The place, and more.
    More {
        /// The place.
        at: String,
        /// Its unit, where the payload tells none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unit: Option<String>,
        /// What the number is to be multiplied by.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scale: Option<f64>,
    },
}

/// What becomes of a null.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nulls {
    /// It is refused.
    Refuse,
    /// It says that there is no value: counted, not kept.
    LeaveOut,
}

/// What a number of time counts, since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeUnit {
    /// Seconds.
    S,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
}

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A flat JSON object: one metric per field.
    #[default]
    Object,
    /// One bare JSON value.
    Value,
    /// JSON of any shape.
    Json,
    /// CBOR of any shape (RFC 8949).
    Cbor,
    /// SenML in JSON (RFC 8428).
    Senml,
    /// SenML in CBOR (RFC 8428).
    SenmlCbor,
    /// Sparkplug B.
    Sparkplug,
    /// The Homie convention, versions 3 to 5.
    Homie,
    /// Zigbee2MQTT.
    Zigbee2mqtt,
    /// Tasmota.
    Tasmota,
    /// One number (or true, or false) as plain text, with or without a unit.
    Plain,
    /// Nothing of ours: acknowledged and counted.
    Ignore,
}

impl Mapping {
    /// True if repeats of its messages cannot be recognised: there is neither time nor number.
    pub fn is_keyless(&self) -> bool {
        match self.format {
            Format::Value | Format::Plain => true,
            Format::Object | Format::Json | Format::Cbor => {
                self.time.as_deref() == Some("") && self.n.as_deref() == Some("")
            }
            _ => false,
        }
    }

    /// What of its keys its format has no use for.
    fn unused(&self) -> Vec<&'static str> {
        let wanted = match self.format {
            // A bare value has neither time nor number; that it may say so is older than this list.
            Format::Object | Format::Value => vec!["device", "metric", "time", "n"],
            Format::Plain => vec!["device", "metric"],
            Format::Senml | Format::SenmlCbor => vec!["device", "metric", "leave-out"],
            Format::Json | Format::Cbor => vec![
                "device",
                "metric",
                "leave-out",
                "time",
                "n",
                "time-unit",
                "time-offset",
                "records",
                "value",
                "unit",
                "separator",
                "fields",
                "nulls",
            ],
            Format::Sparkplug => vec!["device", "node", "leave-out", "online", "nulls"],
            Format::Homie => vec!["device", "metric", "leave-out", "online"],
            Format::Zigbee2mqtt => vec!["device", "time", "time-unit", "time-offset", "leave-out", "nulls", "online"],
            Format::Tasmota => vec!["device", "time-offset", "leave-out", "nulls", "online"],
            Format::Ignore => vec![],
        };
        let given = [
            ("device", self.device.is_some()),
            ("metric", self.metric.is_some()),
            ("time", self.time.is_some()),
            ("n", self.n.is_some()),
            ("time-unit", self.time_unit.is_some()),
            ("time-offset", self.time_offset.is_some()),
            ("records", self.records.is_some()),
            ("value", self.value.is_some()),
            ("unit", self.unit.is_some()),
            ("separator", self.separator.is_some()),
            ("fields", !self.fields.is_empty()),
            ("leave-out", !self.leave_out.is_empty()),
            ("nulls", self.nulls.is_some()),
            ("node", self.node.is_some()),
            ("online", self.online.is_some()),
        ];
        given.into_iter().filter(|(key, is_given)| *is_given && !wanted.contains(key)).map(|(key, _)| key).collect()
    }
}

/// "" is to find nothing: no device names a field so.
fn field(name: Option<&str>, default: &str) -> String {
    match name.unwrap_or(default) {
        "" => "\u{0}none".to_owned(),
        name => name.to_owned(),
    }
}

/// All mappings, ready for use, with what their formats remember.
#[derive(Debug, Clone)]
pub struct Mappings {
    all: Vec<Ready>,
}

#[derive(Debug, Clone)]
struct Ready {
    plan: Plan,
    reader: Reader,
}

/// What reads a payload.
#[derive(Debug, Clone)]
enum Reader {
    Object(Fields),
    Value,
    Json,
    Cbor,
    Senml,
    SenmlCbor,
    Sparkplug(Nodes),
    Homie(Memory),
    Zigbee2mqtt(zigbee2mqtt::Units),
    Tasmota,
    Plain,
    Ignore,
}

impl Reader {
    fn of(mapping: &Mapping) -> Self {
        match mapping.format {
            Format::Object => Reader::Object(Fields {
                time: field(mapping.time.as_deref(), "ts"),
                n: field(mapping.n.as_deref(), "n"),
            }),
            Format::Value => Reader::Value,
            Format::Json => Reader::Json,
            Format::Cbor => Reader::Cbor,
            Format::Senml => Reader::Senml,
            Format::SenmlCbor => Reader::SenmlCbor,
            Format::Sparkplug => Reader::Sparkplug(Nodes::default()),
            Format::Homie => Reader::Homie(Memory::default()),
            Format::Zigbee2mqtt => Reader::Zigbee2mqtt(zigbee2mqtt::Units::default()),
            Format::Tasmota => Reader::Tasmota,
            Format::Plain => Reader::Plain,
            Format::Ignore => Reader::Ignore,
        }
    }

    /// The device's name as far as the topic tells it.
    fn device(&self, plan: &Plan, names: &BTreeMap<&str, &str>, topic: &str) -> String {
        let device = match self {
            Reader::Sparkplug(_) => sparkplug::device_of(plan, names, topic).unwrap_or_default(),
            Reader::Homie(_) => homie::device_of(plan, names, topic).unwrap_or_default(),
            Reader::Zigbee2mqtt(_) => zigbee2mqtt::device_of(plan, names, topic).unwrap_or_default(),
            _ => plan.device.fill_names(names),
        };
        // Where it is empty only the payload tells.
        if device.is_empty() { "-".to_owned() } else { device }
    }
}

fn of_tree(tree: Result<Node, String>, take: impl FnOnce(Node) -> Result<Taken, String>) -> Result<Taken, Unreadable> {
    tree.and_then(take).map_err(format::unreadable)
}

/// A message, as its mapping reads it.
#[derive(Debug)]
pub struct Mapped {
    /// The device's name as far as the topic tells it, unchecked: for a payload that cannot be read.
    pub device: String,
    /// What the payload holds.
    pub taken: Result<Taken, Unreadable>,
}

impl Mappings {
    /// Makes mappings ready; what [`shared::config::Check`] refuses is left out.
    pub fn new(mappings: &[Mapping]) -> Self {
        let ready = |mapping: &Mapping| Some(Ready { plan: Plan::new(mapping).ok()?, reader: Reader::of(mapping) });
        Self { all: mappings.iter().filter_map(ready).collect() }
    }

    /// Whose retained values are wanted again and again.
    pub fn learns(&self) -> crate::intake::Learns {
        let learns = |reader: &Reader| -> fn(&Plan, &str) -> bool {
            match reader {
                Reader::Homie(_) => |_, _| true,
                Reader::Zigbee2mqtt(_) => zigbee2mqtt::learns,
                _ => |_, _| false,
            }
        };
        let all: Vec<_> = self.all.iter().map(|Ready { plan, reader }| (plan.clone(), learns(reader))).collect();
        Arc::new(move |topic: &str| {
            let first = all.iter().find(|(plan, _)| plan.pattern.fit(topic).is_some());
            first.is_some_and(|(plan, learns)| learns(plan, topic))
        })
    }

    /// The device's name as far as a topic tells it, unchecked; `None` if no mapping fits.
    pub fn device(&self, topic: &str) -> Option<String> {
        let of = |Ready { plan, reader }: &Ready| Some(reader.device(plan, &plan.pattern.fit(topic)?, topic));
        self.all.iter().find_map(of)
    }

    /// True if what comes on a topic is nothing of ours.
    pub fn ignores(&self, topic: &str) -> bool {
        let first = self.all.iter().find(|ready| ready.plan.pattern.fit(topic).is_some());
        first.is_some_and(|ready| matches!(ready.reader, Reader::Ignore))
    }

    /// Reads a message, come at `received`, by the first mapping whose topic fits; `None` if none does.
    pub fn read(&mut self, topic: &str, payload: &[u8], received: Timestamp) -> Option<Mapped> {
        let (plan, reader, names) = self.all.iter_mut().find_map(|Ready { plan, reader }| {
            let plan: &Plan = plan;
            let names = plan.pattern.fit(topic)?;
            Some((plan, reader, names))
        })?;
        let device = reader.device(plan, &names, topic);
        let taken = match reader {
            Reader::Object(fields) => {
                payload::object(payload, fields).map(|payload| Taken::one(Part::whole(device.clone(), payload)))
            }
            Reader::Value => {
                let metric = plan.metric.as_ref().map(|metric| metric.fill_names(&names)).unwrap_or_default();
                payload::bare(&metric, payload).map(|payload| Taken::one(Part::of(device.clone(), payload)))
            }
            Reader::Json => of_tree(json::read(payload), |tree| records::take(plan, &names, &tree)),
            Reader::Cbor => of_tree(cbor::read(payload), |tree| records::take(plan, &names, &tree)),
            Reader::Senml => of_tree(json::read(payload), |tree| senml::take(plan, &names, &tree)),
            Reader::SenmlCbor => of_tree(cbor::read(payload), |tree| senml::take(plan, &names, &senml::named(tree))),
            Reader::Sparkplug(nodes) => nodes.take(plan, &names, (topic, payload), received),
            Reader::Homie(memory) => memory.take(plan, &names, topic, payload),
            Reader::Zigbee2mqtt(units) => zigbee2mqtt::take(units, plan, &names, topic, payload),
            Reader::Tasmota => tasmota::take(plan, &names, payload),
            Reader::Plain => plain::take(plan, &names, payload),
            Reader::Ignore => Ok(Taken::none("whole message", "ignored")),
        };
        Some(Mapped { device, taken })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_and_metric_are_made_of_the_topics_levels() {
        let mapping = Mapping {
            topic: "plant/{site}/{device}/{metric}".into(),
            format: Format::Value,
            device: Some("{site}-{device}".into()),
            metric: Some("{metric}.raw".into()),
            ..Mapping::default()
        };
        let mut mappings = Mappings::new(&[mapping]);
        let mapped = mappings.read("plant/north/3/rpm", b"12", Timestamp::default()).expect("fits");
        assert_eq!(mapped.device, "north-3");
        assert_eq!(mapped.taken.expect("a number").parts[0].measured[0].metric, "rpm.raw");
    }

    #[test]
    fn of_a_payload_that_cannot_be_read_the_topic_tells_the_device() {
        for (topic, format, message, device) in [
            ("spBv1.0/#", Format::Sparkplug, "spBv1.0/g/DDATA/n/d", "g/n/d"),
            ("spBv1.0/#", Format::Sparkplug, "spBv1.0/g/NDATA/n", "g/n"),
            ("spBv1.0/#", Format::Sparkplug, "spBv1.0/g/NOISE/n", "-"),
            ("homie/#", Format::Homie, "homie/5/d/$description", "d"),
            ("zigbee2mqtt/#", Format::Zigbee2mqtt, "zigbee2mqtt/living room/d", "living room/d"),
            ("zigbee2mqtt/#", Format::Zigbee2mqtt, "zigbee2mqtt/d/availability", "d"),
            ("tele/{device}/{kind}", Format::Tasmota, "tele/d/SENSOR", "d"),
            ("senml/{device}", Format::Senml, "senml/d", "d"),
            ("senml", Format::Senml, "senml", "-"),
        ] {
            let mut mappings = Mappings::new(&[Mapping { topic: topic.into(), format, ..Mapping::default() }]);
            let mapped = mappings.read(message, b"{\xff", Timestamp::default()).expect("fits");
            assert_eq!(mapped.device, device, "{message}");
        }
    }
}
