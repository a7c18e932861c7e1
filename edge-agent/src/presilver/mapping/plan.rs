//! A mapping, checked and made ready: what is left out has the default of its format.

use std::collections::BTreeMap;

use shared::rules::glob;

use super::pattern::{Pattern, Template, Words};
use super::{Field, Format, Mapping, Nulls, TimeUnit};
use crate::presilver::format::tree::Path;

/// A mapping, ready for use.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Topics it fits.
    pub pattern: Pattern,
    /// The device.
    pub device: Template,
    /// The metric of a value without a name of its own.
    pub metric: Option<Template>,
    /// Sparkplug: an edge node as a device.
    pub node: Option<Template>,
    /// Where the time stands.
    pub time: Option<Path>,
    /// How it is read.
    pub when: When,
    /// Where the device's own number stands.
    pub n: Option<Path>,
    /// Where the records stand; `*` is a step of its own.
    pub records: Option<Path>,
    /// Where a record holds its one value.
    pub value: Option<Path>,
    /// Where it holds that value's unit.
    pub unit: Option<Path>,
    /// What stands between the names of nested objects.
    pub separator: Option<String>,
    /// Metrics and where each stands.
    pub fields: Vec<(String, Place)>,
    /// Metrics that are not taken.
    pub leave_out: Vec<String>,
    /// What becomes of a null.
    pub nulls: Nulls,
    /// The metric that says whether a device is there.
    pub online: Option<String>,
}

/// How a time is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When {
    /// What a number counts.
    pub unit: TimeUnit,
    /// What a time without an offset is ahead of UTC, in seconds.
    pub offset_s: Option<i64>,
}

/// Where a metric stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// The place.
    pub at: Path,
    /// Its unit, where the payload tells none.
    pub unit: Option<String>,
    /// What the number is multiplied by.
    pub scale: Option<f64>,
}

/// What is wrong with a mapping: the key it stands under, and what to write.
pub type Faults = Vec<(String, String)>;

impl Plan {
    /// Makes a mapping ready.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn new(mapping: &Mapping) -> Result<Self, Faults> {
        let pattern = Pattern::parse(&mapping.topic).map_err(|fault| vec![("topic".to_owned(), fault)])?;
        let mut faults = Faults::new();
        let words = words(mapping.format);
        let mut template = |key: &str, text: &str| match pattern.template(text, words) {
            Ok(template) => Some(template),
            Err(fault) => {
                faults.push((key.to_owned(), fault));
                None
            }
        };
        let device = template("device", mapping.device.as_deref().unwrap_or(device_default(mapping, &pattern)));
        let metric = mapping.metric.as_deref().or(metric_default(mapping.format));
        let metric = metric.and_then(|text| template("metric", text));
        let node = mapping.node.as_deref().or((mapping.format == Format::Sparkplug).then_some("{group}/{node}"));
        let node = node.and_then(|text| template("node", text));
        let mut path = |key: &str, text: Option<&str>| match text.filter(|text| !text.is_empty()).map(Path::parse) {
            Some(Ok(path)) => Some(path),
            Some(Err(fault)) => {
                faults.push((key.to_owned(), fault));
                None
            }
            None => None,
        };
        let time = path("time", mapping.time.as_deref().or(time_default(mapping.format)));
        let n = path("n", mapping.n.as_deref().or(n_default(mapping.format)));
        let records = path("records", mapping.records.as_deref());
        let value = path("value", mapping.value.as_deref());
        let unit = path("unit", mapping.unit.as_deref());
        let fields = fields(&mapping.fields, &mut faults);
        let offset_s = match mapping.time_offset.as_deref().map(offset_s) {
            Some(None) => {
                faults.push((
                    "time-offset".to_owned(),
                    "is no offset from UTC; write e.g. \"+01:00\" or \"Z\"".to_owned(),
                ));
                None
            }
            offset => offset.flatten(),
        };
        between(mapping, &pattern, &mut faults);
        let (Some(device), true) = (device, faults.is_empty()) else { return Err(faults) };
        let milliseconds = mapping.format == Format::Zigbee2mqtt;
        Ok(Self {
            pattern,
            device,
            metric,
            node,
            time,
            when: When {
                unit: mapping.time_unit.unwrap_or(if milliseconds { TimeUnit::Ms } else { TimeUnit::Us }),
                offset_s,
            },
            n,
            records,
            value,
            unit,
            separator: match mapping.format {
                Format::Zigbee2mqtt | Format::Tasmota => Some(".".to_owned()),
                _ => mapping.separator.clone(),
            },
            fields,
            leave_out: mapping.leave_out.clone(),
            nulls: mapping.nulls.unwrap_or(match mapping.format {
                Format::Object | Format::Value | Format::Json | Format::Cbor => Nulls::Refuse,
                _ => Nulls::LeaveOut,
            }),
            online: Some(mapping.online.clone().unwrap_or_else(|| "online".to_owned())).filter(|name| !name.is_empty()),
        })
    }
}

impl Plan {
    /// True if the mapping does not want this metric.
    pub fn leaves_out(&self, metric: &str) -> bool {
        self.leave_out.iter().any(|pattern| glob(pattern, metric))
    }
}

fn fields(given: &BTreeMap<String, Field>, faults: &mut Faults) -> Vec<(String, Place)> {
    let mut fields = Vec::new();
    for (metric, field) in given {
        let (at, unit, scale) = match field {
            Field::At(at) => (at, None, None),
            Field::More { at, unit, scale } => (at, unit.clone(), *scale),
        };
        if let Some(fault) = shared::reading::MetricName::fault(metric) {
            faults.push((format!("fields.{metric}"), fault));
        }
        if scale.is_some_and(|scale| !scale.is_finite() || scale == 0.0) {
            faults.push((format!("fields.{metric}.scale"), "is no number to multiply by; write e.g. 0.01".to_owned()));
        }
        match Path::parse(at) {
            Ok(at) => fields.push((metric.clone(), Place { at, unit, scale })),
            Err(fault) => faults.push((format!("fields.{metric}"), fault)),
        }
    }
    fields
}

/// What speaks against keys beside each other.
fn between(mapping: &Mapping, pattern: &Pattern, faults: &mut Faults) {
    let mut fault = |key: &str, text: &str| faults.push((key.to_owned(), text.to_owned()));
    match (mapping.format, &mapping.metric) {
        (Format::Value | Format::Plain, None) => fault(
            "metric",
            "is missing: a bare value has no name of its own; write e.g. \"{metric}\", a name of a topic level",
        ),
        (Format::Object, Some(_)) => {
            fault("metric", "has no use here: the metrics of an object are named by its fields; leave it out");
        }
        (Format::Json | Format::Cbor, None) if mapping.value.is_some() => {
            fault("metric", "is missing: the one value of a record has no name; write e.g. \"{.name}\", a place in it");
        }
        (Format::Json | Format::Cbor, Some(_)) if !mapping.fields.is_empty() => {
            fault("metric", "has no use beside `fields`, which name the metrics; leave one of them out");
        }
        _ => {}
    }
    for key in mapping.unused() {
        fault(key, "has no use in this format; leave it out, or write another `format`");
    }
    if mapping.value.is_some() && !mapping.fields.is_empty() {
        fault("fields", "has no use beside `value`; leave one of them out");
    }
    if mapping.unit.is_some() && mapping.value.is_none() {
        fault("unit", "has no use without `value`: it is the unit of that one value");
    }
    let name = |key: &Option<String>, default| key.as_deref().or(default).unwrap_or_default().to_owned();
    let (time, n) = (name(&mapping.time, time_default(mapping.format)), name(&mapping.n, n_default(mapping.format)));
    if time == n && !time.is_empty() {
        fault("n", "is the same field as `time`; write e.g. \"n\"");
    }
    match mapping.format {
        Format::Sparkplug | Format::Homie | Format::Zigbee2mqtt if !pattern.is_open() => {
            fault("topic", "must end in `#`: the levels below it are the convention's; write e.g. \"homie/#\"");
        }
        Format::Tasmota if !pattern.has("device") || !pattern.has("kind") => {
            fault("topic", "must name {device} and {kind}; write e.g. \"tele/{device}/{kind}\"");
        }
        _ => {}
    }
}

/// What the texts of a mapping may name beside levels of the topic.
fn words(format: Format) -> Words<'static> {
    let (words, places): (&[&str], bool) = match format {
        Format::Object | Format::Value | Format::Plain | Format::Ignore | Format::Tasmota => (&[], false),
        Format::Json | Format::Cbor => (&["*"], true),
        Format::Senml | Format::SenmlCbor => (&["base", "own", "name"], false),
        Format::Sparkplug => (&["group", "node", "device"], false),
        Format::Homie => (&["device", "node", "property"], false),
        Format::Zigbee2mqtt => (&["device"], false),
    };
    Words { words, places }
}

fn device_default(mapping: &Mapping, pattern: &Pattern) -> &'static str {
    match mapping.format {
        Format::Senml | Format::SenmlCbor if pattern.has("device") => "{base|device}",
        Format::Senml | Format::SenmlCbor => "{base}",
        Format::Sparkplug => "{group}/{node}/{device}",
        Format::Ignore => "-",
        _ => "{device}",
    }
}

fn metric_default(format: Format) -> Option<&'static str> {
    match format {
        Format::Senml | Format::SenmlCbor => Some("{own}"),
        Format::Homie => Some("{node}/{property}"),
        _ => None,
    }
}

fn time_default(format: Format) -> Option<&'static str> {
    match format {
        Format::Object | Format::Json | Format::Cbor => Some("ts"),
        Format::Zigbee2mqtt => Some("last_seen"),
        Format::Tasmota => Some("Time"),
        _ => None,
    }
}

fn n_default(format: Format) -> Option<&'static str> {
    matches!(format, Format::Object | Format::Json | Format::Cbor).then_some("n")
}

/// Seconds ahead of UTC: `Z`, `+01:00`, `-05:30`.
fn offset_s(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let (sign, rest) = text.strip_prefix('+').map(|rest| (1, rest)).or_else(|| Some((-1, text.strip_prefix('-')?)))?;
    let (hours, minutes) = rest.split_once(':')?;
    let figures = |part: &str| (part.len() == 2).then(|| part.parse::<u32>().ok()).flatten();
    let (hours, minutes) = (i64::from(figures(hours)?), i64::from(figures(minutes)?));
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 3_600 + minutes * 60))
}
